//! How entries end, what is told of it, and what stays.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tdc_queue::{
    DeadLetter, End, Expired, HardBounces, IdSource, MAX_DETAIL, NewEntry, QueueError, RetryReason, Series,
    Stats, Sweep,
};

use crate::common::{HOUR, INTAKE, Kind, Limits, entry, eventually};

fn hard() -> End {
    End::HardBounced {
        class: "5xx",
        detail: "550 5.1.1 no such user".to_owned(),
    }
}

pub(crate) async fn each_end_is_counted_and_told(kind: Kind) {
    let cases = [
        (
            End::Delivered,
            Stats {
                delivered: 1,
                ..Stats::default()
            },
            None,
        ),
        (
            hard(),
            Stats {
                hard_bounced: 1,
                hard: HardBounces {
                    reply: 1,
                    ..HardBounces::default()
                },
                ..Stats::default()
            },
            Some(("hard_bounced", "5xx", "550 5.1.1 no such user")),
        ),
        (
            End::PossibleDelivery {
                detail: "timed out".to_owned(),
            },
            Stats {
                possible_delivery: 1,
                ..Stats::default()
            },
            Some(("possible_delivery", "", "timed out")),
        ),
        (
            End::Expired,
            Stats {
                expired: 1,
                ..Stats::default()
            },
            Some(("expired", "", "451 4.3.0 later")),
        ),
    ];
    for (end, counted, told) in cases {
        let subject = kind.start(Limits::default()).await;
        let queue = &subject.queue;
        let new = entry();
        let meta = new.meta.clone();
        let key = subject.add(new).await;
        let got = subject.claim_one("w1").await;
        let later = RetryReason::SoftBounce("451 4.3.0 later".to_owned());
        assert!(
            queue
                .retry("w1", &got.claim, Duration::ZERO, later)
                .await
                .expect("retries")
        );
        queue.sweep(INTAKE).await.expect("sweeps");
        let got = subject.claim_one("w1").await;
        assert!(
            queue
                .complete("w1", &got.claim, end.clone())
                .await
                .expect("completes")
        );

        let stats = queue.stats(INTAKE).await.expect("stats");
        assert_eq!(
            stats,
            Stats {
                committed: 1,
                soft_bounced: 1,
                ..counted
            },
            "{end:?}"
        );
        assert_eq!(subject.leftovers().await, [""; 0], "{end:?}");
        let letters = subject.dead.dead_letters(INTAKE, None, 9).await.expect("lists");
        let expected: Vec<DeadLetter> = told
            .into_iter()
            .map(|(end, class, detail)| DeadLetter {
                key: key.clone(),
                place: letters[0].place.clone(),
                end: end.to_owned(),
                class: class.to_owned(),
                detail: detail.to_owned(),
                attempts: 1,
                size: 5,
                ended_ms: letters[0].ended_ms,
                retain: None,
                meta: Some(meta.clone()),
            })
            .collect();
        assert_eq!(letters, expected, "{end:?}");
    }
}

pub(crate) async fn retained_bodies_stay_for_their_time(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let queue = &subject.queue;
    for end in [
        hard(),
        End::PossibleDelivery {
            detail: String::new(),
        },
        End::Expired,
    ] {
        let retain = Some(Duration::from_millis(700));
        let key = subject.add(NewEntry { retain, ..entry() }).await;
        let got = subject.claim_one("w1").await;
        assert!(
            queue
                .complete("w1", &got.claim, end.clone())
                .await
                .expect("completes")
        );
        let body = subject.dead.dead_body(&key).await.expect("it is kept");
        assert_eq!(body.concat(), b"xxxxx", "{end:?}");
        assert_eq!(
            subject.dead.dead_letters(INTAKE, None, 1).await.expect("lists")[0].retain,
            retain
        );
        queue.commit(std::slice::from_ref(&key)).await.expect("it was");
        queue
            .abort(std::slice::from_ref(&key))
            .await
            .expect("it is not forgotten by a late abort");
        assert!(subject.dead.dead_body(&key).await.is_ok());
        assert_eq!(subject.claim_ids("w1", 9).await, [""; 0], "kept is not ready");
        eventually("its time is over", async || {
            queue.sweep(INTAKE).await.expect("sweeps");
            subject.leftovers().await.is_empty()
        })
        .await;
        assert!(matches!(
            subject.dead.dead_body(&key).await,
            Err(QueueError::Unknown(_))
        ));
    }
    let key = subject
        .add(NewEntry {
            retain: Some(HOUR),
            ..entry()
        })
        .await;
    let got = subject.claim_one("w1").await;
    assert!(
        matches!(subject.dead.dead_body(&key).await, Err(QueueError::Unknown(_))),
        "alive is not dead"
    );
    assert!(
        queue
            .complete("w1", &got.claim, End::Delivered)
            .await
            .expect("completes")
    );
    assert_eq!(
        subject.leftovers().await,
        [""; 0],
        "what was delivered is not retained"
    );
}

