//! What the server can do to the queue: evict, refuse, be full, be gone, hang.

mod common;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{HOUR, INTAKE, RedisServer, body, connect, entry, eventually};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tdc_queue::{
    DeadLetters, End, EntryKey, JournalQueue, NewEntry, QueueError, RedisOptions, RedisQueue, Replayed,
    RetryReason, Stats,
};
use tokio::time::Instant;

/// A limit that a test can wait for.
const SHORT: Duration = Duration::from_millis(500);

#[tokio::test]
async fn refuses_a_redis_that_evicts() {
    let server = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]).await;
    match RedisQueue::connect(&server.url(), RedisOptions::default()).await {
        Err(QueueError::Unsafe(text)) => {
            assert!(
                text.contains("allkeys-lru") && text.contains("maxmemory-policy noeviction"),
                "{text}"
            );
        }
        other => panic!("it would lose copies: {other:?}"),
    }
}

#[tokio::test]
async fn says_why_it_cannot_connect() {
    let locked = RedisServer::start(&["--requirepass", "secret"]).await;
    let gone = RedisServer::start(&[]).await.url();
    let wrong = locked.url() + "?pass=guess";
    for (url, words) in [
        (&wrong, "password"),
        (&locked.url(), "NOAUTH"),
        (&gone, "does not answer"),
    ] {
        match RedisQueue::connect(url, RedisOptions::default()).await {
            Err(error @ QueueError::Unavailable(_)) => assert!(error.to_string().contains(words), "{error}"),
            other => panic!("{words}: {other:?}"),
        }
    }
    RedisQueue::connect(&(locked.url() + "?pass=secret"), RedisOptions::default())
        .await
        .expect("the right one");
}

#[tokio::test]
async fn full_takes_nothing_and_still_ends_what_it_has() {
    let server = RedisServer::start(&["--maxmemory", "12mb"]).await;
    let options = RedisOptions {
        claim_bytes: 64 * 1024 * 1024,
        ..RedisOptions::default()
    };
    let queue = connect(&server, options).await;
    let size = 512 * 1024;
    let mut stored = Vec::new();
    let refused = loop {
        let new = NewEntry { size, ..entry() };
        let key = new.key.clone();
        match queue.prepare(new, 0, body(512 * 1024)).await {
            Ok(()) => stored.push(key),
            Err(error) => break error,
        }
        assert!(stored.len() < 100, "it is bounded");
    };
    assert!(
        matches!(&refused, QueueError::Full(text) if text.contains("maxmemory")),
        "{refused:?}"
    );
    // What is still free is smaller than a chunk: fill it.
    while queue
        .write_chunk(&EntryKey::new(INTAKE), 0, vec![0; 4096].into())
        .await
        .is_ok()
    {}
    assert!(
        matches!(queue.check().await, Err(QueueError::Full(_))),
        "not ready for more"
    );

    queue.commit(&stored).await.expect("what was taken is committed");
    queue.sweep(INTAKE).await.expect("sweeps");
    let claimed = queue.claim(INTAKE, "w1", 100).await.expect("claims").entries;
    assert_eq!(claimed.len(), stored.len());
    let (last, others) = claimed.split_last().expect("some");
    assert!(
        queue
            .retry("w1", &last.claim, HOUR, RetryReason::NoAnswer("lost".to_owned()))
            .await
            .expect("retries")
    );
    for got in others {
        assert!(
            queue
                .complete("w1", &got.claim, End::Delivered)
                .await
                .expect("completes")
        );
    }
    eventually("room again (bodies are freed in the background)", async || {
        queue.check().await.is_ok()
    })
    .await;
    queue
        .prepare(NewEntry { size, ..entry() }, 0, body(512 * 1024))
        .await
        .expect("takes the next");
}

