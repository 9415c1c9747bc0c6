//! How many connections there are to one intake, and who may open another.
//!
//! A [`Slot`] is the right to one connection of this process; it is given back when dropped. How many slots there may
//! be is the lease's affair ([`crate::lease`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The connections to one intake.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots(Arc<AtomicU32>);

impl Slots {
    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// The right to one more, when there are fewer than `limit`.
    pub(crate) fn take(&self, limit: u32) -> Option<Slot> {
        let more = |count| (count < limit).then_some(count + 1);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .ok()?;
        Some(Slot(Some(self.clone())))
    }
}

/// The right to one connection.
#[derive(Debug)]
#[must_use = "the right ends when this is dropped"]
pub(crate) struct Slot(Option<Slots>);

impl Slot {
    /// Gives the right back when there are more than `limit`; true when it did. Of many that ask at the same time only
    /// the surplus goes.
    pub(crate) fn give_back_above(&mut self, limit: u32) -> bool {
        let Some(slots) = &self.0 else { return true };
        let fewer = |count: u32| (count > limit).then(|| count - 1);
        if slots
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer)
            .is_err()
        {
            return false;
        }
        self.0 = None;
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.0.take() {
            slots.0.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[test]
    fn never_more_than_the_limit_and_only_the_surplus_goes() {
        let slots = Slots::default();
        let mut held: Vec<_> = std::iter::from_fn(|| slots.take(5)).collect();
        assert_eq!((held.len(), slots.count()), (5, 5));
        let gone = held
            .iter_mut()
            .filter_map(|slot| slot.give_back_above(3).then_some(()))
            .count();
        assert_eq!((gone, slots.count()), (2, 3), "five asked, two were too many");
        drop(held);
        assert_eq!(slots.count(), 0, "a slot is given back once");
        assert!(slots.take(0).is_none());
    }
}
