//! `tdc dlq`: what ended undelivered comes back when an operator says so.

use std::path::Path;

use serde_json::Value;
use tdc_core::journal::unwrap;
use tdc_tests::stage::{Options, Stage, wait_for};

const TO: &str = "ann@company.example";

const REFUSE_FOUR: &str = "\
rules:
- at: dot
  times: 4
  do: { reply: 554 5.7.1 Not this one }
";

fn stage(dir: &Path, mode: &'static str) -> Stage {
    let path = dir.join("faults.yaml");
    std::fs::write(&path, REFUSE_FOUR).unwrap();
    Stage::build(Options {
        intake: vec!["--script".to_owned(), path.display().to_string()],
        connector: mode,
        ..Options::default()
    })
}

fn list(stage: &Stage) -> Vec<Value> {
    let (text, code) = stage.operate(&["dlq", "list", "-o", "json"]);
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn letters(stage: &Stage, count: usize) -> Vec<String> {
    let all = wait_for(&format!("{count} dead letters"), || {
        let all = list(stage);
        (all.len() == count).then_some(all)
    });
    all.iter()
        .map(|letter| letter["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn what_is_retained_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let stage = stage(dir.path(), "  deadLetter: { mode: Retain, retention: 1h }\n");
    for _ in 0..4 {
        assert!(stage.swaks("a@x.example", TO, None).0);
    }
    let ids = letters(&stage, 4);
    let letter = &list(&stage)[0];
    assert_eq!(letter["intake"], "etd-eu");
    assert_eq!(
        (&letter["end"], &letter["class"]),
        (&"hard_bounced".into(), &"5xx".into())
    );
    assert_eq!(
        (&letter["sender"], &letter["recipients"][0]),
        (&"a@x.example".into(), &TO.into())
    );
    assert!(
        letter["detail"].as_str().unwrap().contains("Not this one"),
        "{letter}"
    );
    assert!(letter["retained_until"].is_string(), "{letter}");
    let (text, code) = stage.operate(&["dlq", "list", "--intake", "etd-eu"]);
    assert!(
        code == 0 && ids.iter().all(|id| text.contains(id.as_str())),
        "{text}"
    );

    let (body, code) = stage.operate(&["dlq", "show", &ids[0], "--body"]);
    let originals = stage.mailbox();
    assert!(
        code == 0 && originals.iter().any(|original| original.bytes == body.as_bytes()),
        "the original, octet for octet: {body}"
    );
    let (text, _) = stage.operate(&["dlq", "show", &ids[0]]);
    assert!(text.contains(&ids[0]) && text.contains("kept until"), "{text}");

    let (text, code) = stage.operate(&["dlq", "replay", &ids[0]]);
    assert_eq!((text.as_str(), code), ("1 replayed\n", 0));
    let copy = unwrap(&stage.intake(1)[0].bytes).unwrap();
    assert_eq!(copy.delivery_id, ids[0], "under the same delivery id");
    let (text, code) = stage.operate(&["dlq", "purge", &ids[1]]);
    assert_eq!((text.as_str(), code), ("1 purged\n", 0));
    let (text, code) = stage.operate(&["dlq", "replay", &ids[1], &ids[2]]);
    assert!(
        code == 1 && text.contains(&ids[1]) && !text.contains(&ids[2]),
        "names what is not there: {text}"
    );
    assert_eq!(letters(&stage, 2), ids[2..], "and changes nothing then");

    let (text, code) = stage.operate(&["dlq", "purge", "--all", "--older-than", "1h"]);
    assert_eq!((text.as_str(), code), ("0 purged\n", 0), "they are younger");
    let (text, code) = stage.operate(&["dlq", "replay", "--all", "--intake", "etd-eu"]);
    assert_eq!((text.as_str(), code), ("2 replayed\n", 0));
    let arrived = stage.intake(3);
    assert_eq!(arrived.len(), 3);
    assert!(list(&stage).is_empty());
    wait_for("nothing to be left", || {
        let bodies = stage.redis_cli(&["--scan", "--pattern", "tdc:*:body:*"]);
        bodies.is_empty().then_some(())
    });
    let (text, code) = stage.operate(&["dlq", "list", "--intake", "none"]);
    assert!(code == 1 && text.contains("no intake \"none\""), "{text}");
    let (_, code) = stage.operate(&["dlq", "replay"]);
    assert_eq!(code, 2, "which ones?");
}

#[test]
fn what_is_dropped_is_told_and_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let stage = stage(dir.path(), "");
    for _ in 0..4 {
        assert!(stage.swaks("a@x.example", TO, None).0);
    }
    let ids = letters(&stage, 4);
    let (text, code) = stage.operate(&["dlq", "replay", &ids[0]]);
    assert!(
        code == 1 && text.contains("0 replayed") && text.contains("not retained"),
        "{text}"
    );
    let (text, code) = stage.operate(&["dlq", "replay", "--all"]);
    assert_eq!(
        (text.as_str(), code),
        ("0 replayed\n4 have no body and stay\n", 0)
    );
    let (text, code) = stage.operate(&["dlq", "show", &ids[0], "--body"]);
    assert!(code == 1 && text.contains("not retained"), "{text}");
    let (text, code) = stage.operate(&["dlq", "purge", "--all"]);
    assert_eq!((text.as_str(), code), ("4 purged\n", 0));
    assert!(list(&stage).is_empty());
}
