//! Whether there is anything to claim, as far as that can be known without asking.
//!
//! The queue rings when entries become ready. What always holds: a claim that has left nothing is believed only until the
//! next ring, also when that came while the claim was under way.

use std::sync::atomic::{AtomicU64, Ordering};

/// The rings for one intake.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    /// How often it has rung.
    last: AtomicU64,
    /// One more than the ring after which a claim has left nothing; 0: none has.
    emptied: AtomicU64,
}

impl Rings {
    /// There may be something again.
    pub(crate) fn ring(&self) {
        self.last.fetch_add(1, Ordering::AcqRel);
    }

    /// To be noted before a claim is made.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// A claim that was made after that ring has left nothing.
    pub(crate) fn emptied(&self, ring: u64) {
        self.emptied.store(ring + 1, Ordering::Release);
    }

    /// Nothing is to be found before the next ring.
    pub(crate) fn is_empty(&self) -> bool {
        self.emptied.load(Ordering::Acquire) == self.last() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::Rings;

    #[test]
    fn a_claim_is_believed_until_the_next_ring() {
        let rings = Rings::default();
        assert!(!rings.is_empty(), "nobody has looked");
        rings.emptied(rings.last());
        assert!(rings.is_empty());
        rings.ring();
        assert!(!rings.is_empty());
        let before = rings.last();
        rings.ring();
        rings.emptied(before);
        assert!(!rings.is_empty(), "it rang while the claim was under way");
        rings.emptied(rings.last());
        assert!(rings.is_empty());
    }
}
