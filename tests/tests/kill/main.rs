//! Ingress dies again and again under load, at named places and at random moments, and is started again.
//!
//! What must be true in the end: each message that got 250 is at the next hop and has its copy at the intake; a copy
//! of a message that the next hop does not have is marked in doubt. `TDC_KILL_DEATHS` (200) says how many deaths there
//! are, `TDC_KILL_SECONDS` (150) for how long at most.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test ends with a panic, says what it did, and has no runtime to block"
)]

mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tdc_core::journal::unwrap;
use tdc_tests::process::{Process, free_port, tdc, wait_for};
use tdc_tests::stage::{Arrived, Options, Stage};

use crate::load::{Load, REFUSED};

/// Every point of ingress: docs/failure.md says what a death there means.
const POINTS: [&str; 12] = [
    "ingress.mail",
    "ingress.rcpt",
    "ingress.data",
    "ingress.body",
    "ingress.prepared",
    "ingress.dot_sent",
    "ingress.accepted",
    "ingress.committed",
    "ingress.before_reply",
    "ingress.replied",
    "ingress.aborting",
    "ingress.aborted",
];
/// Processes that die side by side.
const SLOTS: usize = 4;
/// Clients of each.
const CLIENTS: usize = 3;
/// For the next hop, so that an entry is in doubt soon: 1 s for a block, 3 s for the dot, 20 s of margin.
const TIMES: [&str; 4] = ["--next-hop-data-timeout", "1s", "--next-hop-dot-timeout", "3s"];

