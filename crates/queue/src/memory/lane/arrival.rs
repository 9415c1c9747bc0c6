//! From the first chunk to the commit.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Entry, Lane, OVERHEAD, State};
use crate::QueueError;
use crate::entry::{EntryMeta, NewEntry};
use crate::memory::later;

impl Lane {
    pub(in crate::memory) fn write(
        &mut self,
        id: &Arc<str>,
        index: u32,
        chunk: Bytes,
        until: Instant,
        now: Instant,
    ) {
        let bytes = &mut self.bytes;
        let entry = self.entries.entry(Arc::clone(id)).or_insert_with(|| {
            *bytes += OVERHEAD;
            Entry::new(now)
        });
        let State::Writing { until: renewed } = &mut entry.state else {
            return;
        };
        *renewed = until;
        let added = chunk.len() as u64;
        let replaced = entry
            .chunks
            .insert(index, chunk)
            .map_or(0, |old| old.len() as u64);
        entry.cost = entry.cost + added - replaced;
        *bytes = *bytes + added - replaced;
    }

    pub(in crate::memory) fn prepare(
        &mut self,
        new: NewEntry,
        chunks: u32,
        now: Instant,
    ) -> Result<(), QueueError> {
        let NewEntry {
            key,
            meta,
            size,
            lifetime,
            in_doubt_after,
            retain,
        } = new;
        let bytes = &mut self.bytes;
        let entry = self.entries.entry(Arc::clone(&key.id)).or_insert_with(|| {
            *bytes += OVERHEAD;
            Entry::new(now)
        });
        if !matches!(entry.state, State::Writing { .. }) {
            return Ok(());
        }
        let whole = entry.chunks.keys().copied().eq(0..chunks) && entry.size() == size;
        if !whole {
            return Err(QueueError::Unknown(format!(
                "{}: chunks of its body are missing",
                key.id
            )));
        }
        let texts = cost(&meta) - OVERHEAD;
        entry.cost += texts;
        self.bytes += texts;
        (entry.meta, entry.lifetime, entry.retain) = (meta, lifetime, retain);
        entry.state = State::Prepared {
            deadline: later(now, in_doubt_after),
        };
        Ok(())
    }

    /// `Some(true)`: committed now. `Some(false)`: was so before. `None`: no such entry.
    pub(in crate::memory) fn commit(&mut self, id: &Arc<str>, in_doubt: bool, now: Instant) -> Option<bool> {
        let entry = self.entries.get_mut(id)?;
        match entry.state {
            State::Writing { .. } => return None,
            State::Prepared { .. } => {}
            State::Ready { .. } | State::InFlight { .. } | State::Waiting { .. } | State::Retained { .. } => {
                return Some(false);
            }
        }
        self.serial += 1;
        entry.place = self.serial;
        entry.state = State::Ready { fresh: true };
        entry.committed = now;
        entry.expires = later(now, entry.lifetime);
        entry.in_doubt = in_doubt;
        self.active.insert(entry.place, Arc::clone(id));
        self.ready.insert((true, entry.place));
        self.counters.committed += 1;
        self.counters.in_doubt += u64::from(in_doubt);
        Some(true)
    }

    pub(in crate::memory) fn abort(&mut self, id: &Arc<str>) {
        let open = |entry: &Entry| matches!(entry.state, State::Writing { .. } | State::Prepared { .. });
        if self.entries.get(id).is_some_and(open) {
            self.forget(id);
            self.counters.aborted += 1;
        }
    }
}

/// What an entry costs besides its body, in bytes.
pub(in crate::memory) fn cost(meta: &EntryMeta) -> u64 {
    let EntryMeta {
        mid: _,
        sender,
        recipients,
        policies,
        message_id,
        client_ip,
        eight_bit: _,
        smtputf8: _,
        sender_ip_header,
        traceparent,
        tracestate,
        received_ms: _,
    } = meta;
    let lists = recipients.iter().chain(policies);
    let texts = [
        sender,
        message_id,
        client_ip,
        sender_ip_header,
        traceparent,
        tracestate,
    ];
    OVERHEAD + lists.chain(texts).map(|text| text.len() as u64).sum::<u64>()
}
