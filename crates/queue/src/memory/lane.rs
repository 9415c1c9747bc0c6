//! One intake's entries, as a state machine without locks, clocks or tasks: the time is a parameter.
//!
//! What always holds: an entry's state and the index that lists it change in the same call. A committed entry is in
//! `active` until it ends, and in exactly one of `ready`, `in_flight`, `waiting`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use super::MemoryOptions;
use crate::QueueError;
use crate::entry::{
    ClaimRef, Claimed, DeadLetter, End, EntryKey, EntryMeta, NewEntry, RetryReason, Stats, Sweep,
};

/// What an entry costs besides its body and texts, in bytes: an estimate, so that empty ones are bounded too.
const OVERHEAD: u64 = 512;

#[derive(Debug, Default)]
pub(super) struct Lane {
    entries: HashMap<Arc<str>, Entry>,
    /// Committed and not ended, in the order of commits.
    active: BTreeMap<u64, Arc<str>>,
    /// Given back (`false`) before never claimed (`true`), each in the order of commits.
    ready: BTreeSet<(bool, u64)>,
    in_flight: BTreeSet<u64>,
    waiting: BTreeSet<(Instant, u64)>,
    dead: VecDeque<DeadLetter>,
    /// Only the counters are kept here; the gauges are the sizes of the above.
    counters: Stats,
    /// Commits and hand-outs so far: numbers that never come twice.
    serial: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    state: State,
    meta: EntryMeta,
    chunks: BTreeMap<u32, Bytes>,
    /// What it counts for in `Lane::bytes`.
    cost: u64,
    lifetime: Duration,
    retain: Option<Duration>,
    /// Its number in `active`; 0 before commit.
    place: u64,
    committed: Instant,
    expires: Instant,
    attempts: u32,
    in_doubt: bool,
    possible_delivery: bool,
    last_error: String,
}

#[derive(Debug)]
enum State {
    Writing {
        until: Instant,
    },
    Prepared {
        deadline: Instant,
    },
    Ready {
        fresh: bool,
    },
    InFlight {
        consumer: Arc<str>,
        token: Arc<str>,
        beat: Instant,
    },
    Waiting {
        due: Instant,
    },
    Retained {
        until: Instant,
    },
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            state: State::Writing { until: now },
            meta: EntryMeta::default(),
            chunks: BTreeMap::new(),
            cost: OVERHEAD,
            lifetime: Duration::ZERO,
            retain: None,
            place: 0,
            committed: now,
            expires: now,
            attempts: 0,
            in_doubt: false,
            possible_delivery: false,
            last_error: String::new(),
        }
    }

    fn size(&self) -> u64 {
        self.chunks.values().map(|chunk| chunk.len() as u64).sum()
    }
}

impl Lane {
    /// Memory that the lane is charged for, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn write(&mut self, id: &Arc<str>, index: u32, chunk: Bytes, until: Instant, now: Instant) {
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

    pub(super) fn prepare(&mut self, new: NewEntry, chunks: u32, now: Instant) -> Result<(), QueueError> {
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
        let texts = text_bytes(&meta);
        entry.cost += texts;
        self.bytes += texts;
        (entry.meta, entry.lifetime, entry.retain) = (meta, lifetime, retain);
        entry.state = State::Prepared {
            deadline: now + in_doubt_after,
        };
        Ok(())
    }

    /// `Some(true)`: committed now. `Some(false)`: was so before. `None`: no such entry.
    pub(super) fn commit(&mut self, id: &Arc<str>, in_doubt: bool, now: Instant) -> Option<bool> {
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
        entry.expires = now + entry.lifetime;
        entry.in_doubt = in_doubt;
        self.active.insert(entry.place, Arc::clone(id));
        self.ready.insert((true, entry.place));
        self.counters.committed += 1;
        self.counters.in_doubt += u64::from(in_doubt);
        Some(true)
    }

    pub(super) fn abort(&mut self, id: &Arc<str>) {
        let open = |entry: &Entry| matches!(entry.state, State::Writing { .. } | State::Prepared { .. });
        if self.entries.get(id).is_some_and(open) {
            self.forget(id);
            self.counters.aborted += 1;
        }
    }

