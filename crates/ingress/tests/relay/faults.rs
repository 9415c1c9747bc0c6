//! The next hop dies or misbehaves at every stage: the client hears its reply or a 451, nothing is journaled for what
//! was not accepted, and the same client's next message goes through.

use crate::rig::{Rig, Setup};
use crate::server::{Act, At, Options, Server};

const MESSAGE: &[u8] = b"Subject: a\r\n\r\nhello\r\n";
const UNAVAILABLE: &str = "451 4.4.1 Error: the mail server is not available, try again later";
const UNEXPECTED: &str = "451 4.3.0 Error: the mail server gave an unexpected reply";

/// Where the client hears of it, and what.
fn expected(at: At, act: Act) -> (&'static str, String) {
    let stage = match at {
        At::Greeting | At::Ehlo | At::Mail => "MAIL",
        At::Rcpt => "RCPT",
        At::Data => "DATA",
        _ => "DOT",
    };
    let set_up = matches!(at, At::Greeting | At::Ehlo);
    let reply = match act {
        Act::Say(reply) | Act::SayAndClose(reply) if !set_up => {
            let wanted = if at == At::Data { '3' } else { '2' };
            let first = reply.chars().next().unwrap();
            if matches!(first, '4' | '5') || first == wanted {
                reply.trim_end().replace("\r\n", "|")
            } else {
                UNEXPECTED.to_owned()
            }
        }
        _ => UNAVAILABLE.to_owned(),
    };
    (stage, reply)
}

/// One fault of one connection; later connections are good.
async fn strike(at: At, act: Act) {
    let why = format!("{at:?}: {act:?}");
    // The first connection only learns what is offered; a fault in its set-up is one of every set-up.
    let faulty = vec![(at, act)];
    let scripts = match at {
        At::Greeting | At::Ehlo => vec![Vec::new(), faulty],
        _ => vec![faulty],
    };
    let server = Server::start(Options {
        scripts,
        ..Options::default()
    })
    .await;
    let setup = Setup::new(&[server.address]);
    let set_up = matches!(at, At::Greeting | At::Ehlo);
    let rig = Rig::start(setup.with(move |config| {
        // Without idle connections the second one is the message's own.
        config.next_hop.keep = if set_up { 0 } else { 10 };
    }))
    .await;
    let mut client = rig.client().await;
    assert!(client.command("EHLO c.example").await.starts_with("250"));
    let sent = client.send(&["b@y.example"], MESSAGE).await;
    let (stage, reply) = expected(at, act);
    assert_eq!(sent, (stage, reply.clone()), "{why}");
    assert_eq!(server.accepted(), 0, "{why}");
    let stats = rig.stats().await;
    assert_eq!((stats.committed, stats.prepared), (0, 0), "{why}: no copy");
    if reply.starts_with("421") {
        assert!(client.is_closed().await, "{why}");
        client = rig.client().await;
        client.command("EHLO c.example").await;
    } else if stage != "MAIL" && stage != "DOT" {
        assert!(client.command("RSET").await.starts_with("250"), "{why}");
    }
    let sent = client.send(&["b@y.example"], MESSAGE).await;
    assert_eq!(
        sent,
        ("DOT", "250 2.0.0 message accepted".to_owned()),
        "{why}: the next message"
    );
    assert_eq!(server.accepted(), 1, "{why}");
    assert_eq!(server.seen(|seen| seen.accepted[0].clone()), MESSAGE, "{why}");
    assert_eq!(rig.stats().await.committed, 1, "{why}: and its copy");
}

