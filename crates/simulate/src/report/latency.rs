//! How long copies took, in bounded memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Latencies below this many milliseconds are told apart exactly, longer ones to one part in sixteen.
const EXACT: u64 = 16;

/// A distribution in milliseconds; all but `count` and `max` to one part in sixteen, rounded down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Copies that told.
    pub count: u64,
    /// Half of them took at most this long.
    pub p50_ms: u64,
    /// 95 of 100.
    pub p95_ms: u64,
    /// 99 of 100.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

/// Counts by milliseconds, in steps of one sixteenth.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    steps: BTreeMap<u64, u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    pub(super) fn add(&mut self, millis: u64) {
        // The four bits behind the highest are kept: 16 steps for each power of two, some 500 in all at most.
        let dropped = (millis.max(EXACT).ilog2() - EXACT.ilog2()).min(63);
        *self.steps.entry(millis >> dropped << dropped).or_default() += 1;
        self.count += 1;
        self.max = self.max.max(millis);
    }

    pub(super) fn latency(&self) -> Option<Latency> {
        let at = |hundredths: u64| {
            let rank = (self.count * hundredths).div_ceil(100);
            let mut passed = 0;
            let step = self.steps.iter().find(|(_, count)| {
                passed += **count;
                passed >= rank
            });
            step.map_or(self.max, |(millis, _)| *millis)
        };
        (self.count > 0).then(|| Latency {
            count: self.count,
            p50_ms: at(50),
            p95_ms: at(95),
            p99_ms: at(99),
            max_ms: self.max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values() {
        type MedianP99Max = Option<(u64, u64, u64)>;
        let rows: [(&[u64], MedianP99Max); 5] = [
            (&[], None),
            (&[7], Some((7, 7, 7))),
            (&[0, 1, 2, 3, 15], Some((2, 15, 15))),
            (&[1000; 3], Some((992, 992, 1000))),
            (&[1, 1, 1, 1, 86_400_000], Some((1, 83_886_080, 86_400_000))),
        ];
        for (values, want) in rows {
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.add(*value));
            let got = histogram
                .latency()
                .map(|latency| (latency.p50_ms, latency.p99_ms, latency.max_ms));
            assert_eq!(got, want, "{values:?}");
        }
    }
}
