//! From the first chunk to the commit.

use std::time::Duration;

use bytes::Bytes;
use tdc_queue::{End, EntryKey, EntryMeta, MAX_CHUNK, NewEntry, QueueError, RetryReason, Stats, Sweep};

use crate::common::{HOUR, INTAKE, Kind, Limits, entry, eventually};

pub(crate) async fn passes_a_message_on_whole(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let queue = &subject.queue;
    let chunks: Vec<Bytes> = vec![
        vec![0; MAX_CHUNK].into(),
        vec![0xff; MAX_CHUNK].into(),
        "\r\n.\r\n".into(),
        "".into(),
        "end".into(),
    ];
    let meta = EntryMeta {
        mid: u64::MAX,
        sender: "ä@example.com".to_owned(),
        recipients: vec!["b@example.com".to_owned(), "\"c d\"@example.com".to_owned()],
        policies: vec!["finance".to_owned()],
        message_id: "<1@example.com>".to_owned(),
        client_ip: "2001:db8::1".to_owned(),
        eight_bit: true,
        smtputf8: true,
        sender_ip_header: "X-IronPort-RemoteIP".to_owned(),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
        tracestate: "a=b".to_owned(),
        received_ms: 1_764_000_000_000,
    };
    let size = chunks.iter().map(|chunk| chunk.len() as u64).sum();
    let new = NewEntry {
        meta: meta.clone(),
        size,
        ..entry()
    };
    let key = new.key.clone();
    for (index, chunk) in (0..).zip(&chunks[..2]) {
        queue
            .write_chunk(&key, index, chunk.clone())
            .await
            .expect("writes");
    }
    assert_eq!(
        queue.stats(INTAKE).await.expect("stats"),
        Stats::default(),
        "a body alone is no entry"
    );
    queue
        .prepare(new, 2, chunks[2..].to_vec())
        .await
        .expect("prepares");
    assert!(
        subject.claim_ids("w1", 9).await.is_empty(),
        "prepared is not ready"
    );
    queue.commit(std::slice::from_ref(&key)).await.expect("commits");

    let got = subject.claim_one("w1").await;
    assert_eq!(got.claim.key, key);
    assert_eq!(got.meta, meta);
    assert_eq!(got.body.concat(), chunks.concat(), "every byte, in order");
    assert!(
        got.body.iter().all(|chunk| chunk.len() <= MAX_CHUNK),
        "chunks stay bounded"
    );
    assert!(got.remaining <= HOUR && got.remaining + got.age >= HOUR - Duration::from_millis(2));
    assert_eq!(
        (got.attempts, got.in_doubt, got.possible_delivery),
        (0, false, false)
    );

    assert!(
        queue
            .complete("w1", &got.claim, End::Delivered)
            .await
            .expect("completes")
    );
    let stats = queue.stats(INTAKE).await.expect("stats");
    assert_eq!(
        stats,
        Stats {
            committed: 1,
            delivered: 1,
            ..Stats::default()
        }
    );
    assert_eq!(
        subject.leftovers().await,
        [""; 0],
        "a completed entry leaves no key"
    );
    assert!(
        subject
            .dead
            .dead_letters(INTAKE, None, 9)
            .await
            .expect("lists")
            .is_empty()
    );
}

pub(crate) async fn takes_an_empty_body(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    for rest in [vec![], vec![Bytes::new()]] {
        let new = NewEntry { size: 0, ..entry() };
        let key = new.key.clone();
        subject
            .queue
            .prepare(new, 0, rest)
            .await
            .expect("an empty message is a message");
        subject.queue.commit(&[key]).await.expect("commits");
        let got = subject.claim_one("w1").await;
        assert!(got.body.concat().is_empty());
        assert!(
            subject
                .queue
                .complete("w1", &got.claim, End::Delivered)
                .await
                .expect("completes")
        );
    }
    assert_eq!(subject.leftovers().await, [""; 0]);
}

