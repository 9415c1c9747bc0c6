//! Redis killed, paused and full under load, with the whole product around it: each original at the next hop has its
//! copy, a second copy has a reason, and the counters are what arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use tdc_core::journal::unwrap;
use tdc_tests::stage::{Options, Process, Stage, run, wait_for};

use crate::{Host, top_hosts};

/// Messages of one client before the next one comes.
const BATCH: u32 = 200;

/// smtp-source again and again, each time with another sender, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    batches: Arc<AtomicU32>,
    thread: thread::JoinHandle<()>,
}

impl Load {
    fn start(smtp: SocketAddr) -> Self {
        let (stop, batches) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&batches));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                let batch = counted.fetch_add(1, Ordering::AcqRel);
                let mut source = Command::new("/usr/sbin/smtp-source");
                // -A: goes on after a 451, as a client with a queue would with its next message.
                source.args(["-A", "-N", "-s", "4", "-l", "5000", "-m", &BATCH.to_string()]);
                source.args([
                    "-f",
                    &format!("batch{batch}@x.example"),
                    "-t",
                    "ann@company.example",
                ]);
                // Refused messages and lost connections are the point.
                run(source.arg(smtp.to_string()));
            }
        });
        Self {
            stop,
            batches,
            thread,
        }
    }

    /// Waits until the load has moved on.
    fn some_more(&self) {
        let before = self.batches.load(Ordering::Acquire);
        wait_for("mail to go on", || {
            (self.batches.load(Ordering::Acquire) > before).then_some(())
        });
    }

    /// How many messages were offered.
    fn end(self) -> u32 {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap();
        self.batches.load(Ordering::Acquire) * BATCH
    }
}

/// A moment within a batch, each time another one.
fn somewhere(nth: u64) {
    thread::sleep(Duration::from_millis(100 + 170 * nth % 400));
}

fn second_worker(stage: &Stage) -> Process {
    let worker = Process::start(stage.dir.path(), "worker-b", &mut stage.worker_command());
    worker.says("Applied a policy snapshot");
    worker
}

#[test]
fn redis_in_trouble_loses_nothing_and_counts_right() {
    let env = [
        ("TDC_NEXT_HOP_DATA_TIMEOUT", "1s"),
        ("TDC_NEXT_HOP_DOT_TIMEOUT", "3s"),
    ];
    let mut stage = Stage::build(Options {
        // So that an entry is in doubt after 24 s.
        env: env.map(|(name, value)| (name, value.to_owned())).to_vec(),
        ..Options::default()
    });
    let other = second_worker(&stage);
    let load = Load::start(stage.smtp);
    for (nth, down) in (0..).zip([0, 700, 2_500]) {
        load.some_more();
        somewhere(nth);
        stage.stop_redis();
        thread::sleep(Duration::from_millis(down));
        stage.restart_redis();
    }
    for (nth, paused) in (3..).zip([1_000, 7_000]) {
        load.some_more();
        somewhere(nth);
        let redis = stage.redis.as_ref().unwrap();
        redis.signal("STOP");
        thread::sleep(Duration::from_millis(paused));
        redis.signal("CONT");
    }
    for nth in 5..7 {
        load.some_more();
        somewhere(nth);
        assert_eq!(stage.redis_cli(&["config", "set", "maxmemory", "1mb"]), "OK");
        load.some_more();
        assert_eq!(stage.redis_cli(&["config", "set", "maxmemory", "0"]), "OK");
    }
    load.some_more();
    let offered = load.end();
    wait_for("the queue to be empty", || {
        let whole = top_hosts(&stage)["the.tdc.queue"];
        let prepared = stage.redis_cli(&["zcard", "tdc:{etd-eu}:prepared"]);
        (whole.active + whole.connections == 0 && prepared == "0").then_some(())
    });
    println!("{offered} offered");
    judge(&stage, &[stage.worker.as_ref().unwrap(), &other]);
}

/// Compares what the next hop has, what the intake has, and what the counters say.
fn judge(stage: &Stage, workers: &[&Process]) {
    let originals: BTreeSet<(String, String)> = stage
        .mailbox()
        .iter()
        .map(|original| (original.from().to_owned(), original.to()[0].to_owned()))
        .collect();
    let mut copies: BTreeMap<String, u32> = BTreeMap::new();
    let mut copied = BTreeSet::new();
    let mut strays = 0;
    for copy in stage.intake(originals.len()) {
        let report = unwrap(&copy.bytes).unwrap();
        let message = (report.sender, report.recipients[0].clone());
        if !originals.contains(&message) {
            strays += 1;
            let head = String::from_utf8_lossy(&copy.bytes[..report.original.start]).into_owned();
            assert!(
                head.contains("X-TDC-In-Doubt: yes"),
                "a copy without an original is marked: {head}"
            );
        }
        copied.insert(message);
        *copies.entry(report.delivery_id).or_default() += 1;
    }
    let lost: Vec<_> = originals.difference(&copied).collect();
    assert!(
        lost.is_empty(),
        "{} originals without a copy: {lost:?}",
        lost.len()
    );
    let logs: Vec<String> = workers.iter().map(|worker| worker.log()).collect();
    let twice: Vec<&String> = copies
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(id, _)| id)
        .collect();
    for id in &twice {
        let told = |log: &String| {
            log.lines().any(|line| {
                line.contains(id.as_str())
                    && (line.contains("taken the entry over") || line.contains("did not take the end"))
            })
        };
        assert!(
            logs.iter().any(told),
            "{id} arrived twice, and no worker says why"
        );
    }
    let hosts = top_hosts(stage);
    println!(
        "{} originals, {} copies, {strays} of them in doubt without an original, {} twice; {hosts:?}",
        originals.len(),
        copies.len(),
        twice.len()
    );
    assert!(originals.len() as u32 > BATCH, "there was load");
    let expected = Host {
        delivered: copies.len() as u64,
        ..hosts["the.tdc.queue"]
    };
    assert_eq!(hosts["the.tdc.queue"], expected, "delivered is what arrived");
    assert_eq!(hosts["the.tdc.queue"].hard, 0);
    let status = |name: &str| {
        let field = stage.redis_cli(&["hget", "tdc:{etd-eu}:counters", name]);
        field.parse::<u64>().unwrap_or(0)
    };
    let ends: u64 = ["delivered", "hard_bounced", "possible_delivery", "expired"]
        .map(status)
        .iter()
        .sum();
    assert_eq!(ends, status("committed"), "the sum of the ends is the commits");
    assert_eq!(status("committed"), copies.len() as u64);
}
