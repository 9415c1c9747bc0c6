//! Who holds an entry, and how it passes on.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Entry, Lane, State};
use crate::entry::{ClaimRef, Claimed, Claims, End, EntryKey, RetryReason};
use crate::memory::MemoryOptions;

impl Lane {
    pub(in crate::memory) fn claim(
        &mut self,
        intake: &Arc<str>,
        consumer: &str,
        max: usize,
        options: &MemoryOptions,
        now: Instant,
    ) -> Claims {
        self.reclaim(options.takeover, now);
        let consumer: Arc<str> = consumer.into();
        let mut claims = Claims {
            more: true,
            ..Claims::default()
        };
        while claims.entries.len() < max {
            let Some(&(fresh, place)) = self.ready.first() else {
                claims.more = false;
                break;
            };
            let id = self.active.get(&place).map(Arc::clone).unwrap_or_default();
            let Some(entry) = self.entries.get_mut(&id) else {
                self.ready.remove(&(fresh, place));
                continue;
            };
            if entry.expires <= now {
                claims.expired.extend(self.expire(intake, &id, options, now));
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
            claims.entries.push(Claimed {
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
        claims
    }

    pub(in crate::memory) fn heartbeat(&mut self, consumer: &str, claim: &ClaimRef, now: Instant) {
        if let Some(entry) = self.held(consumer, claim)
            && let State::InFlight { beat, .. } = &mut entry.state
        {
            *beat = now;
        }
    }

    pub(in crate::memory) fn complete(
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

    pub(in crate::memory) fn retry(
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
    pub(in crate::memory) fn release(&mut self, consumer: &str, claim: &ClaimRef) -> bool {
        let Some(place) = self.held(consumer, claim).map(|entry| entry.place) else {
            return false;
        };
        self.give_back(place);
        true
    }

    /// Makes one consumer's claims look as if it had not been heard of for `by`.
    pub(in crate::memory) fn age_claims(&mut self, of: &str, by: Duration) {
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

    /// Gives back what was claimed and not heard of for `takeover`.
    pub(super) fn reclaim(&mut self, takeover: Duration, now: Instant) {
        let abandoned = |place: &&u64| {
            let entry = self.active.get(place).and_then(|id| self.entries.get(id));
            matches!(entry.map(|e| &e.state), Some(State::InFlight { beat, .. }) if now - *beat >= takeover)
        };
        let places: Vec<u64> = self.in_flight.iter().filter(abandoned).copied().collect();
        places.into_iter().for_each(|place| self.give_back(place));
    }

    pub(super) fn give_back(&mut self, place: u64) {
        if let Some(entry) = self.active.get(&place).and_then(|id| self.entries.get_mut(id)) {
            entry.state = State::Ready { fresh: false };
            self.in_flight.remove(&place);
            self.ready.insert((false, place));
        }
    }
}
