//! How many connections there may be, in all and for each client network.
//!
//! What always holds: no more than the limits are open, but for those that are being closed to make room; the map of
//! networks is bounded. When a limit is reached, the session that has waited longest for a command, outside of any
//! transaction, is asked to leave ([`Pass::evicted`]); only when every session works is a new one refused. So idle
//! connections, however many, never keep out a client that has mail.
//!
//! Time is a parameter; nothing here waits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::sync::Notify;

/// How long a session must have been idle before its place may be taken. Short, since the longest idle goes first: a
/// client that only waits for its round trip goes when everybody else waits even less.
const MIN_IDLE: Duration = Duration::from_millis(100);
/// Networks that are remembered for their rate; beyond it those without a connection are forgotten at once.
const MAX_NETWORKS: usize = 100_000;
/// Networks below which nothing is forgotten.
const MIN_TIDY: usize = 1024;
/// The value of a slot that is at work.
const BUSY: u64 = u64::MAX;

/// The limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateLimits {
    pub(crate) connections: usize,
    pub(crate) per_network: usize,
    /// Connections of one network in a minute; 0: no limit.
    pub(crate) per_minute: u32,
    pub(crate) prefix_v4: u8,
    pub(crate) prefix_v6: u8,
}

/// Why a client was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    Connections,
    NetworkConnections,
    NetworkRate,
}

/// The gate of all listeners.
pub(crate) struct Gate {
    limits: GateLimits,
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<u64, Entry>,
    networks: HashMap<IpNet, Network>,
    next: u64,
    /// Networks at which the map is next looked through for those that can be forgotten.
    tidy_at: usize,
}

struct Entry {
    slot: Arc<Slot>,
    network: Option<IpNet>,
}

struct Network {
    open: usize,
    tokens: f64,
    at: Instant,
}

/// One connection, as the gate sees it.
struct Slot {
    /// Milliseconds since the gate was made at which it began to wait; [`BUSY`] while it works.
    idle_since: AtomicU64,
    leave: Notify,
}

/// A connection's place; given back when it is dropped.
pub(crate) struct Pass {
    gate: Arc<Gate>,
    id: u64,
    slot: Arc<Slot>,
}

impl Gate {
    pub(crate) fn new(limits: GateLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            begun: Instant::now(),
            state: Mutex::default(),
        })
    }

    /// A place for a connection whose client is not known yet. Until it says otherwise it counts as idle.
    pub(crate) fn enter(self: &Arc<Self>, now: Instant) -> Result<Pass, Denied> {
        let mut state = self.lock();
        if state.entries.len() >= self.limits.connections && !state.make_room(self.millis(now), None) {
            return Err(Denied::Connections);
        }
        let slot = Arc::new(Slot {
            idle_since: AtomicU64::new(self.millis(now)),
            leave: Notify::new(),
        });
        let id = state.next;
        state.next += 1;
        let entry = Entry {
            slot: slot.clone(),
            network: None,
        };
        state.entries.insert(id, entry);
        Ok(Pass {
            gate: self.clone(),
            id,
            slot,
        })
    }

    /// The network of an address.
    pub(crate) fn network(&self, address: IpAddr) -> IpNet {
        match address.to_canonical() {
            // The prefixes were checked when the flags were read; a longer one than there can be means the whole.
            IpAddr::V4(ip) => Ipv4Net::new(ip, self.limits.prefix_v4.min(32))
                .map_or_else(|_| ip_net(ip), |n| n.trunc().into()),
            IpAddr::V6(ip) => Ipv6Net::new(ip, self.limits.prefix_v6.min(128))
                .map_or_else(|_| ip_net(ip), |n| n.trunc().into()),
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begun).as_millis()).unwrap_or(BUSY - 1)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No holder leaves the counts half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ip_net(address: impl Into<IpAddr>) -> IpNet {
    IpNet::from(address.into())
}

