//! The copies of one message on their way into the queue.
//!
//! While the body streams to the next hop, its pieces are collected here. A message of ordinary size stays in memory
//! until its end and is prepared in one round trip; a larger one goes out chunk by chunk. If the process dies
//! anywhere before PREPARE, only chunks exist, which expire by themselves; after PREPARE the entry is in doubt, and
//! the sweeper delivers it marked so.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{join_all, try_join_all};
use tdc_queue::{EntryKey, EntryMeta, JournalQueue, MAX_CHUNK, NewEntry, QueueError};
use thiserror::Error;

/// Why a copy is not in the queue.
#[derive(Clone, Debug, Error)]
pub(crate) enum CopyError {
    /// What the queue says.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// It says nothing. The step may be done all the same.
    #[error("the queue did not answer within {0:?}")]
    Slow(Duration),
}

/// Waits for a step of the queue, but not longer than that.
pub(crate) async fn within<T>(
    limit: Duration,
    step: impl Future<Output = Result<T, QueueError>>,
) -> Result<T, CopyError> {
    match tokio::time::timeout(limit, step).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(CopyError::Slow(limit)),
    }
}

/// The body of a message, and the entries that it goes to.
pub(crate) struct Copies {
    queue: Arc<dyn JournalQueue>,
    /// How long each step may take.
    limit: Duration,
    pending: Vec<Bytes>,
    pending_len: usize,
    size: u64,
    /// Chunks that are already in the queue.
    written: u32,
    state: State,
}

enum State {
    /// It is not yet known which copies are due.
    Undecided,
    /// None.
    Unneeded,
    /// These. Nothing of them is in the queue but chunks.
    Due(Vec<EntryKey>),
    /// These, and the queue has failed.
    Failed(Vec<EntryKey>, CopyError),
}

/// What is the same for all copies of a message.
pub(crate) struct Lifetimes {
    pub(crate) lifetime: Duration,
    pub(crate) in_doubt_after: Duration,
    pub(crate) retain: Option<Duration>,
}

impl Copies {
    pub(crate) fn new(queue: Arc<dyn JournalQueue>, limit: Duration) -> Self {
        Self {
            queue,
            limit,
            pending: Vec::new(),
            pending_len: 0,
            size: 0,
            written: 0,
            state: State::Undecided,
        }
    }

    /// Takes a piece of the body. True: so much has come together that it must be decided what to do with it.
    pub(crate) fn push(&mut self, piece: &Bytes) -> bool {
        self.size += piece.len() as u64;
        if matches!(self.state, State::Undecided | State::Due(_)) {
            self.pending_len += piece.len();
            self.pending.push(piece.clone());
        }
        self.pending_len >= MAX_CHUNK
    }

    /// True until [`Self::decide`].
    pub(crate) fn is_undecided(&self) -> bool {
        matches!(self.state, State::Undecided)
    }

    /// Says for which intakes copies are due.
    pub(crate) fn decide(&mut self, intakes: impl Iterator<Item = Arc<str>>) {
        let keys: Vec<EntryKey> = intakes.map(EntryKey::new).collect();
        if keys.is_empty() {
            self.forget();
        } else {
            self.state = State::Due(keys);
        }
    }

    /// Says that no copy is due after all; gives the entries of which chunks may be in the queue.
    pub(crate) fn forget(&mut self) -> Vec<EntryKey> {
        self.pending.clear();
        self.pending_len = 0;
        match std::mem::replace(&mut self.state, State::Unneeded) {
            State::Due(keys) | State::Failed(keys, _) => keys,
            State::Undecided | State::Unneeded => Vec::new(),
        }
    }

    /// Writes whole chunks. A failure is kept for [`Self::prepare`]: until then the message may still be refused.
    pub(crate) async fn write_chunks(&mut self) {
        while self.pending_len >= MAX_CHUNK {
            let State::Due(keys) = &self.state else { return };
            let chunk = take(&mut self.pending, &mut self.pending_len, MAX_CHUNK);
            let writes = keys
                .iter()
                .map(|key| self.queue.write_chunk(key, self.written, chunk.clone()));
            match within(self.limit, try_join_all(writes)).await {
                Ok(_) => self.written += 1,
                Err(error) => {
                    let keys = keys.clone();
                    self.pending.clear();
                    self.pending_len = 0;
                    self.state = State::Failed(keys, error);
                }
            }
        }
    }

    /// Makes all entries durable; says of each whether it is. `meta` tells each copy apart, in the order of
    /// [`Self::decide`].
    pub(crate) async fn prepare(
        &mut self,
        meta: impl IntoIterator<Item = EntryMeta>,
        lifetimes: &Lifetimes,
    ) -> Vec<(EntryKey, Result<(), CopyError>)> {
        self.write_chunks().await;
        let keys = match &self.state {
            State::Undecided | State::Unneeded => return Vec::new(),
            State::Failed(keys, error) => {
                let failed = keys.iter().map(|key| (key.clone(), Err(error.clone())));
                return failed.collect();
            }
            State::Due(keys) => keys.clone(),
        };
        let rest = if self.pending_len > 0 {
            let length = self.pending_len;
            vec![take(&mut self.pending, &mut self.pending_len, length)]
        } else {
            Vec::new()
        };
        let prepares = keys.into_iter().zip(meta).map(|(key, meta)| {
            let entry = NewEntry {
                key: key.clone(),
                meta,
                size: self.size,
                lifetime: lifetimes.lifetime,
                in_doubt_after: lifetimes.in_doubt_after,
                retain: lifetimes.retain,
            };
            let prepare = within(self.limit, self.queue.prepare(entry, self.written, rest.clone()));
            async move { (key, prepare.await) }
        });
        join_all(prepares).await
    }

    /// The entries that may be in the queue in part or in whole.
    pub(crate) fn keys(&self) -> Vec<EntryKey> {
        match &self.state {
            State::Due(keys) | State::Failed(keys, _) => keys.clone(),
            State::Undecided | State::Unneeded => Vec::new(),
        }
    }
}

/// Takes `length` octets from the front; without a copy when one piece has just that many.
fn take(pending: &mut Vec<Bytes>, pending_len: &mut usize, length: usize) -> Bytes {
    *pending_len -= length;
    if pending.first().is_some_and(|piece| piece.len() == length) {
        return pending.remove(0);
    }
    let mut chunk = BytesMut::with_capacity(length);
    let mut used = 0;
    for piece in pending.iter_mut() {
        let part = piece.split_to(piece.len().min(length - chunk.len()));
        chunk.extend_from_slice(&part);
        if !piece.is_empty() {
            break;
        }
        used += 1;
    }
    pending.drain(..used);
    chunk.freeze()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::take;

    #[test]
    fn takes_from_the_front() {
        let mut pending = vec![
            Bytes::from_static(b"abc"),
            Bytes::from_static(b"defg"),
            Bytes::from_static(b"h"),
        ];
        let mut length = 8;
        for (count, expected, left) in [(3, "abc", 5), (2, "de", 3), (3, "fgh", 0)] {
            assert_eq!(take(&mut pending, &mut length, count), expected.as_bytes());
            assert_eq!(
                (length, pending.iter().map(Bytes::len).sum::<usize>()),
                (left, left)
            );
        }
    }
}
