//! The entries in this process's hands: what heartbeats speak for, and what a stop gives back.
//!
//! An entry is in here from its claim until its end is in the queue. The [`Held`] guard takes it out again even when
//! the task that worked on it panics; then no heartbeat speaks for it any more, and another worker takes it over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tdc_queue::ClaimRef;

/// All entries that are held.
#[derive(Clone, Default)]
pub(crate) struct Claims(Arc<Mutex<HashMap<u64, ClaimRef>>>);

impl Claims {
    /// Holds an entry as long as the guard lives.
    pub(crate) fn hold(&self, claim: ClaimRef) -> Held {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut number = claims.len() as u64;
        while claims.contains_key(&number) {
            number += 1;
        }
        claims.insert(number, claim);
        Held {
            claims: self.clone(),
            number,
        }
    }

    /// What is held now.
    pub(crate) fn all(&self) -> Vec<ClaimRef> {
        let claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        claims.values().cloned().collect()
    }
}

/// Keeps one entry held.
#[must_use = "the entry is held as long as this lives"]
pub(crate) struct Held {
    claims: Claims,
    number: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut claims = self.claims.0.lock().unwrap_or_else(PoisonError::into_inner);
        claims.remove(&self.number);
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
        let first = claims.hold(claim());
        let second = claims.hold(claim());
        drop(first);
        let third = claims.hold(claim());
        assert_eq!(claims.all().len(), 2);
        drop((second, third));
        assert!(claims.all().is_empty());
    }
}
