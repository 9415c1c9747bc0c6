//! Memory, processor time and descriptors of this process, read from `/proc` when somebody asks.
//!
//! The names are those that every Prometheus client library uses. What cannot be read is left out.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::otlp::SpanStats;
use crate::output::OutputStats;

/// Ticks of the clock a second in `/proc/*/stat`: `USER_HZ`, which is 100 on every architecture that we build for.
const TICKS: f64 = 100.0;

#[derive(Debug)]
pub(crate) struct Collector;

impl collector::Collector for Collector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| match value {
            Some(value) => ConstGauge::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Gauge,
            )?),
            None => Ok(()),
        };
        gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            resident_bytes(),
        )?;
        gauge("process_open_fds", "Open file descriptors", open_fds())?;
        let stat = Stat::read();
        gauge(
            "process_start_time_seconds",
            "When the process started, since 1970",
            stat.as_ref().and_then(Stat::started),
        )?;
        if let Some(stat) = stat {
            let metric = encoder.encode_descriptor(
                "process_cpu_seconds",
                "Processor time used",
                None,
                MetricType::Counter,
            )?;
            ConstCounter::new(stat.cpu_seconds).encode(metric)?;
        }
        Ok(())
    }
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = kilobytes.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

fn open_fds() -> Option<f64> {
    // The listing holds a descriptor itself.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

/// What we need of `/proc/self/stat`; see proc(5).
struct Stat {
    cpu_seconds: f64,
    /// Since the start of the machine.
    started_seconds: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The second field is the program's name in brackets and may hold spaces and brackets.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // Fields are counted from 1 there; the first of `fields` is number 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / TICKS,
            started_seconds: field(22)? / TICKS,
        })
    }

    /// Since 1970.
    fn started(&self) -> Option<f64> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = stat
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?
            .trim()
            .parse()
            .ok()?;
        Some(boot + self.started_seconds)
    }
}

/// What became of the log's lines and of the spans.
#[derive(Debug)]
pub(crate) struct Telemetry {
    pub(crate) prefix: String,
    pub(crate) lines: Arc<OutputStats>,
    pub(crate) spans: Option<Arc<SpanStats>>,
}

impl collector::Collector for Telemetry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self { prefix, lines, spans } = self;
        let mut counters = |name: &str, help: &str, values: &[(&'static str, u64)]| {
            let name = format!("{prefix}{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (result, value) in values {
                ConstCounter::new(*value).encode(family.encode_family(&[("result", *result)])?)?;
            }
            Ok(())
        };
        let lost = [("dropped", lines.dropped()), ("failed", lines.failed())];
        counters(
            "log_lines_lost",
            "Log lines that were dropped for lack of room, and writes that failed",
            &lost,
        )?;
        if let Some(spans) = spans {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let ended = [
                ("exported", load(&spans.exported)),
                ("failed", load(&spans.failed)),
                ("dropped", load(&spans.dropped)),
            ];
            counters("trace_spans", "Sampled spans by what became of them", &ended)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Stat;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 5 0 12345 1000 20";
        for name in ["tdc", "a) b (c", "x y"] {
            let stat = Stat::parse(&format!("42 ({name}) {rest}")).unwrap();
            assert_eq!((stat.cpu_seconds, stat.started_seconds), (3.0, 123.45), "{name}");
        }
        for broken in ["", "42 (x", "42 (x) S 1 2"] {
            assert!(Stat::parse(broken).is_none(), "{broken:?}");
        }
    }
}
