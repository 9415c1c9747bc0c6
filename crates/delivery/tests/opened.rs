//! The envelope that leaves behind the end of the copy before it: whatever the intake does with it, no copy pays for
//! another, and none is lost or repeated.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod rig;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rig::server::{Act, At, Options, Script, Server, at, good};
use rig::{Rig, config, intake, snapshot};
use tdc_core::address::Mailbox;
use tdc_core::policy::Intake;
use tdc_queue::{JournalQueue, MemoryOptions, MemoryQueue};
use tokio::sync::Semaphore;

const LIFETIME: Duration = Duration::from_secs(60);
const ALL: u64 = 60;
/// The script strikes after so many messages: by then the worker knows how fast the intake is, and opens ahead.
const GOOD: usize = 8;

const KEYWORDS: [&[&str]; 2] = [
    &["PIPELINING", "8BITMIME", "SIZE 50000000"],
    &["PIPELINING", "CHUNKING", "8BITMIME", "SIZE 50000000"],
];

/// A worker with one connection, and more entries than it can bring away at once, each with a subject of its own.
async fn loaded(options: Options, change: impl FnOnce(&mut Intake)) -> (Rig, Server) {
    let server = Server::start(options).await;
    let mut intake = intake(server.address);
    intake.connections.min = 1;
    intake.connections.max = 1;
    intake.connections.messages_per_connection = 1000;
    change(&mut intake);
    let queue: Arc<dyn JournalQueue> = Arc::new(MemoryQueue::new(MemoryOptions::default()));
    let rig = Rig::on(queue, config(), intake.clone()).await;
    rig.snapshots.send_replace(snapshot(vec![]));
    for number in 0..ALL {
        let original = format!("Subject: number {number}.\r\n\r\n.dot\r\nbody\r\n");
        rig.put(original.as_bytes(), LIFETIME).await;
    }
    rig.snapshots.send_replace(snapshot(vec![intake]));
    (rig, server)
}

/// Which of them the intake has, and how many messages that are.
fn arrived(server: &Server) -> (HashSet<String>, usize) {
    let messages = server.seen.messages.lock().unwrap();
    let number = |message: &[u8]| {
        let text = String::from_utf8_lossy(message);
        let (_, rest) = text.split_once("Subject: number ").unwrap();
        let (number, _) = rest.split_once('.').unwrap();
        number.to_owned()
    };
    (
        messages.iter().map(|(_, message)| number(message)).collect(),
        messages.len(),
    )
}

#[tokio::test]
async fn whatever_the_intake_does_with_it() {
    // Delivered, soft and hard bounces; messages that arrive twice; connections.
    let cases: [(Script, [u64; 3], usize, u32, &str); 11] = [
        (good(), [ALL, 0, 0], 0, 1, "nothing"),
        (
            at(At::Mail, Act::Say("421 4.3.2 later")),
            [ALL, 0, 0],
            0,
            2,
            "leaves",
        ),
        (at(At::Mail, Act::Close), [ALL, 0, 0], 0, 2, "closes at MAIL"),
        (at(At::Between, Act::Close), [ALL, 0, 0], 0, 2, "closes before"),
        (
            at(At::Rcpt, Act::Say("550 5.1.1 nobody")),
            [ALL - 1, 0, 1],
            0,
            1,
            "refuses the recipient",
        ),
        (
            at(At::Mail, Act::Say("550 5.7.1 no")),
            [ALL - 1, 0, 1],
            0,
            1,
            "refuses the sender",
        ),
        (
            at(At::Rcpt, Act::Say("451 4.2.1 busy")),
            [ALL, 1, 0],
            0,
            2,
            "refuses the recipient for now",
        ),
        (
            at(At::Dot, Act::Say("554 5.7.1 spam")),
            [ALL - 1, 0, 1],
            1,
            1,
            "refuses the content, with the next one opened",
        ),
        (
            at(At::Dot, Act::Say("451 4.3.0 busy")),
            [ALL, 1, 0],
            1,
            2,
            "refuses it for now",
        ),
        (at(At::Dot, Act::Close), [ALL, 1, 0], 1, 2, "does not answer"),
        (
            at(At::Dot, Act::Say("421 4.3.2 later")),
            [ALL, 1, 0],
            1,
            2,
            "leaves instead of an answer",
        ),
    ];
    for keywords in KEYWORDS {
        for (script, [delivered, soft, hard], again, connections, why) in cases.clone() {
            let options = Options {
                keywords,
                scripts: vec![script.after(GOOD)],
                ..Options::default()
            };
            let (rig, server) = loaded(options, |_| ()).await;
            let stats = rig.ended(ALL).await;
            let why = format!("{why}, {keywords:?}");
            let found = [stats.delivered, stats.soft_bounced, stats.hard_bounced];
            assert_eq!(found, [delivered, soft, hard], "{why}");
            let opened = server.seen.opened_ahead.load(Ordering::SeqCst);
            assert!(opened >= 30, "{why}: {opened}");
            let opened_at = server.seen.connections.load(Ordering::SeqCst);
            assert!(opened_at >= connections, "{why}: {opened_at} connections");
            let (different, messages) = arrived(&server);
            let refused_before = usize::from(hard == 1 && again == 0);
            assert_eq!(different.len(), ALL as usize - refused_before, "{why}");
            let twice = if hard == 1 { 0 } else { again };
            assert_eq!(messages, different.len() + twice, "{why}");
            rig.stop().await;
        }
    }
}

