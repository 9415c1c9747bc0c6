//! What only the queue in memory has: a bound in bytes of its own.

mod common;

use bytes::Bytes;
use common::{HOUR, INTAKE, body, entry};
use tdc_queue::{End, EntryKey, JournalQueue, MAX_CHUNK, MemoryOptions, MemoryQueue, NewEntry, QueueError};

#[tokio::test]
async fn is_bounded_in_bytes() {
    let max_bytes = 4 * MAX_CHUNK as u64;
    let queue = MemoryQueue::new(MemoryOptions {
        max_bytes,
        ..MemoryOptions::default()
    });
    let size = MAX_CHUNK as u64;
    let mut keys = Vec::new();
    for _ in 0..3 {
        let new = NewEntry { size, ..entry() };
        keys.push(new.key.clone());
        queue
            .prepare(new, 0, body(MAX_CHUNK))
            .await
            .expect("there is room");
    }
    assert!(queue.bytes() > 3 * size && queue.bytes() <= max_bytes);
    let full = queue
        .prepare(NewEntry { size, ..entry() }, 0, body(MAX_CHUNK))
        .await;
    assert!(
        matches!(full, Err(QueueError::Full(_))),
        "bodies and what entries cost: {full:?}"
    );
    assert!(
        matches!(queue.check().await, Err(QueueError::Full(_))),
        "not ready for more"
    );
    let before = queue.bytes();
    let chunk = queue
        .write_chunk(&EntryKey::new(INTAKE), 0, Bytes::from(vec![0; MAX_CHUNK]))
        .await;
    assert!(matches!(chunk, Err(QueueError::Full(_))), "{chunk:?}");
    assert_eq!(queue.bytes(), before, "what is refused costs nothing");

    queue.commit(&keys).await.expect("what was taken is committed");
    let claimed = queue.claim(INTAKE, "w1", 9).await.expect("claims").entries;
    for got in claimed {
        assert!(
            queue
                .complete("w1", &got.claim, End::Delivered)
                .await
                .expect("completes")
        );
    }
    assert_eq!(queue.bytes(), 0, "all of it comes back");
    queue.check().await.expect("ready again");
}

/// Empty bodies are counted too: a flood of them ends at the bound.
#[tokio::test]
async fn is_bounded_in_entries() {
    let queue = MemoryQueue::new(MemoryOptions {
        max_bytes: 100_000,
        ..MemoryOptions::default()
    });
    let mut taken = 0;
    while queue
        .prepare(
            NewEntry {
                size: 0,
                retain: Some(HOUR),
                ..entry()
            },
            0,
            vec![],
        )
        .await
        .is_ok()
    {
        taken += 1;
        assert!(taken < 1000, "never full");
    }
    assert!(
        taken > 50 && queue.bytes() <= 100_000,
        "{taken} entries in {} bytes",
        queue.bytes()
    );
}