pub(crate) async fn needs_every_chunk(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    for (written, first_index, rest, size, whole, why) in [
        (vec![0, 1], 2, 1, 15, true, "all there"),
        (vec![], 0, 3, 15, true, "all at once"),
        (vec![1, 0], 2, 0, 10, true, "any order"),
        (vec![0, 0], 1, 0, 5, true, "written twice is one chunk"),
        (vec![0], 2, 1, 10, false, "a gap, though the bytes add up"),
        (vec![0], 2, 1, 15, false, "a gap"),
        (vec![], 2, 1, 15, false, "the first ones have expired"),
        (vec![0, 1], 2, 0, 11, false, "too short"),
        (vec![0, 1], 2, 0, 9, false, "too long"),
    ] {
        let new = NewEntry { size, ..entry() };
        let key = new.key.clone();
        for index in written {
            subject
                .queue
                .write_chunk(&key, index, "12345".into())
                .await
                .expect("writes");
        }
        let rest = vec![Bytes::from("12345"); rest];
        match subject.queue.prepare(new, first_index, rest).await {
            Ok(()) => assert!(whole, "{why}"),
            Err(QueueError::Unknown(_)) => assert!(!whole, "{why}"),
            Err(error) => panic!("{why}: {error}"),
        }
        subject.queue.abort(&[key]).await.expect("aborts");
    }
    assert_eq!(subject.leftovers().await, [""; 0]);
}

pub(crate) async fn refuses_a_chunk_too_large(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let large = Bytes::from(vec![0; MAX_CHUNK + 1]);
    let key = EntryKey::new(INTAKE);
    let written = subject.queue.write_chunk(&key, 0, large.clone()).await;
    assert!(matches!(written, Err(QueueError::Full(_))), "{written:?}");
    let new = NewEntry {
        size: large.len() as u64,
        ..entry()
    };
    let prepared = subject.queue.prepare(new, 0, vec![large]).await;
    assert!(matches!(prepared, Err(QueueError::Full(_))), "{prepared:?}");
    assert_eq!(subject.leftovers().await, [""; 0], "nothing of it is stored");
}

/// A step whose answer was lost is done again.
pub(crate) async fn steps_can_be_repeated(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let queue = &subject.queue;
    let new = entry();
    let key = new.key.clone();
    for _ in 0..2 {
        queue.write_chunk(&key, 0, "12".into()).await.expect("writes");
    }
    for _ in 0..2 {
        queue
            .prepare(new.clone(), 1, vec!["345".into()])
            .await
            .expect("prepares");
    }
    for _ in 0..2 {
        queue.commit(&[key.clone(), key.clone()]).await.expect("commits");
    }
    assert_eq!(queue.stats(INTAKE).await.expect("stats").committed, 1);
    queue
        .prepare(new, 1, vec!["345".into()])
        .await
        .expect("even after the commit");
    let got = subject.claim_one("w1").await;
    assert_eq!(got.body.concat(), b"12345");
    assert!(subject.claim_ids("w1", 9).await.is_empty(), "once");
    queue
        .commit(std::slice::from_ref(&key))
        .await
        .expect("while it is in flight");
    assert!(
        queue
            .complete("w1", &got.claim, End::Delivered)
            .await
            .expect("completes")
    );
    let stats = queue.stats(INTAKE).await.expect("stats");
    assert_eq!(
        stats,
        Stats {
            committed: 1,
            delivered: 1,
            ..Stats::default()
        }
    );
}

pub(crate) async fn commits_only_what_exists(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let queue = &subject.queue;
    let writing = EntryKey::new(INTAKE);
    queue
        .write_chunk(&writing, 0, "12345".into())
        .await
        .expect("writes");
    let (first, last) = (entry(), entry());
    let (first_key, last_key) = (first.key.clone(), last.key.clone());
    subject.prepare(first).await;
    subject.prepare(last).await;
    for (missing, why) in [
        (EntryKey::new(INTAKE), "never seen"),
        (writing.clone(), "not prepared"),
    ] {
        let batch = [first_key.clone(), missing.clone(), last_key.clone()];
        match queue.commit(&batch).await {
            Err(QueueError::Unknown(text)) => assert!(text.contains(&*missing.id), "{why}: {text}"),
            other => panic!("{why}: a lost entry must not look committed: {other:?}"),
        }
    }
    assert_eq!(
        subject.claim_ids("w1", 9).await,
        [&*first_key.id, &*last_key.id],
        "the others are"
    );
}

pub(crate) async fn abort_leaves_nothing(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let queue = &subject.queue;
    let writing = EntryKey::new(INTAKE);
    queue
        .write_chunk(&writing, 0, "12345".into())
        .await
        .expect("writes");
    let prepared = entry();
    let prepared_key = prepared.key.clone();
    subject.prepare(prepared).await;
    for _ in 0..2 {
        let batch = [writing.clone(), prepared_key.clone(), EntryKey::new(INTAKE)];
        queue.abort(&batch).await.expect("also when there is nothing");
    }
    let stats = queue.stats(INTAKE).await.expect("stats");
    assert_eq!(
        stats,
        Stats {
            aborted: 2,
            ..Stats::default()
        },
        "each counted once"
    );
    assert_eq!(subject.leftovers().await, [""; 0]);
    assert_eq!(queue.sweep(INTAKE).await.expect("sweeps"), Sweep::default());

    let committed = subject.add(entry()).await;
    queue
        .abort(std::slice::from_ref(&committed))
        .await
        .expect("answers");
    assert_eq!(
        subject.claim_ids("w1", 9).await,
        [&*committed.id],
        "a committed entry is not forgotten"
    );
}

