//! What the operator decides: which conditions an object must show.
//!
//! What always holds: `lastTransitionTime` moves only when `status` does; an object whose status already says the
//! truth is not written again, so that nothing here can cause a storm of writes; the conditions speak of the
//! generation that was judged, never of a newer one.

mod conditions;

pub use conditions::desired_status;
