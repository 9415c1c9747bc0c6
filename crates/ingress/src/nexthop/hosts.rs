//! The configured hosts, in their order, and which of them are down.
//!
//! What always holds: the first host that is not known to be down is tried first; one that failed is left for a while
//! (longer each time, up to [`DOWN_MAX`]) and then takes its place again. When all are down each is tried all the
//! same: waiting would only refuse mail that could be taken.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;

/// How long a host is left after its first failure; doubled with each more.
const DOWN_MIN: Duration = Duration::from_secs(1);
/// The longest time for which a host is left.
const DOWN_MAX: Duration = Duration::from_secs(30);

/// `HOST:PORT`; an IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// The text is not `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{0}\" is not HOST:PORT (an IPv6 address stands in brackets: [::1]:25)")]
pub struct HostPortError(String);

impl HostPort {
    /// The name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || HostPortError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(fail)?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(fail)?;
        let host = bare.unwrap_or(host);
        let is_bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ',' | '[' | ']' | '/');
        if host.is_empty() || host.contains(is_bad) || (host.contains(':') != bare.is_some()) {
            return Err(fail());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Which hosts are down, and until when.
#[derive(Debug)]
pub(super) struct Hosts {
    states: Vec<Mutex<State>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    failures: u32,
    until: Option<Instant>,
}

impl Hosts {
    pub(super) fn new(count: usize) -> Self {
        Self {
            states: (0..count).map(|_| Mutex::default()).collect(),
        }
    }

    /// The hosts in the order in which to try them now.
    pub(super) fn order(&self, now: Instant) -> Vec<usize> {
        let (mut order, down): (Vec<usize>, Vec<usize>) =
            (0..self.states.len()).partition(|host| !self.is_down(*host, now));
        order.extend(down);
        order
    }

    /// True while the host is left alone.
    pub(super) fn is_down(&self, host: usize, now: Instant) -> bool {
        self.state(host).until.is_some_and(|until| now < until)
    }

    /// The host failed. True: it was not known to be down.
    pub(super) fn failed(&self, host: usize, now: Instant) -> bool {
        let mut state = self.state(host);
        let news = state.failures == 0;
        let pause = DOWN_MIN.saturating_mul(1 << state.failures.min(5)).min(DOWN_MAX);
        // Several that failed at the same time are one failure.
        if state.until.is_none_or(|until| now >= until) {
            state.failures = state.failures.saturating_add(1);
            state.until = Some(now + pause);
        }
        news
    }

    /// The host is there. True: it was known to be down.
    pub(super) fn works(&self, host: usize) -> bool {
        std::mem::take(&mut *self.state(host)).failures > 0
    }

    fn state(&self, host: usize) -> std::sync::MutexGuard<'_, State> {
        // Each change is one assignment: the state is whole even if a holder panicked.
        self.states[host].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port() {
        let cases = [
            ("mx.example:25", Some(("mx.example", 25))),
            ("127.0.0.1:2525", Some(("127.0.0.1", 2525))),
            ("[::1]:25", Some(("::1", 25))),
            ("::1:25", None),
            ("mx.example", None),
            ("mx.example:0", None),
            ("mx.example:smtp", None),
            ("mx.example:70000", None),
            (":25", None),
            ("a b:25", None),
            ("a,b:25", None),
            ("[mx.example]:25", None),
        ];
        for (text, expected) in cases {
            let parsed = text.parse::<HostPort>();
            let found = parsed.as_ref().ok().map(|parsed| (parsed.host(), parsed.port()));
            assert_eq!(found, expected, "{text}");
            if let Ok(parsed) = parsed {
                assert_eq!(parsed.to_string(), text, "it is written as it was read");
            }
        }
    }

    #[test]
    fn a_host_that_failed_is_left_for_a_while() {
        let hosts = Hosts::new(3);
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(hosts.order(start), [0, 1, 2], "as configured");
        assert!(hosts.failed(0, start), "news");
        assert!(!hosts.failed(0, start), "no news");
        assert_eq!(hosts.order(start), [1, 2, 0], "last resort");
        assert_eq!(hosts.order(after(1)), [0, 1, 2], "tried again after a second");
        hosts.failed(0, after(1));
        assert_eq!(hosts.order(after(2)), [1, 2, 0], "then after two");
        assert_eq!(hosts.order(after(3)), [0, 1, 2], "then after two");
        for round in 0..10 {
            hosts.failed(0, after(100 * (round + 1)));
        }
        assert!(hosts.is_down(0, after(1029)), "never longer than 30 s");
        assert!(!hosts.is_down(0, after(1030)), "never longer than 30 s");
        hosts.failed(1, after(1001));
        hosts.failed(2, after(1001));
        assert_eq!(hosts.order(after(1001)), [0, 1, 2], "all are down: all are tried");
        assert!(hosts.works(0), "news");
        assert!(!hosts.works(0), "no news");
        assert_eq!(hosts.order(after(1001)), [0, 1, 2]);
        assert!(hosts.failed(0, after(1001)), "and it begins anew");
        assert!(!hosts.is_down(0, after(1002)));
    }
}
