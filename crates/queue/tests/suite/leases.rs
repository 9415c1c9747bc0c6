//! Leases on connections: targets, shares, lapsing, and what feedback does.

use std::time::Duration;

use tdc_queue::{LEASE_FOR, LeaseGrant, LeaseRequest};

use crate::common::{INTAKE, Kind, Limits, Subject, entry, eventually};

/// A worker that has `open` connections and would like as many as it can get, of at most 50.
fn wants(open: u32) -> LeaseRequest {
    LeaseRequest {
        min: 3,
        max: 50,
        open,
        wanted: 50,
        ..LeaseRequest::default()
    }
}

/// One that is done.
fn done() -> LeaseRequest {
    LeaseRequest {
        wanted: 0,
        ..wants(0)
    }
}

impl Subject {
    async fn lease(&self, consumer: &str, request: &LeaseRequest) -> LeaseGrant {
        let grant = self.queue.lease(INTAKE, consumer, request).await;
        grant.expect("leases")
    }

    async fn waiting(&self, count: usize) {
        for _ in 0..count {
            self.add(entry()).await;
        }
    }
}

pub(crate) async fn targets(kind: Kind) {
    let slow = |seconds| LeaseRequest {
        service: Some(Duration::from_secs(seconds)),
        // Makes the newest time count for nearly all.
        delivered: 1_000_000,
        ..wants(0)
    };
    let cases = [
        (0, wants(0), 0, "nothing waits: no connection"),
        (1, wants(0), 1, "no more connections than entries"),
        (2, wants(0), 2, "no more connections than entries"),
        (3, wants(0), 3, "the minimum"),
        (
            30,
            wants(0),
            3,
            "30 entries of 0.1 s: one connection drains them in 10 s",
        ),
        (30, slow(1), 3, "30 entries of 1 s need three"),
        (30, slow(2), 6, "30 entries of 2 s need six"),
        (30, slow(600), 30, "never more than entries, however slow"),
        (
            30,
            LeaseRequest { max: 20, ..slow(600) },
            20,
            "never more than the maximum",
        ),
        (
            30,
            LeaseRequest { max: 2, ..wants(0) },
            2,
            "the maximum wins over the minimum",
        ),
        (
            30,
            LeaseRequest {
                min: 0,
                max: 0,
                ..wants(0)
            },
            1,
            "at least one while something waits",
        ),
    ];
    for (waiting, request, target, why) in cases {
        let subject = kind.start(Limits::default()).await;
        subject.waiting(waiting).await;
        let grant = LeaseGrant {
            connections: target,
            target,
            total: target,
            waiting: waiting as u64,
        };
        assert_eq!(subject.lease("w1", &request).await, grant, "{why}");
        assert_eq!(
            subject.queue.backlog(&["none", INTAKE]).await.expect("counts"),
            [0, waiting as u64]
        );
    }
    let subject = kind.start(Limits::default()).await;
    assert_eq!(subject.queue.backlog(&[]).await.expect("counts"), [0; 0]);
    assert_eq!(subject.queue.occupied(&[]).await.expect("answers"), [false; 0]);
    let occupied = async || subject.queue.occupied(&["none", INTAKE]).await.expect("answers");
    assert_eq!(occupied().await, [false, false], "nothing was ever there");
    subject.waiting(1).await;
    assert_eq!(occupied().await, [false, true], "something waits");
}

pub(crate) async fn shares_are_fair(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    subject.waiting(30).await;
    let slow = |open, wanted| LeaseRequest {
        service: Some(Duration::from_secs(4)),
        delivered: 1_000_000,
        wanted,
        ..wants(open)
    };
    let steps = [
        ("w1", slow(0, 50), 12, 12, "alone, it gets all"),
        ("w2", slow(0, 50), 0, 12, "nothing is free"),
        (
            "w1",
            slow(12, 50),
            6,
            12,
            "the other is starved: half is its share, and what exists counts",
        ),
        ("w2", slow(0, 50), 0, 12, "they exist still"),
        ("w1", slow(6, 50), 6, 6, "six are closed"),
        ("w2", slow(0, 50), 6, 12, "and go to the other"),
        ("w3", slow(0, 2), 0, 12, "a third wants two"),
        (
            "w1",
            slow(6, 50),
            5,
            12,
            "of twelve, two are the third's and five each the others'",
        ),
        ("w2", slow(6, 50), 5, 12, "the same"),
        ("w1", slow(5, 50), 5, 11, ""),
        ("w2", slow(5, 50), 5, 10, ""),
        ("w3", slow(0, 2), 2, 12, "it has what it wants, not a third"),
        ("w2", done(), 0, 7, "one has enough"),
        ("w1", slow(5, 50), 10, 12, "its share passes on"),
        ("w3", slow(2, 2), 2, 12, "and nothing moves without need"),
    ];
    for (step, (who, request, connections, total, why)) in steps.into_iter().enumerate() {
        let grant = subject.lease(who, &request).await;
        assert_eq!(
            (grant.connections, grant.total, grant.target),
            (connections, total, 12),
            "step {step}: {who}: {why}"
        );
    }
    // One entry, and so one connection: who has it keeps it.
    let subject = kind.start(Limits::default()).await;
    subject.waiting(1).await;
    for (who, open, connections) in [
        ("w1", 0, 1),
        ("w2", 0, 0),
        ("w1", 1, 1),
        ("w2", 0, 0),
        ("w1", 1, 1),
    ] {
        assert_eq!(
            subject.lease(who, &wants(open)).await.connections,
            connections,
            "{who}"
        );
    }
}

