//! The queue's counters, read from Redis itself, past all code under test.

use std::collections::HashMap;
use std::process::Command;

use tdc_tests::stage::{Stage, run, wait_for};

/// The counters of one intake that ended entries add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) committed: u64,
    pub(crate) delivered: u64,
    pub(crate) hard: u64,
    pub(crate) possible: u64,
    pub(crate) expired: u64,
    pub(crate) soft: u64,
}

impl Ends {
    /// Entries that have ended.
    pub(crate) fn sum(&self) -> u64 {
        self.delivered + self.hard + self.possible + self.expired
    }

    /// As they stand.
    pub(crate) fn of(stage: &Stage, intake: &str) -> Self {
        let text = redis(stage, &["HGETALL", &format!("tdc:{{{intake}}}:counters")]);
        let words: Vec<&str> = text.lines().collect();
        let counters: HashMap<&str, u64> = words
            .chunks_exact(2)
            .filter_map(|pair| Some((pair[0], pair[1].parse().ok()?)))
            .collect();
        let counter = |name| counters.get(name).copied().unwrap_or(0);
        Self {
            committed: counter("committed"),
            delivered: counter("delivered"),
            hard: counter("hard_bounced"),
            possible: counter("possible_delivery"),
            expired: counter("expired"),
            soft: counter("soft_bounced"),
        }
    }

    /// Once so many entries were committed and all have ended.
    pub(crate) fn after(stage: &Stage, intake: &str, committed: u64) -> Self {
        let mut last = Self::default();
        let ends = wait_for(&format!("{committed} copies for {intake} to end"), || {
            last = Self::of(stage, intake);
            (last.sum() >= committed).then_some(last)
        });
        assert_eq!(
            (ends.committed, ends.sum()),
            (committed, committed),
            "{intake}: {ends:?}"
        );
        ends
    }
}

/// The keys of bodies that are left of an intake.
pub(crate) fn bodies(stage: &Stage, intake: &str) -> usize {
    redis(
        stage,
        &["--scan", "--pattern", &format!("tdc:{{{intake}}}:body:*")],
    )
    .lines()
    .count()
}

fn redis(stage: &Stage, arguments: &[&str]) -> String {
    let port = stage.redis_port.to_string();
    let output = run(Command::new("redis-cli")
        .args(["-p", &port, "--raw"])
        .args(arguments));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Postfix smtp-source: so many messages, over so many sessions at a time; all must be taken.
pub(crate) fn send(stage: &Stage, to: &str, messages: u32, sessions: u32) {
    let (messages, sessions) = (messages.to_string(), sessions.to_string());
    let output = run(Command::new("smtp-source")
        .args(["-m", &messages, "-s", &sessions, "-l", "2000"])
        .args(["-f", "a@x.example", "-t", to])
        .arg(stage.smtp.to_string()));
    assert!(output.status.success(), "smtp-source: {output:?}");
}
