//! Dead letters: how they come back, and how they go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tdc_queue::{DeadLetter, End, EntryKey, NewEntry, QueueError, Replayed, RetryReason};

use crate::common::{HOUR, INTAKE, Kind, Limits, Subject, entry, eventually};

fn retained() -> NewEntry {
    NewEntry {
        retain: Some(HOUR),
        ..entry()
    }
}

fn hard() -> End {
    End::HardBounced {
        class: "5xx",
        detail: "550 no".to_owned(),
    }
}

impl Subject {
    /// An entry that was tried, tried again, and ended so.
    async fn dies(&self, new: NewEntry, end: End) -> EntryKey {
        let key = self.add(new).await;
        let first = self.claim_one("w1").await;
        let later = RetryReason::SoftBounce("later".to_owned());
        let retried = self.queue.retry("w1", &first.claim, Duration::ZERO, later);
        assert!(retried.await.expect("retries"));
        self.queue.sweep(INTAKE).await.expect("sweeps");
        let second = self.claim_one("w1").await;
        let ended = self.queue.complete("w1", &second.claim, end);
        assert!(ended.await.expect("completes"));
        key
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        self.dead.dead_letters(INTAKE, None, 1000).await.expect("lists")
    }
}

pub(crate) async fn replay_puts_the_copy_back(kind: Kind) {
    let ends = [
        (hard(), false),
        (End::Expired, false),
        (
            End::PossibleDelivery {
                detail: String::new(),
            },
            true,
        ),
    ];
    for (end, possible) in ends {
        let subject = kind.start(Limits::default()).await;
        let key = subject.dies(retained(), end.clone()).await;
        let letters = subject.letters().await;
        assert_eq!(
            subject.dead.replay(&letters).await.expect("replays"),
            [Replayed::Done]
        );
        assert!(
            subject.letters().await.is_empty(),
            "{end:?}: it is no dead letter any more"
        );
        let stats = subject.queue.stats(INTAKE).await.expect("stats");
        assert_eq!(
            (stats.committed, stats.replayed, stats.ready),
            (2, 1, 1),
            "{end:?}"
        );

        let again = subject.claim_one("w1").await;
        assert_eq!(again.claim.key, key, "the delivery id is the same");
        assert_eq!(again.meta, entry().meta);
        assert_eq!(again.body.concat(), b"xxxxx");
        assert_eq!(
            (again.attempts, again.possible_delivery),
            (0, possible),
            "{end:?}: attempts begin anew, a doubt stays"
        );
        assert!(
            again.remaining > HOUR / 2,
            "its lifetime too: {:?}",
            again.remaining
        );
        assert!(
            matches!(subject.dead.dead_body(&key).await, Err(QueueError::Unknown(_))),
            "alive is not dead"
        );
        assert_eq!(
            subject.dead.replay(&letters).await.expect("replays"),
            [Replayed::Done],
            "once more changes nothing"
        );
        assert!(
            subject
                .queue
                .complete("w1", &again.claim, hard())
                .await
                .expect("completes")
        );
        let second = subject.letters().await;
        assert_eq!((second.len(), second[0].attempts), (1, 0), "it may die again");
        assert_eq!(
            subject.dead.replay(&letters).await.expect("replays"),
            [Replayed::Gone],
            "the old letter is not the new one"
        );
        assert_eq!(
            subject.dead.replay(&second).await.expect("replays"),
            [Replayed::Done]
        );
        let last = subject.claim_one("w1").await;
        assert!(
            subject
                .queue
                .complete("w1", &last.claim, End::Delivered)
                .await
                .expect("completes")
        );
        assert_eq!(subject.leftovers().await, [""; 0], "and leaves nothing");
    }
}