pub(crate) async fn a_lease_is_its_owners(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    subject.waiting(5).await;
    assert_eq!(subject.lease("w1", &wants(0)).await.connections, 3);
    // w2 asks and asks, and gets nothing. When w1 is silent for too long its lease is gone all the same.
    for _ in 0..5 {
        assert_eq!(subject.lease("w2", &wants(0)).await.connections, 0);
    }
    let status = subject.queue.leases(INTAKE).await.expect("answers");
    assert_eq!((status.total, status.holders), (3, 1), "a wish is no lease");
    subject.lapse("w1").await;
    let status = subject.queue.leases(INTAKE).await.expect("answers");
    assert_eq!((status.total, status.holders), (0, 0), "seen at once");
    assert_eq!(subject.lease("w2", &wants(0)).await.connections, 3);
    // It was not dead after all: what it has counts, and is too much.
    let late = subject.lease("w1", &wants(3)).await;
    assert_eq!(
        (late.connections, late.total, late.target),
        (0, 6, 3),
        "never below what exists"
    );
    assert_eq!(subject.lease("w1", &done()).await.total, 3, "given back at once");
    assert_eq!(subject.lease("w2", &done()).await.total, 0);
    // With nothing to do a worker that still has connections is counted with them, and granted none.
    let subject = kind.start(Limits::default()).await;
    let idle = subject.lease("w1", &wants(4)).await;
    assert_eq!((idle.connections, idle.target, idle.total), (0, 0, 4));
}

pub(crate) async fn a_dead_workers_share_is_free_in_time(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    subject.waiting(5).await;
    let began = tokio::time::Instant::now();
    assert_eq!(subject.lease("w1", &wants(0)).await.connections, 3);
    eventually("its lease lapses", async || {
        subject.lease("w2", &wants(0)).await.connections == 3
    })
    .await;
    let took = began.elapsed();
    // Redis counts whole milliseconds.
    assert!(
        took + Duration::from_millis(2) >= LEASE_FOR,
        "it was not dead before: {took:?}"
    );
}

pub(crate) async fn feedback_moves_the_window(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    subject.waiting(40).await;
    let slow = |open| LeaseRequest {
        service: Some(Duration::from_secs(3600)),
        ..wants(open)
    };
    assert_eq!(
        subject.lease("w1", &slow(0)).await.target,
        40,
        "nothing is known: all"
    );
    let window = async || {
        let status = subject.queue.leases(INTAKE).await.expect("answers");
        status.window
    };
    assert_eq!(window().await, None);
    // It opened ten of them, and the eleventh was refused.
    let refused = |open, refused| LeaseRequest {
        refused,
        ..slow(open)
    };
    let grant = subject.lease("w1", &refused(10, 1)).await;
    assert_eq!(
        (grant.target, window().await),
        (10, Some(10.0)),
        "one less than there were"
    );
    assert_eq!(
        subject.lease("w2", &slow(0)).await.target,
        10,
        "known to all workers"
    );
    assert_eq!(
        subject.lease("w1", &refused(10, 1)).await.target,
        9,
        "one of the ten was too slow, and is there still"
    );
    let good = |open, delivered| LeaseRequest {
        delivered,
        ..slow(open)
    };
    assert!(
        subject.lease("w1", &good(9, 8)).await.target <= 9,
        "not yet a round of them"
    );
    assert_eq!(
        subject.lease("w1", &good(9, 2)).await.target,
        10,
        "one more for a round of good deliveries"
    );
    assert_eq!(
        subject.lease("w1", &refused(0, 10)).await.target,
        1,
        "it is down: one at a time"
    );
    assert_eq!(subject.lease("w1", &refused(0, 1)).await.target, 1, "never less");
    let grant = subject.lease("w1", &good(1, 50 * 51 / 2)).await;
    assert_eq!(
        (grant.target, window().await),
        (40, None),
        "it bears the maximum: no window any more"
    );
}

pub(crate) async fn says_what_is_known_of_the_intake(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let status = async || subject.queue.leases(INTAKE).await.expect("answers");
    assert_eq!(
        (status().await.down_since_ms, status().await.last_error),
        (None, None)
    );
    let says = |reachable, error: Option<&str>| LeaseRequest {
        reachable,
        last_error: error.map(ToOwned::to_owned),
        ..done()
    };
    subject
        .lease("w1", &says(Some(false), Some("connection refused")))
        .await;
    let first = status().await;
    let since = first.down_since_ms.expect("it is down");
    assert_eq!(first.last_error, Some(("connection refused".to_owned(), since)));
    tokio::time::sleep(Duration::from_millis(5)).await;
    subject
        .lease("w2", &says(Some(false), Some(&"é".repeat(1000))))
        .await;
    subject.lease("w2", &says(None, None)).await;
    let second = status().await;
    assert_eq!(second.down_since_ms, Some(since), "since the first of them");
    let (text, at) = second.last_error.expect("told");
    assert!(
        text.len() <= tdc_queue::MAX_DETAIL && text.starts_with("éé"),
        "bounded: {}",
        text.len()
    );
    assert!(at > since, "the newest");
    subject.lease("w1", &says(Some(true), None)).await;
    let third = status().await;
    assert_eq!(third.down_since_ms, None, "one success is enough");
    assert!(third.last_error.is_some(), "what it was stays");
}