pub(crate) async fn expires_on_the_way(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let queue = &subject.queue;
    let brief = || NewEntry {
        lifetime: Duration::ZERO,
        ..entry()
    };
    for _ in 0..3 {
        subject.add(brief()).await;
    }
    let good = subject.add(entry()).await;
    assert_eq!(
        subject.claim_ids("w1", 1).await,
        [&*good.id],
        "those before it are over and do not hide it"
    );
    let stats = Stats {
        oldest: Duration::ZERO,
        ..queue.stats(INTAKE).await.expect("stats")
    };
    assert_eq!(
        stats,
        Stats {
            in_flight: 1,
            active_recipients: 1,
            committed: 4,
            expired: 3,
            ..Stats::default()
        }
    );

    let last = subject.add(brief()).await;
    let swept = queue.sweep(INTAKE).await.expect("sweeps");
    assert_eq!(
        (swept.promoted, swept.committed_in_doubt, swept.expired.len()),
        (0, 0, 1)
    );
    let told = Expired {
        key: last,
        mid: 7,
        recipients: 2,
        attempts: 0,
        traceparent: entry().meta.traceparent,
        in_doubt: false,
        possible_delivery: false,
        age: swept.expired[0].age,
        detail: String::new(),
    };
    assert_eq!(swept.expired, [told], "what the mail log needs");
    assert_eq!(
        queue.sweep(INTAKE).await.expect("sweeps"),
        Sweep::default(),
        "and once only"
    );

    // A retry that waits longer than it lives.
    let short = subject
        .add(NewEntry {
            lifetime: Duration::from_secs(1),
            ..entry()
        })
        .await;
    let got = subject.claim_one("w1").await;
    assert_eq!(got.claim.key, short);
    let later = RetryReason::SoftBounce("later".to_owned());
    assert!(queue.retry("w1", &got.claim, HOUR, later).await.expect("retries"));
    eventually("it expires while it waits", async || {
        queue.sweep(INTAKE).await.expect("sweeps").expired.len() == 1
    })
    .await;
    let letters = subject.dead.dead_letters(INTAKE, None, 9).await.expect("lists");
    assert_eq!(
        (letters.len(), &letters[0].key, &*letters[0].detail),
        (5, &short, "later")
    );
    assert_eq!(queue.stats(INTAKE).await.expect("stats").retrying, 0);
}

pub(crate) async fn in_flight_is_left_to_its_worker(kind: Kind) {
    let lifetime = Duration::from_millis(500);
    let subject = kind
        .start(Limits {
            grace: 2 * lifetime,
            ..Limits::default()
        })
        .await;
    let queue = &subject.queue;
    let began = tokio::time::Instant::now();
    subject.add(NewEntry { lifetime, ..entry() }).await;
    let got = subject.claim_one("w1").await;
    tokio::time::sleep(lifetime).await;
    let swept = queue.sweep(INTAKE).await.expect("sweeps").expired.len();
    if began.elapsed() < 3 * lifetime {
        assert_eq!(swept, 0, "the worker may be at the final dot");
    }
    eventually("but not for ever", async || {
        queue.sweep(INTAKE).await.expect("sweeps");
        queue.stats(INTAKE).await.expect("stats").expired == 1
    })
    .await;
    assert!(
        !queue
            .complete("w1", &got.claim, End::Delivered)
            .await
            .expect("answers")
    );
    assert_eq!(
        subject.leftovers().await,
        [""; 0],
        "nothing outlives its lifetime and the grace"
    );
}