#[tokio::test]
async fn survives_a_kill_and_comes_back_by_itself() {
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let options = RedisOptions {
        command_timeout: SHORT,
        body_timeout: SHORT,
        ..RedisOptions::default()
    };
    let queue = connect(&server, options).await;
    let (committed, prepared, held) = (entry(), entry(), entry());
    let keys = [committed.key.clone(), prepared.key.clone(), held.key.clone()];
    queue.prepare(held, 0, body(5)).await.expect("prepares");
    queue.commit(&keys[2..]).await.expect("commits");
    let claimed = queue.claim(INTAKE, "w1", 1).await.expect("claims").entries;
    queue.prepare(committed, 0, body(5)).await.expect("prepares");
    queue.commit(&keys[..1]).await.expect("commits");
    queue.prepare(prepared, 0, body(5)).await.expect("prepares");

    server.kill();
    for _ in 0..2 {
        let began = Instant::now();
        let lost = queue.prepare(entry(), 0, body(5)).await;
        assert!(matches!(lost, Err(QueueError::Unavailable(_))), "{lost:?}");
        assert!(
            began.elapsed() < SHORT * 20,
            "the sender is not kept waiting: {:?}",
            began.elapsed()
        );
        assert!(queue.check().await.is_err(), "not ready");
    }
    server.restart().await;

    eventually("it answers again", async || queue.check().await.is_ok()).await;
    queue
        .commit(&keys[1..2])
        .await
        .expect("what was prepared is there");
    assert!(
        queue
            .complete("w1", &claimed[0].claim, End::Delivered)
            .await
            .expect("claims outlive a restart")
    );
    let again = queue.claim(INTAKE, "w1", 9).await.expect("claims").entries;
    let ids: Vec<_> = again.iter().map(|c| c.claim.key.clone()).collect();
    assert_eq!(ids, keys[..2], "nothing that was answered is lost");
    let stats = Stats {
        oldest: Duration::ZERO,
        ..queue.stats(INTAKE).await.expect("stats")
    };
    assert_eq!(
        stats,
        Stats {
            in_flight: 2,
            active_recipients: 2,
            committed: 3,
            delivered: 1,
            ..Stats::default()
        },
        "nor counted twice"
    );
}

#[tokio::test]
async fn a_quick_restart_goes_unnoticed() {
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let queue = connect(&server, RedisOptions::default()).await;
    let new = entry();
    let keys = [new.key.clone()];
    queue.prepare(new, 0, body(5)).await.expect("prepares");
    server.kill();
    let (commit, ()) = tokio::join!(queue.commit(&keys), server.restart());
    commit.expect("the step waits for the new connection, and loads the scripts again");
    assert_eq!(
        queue.claim(INTAKE, "w1", 9).await.expect("claims").entries.len(),
        1
    );
}

#[tokio::test]
async fn says_how_durable_the_server_is() {
    for (args, append_only, append_fsync, full) in [
        (
            &["--appendonly", "yes", "--appendfsync", "always"][..],
            true,
            "always",
            true,
        ),
        (&["--appendonly", "yes"][..], true, "everysec", false),
        (
            &["--appendonly", "no", "--appendfsync", "always"][..],
            false,
            "always",
            false,
        ),
        // As hosted servers do.
        (
            &["--appendonly", "yes", "--rename-command", "CONFIG", ""][..],
            true,
            "unknown",
            false,
        ),
    ] {
        let server = RedisServer::start(args).await;
        let durability = connect(&server, RedisOptions::default())
            .await
            .durability()
            .expect("safe");
        assert_eq!(
            (durability.append_only, &*durability.append_fsync),
            (append_only, append_fsync)
        );
        assert_eq!(durability.is_full(), full, "{args:?}");
        assert!(
            durability.version.contains(|c: char| c.is_ascii_digit()),
            "{durability:?}"
        );
    }
}

/// The server behind the URL became one that would lose copies: no new ones are given to it, old ones are delivered.
#[tokio::test]
async fn a_server_that_became_unsafe_takes_nothing() {
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let queue = connect(&server, RedisOptions::default()).await;
    let old = entry();
    let keys = [old.key.clone()];
    queue.prepare(old, 0, body(5)).await.expect("prepares");
    server.kill();
    server.set("--maxmemory-policy", "allkeys-lru");
    server.restart().await;
    eventually("it is noticed", async || {
        matches!(queue.check().await, Err(QueueError::Unsafe(_)))
    })
    .await;
    match queue.prepare(entry(), 0, body(5)).await {
        Err(QueueError::Unsafe(text)) => assert!(text.contains("noeviction"), "{text}"),
        other => panic!("it would lose copies: {other:?}"),
    }
    queue.commit(&keys).await.expect("what it has goes on");
    assert_eq!(
        queue.claim(INTAKE, "w1", 1).await.expect("claims").entries.len(),
        1
    );
    server.kill();
    server.set("--maxmemory-policy", "noeviction");
    server.restart().await;
    eventually("it is mended", async || queue.check().await.is_ok()).await;
    queue.prepare(entry(), 0, body(5)).await.expect("prepares");
}

