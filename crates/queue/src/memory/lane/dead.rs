//! What stays of entries that ended undelivered.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Entry, Lane, State};
use crate::entry::{DeadLetter, End, EntryKey, Replayed};

/// A dead letter, and when it is forgotten.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) until: Instant,
    pub(super) letter: DeadLetter,
}

impl Lane {
    /// The newest dead letters first; those before a place.
    pub(in crate::memory) fn dead_letters(&self, before: Option<&str>) -> impl Iterator<Item = &DeadLetter> {
        let before = before.map(|place| place.parse().unwrap_or(0_u64));
        let older = move |letter: &&DeadLetter| {
            before.is_none_or(|before| letter.place.parse().is_ok_and(|place: u64| place < before))
        };
        self.dead.iter().rev().map(|dead| &dead.letter).filter(older)
    }

    pub(in crate::memory) fn dead_body(&self, id: &Arc<str>, now: Instant) -> Option<Vec<Bytes>> {
        let entry = self.entries.get(id)?;
        match entry.state {
            State::Retained { until } if until > now => Some(entry.chunks.values().cloned().collect()),
            _ => None,
        }
    }

    pub(in crate::memory) fn replay(&mut self, letter: &DeadLetter, now: Instant) -> Replayed {
        let id = &letter.key.id;
        let entry = self.entries.get_mut(id);
        let Some(at) = self
            .dead
            .iter()
            .position(|dead| dead.letter.place == letter.place)
        else {
            let living = entry.is_some_and(|entry| !matches!(entry.state, State::Retained { .. }));
            return if living { Replayed::Done } else { Replayed::Gone };
        };
        let Some(entry) = entry else {
            return Replayed::NoBody;
        };
        if !matches!(entry.state, State::Retained { until } if until > now) {
            return Replayed::NoBody;
        }
        entry.state = State::Prepared { deadline: now };
        entry.attempts = 0;
        entry.last_error.clear();
        entry.possible_delivery |= self.dead[at].letter.end == "possible_delivery";
        let in_doubt = entry.in_doubt;
        self.commit(id, false, now);
        if let Some(entry) = self.entries.get_mut(id) {
            entry.in_doubt = in_doubt;
        }
        self.dead.remove(at);
        self.counters.replayed += 1;
        Replayed::Done
    }

    pub(in crate::memory) fn purge(&mut self, letter: &DeadLetter) -> bool {
        let Some(at) = self
            .dead
            .iter()
            .position(|dead| dead.letter.place == letter.place)
        else {
            return false;
        };
        self.dead.remove(at);
        let id = &letter.key.id;
        if matches!(
            self.entries.get(id).map(|entry| &entry.state),
            Some(State::Retained { .. })
        ) {
            self.forget(id);
        }
        self.counters.purged += 1;
        true
    }
}

/// The intake's name is added by who reads it.
pub(super) fn dead_letter(id: &Arc<str>, place: u64, entry: &Entry, end: &End) -> DeadLetter {
    let (class, detail) = end.reason();
    let ended = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    DeadLetter {
        key: EntryKey {
            intake: "".into(),
            id: Arc::clone(id),
        },
        place: place.to_string().into(),
        end: end.counter().to_owned(),
        class: class.to_owned(),
        detail: if detail.is_empty() {
            entry.last_error.clone()
        } else {
            detail.to_owned()
        },
        attempts: entry.attempts,
        size: entry.size(),
        ended_ms: u64::try_from(ended.as_millis()).unwrap_or(u64::MAX),
        retain: entry.retain,
        meta: Some(entry.meta.clone()),
    }
}