pub(crate) async fn replays_what_it_can_and_says_what_not(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    subject.dies(entry(), hard()).await;
    subject.dies(retained(), hard()).await;
    let brief = NewEntry {
        retain: Some(Duration::from_millis(50)),
        ..entry()
    };
    subject.dies(brief, hard()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut letters = subject.letters().await;
    letters.reverse();
    let unknown = DeadLetter {
        key: EntryKey::new("never-seen"),
        ..letters[1].clone()
    };
    let other = DeadLetter {
        place: "1-1".into(),
        key: EntryKey::new(INTAKE),
        ..letters[1].clone()
    };
    letters.extend([unknown, other]);
    let expected = [
        (Replayed::NoBody, "it was not retained"),
        (Replayed::Done, ""),
        (Replayed::NoBody, "its time was over"),
        (Replayed::Gone, "no such intake"),
        (Replayed::Gone, "no such place"),
    ];
    let done = subject.dead.replay(&letters).await.expect("replays");
    for (done, (expected, why)) in done.into_iter().zip(expected) {
        assert_eq!(done, expected, "{why}");
    }
    assert_eq!(
        subject.letters().await.len(),
        2,
        "what could not be replayed stays"
    );
    assert!(subject.dead.replay(&[]).await.expect("nothing").is_empty());
}

pub(crate) async fn many_replay_at_once_and_none_doubles(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let mut keys = BTreeSet::new();
    for _ in 0..20 {
        let key = subject.dies(retained(), hard()).await;
        keys.insert(key.id.to_string());
    }
    let letters = subject.letters().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (dead, letters) = (Arc::clone(&subject.dead), letters.clone());
        tasks.spawn(async move { dead.replay(&letters).await });
    }
    while let Some(done) = tasks.join_next().await {
        let done = done.expect("ends").expect("replays");
        assert_eq!(done, [Replayed::Done; 20], "in the queue, whoever did it");
    }
    let claimed = subject.claim_ids("w1", 100).await;
    assert_eq!(claimed.len(), 20);
    assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), keys);
    let stats = subject.queue.stats(INTAKE).await.expect("stats");
    assert_eq!((stats.replayed, stats.committed), (20, 40));
}

pub(crate) async fn purge_leaves_nothing(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let (kept, plain) = (
        subject.dies(retained(), hard()).await,
        subject.dies(entry(), hard()).await,
    );
    let again = subject.dies(retained(), hard()).await;
    let letters = subject.letters().await;
    assert_eq!(letters[0].key, again);
    assert_eq!(
        subject.dead.replay(&letters[..1]).await.expect("replays"),
        [Replayed::Done]
    );
    assert_eq!(
        subject.dead.purge(&letters).await.expect("purges"),
        2,
        "what is in the queue again is not a dead letter"
    );
    assert_eq!(subject.dead.purge(&letters).await.expect("purges"), 0, "once");
    assert!(subject.letters().await.is_empty());
    for key in [kept, plain] {
        assert!(matches!(
            subject.dead.dead_body(&key).await,
            Err(QueueError::Unknown(_))
        ));
    }
    let living = subject.claim_one("w1").await;
    assert_eq!(
        (&living.claim.key, living.body.concat().len()),
        (&again, 5),
        "untouched"
    );
    assert!(
        subject
            .queue
            .complete("w1", &living.claim, End::Delivered)
            .await
            .expect("completes")
    );
    assert_eq!(subject.leftovers().await, [""; 0]);
    assert_eq!(subject.queue.stats(INTAKE).await.expect("stats").purged, 2);
}

pub(crate) async fn letters_go_in_their_time(kind: Kind) {
    let moment = Duration::from_millis(300);
    let subject = kind
        .start(Limits {
            dead_for: moment,
            ..Limits::default()
        })
        .await;
    // More than one round of housekeeping looks at, and one in front that stays.
    let stays = subject.dies(retained(), hard()).await;
    for _ in 0..70 {
        subject.dies(entry(), hard()).await;
    }
    let brief = NewEntry {
        retain: Some(moment),
        ..entry()
    };
    subject.dies(brief, hard()).await;
    eventually("all but one are forgotten", async || {
        subject.queue.sweep(INTAKE).await.expect("sweeps");
        subject.letters().await.len() == 1
    })
    .await;
    assert_eq!(subject.letters().await[0].key, stays);
    assert!(subject.dead.dead_body(&stays).await.is_ok());
}

pub(crate) async fn pages_go_back_in_time(kind: Kind) {
    let subject = kind.start(Limits::default()).await;
    let mut keys = Vec::new();
    for _ in 0..7 {
        keys.insert(0, subject.dies(entry(), hard()).await);
    }
    let (mut found, mut before) = (Vec::new(), None::<Arc<str>>);
    loop {
        let page = subject.dead.dead_letters(INTAKE, before.as_deref(), 3).await;
        let page = page.expect("lists");
        let Some(last) = page.last() else { break };
        before = Some(last.place.clone());
        found.extend(page.into_iter().map(|letter| letter.key));
    }
    assert_eq!(found, keys, "each once, the newest first");
}