/// Killed in the middle of a replay of many: each is a dead letter or in the queue, and the rest can be replayed.
#[tokio::test]
async fn a_replay_cut_off_loses_and_doubles_nothing() {
    const LETTERS: usize = 300;
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let queue = Arc::new(connect(&server, RedisOptions::default()).await);
    for _ in 0..LETTERS {
        let new = NewEntry {
            retain: Some(HOUR),
            ..entry()
        };
        let keys = [new.key.clone()];
        queue.prepare(new, 0, body(5)).await.expect("prepares");
        queue.commit(&keys).await.expect("commits");
    }
    for claimed in queue.claim(INTAKE, "w1", LETTERS).await.expect("claims").entries {
        let end = End::PossibleDelivery {
            detail: String::new(),
        };
        assert!(queue.complete("w1", &claimed.claim, end).await.expect("ends"));
    }
    let letters = queue.dead_letters(INTAKE, None, LETTERS).await.expect("lists");
    let half = letters[..LETTERS / 2].to_vec();
    let replaying = tokio::spawn({
        let (queue, half) = (Arc::clone(&queue), half.clone());
        async move {
            for letter in half {
                let _ = queue.replay(&[letter]).await;
                // So that it is in the middle when the first ones are seen.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    eventually("some are replayed", async || {
        queue.stats(INTAKE).await.is_ok_and(|stats| stats.replayed > 10)
    })
    .await;
    server.kill();
    replaying.abort();
    let _ = replaying.await;
    server.restart().await;

    let stats = queue.stats(INTAKE).await.expect("answers");
    let dead = queue
        .dead_letters(INTAKE, None, 2 * LETTERS)
        .await
        .expect("lists");
    assert!(
        stats.ready > 10 && dead.len() > LETTERS / 2,
        "in the middle: {stats:?}"
    );
    assert_eq!(stats.ready as usize + dead.len(), LETTERS, "each is in one place");
    let done = queue.replay(&letters).await.expect("replays");
    assert!(
        done.iter().all(|done| *done == Replayed::Done),
        "those before too: it can be repeated"
    );
    let stats = queue.stats(INTAKE).await.expect("answers");
    let all = LETTERS as u64;
    assert_eq!(
        (stats.ready, stats.replayed, stats.committed),
        (all, all, 2 * all)
    );
    let claimed = queue
        .claim(INTAKE, "w1", 2 * LETTERS)
        .await
        .expect("claims")
        .entries;
    let ids: std::collections::BTreeSet<_> = claimed.iter().map(|c| c.claim.key.id.clone()).collect();
    assert_eq!((claimed.len(), ids.len()), (LETTERS, LETTERS), "and none twice");
}

#[tokio::test]
async fn a_hanging_redis_is_not_waited_for() {
    let server = RedisServer::start(&[]).await;
    let options = RedisOptions {
        command_timeout: SHORT,
        body_timeout: SHORT,
        ..RedisOptions::default()
    };
    let queue = connect(&server, options).await;
    server.signal("STOP");
    let began = Instant::now();
    let stalled = queue.prepare(entry(), 0, body(5)).await;
    let took = began.elapsed();
    server.signal("CONT");
    assert!(matches!(stalled, Err(QueueError::Unavailable(_))), "{stalled:?}");
    assert!(
        took >= SHORT && took < SHORT * 20,
        "the limit is the limit: {took:?}"
    );
    eventually("it goes on", async || queue.check().await.is_ok()).await;
}

#[tokio::test]
async fn speaks_tls() {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let leaf = leaf.signed_by(&key, &authority).expect("a certificate");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("writes");
        path.display().to_string()
    };
    let (cert, key) = (file("cert.pem", leaf.pem()), file("key.pem", key.serialize_pem()));
    let ca = file("ca.pem", authority.pem());
    // Free at this moment; redis-server cannot be given a socket.
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a port")
        .port()
        .to_string();
    let server = RedisServer::start(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let url = format!("rediss://localhost:{port}/0");
    let trusted = RedisOptions {
        ca_bundle: Some(authority.pem().into_bytes()),
        ..RedisOptions::default()
    };
    let queue = RedisQueue::connect(&url, trusted)
        .await
        .expect("connects over TLS");
    let new = NewEntry {
        size: 3 << 20,
        ..entry()
    };
    let keys = [new.key.clone()];
    let chunks = vec![Bytes::from(vec![7; 1 << 20]); 3];
    queue.prepare(new, 0, chunks.clone()).await.expect("prepares");
    queue.commit(&keys).await.expect("commits");
    let got = queue.claim(INTAKE, "w1", 1).await.expect("claims").entries;
    assert_eq!(got[0].body, chunks);
    assert!(
        queue
            .dead_letters(INTAKE, None, 1)
            .await
            .expect("lists")
            .is_empty()
    );

    match RedisQueue::connect(&url, RedisOptions::default()).await {
        Err(QueueError::Unavailable(text)) => assert!(text.contains("certificate"), "{text}"),
        other => panic!("nobody vouches for it: {other:?}"),
    }
    drop(server);
}
