//! One intake's entries, as a state machine without locks, clocks or tasks: the time is a parameter.
//!
//! What always holds: an entry's state and the index that lists it change in the same call. A committed entry is in
//! `active` until it ends, and in exactly one of `ready`, `in_flight`, `waiting`.

mod arrival;
mod claims;
mod dead;

pub(super) use arrival::cost;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::dead::{Dead, dead_letter};

use bytes::Bytes;
use tokio::time::Instant;

use super::{MemoryOptions, later};
use crate::entry::{End, EntryKey, EntryMeta, Expired, Stats, Sweep, short};
use crate::lease::Book;

/// What an entry costs besides its body and texts, in bytes: an estimate, so that empty ones are bounded too.
pub(super) const OVERHEAD: u64 = 512;

#[derive(Debug, Default)]
pub(super) struct Lane {
    entries: HashMap<Arc<str>, Entry>,
    /// Committed and not ended, in the order of commits.
    active: BTreeMap<u64, Arc<str>>,
    /// Given back (`false`) before never claimed (`true`), each in the order of commits.
    ready: BTreeSet<(bool, u64)>,
    in_flight: BTreeSet<u64>,
    waiting: BTreeSet<(Instant, u64)>,
    dead: VecDeque<Dead>,
    /// Only the counters are kept here; the gauges are the sizes of the above.
    counters: Stats,
    pub(in crate::memory) leases: Book,
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
    pub(in crate::memory) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a sweep may have something to do; unfinished and retained bodies are swept here, too.
    pub(in crate::memory) fn is_occupied(&self) -> bool {
        !self.entries.is_empty()
    }

    pub(in crate::memory) fn sweep(
        &mut self,
        intake: &Arc<str>,
        options: &MemoryOptions,
        now: Instant,
    ) -> Sweep {
        let mut done = Sweep::default();
        self.reclaim(options.takeover, now);
        let over: Vec<Arc<str>> = self
            .active
            .values()
            .filter(|id| self.is_over(id, options.grace, now))
            .cloned()
            .collect();
        for id in over {
            done.expired.extend(self.expire(intake, &id, options, now));
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
        self.dead.retain(|dead| dead.until > now);
        in_doubt.sort_unstable();
        for (_, id) in in_doubt {
            done.committed_in_doubt += u64::from(self.commit(&id, true, now) == Some(true));
        }
        done
    }

    pub(in crate::memory) fn stats(&self, now: Instant) -> Stats {
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

    /// Ready or in flight.
    pub(in crate::memory) fn backlog(&self) -> u64 {
        (self.ready.len() + self.in_flight.len()) as u64
    }

    fn is_over(&self, id: &Arc<str>, grace: Duration, now: Instant) -> bool {
        self.entries.get(id).is_some_and(|entry| match entry.state {
            State::InFlight { .. } => later(entry.expires, grace) <= now,
            _ => entry.expires <= now,
        })
    }

    /// Ends an entry whose lifetime is over; what is to be told of it.
    fn expire(
        &mut self,
        intake: &Arc<str>,
        id: &Arc<str>,
        options: &MemoryOptions,
        now: Instant,
    ) -> Option<Expired> {
        let entry = self.entries.get(id)?;
        let EntryMeta {
            mid,
            recipients,
            traceparent,
            ..
        } = &entry.meta;
        let expired = Expired {
            key: EntryKey {
                intake: Arc::clone(intake),
                id: Arc::clone(id),
            },
            mid: *mid,
            recipients: u32::try_from(recipients.len()).unwrap_or(u32::MAX),
            attempts: entry.attempts,
            traceparent: short(traceparent).to_owned(),
            in_doubt: entry.in_doubt,
            possible_delivery: entry.possible_delivery,
            age: now - entry.committed,
            detail: entry.last_error.clone(),
        };
        self.finish(id, &End::Expired, options, now);
        Some(expired)
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
            End::HardBounced { class, .. } => {
                self.counters.hard_bounced += 1;
                *self.counters.hard.of(class) += 1;
            }
            End::PossibleDelivery { .. } => self.counters.possible_delivery += 1,
            End::Expired => self.counters.expired += 1,
        }
        if *end != End::Delivered {
            self.serial += 1;
            let keep = entry.retain.unwrap_or(options.dead_for);
            let until = later(now, keep);
            let letter = dead_letter(id, self.serial, entry, end);
            self.dead.push_back(Dead { until, letter });
            while self.dead.len() > options.dead_letters {
                self.dead.pop_front();
            }
        }
        match retain {
            Some(time) => {
                entry.state = State::Retained {
                    until: later(now, time),
                }
            }
            None => self.forget(id),
        }
    }

    fn forget(&mut self, id: &Arc<str>) {
        if let Some(entry) = self.entries.remove(id) {
            self.bytes -= entry.cost;
        }
    }
}
