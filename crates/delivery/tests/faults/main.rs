//! Every stage × every fault: how a copy ends, after how many attempts, over how many connections, how often the intake
//! has it, and what the queue counts. The worker is the real one, the intake is `tdc simulate intake` with a script.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

#[path = "../rig/mod.rs"]
mod rig;
mod stage;
mod table;

use std::time::Duration;

use stage::{Case, End, Fate, Way};
use table::{Row, Strikes};

/// Long enough for every row that does not expire.
const LIFETIME: Duration = Duration::from_secs(120);

/// Runs all cases, a few at a time, and tells of all that went wrong.
async fn all(cases: Vec<Case>) {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(32));
    let mut running = tokio::task::JoinSet::new();
    let count = cases.len();
    for case in cases {
        let gate = gate.clone();
        running.spawn(async move {
            let _turn = gate.acquire().await.unwrap();
            stage::run(case).await
        });
    }
    let mut wrong = Vec::new();
    while let Some(ended) = running.join_next().await {
        wrong.extend(ended.unwrap().err());
    }
    wrong.sort();
    assert!(
        wrong.is_empty(),
        "{} of {count} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The ways that make a difference at a stage: none before the envelope.
fn ways(at: &str, case: &Case) -> Vec<Case> {
    let ways: &[Way] = match at {
        "mail" | "rcpt" | "data" | "dot" | "between" => &[Way::Plain, Way::Pipelined, Way::Chunked],
        _ => &[Way::Chunked],
    };
    let one = |way: &Way| {
        let mut case = Case {
            way: *way,
            ..case.clone()
        };
        // With BDAT the message has left in full before its only reply: what breaks there breaks after the final dot.
        if at == "data"
            && *way == Way::Chunked
            && matches!(case.fate.end, End::Hard("network") | End::Expired)
        {
            case.fate.end = End::Possible;
        }
        case
    };
    ways.iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_and_fault() {
    let mut cases = Vec::new();
    for row in table::ROWS {
        let Row {
            fault,
            at,
            strikes,
            end,
            soft,
            connections,
            copies,
            why,
        } = row;
        for at in *at {
            let times = match strikes {
                Strikes::Once => ", times: 1",
                Strikes::Always => "",
            };
            let stage = *at;
            let (at, when) = table::place(at);
            let fate = Fate {
                end: *end,
                soft: *soft,
                connections: *connections,
                copies: *copies,
            };
            let script = format!("rules: [{{at: {at}{when}{times}, {fault}}}]");
            let case = Case::new(script, fate, why);
            cases.extend(ways(stage, &case));
        }
    }
    all(cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_attempt_after_another() {
    let cases = table::SCRIPTS
        .iter()
        .map(|(rules, end, soft, connections, copies, why)| {
            let fate = Fate {
                end: *end,
                soft: *soft,
                connections: *connections,
                copies: *copies,
            };
            Case::new(format!("rules: [{rules}]"), fate, why)
        });
    all(cases.flat_map(|case| ways("dot", &case)).collect()).await;
}

/// The copy is larger than all buffers on the way, so that its final dot cannot have left.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_copy_in_the_middle() {
    let rows = [
        (
            "do: close",
            Strikes::Once,
            End::Delivered,
            1,
            2,
            1,
            "closed: network",
        ),
        (
            "do: close",
            Strikes::Always,
            End::Hard("network"),
            1,
            2,
            0,
            "closed twice",
        ),
        (
            "do: reset",
            Strikes::Once,
            End::Delivered,
            1,
            2,
            1,
            "reset: network",
        ),
        (
            "do: stall",
            Strikes::Once,
            End::Delivered,
            1,
            2,
            1,
            "nobody reads: network",
        ),
        (
            "do: {reply: 452 4.3.1 full}",
            Strikes::Once,
            End::Delivered,
            1,
            2,
            1,
            "4xx before the dot",
        ),
        (
            "do: {reply: 552 5.3.4 full}",
            Strikes::Once,
            End::Delivered,
            1,
            2,
            1,
            "552 counts as 4xx",
        ),
        (
            "do: {reply: 554 5.6.0 no}",
            Strikes::Always,
            End::Hard("5xx"),
            0,
            1,
            0,
            "5xx before the dot",
        ),
    ];
    let cases = rows.map(|(fault, strikes, end, soft, connections, copies, why)| {
        let times = if strikes == Strikes::Once {
            ", times: 1"
        } else {
            ""
        };
        let fate = Fate {
            end,
            soft,
            connections,
            copies,
        };
        Case {
            large: true,
            way: Way::Pipelined,
            ..Case::new(format!("rules: [{{at: body{times}, {fault}}}]"), fate, why)
        }
    });
    for case in cases {
        all(vec![case]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_that_ends_within_an_attempt() {
    let stages = [
        "connect",
        "greeting",
        "ehlo",
        "ehlo in TLS",
        "starttls",
        "handshake",
        "mail",
        "rcpt",
        "data",
        "dot",
    ];
    let cases = stages.map(|at| {
        let (end, why) = match at {
            "dot" => (
                End::Possible,
                "the intake may have it, and there is no time to ask again",
            ),
            _ => (End::Expired, "expired before the message was sent"),
        };
        let fate = Fate {
            end,
            soft: 0,
            connections: 1,
            copies: 0,
        };
        let stage = at;
        let (at, when) = table::place(at);
        let case = Case {
            lifetime: Duration::from_secs(4),
            patient: true,
            ..Case::new(format!("rules: [{{at: {at}{when}, do: stall}}]"), fate, why)
        };
        ways(stage, &case)
    });
    all(cases.concat()).await;
}

/// What happens to a connection between two messages costs neither of them anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_left_between_two_messages() {
    let delivered = |connections| Fate {
        end: End::Delivered,
        soft: 0,
        connections,
        copies: 2,
    };
    let rows = [
        (
            "{at: between, times: 1, do: {reply: 421 4.4.2 idle}}",
            2,
            "421 at once",
        ),
        ("{at: between, times: 1, do: close}", 2, "closed at once"),
        ("{at: between, times: 1, do: reset}", 2, "reset at once"),
        (
            "{at: between, times: 1, do: stall}",
            2,
            "no answer to the next MAIL",
        ),
        (
            "{at: mail, when: {message: 2}, times: 1, do: {reply: 421 4.3.2 bye}}",
            2,
            "421 to the next MAIL",
        ),
        (
            "{at: mail, when: {message: 2}, times: 1, do: close}",
            2,
            "closed at the next MAIL",
        ),
        (
            "{at: mail, when: {message: 2}, times: 1, do: reset}",
            2,
            "reset at the next MAIL",
        ),
        ("{at: quit, do: close}", 1, "both over one connection"),
    ];
    let cases = rows.map(|(rule, connections, why)| Case {
        messages: 2,
        ..Case::new(format!("rules: [{rule}]"), delivered(connections), why)
    });
    all(cases.iter().flat_map(|case| ways("between", case)).collect()).await;
}