    pub(super) fn claim(
        &mut self,
        intake: &Arc<str>,
        consumer: &str,
        max: usize,
        options: &MemoryOptions,
        now: Instant,
    ) -> Vec<Claimed> {
        self.reclaim(options.takeover, now);
        let consumer: Arc<str> = consumer.into();
        let mut claimed = Vec::new();
        while claimed.len() < max {
            let Some(&(fresh, place)) = self.ready.first() else {
                break;
            };
            let id = self.active.get(&place).map(Arc::clone).unwrap_or_default();
            let Some(entry) = self.entries.get_mut(&id) else {
                self.ready.remove(&(fresh, place));
                continue;
            };
            if entry.expires <= now {
                self.finish(&id, &End::Expired, options, now);
                continue;
            }
            self.serial += 1;
            let token: Arc<str> = self.serial.to_string().into();
            let state = State::InFlight {
                consumer: Arc::clone(&consumer),
                token: Arc::clone(&token),
                beat: now,
            };
            entry.state = state;
            self.ready.remove(&(fresh, place));
            self.in_flight.insert(place);
            claimed.push(Claimed {
                claim: ClaimRef {
                    key: EntryKey {
                        intake: Arc::clone(intake),
                        id,
                    },
                    token,
                },
                meta: entry.meta.clone(),
                body: entry.chunks.values().cloned().collect(),
                attempts: entry.attempts,
                remaining: entry.expires - now,
                age: now - entry.committed,
                in_doubt: entry.in_doubt,
                possible_delivery: entry.possible_delivery,
            });
        }
        claimed
    }

    pub(super) fn heartbeat(&mut self, consumer: &str, claim: &ClaimRef, now: Instant) {
        if let Some(entry) = self.held(consumer, claim)
            && let State::InFlight { beat, .. } = &mut entry.state
        {
            *beat = now;
        }
    }

    pub(super) fn complete(
        &mut self,
        consumer: &str,
        claim: &ClaimRef,
        end: &End,
        options: &MemoryOptions,
        now: Instant,
    ) -> bool {
        let held = self.held(consumer, claim).is_some();
        if held {
            self.finish(&claim.key.id, end, options, now);
        }
        held
    }

    pub(super) fn retry(
        &mut self,
        consumer: &str,
        claim: &ClaimRef,
        due: Instant,
        why: &RetryReason,
    ) -> bool {
        let Some(entry) = self.held(consumer, claim) else {
            return false;
        };
        let (text, possible) = why.parts();
        entry.attempts += 1;
        entry.possible_delivery |= possible;
        text.clone_into(&mut entry.last_error);
        entry.state = State::Waiting { due };
        let place = entry.place;
        self.in_flight.remove(&place);
        self.waiting.insert((due, place));
        self.counters.soft_bounced += 1;
        true
    }

    /// Whether it was given back.
    pub(super) fn release(&mut self, consumer: &str, claim: &ClaimRef) -> bool {
        let Some(place) = self.held(consumer, claim).map(|entry| entry.place) else {
            return false;
        };
        self.give_back(place);
        true
    }

    pub(super) fn sweep(&mut self, options: &MemoryOptions, now: Instant) -> Sweep {
        let mut done = Sweep::default();
        self.reclaim(options.takeover, now);
        let over: Vec<Arc<str>> = self
            .active
            .values()
            .filter(|id| self.is_over(id, options.grace, now))
            .cloned()
            .collect();
        for id in over {
            self.finish(&id, &End::Expired, options, now);
            done.expired += 1;
        }
        while let Some(&(due, place)) = self.waiting.first()
            && due <= now
        {
            self.waiting.remove(&(due, place));
            self.give_back(place);
            done.promoted += 1;
        }
        let mut in_doubt = Vec::new();
        let mut gone = Vec::new();
        for (id, entry) in &self.entries {
            match entry.state {
                State::Prepared { deadline } if deadline <= now => in_doubt.push((deadline, Arc::clone(id))),
                State::Writing { until } | State::Retained { until } if until <= now => {
                    gone.push(Arc::clone(id));
                }
                _ => {}
            }
        }
        gone.iter().for_each(|id| self.forget(id));
        in_doubt.sort_unstable();
        for (_, id) in in_doubt {
            done.committed_in_doubt += u64::from(self.commit(&id, true, now) == Some(true));
        }
        done
    }

    pub(super) fn stats(&self, now: Instant) -> Stats {
        let oldest = self.active.values().next().and_then(|id| self.entries.get(id));
        Stats {
            ready: self.ready.len() as u64,
            in_flight: self.in_flight.len() as u64,
            retrying: self.waiting.len() as u64,
            prepared: self
                .entries
                .values()
                .filter(|e| matches!(e.state, State::Prepared { .. }))
                .count() as u64,
            oldest: oldest.map_or(Duration::ZERO, |entry| now - entry.committed),
            active_recipients: self.active.len() as u64,
            ..self.counters
        }
    }

