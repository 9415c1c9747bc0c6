//! Named places at which a test may let the process die.
//!
//! A promise such as "a worker that is killed here loses nothing" is only worth what its test is worth, and a signal
//! from outside hits the same few places again and again. A point is a name in the code at the place where the state
//! changes; `TDC_FAILPOINT=name@N` ends the process when that point is reached for the N-th time, at once and without
//! any clean-up, as SIGKILL would. Each crate lists its points in `docs/failure.md`.
//!
//! What always holds: without the feature `enabled` a point compiles to nothing, and the environment is never read.

/// The variable that names the point, as `name@N`; N counts from 1 and is 1 when it is not given.
pub const VARIABLE: &str = "TDC_FAILPOINT";

/// Passes the point of that name.
#[cfg(not(feature = "enabled"))]
#[inline(always)]
pub fn hit(_name: &'static str) {}

/// Passes the point of that name, or ends the process there.
#[cfg(feature = "enabled")]
pub fn hit(name: &'static str) {
    armed::hit(name);
}

/// `name@N` in its parts; `None` when N is not a number above 0.
#[cfg_attr(not(feature = "enabled"), allow(dead_code))]
fn parse(text: &str) -> Option<(&str, u64)> {
    match text.split_once('@') {
        None => Some((text, 1)),
        Some((name, count)) => Some((name, count.parse().ok().filter(|count| *count > 0)?)),
    }
}

#[cfg(feature = "enabled")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Point {
        name: String,
        left: AtomicU64,
    }

    static POINT: OnceLock<Option<Point>> = OnceLock::new();

    fn from_environment() -> Option<Point> {
        let text = std::env::var(super::VARIABLE).ok()?;
        let (name, count) = super::parse(&text)
            .unwrap_or_else(|| panic!("{}={text}: write name@N, with N from 1", super::VARIABLE));
        Some(Point {
            name: name.to_owned(),
            left: AtomicU64::new(count),
        })
    }

    pub(super) fn hit(name: &'static str) {
        let Some(point) = POINT.get_or_init(from_environment) else {
            return;
        };
        if point.name == name && point.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_point_is_a_name_and_a_count() {
        let cases = [
            (
                "delivery.claimed",
                Some(("delivery.claimed", 1)),
                "the first time",
            ),
            ("delivery.claimed@7", Some(("delivery.claimed", 7)), "the seventh"),
            ("delivery.claimed@0", None, "never is not a time"),
            ("delivery.claimed@soon", None, "not a number"),
        ];
        for (text, expected, why) in cases {
            assert_eq!(parse(text), expected, "{why}");
        }
    }
}