pub(crate) async fn dead_letters_are_bounded(kind: Kind) {
    let subject = kind
        .start(Limits {
            dead_letters: 10,
            ..Limits::default()
        })
        .await;
    let mut last = None;
    for _ in 0..300 {
        last = Some(subject.add(entry()).await);
        let got = subject.claim_one("w1").await;
        let end = End::HardBounced {
            class: "5xx",
            detail: "ä".repeat(4 * MAX_DETAIL),
        };
        assert!(
            subject
                .queue
                .complete("w1", &got.claim, end)
                .await
                .expect("completes")
        );
    }
    let letters = subject
        .dead
        .dead_letters(INTAKE, None, 1000)
        .await
        .expect("lists");
    assert!(
        (10..150).contains(&letters.len()),
        "about ten stay: {}",
        letters.len()
    );
    assert_eq!(Some(&letters[0].key), last.as_ref(), "the newest first");
    assert!(letters[0].detail.len() <= MAX_DETAIL, "a reply is cut");
    assert_eq!(
        subject.dead.dead_letters(INTAKE, None, 3).await.expect("lists"),
        letters[..3]
    );
    assert_eq!(
        subject.queue.stats(INTAKE).await.expect("stats").hard_bounced,
        300,
        "counters are not cut"
    );
}

pub(crate) async fn intakes_are_apart(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let queue = &subject.queue;
    let mut keys = Vec::new();
    for intake in ["b", "a", "c.d-e"] {
        let new = NewEntry {
            key: tdc_queue::EntryKey::new(intake),
            ..entry()
        };
        keys.push(new.key.clone());
        subject.prepare(new).await;
    }
    queue.commit(&keys).await.expect("commits across intakes");
    assert_eq!(queue.intakes().await.expect("lists"), ["a", "b", "c.d-e"]);
    assert!(
        queue
            .claim("nobody", "w1", 9)
            .await
            .expect("answers")
            .entries
            .is_empty()
    );
    assert_eq!(queue.stats("nobody").await.expect("answers"), Stats::default());
    assert_eq!(queue.sweep("nobody").await.expect("answers"), Sweep::default());
    let mut claims = Vec::new();
    for key in &keys {
        let claimed = queue.claim(&key.intake, "w1", 9).await.expect("claims").entries;
        assert_eq!(claimed.iter().map(|c| &c.claim.key).collect::<Vec<_>>(), [key]);
        claims.push(claimed[0].claim.clone());
    }
    queue
        .heartbeat("w1", &claims)
        .await
        .expect("beats across intakes");
    queue
        .release("w1", &claims)
        .await
        .expect("releases across intakes");
    assert_eq!(queue.stats("a").await.expect("stats").ready, 1);
}

pub(crate) async fn numbers_are_never_given_twice(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let mut seen = BTreeSet::new();
    let (one, two) = (
        IdSource::with_block(Arc::clone(&subject.queue), 10).await,
        IdSource::with_block(Arc::clone(&subject.queue), 10).await,
    );
    for source in [&one, &two, &one] {
        let mut last = 0;
        for turn in 0..50 {
            if turn % 4 == 0 {
                // Gives the task that reserves ahead its turn, also on a machine that has much else to do.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let id = source.next(Series::Mid);
            assert!(id > last, "they grow: {id} after {last}");
            assert!(seen.insert(id), "{id} was given before");
            last = id;
        }
    }
    assert!(one.next(Series::Icid) < 50, "each series counts for itself");
    let first = subject
        .queue
        .reserve_ids(Series::Mid, 100)
        .await
        .expect("reserves");
    let next = subject.queue.reserve_ids(Series::Mid, 1).await.expect("reserves");
    assert_eq!(next, first + 100, "a block is consecutive");
    assert!(seen.iter().all(|&id| id < first), "and nobody else's");
}
