//! `tdc simulate intake --script` with mixed odds, under the load of smtp-source: nothing is lost, nothing is counted
//! twice, and a second copy is one that no answer excused.

use std::io::Write as _;
use std::time::Duration;

use serde_json::Value;
use tdc_tests::stage::{Options, Stage, wait_for};
use tempfile::NamedTempFile;

use crate::counters::{Ends, bodies, send};

/// Twice the interval at which a changed report is written.
const REPORT_EVERY: Duration = Duration::from_secs(1);
const MESSAGES: u32 = 600;
const INTAKE: &str = "etd-eu";
/// About half of all copies meet a fault. None at DATA: with BDAT the copy has left by then, and the worker cannot know
/// that the intake did not take it.
const SCRIPT: &str = "
seed: 20151
rules:
- { name: throttled, at: rcpt, odds: 0.10, do: { reply: 451 4.3.0 Later } }
- { name: refused, at: rcpt, odds: 0.02, do: { reply: 550 5.1.1 No such user } }
- { name: lost, at: dot, odds: 0.05, do: close }
- { name: kept and lost, at: dot, odds: 0.05, keep: true, do: reset }
- { name: never, at: dot, odds: 0.01, keep: true, do: { half: 250 2., then: close } }
- { name: full, at: dot, odds: 0.03, do: { reply: 452 4.3.1 Full } }
- { name: slow, at: dot, odds: 0.05, do: { stall: 500ms } }
- { name: busy, at: greeting, odds: 0.10, do: { reply: 421 4.3.2 Busy } }
- { name: gone at MAIL, at: mail, odds: 0.02, do: close }
- { name: strange at RCPT, at: rcpt, odds: 0.02, do: { raw: \"what?\\r\\n\", then: close } }
- { name: idle, at: between, odds: 0.10, do: { reply: 421 4.4.2 Idle } }
- { name: left, at: between, odds: 0.05, do: close }
- { name: broken handshake, at: handshake, odds: 0.05, do: reset }
- { name: bad certificate, at: handshake, odds: 0.02, do: { certificate: expired } }
";

/// What the intake says of the messages whose end it saw, summed up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Answered 2xx.
    delivered: u64,
    /// Never answered 2xx, and at least once not at all.
    possible: u64,
    /// Copies that it took.
    kept: u64,
    /// Copies beyond the first of their message.
    duplicates: u64,
    /// Copies after 2xx.
    repeated: u64,
}

impl Seen {
    fn of(report: &Value) -> Self {
        let mut seen = Self::default();
        for answers in report["script"]["messages"].as_object().unwrap().values() {
            let count = |field: &str| answers[field].as_u64().unwrap();
            seen.delivered += u64::from(count("accepted") > 0);
            seen.possible += u64::from(count("accepted") == 0 && count("unanswered") > 0);
            seen.kept += count("kept");
            seen.duplicates += count("kept").saturating_sub(1);
            seen.repeated += count("repeated");
        }
        seen
    }
}

/// The report, which is written twice a second, once it no longer changes.
fn settled(stage: &Stage) -> Value {
    let mut last = stage.report();
    wait_for("the intake's report to settle", || {
        std::thread::sleep(REPORT_EVERY);
        let report = stage.report();
        let same = report == last;
        last = report;
        same.then(|| last.clone())
    })
}

#[test]
fn what_the_queue_counted_is_what_the_intake_saw() {
    let mut script = NamedTempFile::new().unwrap();
    script.write_all(SCRIPT.as_bytes()).unwrap();
    let stage = Stage::build(Options {
        intake: vec!["--script".into(), script.path().to_str().unwrap().into()],
        ..Options::default()
    });
    send(&stage, "ann@company.example", MESSAGES, 12);
    let ends = Ends::after(&stage, INTAKE, u64::from(MESSAGES));
    assert_eq!(stage.mailbox().len(), MESSAGES as usize, "every original went on");

    let report = settled(&stage);
    let seen = Seen::of(&report);
    let injected = report["script"]["injected"].as_object().unwrap();
    println!("{ends:?}\n{seen:?}\n{injected:?}");
    assert_eq!(
        (seen.delivered, seen.possible),
        (ends.delivered, ends.possible),
        "{ends:?} {injected:?}"
    );
    assert_eq!(seen.repeated, 0, "no copy came again after its answer");
    assert_eq!(report["messages"], seen.kept, "each copy has its delivery id");
    assert_eq!(report["copies"]["duplicates"], seen.duplicates);
    assert_eq!(report["copies"]["malformed"], 0);
    assert!(seen.duplicates > 0, "the script makes some: {injected:?}");
    assert!(ends.hard > 0 && ends.soft > 0 && ends.expired == 0, "{ends:?}");
    for (rule, strikes) in injected {
        assert!(strikes.as_u64() > Some(0), "{rule} never struck: {injected:?}");
    }
    let faults: u64 = injected.values().filter_map(Value::as_u64).sum();
    assert!(
        ends.soft + ends.hard + ends.possible <= faults,
        "each is the work of a fault: {ends:?} {injected:?}"
    );
    assert_eq!(bodies(&stage, INTAKE), 0, "what has ended leaves no body");
}