    /// The newest dead letters first.
    pub(super) fn dead_letters(&self) -> impl Iterator<Item = &DeadLetter> {
        self.dead.iter().rev()
    }

    pub(super) fn dead_body(&self, id: &Arc<str>, now: Instant) -> Option<Vec<Bytes>> {
        let entry = self.entries.get(id)?;
        match entry.state {
            State::Retained { until } if until > now => Some(entry.chunks.values().cloned().collect()),
            _ => None,
        }
    }

    /// Makes one consumer's claims look as if it had not been heard of for `by`.
    pub(super) fn age_claims(&mut self, of: &str, by: Duration) {
        for place in &self.in_flight {
            let entry = self.active.get(place).and_then(|id| self.entries.get_mut(id));
            if let Some(State::InFlight { consumer, beat, .. }) = entry.map(|entry| &mut entry.state)
                && **consumer == *of
            {
                *beat = beat.checked_sub(by).unwrap_or(*beat);
            }
        }
    }

    /// The entry, if this claim of it is still good.
    fn held(&mut self, who: &str, claim: &ClaimRef) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&claim.key.id)?;
        match &entry.state {
            State::InFlight { consumer, token, .. } if **consumer == *who && *token == claim.token => {
                Some(entry)
            }
            _ => None,
        }
    }

    fn is_over(&self, id: &Arc<str>, grace: Duration, now: Instant) -> bool {
        self.entries.get(id).is_some_and(|entry| match entry.state {
            State::InFlight { .. } => entry.expires + grace <= now,
            _ => entry.expires <= now,
        })
    }

    /// Gives back what was claimed and not heard of for `takeover`.
    fn reclaim(&mut self, takeover: Duration, now: Instant) {
        let abandoned = |place: &&u64| {
            let entry = self.active.get(place).and_then(|id| self.entries.get(id));
            matches!(entry.map(|e| &e.state), Some(State::InFlight { beat, .. }) if now - *beat >= takeover)
        };
        let places: Vec<u64> = self.in_flight.iter().filter(abandoned).copied().collect();
        places.into_iter().for_each(|place| self.give_back(place));
    }

    fn give_back(&mut self, place: u64) {
        if let Some(entry) = self.active.get(&place).and_then(|id| self.entries.get_mut(id)) {
            entry.state = State::Ready { fresh: false };
            self.in_flight.remove(&place);
            self.ready.insert((false, place));
        }
    }

    /// Ends a committed entry: out of every index, counted, and (unless delivered) among the dead letters.
    fn finish(&mut self, id: &Arc<str>, end: &End, options: &MemoryOptions, now: Instant) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let place = entry.place;
        match entry.state {
            State::Ready { fresh } => drop(self.ready.remove(&(fresh, place))),
            State::Waiting { due } => drop(self.waiting.remove(&(due, place))),
            State::InFlight { .. } => drop(self.in_flight.remove(&place)),
            State::Writing { .. } | State::Prepared { .. } | State::Retained { .. } => return,
        }
        self.active.remove(&place);
        let retain = match end {
            End::Delivered => None,
            End::HardBounced { .. } | End::PossibleDelivery { .. } | End::Expired => entry.retain,
        };
        match end {
            End::Delivered => self.counters.delivered += 1,
            End::HardBounced { .. } => self.counters.hard_bounced += 1,
            End::PossibleDelivery { .. } => self.counters.possible_delivery += 1,
            End::Expired => self.counters.expired += 1,
        }
        if *end != End::Delivered {
            self.dead.push_back(dead_letter(id, entry, end));
            while self.dead.len() > options.dead_letters {
                self.dead.pop_front();
            }
        }
        match retain {
            Some(time) => entry.state = State::Retained { until: now + time },
            None => self.forget(id),
        }
    }

    fn forget(&mut self, id: &Arc<str>) {
        if let Some(entry) = self.entries.remove(id) {
            self.bytes -= entry.cost;
        }
    }
}

/// The intake's name is added by who reads it.
fn dead_letter(id: &Arc<str>, entry: &Entry, end: &End) -> DeadLetter {
    let (class, detail) = end.reason();
    let ended = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    DeadLetter {
        key: EntryKey {
            intake: "".into(),
            id: Arc::clone(id),
        },
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

fn text_bytes(meta: &EntryMeta) -> u64 {
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
    lists.chain(texts).map(|text| text.len() as u64).sum()
}