impl State {
    /// Asks the longest idle session to leave, of that network or of all; false when all work.
    fn make_room(&mut self, now: u64, network: Option<IpNet>) -> bool {
        let Some(latest) = now.checked_sub(MIN_IDLE.as_millis() as u64) else {
            return false;
        };
        let idlest = self
            .entries
            .iter()
            .filter(|(_, entry)| network.is_none() || entry.network == network)
            .map(|(id, entry)| (entry.slot.idle_since.load(Ordering::Relaxed), *id))
            .min();
        let Some((_, id)) = idlest.filter(|(since, _)| *since <= latest) else {
            return false;
        };
        if let Some(entry) = self.entries.remove(&id) {
            self.leave_network(entry.network);
            entry.slot.leave.notify_one();
        }
        true
    }

    fn leave_network(&mut self, network: Option<IpNet>) {
        if let Some(network) = network.and_then(|network| self.networks.get_mut(&network)) {
            network.open -= 1;
        }
    }

    /// Forgets networks without a connection whose rate is as if they had never come. Looks only when there are twice
    /// as many as the last time, so that it costs little for each connection.
    fn tidy(&mut self, now: Instant, per_minute: u32) {
        if self.networks.len() < self.tidy_at.clamp(MIN_TIDY, MAX_NETWORKS) {
            return;
        }
        let full = self.networks.len() >= MAX_NETWORKS;
        self.networks.retain(|_, network| {
            let rested =
                per_minute == 0 || now.saturating_duration_since(network.at) >= Duration::from_secs(60);
            network.open > 0 || !(full || rested)
        });
        self.tidy_at = 2 * self.networks.len();
    }
}

impl Pass {
    /// Says who the client is; may be said again when a proxy names another one.
    pub(crate) fn identify(&self, client: IpAddr, now: Instant) -> Result<(), Denied> {
        let network = self.gate.network(client);
        let limits = self.gate.limits;
        let mut state = self.gate.lock();
        let before = state
            .entries
            .get_mut(&self.id)
            .and_then(|entry| entry.network.take());
        state.leave_network(before);
        state.tidy(now, limits.per_minute);
        let rate = f64::from(limits.per_minute);
        let known = state.networks.entry(network).or_insert(Network {
            open: 0,
            tokens: rate,
            at: now,
        });
        let rested = now.saturating_duration_since(known.at).as_secs_f64();
        known.tokens = (known.tokens + rested * rate / 60.0).min(rate);
        known.at = now;
        if limits.per_minute > 0 {
            if known.tokens < 1.0 {
                return Err(Denied::NetworkRate);
            }
            known.tokens -= 1.0;
        }
        if known.open >= limits.per_network && !state.make_room(self.gate.millis(now), Some(network)) {
            return Err(Denied::NetworkConnections);
        }
        let State {
            entries, networks, ..
        } = &mut *state;
        // One that was asked to leave meanwhile counts no more.
        if let (Some(entry), Some(known)) = (entries.get_mut(&self.id), networks.get_mut(&network)) {
            entry.network = Some(network);
            known.open += 1;
        }
        Ok(())
    }

    /// The client has a command to send, and nothing is under way.
    pub(crate) fn idle(&self, now: Instant) {
        self.slot
            .idle_since
            .store(self.gate.millis(now), Ordering::Relaxed);
    }

    /// Something is under way.
    pub(crate) fn busy(&self) {
        self.slot.idle_since.store(BUSY, Ordering::Relaxed);
    }