#[tokio::test]
async fn another_connection_gets_it_when_the_answer_is_slow() {
    let permits = Arc::new(Semaphore::new(GOOD));
    let options = Options {
        permits: Some(permits.clone()),
        ..Options::default()
    };
    let (rig, server) = loaded(options, |_| ()).await;
    rig.until("the slow answer", |stats| {
        stats.delivered == GOOD as u64 && stats.in_flight == 1
    })
    .await;
    permits.add_permits(2 * ALL as usize);
    let stats = rig.ended(ALL).await;
    assert_eq!((stats.delivered, stats.soft_bounced), (ALL, 0));
    let (different, messages) = arrived(&server);
    assert_eq!((different.len(), messages), (ALL as usize, ALL as usize));
    assert_eq!(server.seen.connections.load(Ordering::SeqCst), 2);
    rig.stop().await;
}

#[tokio::test]
async fn not_behind_the_last_message_of_a_connection() {
    let (rig, server) = loaded(Options::default(), |intake| {
        intake.connections.messages_per_connection = 5;
    })
    .await;
    let stats = rig.ended(ALL).await;
    assert_eq!((stats.delivered, stats.soft_bounced), (ALL, 0));
    let mut counts = vec![0; server.seen.connections.load(Ordering::SeqCst) as usize];
    for (connection, _) in server.seen.messages.lock().unwrap().iter() {
        counts[*connection as usize] += 1;
    }
    assert!(counts.iter().all(|count| *count <= 5), "{counts:?}");
    rig.stop().await;
    let (quits, connections) = (&server.seen.quits, &server.seen.connections);
    assert_eq!(
        quits.load(Ordering::SeqCst),
        connections.load(Ordering::SeqCst),
        "each was ended in order"
    );
}

#[tokio::test]
async fn not_without_pipelining() {
    let options = Options {
        keywords: &["8BITMIME"],
        ..Options::default()
    };
    let (rig, server) = loaded(options, |_| ()).await;
    let stats = rig.ended(ALL).await;
    assert_eq!((stats.delivered, stats.soft_bounced), (ALL, 0));
    assert_eq!(server.seen.opened_ahead.load(Ordering::SeqCst), 0);
    rig.stop().await;
}

#[tokio::test]
async fn not_for_an_intake_that_has_changed() {
    let permits = Arc::new(Semaphore::new(GOOD));
    let options = Options {
        permits: Some(permits.clone()),
        ..Options::default()
    };
    let (rig, server) = loaded(options, |_| ()).await;
    let stuck = || server.seen.messages.lock().unwrap().len() > GOOD - 1 && permits.available_permits() == 0;
    rig::eventually("the last permit", stuck).await;
    let mut changed = intake(server.address);
    changed.address = Mailbox::new("elsewhere@intake.example");
    rig.snapshots.send_replace(snapshot(vec![changed]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    permits.add_permits(2 * ALL as usize);
    let stats = rig.ended(ALL).await;
    assert_eq!((stats.delivered, stats.soft_bounced), (ALL, 0));
    let envelopes = server.seen.envelopes.lock().unwrap().clone();
    let to = |address: &str| envelopes.iter().filter(|line| line.contains(address)).count();
    let (old, new) = (to("journal@"), to("elsewhere@"));
    assert!(
        new >= ALL as usize - GOOD - 2,
        "{new} of the others go to the new address"
    );
    assert!(
        old <= GOOD + 3,
        "{old}: what had left before, and no content behind it"
    );
    assert_eq!(arrived(&server), (arrived(&server).0, ALL as usize));
    rig.stop().await;
}