/// Longer than an entry stays in doubt, and the sweep and delivery behind it.
const QUIET: Duration = Duration::from_secs(32);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// The program with the named places: `TDC_FAILPOINTS_BIN`, or the one that was built beside this test.
fn program() -> PathBuf {
    let path = std::env::var_os("TDC_FAILPOINTS_BIN")
        .map_or_else(|| tdc().with_file_name("tdc-failpoints"), PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing; run `make build-failpoints` first (make test does)",
        path.display()
    );
    path
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Death {
    Point(&'static str),
    Killed,
    Terminated,
}

/// Lives once: starts, dies, and says how.
fn live(stage: &Stage, listen: SocketAddr, slot: usize) -> Death {
    let mut command = stage.ingress_command(&program());
    command
        .args(["--listen", &listen.to_string(), "--grace", "20s"])
        .args(TIMES);
    let death = match fastrand::u32(0..10) {
        0..7 => {
            let point = POINTS[fastrand::usize(..POINTS.len())];
            // Often at once, sometimes after many messages.
            let nth = if fastrand::bool() {
                1
            } else {
                fastrand::u32(1..=20)
            };
            command.env("TDC_FAILPOINT", format!("{point}@{nth}"));
            Death::Point(point)
        }
        7 | 8 => Death::Killed,
        _ => Death::Terminated,
    };
    let mut process = Process::start(stage.dir.path(), &format!("ingress-{slot}"), &mut command);
    let life = Duration::from_millis(fastrand::u64(20..500));
    match death {
        Death::Point(_) => {
            let begun = Instant::now();
            // A point that is not passed often enough: it is killed after a while.
            while begun.elapsed() < Duration::from_secs(4) && !process.has_ended() {
                std::thread::sleep(Duration::from_millis(10));
            }
            if process.has_ended() {
                return death;
            }
            process.kill();
            Death::Killed
        }
        Death::Killed => {
            process.says("Accepting mail.");
            std::thread::sleep(life);
            process.kill();
            death
        }
        Death::Terminated => {
            process.says("Accepting mail.");
            std::thread::sleep(life);
            process.terminate();
            death
        }
    }
}

/// Lets the processes die until there were enough deaths; then starts them for good.
fn die(stage: &Stage, addresses: &[SocketAddr]) -> (BTreeMap<Death, u64>, Vec<Process>) {
    let (deaths, seconds) = (number("TDC_KILL_DEATHS", 200), number("TDC_KILL_SECONDS", 150));
    let end = Instant::now() + Duration::from_secs(seconds);
    let each = deaths.div_ceil(addresses.len() as u64);
    let counted = std::thread::scope(|scope| {
        let slots: Vec<_> = addresses
            .iter()
            .enumerate()
            .map(|(slot, address)| {
                scope.spawn(move || {
                    let mut deaths = Vec::new();
                    while Instant::now() < end && (deaths.len() as u64) < each {
                        deaths.push(live(stage, *address, slot));
                    }
                    deaths
                })
            })
            .collect();
        let mut counted: BTreeMap<Death, u64> = BTreeMap::new();
        for death in slots.into_iter().flat_map(|slot| slot.join().unwrap()) {
            *counted.entry(death).or_default() += 1;
        }
        counted
    });
    let alive = addresses.iter().map(|address| {
        let mut command = stage.ingress_command(&tdc());
        command.args(["--listen", &address.to_string()]).args(TIMES);
        let process = Process::start(stage.dir.path(), "ingress-last", &mut command);
        process.says("Accepting mail.");
        process
    });
    (counted, alive.collect())
}

/// The number in the subject, and whether the copy is marked in doubt.
fn copy(arrived: &Arrived) -> (u64, bool) {
    let text = String::from_utf8_lossy(&arrived.bytes);
    let in_doubt = text
        .lines()
        .take_while(|line| !line.is_empty())
        .any(|line| line.eq_ignore_ascii_case("X-TDC-In-Doubt: yes"));
    let original = unwrap(&arrived.bytes).unwrap().original;
    (id(&arrived.bytes[original]), in_doubt)
}

fn id(original: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(original);
    let line = text.lines().find_map(|line| line.strip_prefix("Subject: "));
    line.unwrap().parse().unwrap()
}

/// Which ids arrived how often.
fn counts(ids: impl IntoIterator<Item = u64>) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    for id in ids {
        *counts.entry(id).or_default() += 1;
    }
    counts
}

#[test]
fn nothing_that_was_accepted_is_lost_however_ingress_dies() {
    let stage = Stage::build(Options {
        mailbox: vec![
            "--reject-message",
            "refused@company.example=550 5.7.1 not this one",
        ],
        ..Options::default()
    });
    let addresses: Vec<SocketAddr> = (0..SLOTS)
        .map(|_| SocketAddr::from(([127, 0, 0, 1], free_port())))
        .collect();
    let load = Load::start(&addresses, CLIENTS);
    let (deaths, alive) = die(&stage, &addresses);
    let ledger = load.stop();
    let accepted: BTreeSet<u64> = ledger.accepted.lock().unwrap().iter().copied().collect();
    let refused: BTreeSet<u64> = ledger.refused.lock().unwrap().iter().copied().collect();
    // What is in doubt is delivered after its deadline; what was accepted, soon.
    let copies = wait_until_quiet(&stage);
    let next_hop = counts(stage.mailbox().iter().map(|message| id(&message.bytes)));
    let regular = counts(copies.iter().filter(|(_, in_doubt)| !in_doubt).map(|(id, _)| *id));
    let all = counts(copies.iter().map(|(id, _)| *id));
    let in_doubt = copies.len() as u64 - regular.values().sum::<u64>();
    println!(
        "{} deaths: {deaths:?}\n{} messages got 250, {} were refused, {} heard nothing; the next hop has {}; \
         {} copies, {in_doubt} of them in doubt",
        deaths.values().sum::<u64>(),
        accepted.len(),
        refused.len(),
        ledger.unknown.load(std::sync::atomic::Ordering::Relaxed),
        next_hop.len(),
        copies.len(),
    );
    let missing = |from: &BTreeMap<u64, u64>| -> Vec<u64> {
        accepted
            .iter()
            .filter(|id| !from.contains_key(id))
            .copied()
            .collect()
    };
    assert_eq!(
        missing(&next_hop),
        Vec::<u64>::new(),
        "got 250 and are not at the next hop"
    );
    assert_eq!(missing(&all), Vec::<u64>::new(), "got 250 and have no copy");
    let unmarked: Vec<&u64> = regular.keys().filter(|id| !next_hop.contains_key(id)).collect();
    assert!(
        unmarked.is_empty(),
        "copies of what the next hop does not have: {unmarked:?}"
    );
    let told: Vec<&u64> = regular.keys().filter(|id| refused.contains(id)).collect();
    assert!(
        told.is_empty(),
        "copies of what was refused: {told:?} ({REFUSED})"
    );
    let twice: Vec<_> = next_hop
        .iter()
        .chain(&all)
        .filter(|(_, count)| **count > 1)
        .collect();
    assert!(twice.is_empty(), "arrived twice, sent once: {twice:?}");
    assert!(accepted.len() > 100, "the load is a load: {}", accepted.len());
    drop(alive);
}

/// The copies, once no more have come for longer than an entry stays in doubt.
fn wait_until_quiet(stage: &Stage) -> Vec<(u64, bool)> {
    let mut last = (0, Instant::now());
    wait_for("the copies", || {
        let count = stage.arrived_at_intake();
        if count != last.0 {
            last = (count, Instant::now());
        }
        (last.1.elapsed() > QUIET).then_some(())
    });
    stage.intake(0).iter().map(copy).collect()
}