const STAGES: [At; 6] = [At::Greeting, At::Ehlo, At::Mail, At::Rcpt, At::Data, At::Dot];

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_with_every_fault() {
    let acts = [
        Act::Say("421 4.3.2 going down"),
        Act::Say("450 4.2.0 try later"),
        Act::Say("550-5.7.1 two\r\n550 5.7.1 lines"),
        Act::SayAndClose("452 4.3.1 no room"),
        Act::SayAndClose("421 4.3.2 going down"),
        Act::Close,
        Act::Reset,
        Act::Stall,
        Act::HalfAndStall,
        Act::HalfAndClose,
        Act::Garbage,
    ];
    let mut all = tokio::task::JoinSet::new();
    for at in STAGES {
        for act in acts {
            all.spawn(strike(at, act));
        }
        // What is no answer to the command.
        if !matches!(at, At::Greeting | At::Ehlo) {
            let act = if at == At::Data { "250 what?" } else { "354 what?" };
            all.spawn(strike(at, Act::Say(act)));
        }
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_the_body() {
    for act in [
        Act::Close,
        Act::Reset,
        Act::Stall,
        Act::HalfAndStall,
        Act::SayAndClose("552 5.3.4 too big for me"),
        Act::SayAndClose("421 4.3.2 going down"),
        Act::SayAndClose("250 2.0.0 accepted before its end"),
        Act::Say("250 2.0.0 accepted before its end"),
    ] {
        let server = Server::start(Options {
            scripts: vec![vec![(At::Body, act)]],
            ..Options::default()
        })
        .await;
        let rig = Rig::start(Setup::new(&[server.address])).await;
        let mut client = rig.client().await;
        client.command("EHLO c.example").await;
        // Large enough to fill what the sockets hold, and to be written to the queue before its end.
        let message =
            b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n".repeat(200_000);
        let sent = client.send(&["b@y.example"], &message).await;
        let reply = match act {
            Act::SayAndClose(reply) if !reply.starts_with('2') => reply,
            _ => UNAVAILABLE,
        };
        assert_eq!(sent, ("DOT", reply.to_owned()), "{act:?}");
        let stats = rig.stats().await;
        assert_eq!((stats.committed, stats.prepared), (0, 0), "{act:?}: no copy");
        assert_eq!(rig.queue.bytes(), 0, "{act:?}: nothing of it stays in the queue");
        assert!(server.accepted() <= 1, "{act:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_that_is_gone_costs_the_client_nothing() {
    for act in [
        Act::Close,
        Act::Reset,
        Act::Say("421 4.4.2 idle for too long"),
        Act::SayAndClose("421 4.4.2 idle for too long"),
    ] {
        let server = Server::start(Options {
            scripts: vec![vec![(At::Between, act)]; 3],
            ..Options::default()
        })
        .await;
        let rig = Rig::start(Setup::new(&[server.address])).await;
        let mut client = rig.client().await;
        client.command("EHLO c.example").await;
        for number in 1..=5 {
            let (stage, reply) = client.send(&["b@y.example"], MESSAGE).await;
            assert_eq!((stage, &reply[..3]), ("DOT", "250"), "{act:?}, message {number}");
        }
        assert_eq!(server.accepted(), 5, "{act:?}");
        assert_eq!(rig.stats().await.committed, 5, "{act:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_in_order_or_not_at_all() {
    let server = Server::start(Options {
        rcpt: vec![("no@y.example", "550 5.1.1 nobody")],
        ..Options::default()
    })
    .await;
    let rig = Rig::start(Setup::new(&[server.address])).await;
    let mut client = rig.client().await;
    client.command("EHLO c.example").await;
    for _ in 0..20 {
        let (stage, reply) = client.send(&["no@y.example"], MESSAGE).await;
        assert_eq!((stage, reply.as_str()), ("RCPT", "550 5.1.1 nobody"));
        assert!(client.command("RSET").await.starts_with("250"));
        let (stage, reply) = client.send(&["b@y.example"], MESSAGE).await;
        assert_eq!((stage, &reply[..3]), ("DOT", "250"));
    }
    let (connections, resets) = (server.seen(|seen| seen.connections), server.lines("RSET").len());
    assert!(connections <= 3, "{connections} connections for 40 transactions");
    assert_eq!(resets, 20, "each transaction that was given up is reset");
    assert_eq!(server.accepted(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_grows_old() {
    let server = Server::start(Options::default()).await;
    let setup = Setup::new(&[server.address]);
    let rig = Rig::start(setup.with(|config| config.next_hop.max_age = std::time::Duration::ZERO)).await;
    let mut client = rig.client().await;
    client.command("EHLO c.example").await;
    for _ in 0..5 {
        assert_eq!(client.send(&["b@y.example"], MESSAGE).await.0, "DOT");
    }
    assert_eq!(
        server.seen(|seen| seen.connections),
        6,
        "one to ask, five for messages"
    );
}
