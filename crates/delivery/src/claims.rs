//! The entries in this process's hands: what heartbeats speak for, and what a stop gives back.
//!
//! An entry is in here from its claim until its end is in the queue. The [`Held`] guard takes it out again even when
//! the task that worked on it panics; then no heartbeat speaks for it any more, and another worker takes it over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tdc_queue::ClaimRef;

/// All entries that are held.
#[derive(Clone, Default)]
pub(crate) struct Claims(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    held: HashMap<u64, One>,
    bytes: u64,
    /// Numbers that never come twice.
    next: u64,
}

impl Claims {
    fn all_of_them(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds an entry with a body of so many octets as long as the guard lives.
    pub(crate) fn hold(&self, claim: ClaimRef, bytes: u64) -> Held {
        let mut all = self.all_of_them();
        let number = all.next;
        all.next += 1;
        all.bytes += bytes;
        let one = One {
            claim,
            bytes,
            delivered: false,
        };
        all.held.insert(number, one);
        Held {
            claims: self.clone(),
            number,
        }
    }

    /// What is held now.
    pub(crate) fn all(&self) -> Vec<ClaimRef> {
        self.all_of_them()
            .held
            .values()
            .map(|one| one.claim.clone())
            .collect()
    }

    /// What another worker had better deliver at once when this one has to stop: not what is delivered already.
    pub(crate) fn undelivered(&self) -> Vec<ClaimRef> {
        let all = self.all_of_them();
        let undelivered = all.held.values().filter(|one| !one.delivered);
        undelivered.map(|one| one.claim.clone()).collect()
    }

    /// Octets of all bodies that are held.
    pub(crate) fn bytes(&self) -> u64 {
        self.all_of_them().bytes
    }
}

struct One {
    claim: ClaimRef,
    bytes: u64,
    delivered: bool,
}

/// Keeps one entry held.
#[must_use = "the entry is held as long as this lives"]
pub(crate) struct Held {
    claims: Claims,
    number: u64,
}

impl Held {
    /// The attempt is over, and the body not here any more; the claim still is.
    pub(crate) fn attempted(&self, delivered: bool) {
        let mut all = self.claims.all_of_them();
        if let Some(one) = all.held.get_mut(&self.number) {
            one.delivered = delivered;
            let freed = std::mem::take(&mut one.bytes);
            all.bytes -= freed;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = self.claims.all_of_them();
        if let Some(one) = all.held.remove(&self.number) {
            all.bytes -= one.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Claims;
    use tdc_queue::{ClaimRef, EntryKey};

    #[test]
    fn an_entry_is_held_as_long_as_its_guard() {
        let claims = Claims::default();
        let claim = || ClaimRef {
            key: EntryKey::new("intake"),
            token: "t".into(),
        };
        let first = claims.hold(claim(), 5);
        let second = claims.hold(claim(), 5);
        drop(first);
        let third = claims.hold(claim(), 5);
        assert_eq!((claims.all().len(), claims.bytes()), (2, 10));
        third.attempted(true);
        assert_eq!((claims.all().len(), claims.bytes()), (2, 5));
        assert_eq!(claims.undelivered().len(), 1);
        drop((second, third));
        assert_eq!((claims.all().len(), claims.bytes()), (0, 0));
    }
}
