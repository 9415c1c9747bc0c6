//! `tdc tophosts` and `tdc hoststatus` against what really happened.

use std::path::Path;

use tdc_tests::stage::{Options, Stage, wait_for};

use crate::{Host, top_hosts};

const TO: &str = "ann@company.example";

/// Two copies are deferred once, three are refused for good, and each answer takes a while.
const SCRIPT: &str = "\
rules:
- at: rcpt
  times: 2
  do: { reply: 451 4.3.0 Try again later }
- at: dot
  times: 3
  do: { reply: 554 5.7.1 Not this one }
";

fn script(dir: &Path) -> Vec<String> {
    let path = dir.join("faults.yaml");
    std::fs::write(&path, SCRIPT).unwrap();
    ["--latency", "1s", "--script", path.to_str().unwrap()]
        .map(str::to_owned)
        .to_vec()
}

#[test]
fn numbers_are_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let mut stage = Stage::build(Options {
        intake: script(dir.path()),
        ..Options::default()
    });
    let (text, code) = stage.operate(&["hoststatus", "etd-eu"]);
    assert!(
        code == 1 && text.contains("no host \"etd-eu\": there are the.tdc.queue"),
        "{code}: {text}"
    );

    for _ in 0..8 {
        assert!(stage.swaks("a@x.example", TO, None).0);
    }
    assert!(stage.swaks("a@x.example", "cfo@finance.example", None).0);
    let busy = wait_for("a delivery under way", || {
        let whole = top_hosts(&stage)["the.tdc.queue"];
        (whole.connections > 0 && whole.active > 0).then_some(whole)
    });
    assert!(busy.active <= 9 && busy.connections <= 9, "{busy:?}");
    let whole = wait_for("all to end", || {
        let whole = top_hosts(&stage)["the.tdc.queue"];
        (whole.active + whole.connections == 0).then_some(whole)
    });
    let arrived = stage.intake(6).len() as u64;
    let expected = Host {
        delivered: 6,
        soft: 2,
        hard: 3,
        ..Host::default()
    };
    assert_eq!((whole, arrived), (expected, 6), "delivered is what arrived");
    let hosts = top_hosts(&stage);
    assert_eq!(
        hosts.keys().collect::<Vec<_>>(),
        ["etd-eu", "etd-finance", "the.tdc.queue"]
    );
    let sum = |of: fn(&Host) -> u64| of(&hosts["etd-eu"]) + of(&hosts["etd-finance"]);
    assert_eq!(
        (sum(|h| h.delivered), sum(|h| h.soft), sum(|h| h.hard)),
        (6, 2, 3),
        "the queue is the sum of its intakes"
    );
    let (text, code) = stage.operate(&["hoststatus", "the.tdc.queue"]);
    assert_eq!(code, 0, "{text}");
    for (label, number) in [
        ("Soft Bounced Events", "2"),
        ("Completed Recipients", "9"),
        ("Hard Bounced Recipients", "3"),
        ("5XX Hard Bounces", "3"),
        ("Delivered Recipients", "6"),
        ("Active Recipients", "0"),
        ("Current Outbound Connections", "0"),
    ] {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(label))
            .unwrap_or_default();
        assert!(line.ends_with(&format!(" {number}")), "{label} {number}: {text}");
    }
    assert!(text.contains("Host up/down:         up\n"), "{text}");

    // Nobody answers any more.
    stage.intake_process.take().unwrap().kill();
    assert!(stage.swaks("a@x.example", TO, None).0);
    wait_for("the down mark", || {
        let hosts = top_hosts(&stage);
        (hosts["etd-eu"].down && hosts["the.tdc.queue"].down && !hosts["etd-finance"].down).then_some(())
    });
    let (text, _) = stage.operate(&["hoststatus", "etd-eu"]);
    assert!(text.contains("Host up/down:         down\n"), "{text}");
    assert!(text.contains("Last Error:\n"), "{text}");
}
