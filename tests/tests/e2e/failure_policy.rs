//! `failurePolicy` in both settings, for each way in which a copy cannot be made: what the sender hears, whether the
//! original arrives, the counter, the log; and that it is over as soon as its cause is.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use crate::stage::{Options, Stage, run, wait_for};

const TO: &str = "ann@company.example";

/// The counter of skipped copies for these reasons, by the metrics of ingress.
fn skipped(stage: &Stage, reasons: &[&str]) -> f64 {
    let address: SocketAddr = stage.ingress.address("Serving health and metrics.");
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let value = |reason: &&str| {
        let name = format!("tdc_ingress_journal_skipped_total{{reason=\"{reason}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name));
        value.map_or(0.0, |value| value.parse::<f64>().unwrap())
    };
    reasons.iter().map(value).sum()
}

fn redis_cli(stage: &Stage, words: &[&str]) {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &stage.redis_port.to_string()]).args(words);
    assert!(run(&mut command).status.success());
}

/// What breaks the making of a copy, and what mends it.
struct Trouble {
    reasons: &'static [&'static str],
    begin: fn(&mut Stage),
    end: fn(&mut Stage),
}

const TROUBLES: [Trouble; 3] = [
    Trouble {
        reasons: &["queue_unavailable", "queue_timeout"],
        begin: Stage::stop_redis,
        end: Stage::restart_redis,
    },
    Trouble {
        reasons: &["queue_timeout"],
        begin: |stage| stage.redis.as_ref().unwrap().signal("STOP"),
        end: |stage| stage.redis.as_ref().unwrap().signal("CONT"),
    },
    Trouble {
        reasons: &["queue_full"],
        begin: |stage| redis_cli(stage, &["config", "set", "maxmemory", "1"]),
        end: |stage| redis_cli(stage, &["config", "set", "maxmemory", "0"]),
    },
];

fn stage(connector: &'static str) -> Stage {
    Stage::build(Options {
        connector,
        env: [
            ("TDC_QUEUE_TIMEOUT", "1s"),
            ("TDC_MAX_STALENESS", "1s"),
            ("TDC_ADMIN_LISTEN", "127.0.0.1:0"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .to_vec(),
        ..Options::default()
    })
}

/// A message whose copy is made again.
fn recovers(stage: &Stage) {
    wait_for("recovery", || {
        let copies = stage.arrived_at_intake();
        let (sent, _) = stage.swaks("a@x.example", TO, None);
        if !sent {
            return None;
        }
        // With Ignore a message may go on before the queue is there again.
        let waited = std::time::Instant::now();
        while waited.elapsed().as_secs() < 5 {
            if stage.arrived_at_intake() > copies {
                return Some(());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        None
    });
}

#[test]
fn fail_keeps_the_message_with_its_sender() {
    let mut stage = stage("  failurePolicy: Fail\n");
    for trouble in TROUBLES {
        let before = stage.mailbox().len();
        (trouble.begin)(&mut stage);
        let (sent, transcript) = stage.swaks("a@x.example", TO, None);
        (trouble.end)(&mut stage);
        let why = trouble.reasons;
        // While the queue is known to be full, messages are turned away before their body.
        let replies = ["451 4.3.0", "452 4.3.1"];
        let allowed = if why.contains(&"queue_full") {
            &replies[..]
        } else {
            &replies[..1]
        };
        let heard = allowed.iter().any(|reply| transcript.contains(reply));
        assert!(!sent && heard, "{why:?}: {transcript}");
        assert_eq!(stage.mailbox().len(), before, "{why:?}");
        assert_eq!(skipped(&stage, why), 0.0, "{why:?}");
        recovers(&stage);
    }
    assert!(
        stage
            .ingress
            .log()
            .contains("A message is refused because its copy cannot be made.")
    );
    stage.policy.take().unwrap().kill();
    wait_for("the snapshot to be too old", || {
        let before = stage.mailbox().len();
        let (sent, transcript) = stage.swaks("a@x.example", TO, None);
        let refused = !sent && transcript.contains("451 4.3.0");
        assert!(sent || refused, "{transcript}");
        assert_eq!(stage.mailbox().len(), before + usize::from(sent));
        refused.then_some(())
    });
}

#[test]
fn ignore_relays_counts_and_logs() {
    let mut stage = stage("  failurePolicy: Ignore\n");
    for trouble in TROUBLES {
        let why = trouble.reasons;
        let (before, counted) = (stage.mailbox().len(), skipped(&stage, why));
        (trouble.begin)(&mut stage);
        let (sent, transcript) = stage.swaks("a@x.example", TO, None);
        let now = skipped(&stage, why);
        (trouble.end)(&mut stage);
        assert!(sent, "{why:?}: {transcript}");
        assert_eq!(stage.mailbox().len(), before + 1, "{why:?}");
        assert_eq!(now, counted + 1.0, "{why:?}");
        recovers(&stage);
    }
    stage.policy.take().unwrap().kill();
    wait_for("the snapshot to be too old", || {
        let (sent, transcript) = stage.swaks("a@x.example", TO, None);
        assert!(sent, "{transcript}");
        (skipped(&stage, &["no_policy"]) >= 1.0).then_some(())
    });
    // The log is written beside the work: its last lines may come a moment later.
    wait_for("a log line with its MID for each", || {
        let log = stage.ingress.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("\"event\":\"not_journaled\""));
        (lines.filter(|line| line.contains("\"mid\":")).count() >= 4).then_some(())
    });
}