    /// Waits until the place is needed for another client. Safe to drop at any point.
    pub(crate) async fn evicted(&self) {
        self.slot.leave.notified().await;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        if let Some(entry) = state.entries.remove(&self.id) {
            state.leave_network(entry.network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(connections: usize, per_network: usize, per_minute: u32) -> Arc<Gate> {
        Gate::new(GateLimits {
            connections,
            per_network,
            per_minute,
            prefix_v4: 32,
            prefix_v6: 64,
        })
    }

    fn client(gate: &Arc<Gate>, ip: &str, now: Instant) -> Result<Pass, Denied> {
        let pass = gate.enter(now)?;
        pass.identify(ip.parse().unwrap(), now)?;
        pass.busy();
        Ok(pass)
    }

    #[test]
    fn each_network_has_its_own_limit() {
        let gate = gate(5, 2, 0);
        let now = Instant::now();
        let cases = [
            ("10.0.0.1", None, "the first"),
            ("10.0.0.1", None, "the second"),
            (
                "::ffff:10.0.0.1",
                Some(Denied::NetworkConnections),
                "the same in another form",
            ),
            ("10.0.0.2", None, "a neighbour"),
            ("2001:db8::1", None, "IPv6"),
            ("2001:db8::ffff:2", None, "the same /64"),
            ("10.9.9.9", Some(Denied::Connections), "all places are taken"),
        ];
        let mut open = Vec::new();
        for (ip, denied, why) in cases {
            match client(&gate, ip, now) {
                Ok(pass) => {
                    assert_eq!(denied, None, "{why}");
                    open.push(pass);
                }
                Err(error) => assert_eq!(Some(error), denied, "{why}"),
            }
        }
        open.remove(0);
        assert!(client(&gate, "10.0.0.1", now).is_ok(), "a place was given back");
        drop(open);
        let state = gate.lock();
        assert_eq!(state.entries.len(), 0);
        assert!(state.networks.values().all(|network| network.open == 0));
    }

    #[test]
    fn a_rate_is_for_a_minute_and_recovers() {
        let gate = gate(100, 100, 6);
        let mut now = Instant::now();
        for turn in 0..3 {
            for _ in 0..6 {
                client(&gate, "10.0.0.1", now).unwrap();
            }
            assert_eq!(
                client(&gate, "10.0.0.1", now).err(),
                Some(Denied::NetworkRate),
                "turn {turn}"
            );
            assert!(
                client(&gate, "10.0.0.2", now).is_ok(),
                "another network is not touched"
            );
            now += Duration::from_secs(11);
            assert!(client(&gate, "10.0.0.1", now).is_ok(), "one in ten seconds");
            now += Duration::from_secs(61);
        }
    }

    #[tokio::test]
    async fn the_longest_idle_makes_room() {
        let gate = gate(3, 2, 0);
        let start = Instant::now();
        let old = client(&gate, "10.0.0.1", start).unwrap();
        let newer = client(&gate, "10.0.0.1", start).unwrap();
        old.idle(start);
        newer.idle(start + Duration::from_millis(10));
        let early = start + Duration::from_millis(50);
        assert_eq!(
            client(&gate, "10.0.0.1", early).err(),
            Some(Denied::NetworkConnections),
            "nobody has been idle for long"
        );
        let later = start + Duration::from_secs(5);
        let third = client(&gate, "10.0.0.1", later).unwrap();
        old.evicted().await;
        let other = client(&gate, "10.0.0.2", later).unwrap();
        assert_eq!(gate.lock().entries.len(), 3);
        // All places are taken: the newer one is idle, whatever its network.
        let last = client(&gate, "10.0.0.3", later).unwrap();
        newer.evicted().await;
        assert_eq!(
            client(&gate, "10.0.0.4", later).err(),
            Some(Denied::Connections),
            "all work"
        );
        // Those that were asked to leave go; the counts do not change.
        drop((old, newer));
        assert_eq!(gate.lock().entries.len(), 3);
        drop((third, other, last));
        assert_eq!(gate.lock().entries.len(), 0);
        assert!(gate.lock().networks.values().all(|network| network.open == 0));
    }

    #[test]
    fn a_client_that_a_proxy_names_moves() {
        let gate = gate(10, 1, 0);
        let now = Instant::now();
        let first = client(&gate, "10.0.0.1", now).unwrap();
        first.identify("10.0.0.2".parse().unwrap(), now).unwrap();
        let second = client(&gate, "10.0.0.1", now).unwrap();
        assert_eq!(
            second.identify("10.0.0.2".parse().unwrap(), now),
            Err(Denied::NetworkConnections)
        );
        drop((first, second));
        assert!(gate.lock().networks.values().all(|network| network.open == 0));
    }

    #[test]
    fn networks_are_forgotten() {
        let gate = gate(10, 1, 0);
        let now = Instant::now();
        for n in 0..5000_u32 {
            client(&gate, &std::net::Ipv4Addr::from(n).to_string(), now).unwrap();
        }
        assert!(gate.lock().networks.len() <= MIN_TIDY);
    }
}