pub(crate) async fn unfinished_bodies_go_by_themselves(kind: Kind) {
    let subject = kind
        .start(Limits {
            write_ttl: Duration::from_millis(100),
            ..Limits::default()
        })
        .await;
    let key = EntryKey::new(INTAKE);
    subject
        .queue
        .write_chunk(&key, 0, "12345".into())
        .await
        .expect("writes");
    eventually("the body is gone", async || {
        subject.queue.sweep(INTAKE).await.expect("sweeps");
        subject.leftovers().await.is_empty()
    })
    .await;
    assert_eq!(
        subject.queue.stats(INTAKE).await.expect("stats"),
        Stats::default(),
        "it was no entry"
    );
}

pub(crate) async fn lifetime_starts_at_commit(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let new = entry();
    let key = new.key.clone();
    subject.prepare(new).await;
    let pause = Duration::from_millis(200);
    tokio::time::sleep(pause).await;
    subject.queue.commit(&[key]).await.expect("commits");
    let got = subject.claim_one("w1").await;
    assert!(
        HOUR - got.remaining < pause || got.age >= pause,
        "the time before the commit does not count"
    );
}

pub(crate) async fn doubt_is_resolved_by_delivery(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let queue = &subject.queue;
    subject.prepare(entry()).await;
    assert_eq!(
        queue.sweep(INTAKE).await.expect("sweeps"),
        Sweep::default(),
        "its time to answer is not over"
    );
    let doubtful = NewEntry {
        in_doubt_after: Duration::ZERO,
        ..entry()
    };
    let key = doubtful.key.clone();
    subject.prepare(doubtful).await;
    let done = queue.sweep(INTAKE).await.expect("sweeps");
    assert_eq!(
        done,
        Sweep {
            committed_in_doubt: 1,
            ..Sweep::default()
        }
    );

    queue
        .commit(std::slice::from_ref(&key))
        .await
        .expect("ingress was only slow: nothing is wrong");
    queue.abort(std::slice::from_ref(&key)).await.expect("too late");
    let got = subject.claim_one("w1").await;
    assert_eq!(
        (&got.claim.key, got.in_doubt),
        (&key, true),
        "marked, so that a copy too many can be recognised"
    );
    assert!(
        queue
            .complete("w1", &got.claim, End::Delivered)
            .await
            .expect("completes")
    );
    let stats = queue.stats(INTAKE).await.expect("stats");
    assert_eq!(
        stats,
        Stats {
            prepared: 1,
            committed: 1,
            in_doubt: 1,
            delivered: 1,
            ..Stats::default()
        }
    );
}

/// Settings are an operator's: the largest they can say must not break anything.
pub(crate) async fn takes_any_length_of_time(kind: Kind) {
    let subject = kind
        .start(Limits {
            grace: Duration::MAX,
            write_ttl: Duration::MAX,
            ..Limits::default()
        })
        .await;
    let (lifetime, in_doubt_after, retain) = (Duration::MAX, Duration::MAX, Some(Duration::MAX));
    let key = subject
        .add(NewEntry {
            lifetime,
            in_doubt_after,
            retain,
            ..entry()
        })
        .await;
    let got = subject.claim_one("w1").await;
    assert!(got.remaining > HOUR);
    let later = RetryReason::SoftBounce("later".to_owned());
    assert!(
        subject
            .queue
            .retry("w1", &got.claim, Duration::MAX, later)
            .await
            .expect("retries")
    );
    assert_eq!(
        subject.queue.sweep(INTAKE).await.expect("sweeps"),
        Sweep::default()
    );
    subject
        .add(NewEntry {
            lifetime: Duration::ZERO,
            retain,
            ..entry()
        })
        .await;
    assert_eq!(
        subject.queue.sweep(INTAKE).await.expect("sweeps").expired.len(),
        1,
        "others are not held up"
    );
    assert_eq!(
        subject.queue.stats(INTAKE).await.expect("stats").retrying,
        1,
        "{key:?}"
    );
}
