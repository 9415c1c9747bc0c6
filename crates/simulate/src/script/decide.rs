//! Which rule strikes: the pure part, and the counters of the rules that count.
//!
//! Odds are drawn from the seed, the rule, the connection's number and how often this connection asked that rule, so
//! that other connections do not change them. Memory is bounded: [`MAX_KEYS`] messages and recipients are told apart.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{At, Fault, Numbers, Rule, Script, When};
use crate::refuse::matches;

/// Messages and recipients whose attempts are counted; the oldest is forgotten first.
const MAX_KEYS: usize = 200_000;

/// Where a connection stands when the rules are asked.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The stage.
    pub at: At,
    /// The connection's number on this server, from 1.
    pub connection: u64,
    /// Messages begun on this connection, this one included.
    pub message: u64,
    /// TLS runs.
    pub tls: bool,
    /// The sender, once there is one.
    pub sender: Option<&'a str>,
    /// This recipient, or the accepted ones.
    pub recipients: &'a [&'a str],
    /// How often this message or recipient has come, this time included.
    pub attempt: Option<u64>,
    /// At [`At::Body`]: octets that had arrived when the rules were asked last, and now.
    pub octets: (u64, u64),
}

/// What strikes.
#[derive(Clone, Debug)]
pub(crate) struct Strike {
    pub(crate) rule: String,
    number: usize,
    script: u64,
    pub(crate) fault: Fault,
    pub(crate) keep: bool,
    /// How long the client must have been silent first.
    pub(crate) idle: std::time::Duration,
}

/// How often a connection has asked each rule.
#[derive(Debug, Default)]
pub(crate) struct Draws {
    script: u64,
    asked: Vec<u64>,
}

#[derive(Debug, Default)]
struct Counter {
    fitted: AtomicU64,
    struck: AtomicU64,
}

/// A script in use.
#[derive(Debug)]
pub struct Faults {
    pub(crate) script: Script,
    /// Which script of this server it is: draws start anew with the next.
    generation: u64,
    counters: Vec<Counter>,
    attempts: Mutex<Attempts>,
}

impl Numbers {
    fn hold(self, number: u64) -> bool {
        (self.from..=self.to).contains(&number)
    }
}

impl When {
    fn holds(&self, situation: &Situation<'_>) -> bool {
        let Self {
            connection,
            message,
            attempt,
            recipient,
            sender,
            tls,
            octets,
            idle: _,
        } = self;
        let number = |wanted: &Option<Numbers>, number| wanted.is_none_or(|wanted| wanted.hold(number));
        number(connection, situation.connection)
            && number(message, situation.message)
            && attempt.is_none_or(|wanted| situation.attempt.is_some_and(|attempt| wanted.hold(attempt)))
            && recipient
                .as_ref()
                .is_none_or(|rule| situation.recipients.iter().any(|address| matches(rule, address)))
            && sender
                .as_ref()
                .is_none_or(|rule| situation.sender.is_some_and(|address| matches(rule, address)))
            && tls.is_none_or(|tls| tls == situation.tls)
            && (situation.at != At::Body || {
                let (before, now) = situation.octets;
                (before + 1..=now).contains(&octets.unwrap_or(1))
            })
    }
}

impl Faults {
    /// A script whose counters stand at zero.
    #[must_use]
    pub fn new(script: Script, generation: u64) -> Self {
        Self {
            counters: script.rules.iter().map(|_| Counter::default()).collect(),
            script,
            generation,
            attempts: Mutex::default(),
        }
    }

    /// The first rule that fits, counted as struck. [`Fault::Pass`] is none, but ends the search.
    pub(crate) fn ask(&self, situation: &Situation<'_>, draws: &mut Draws) -> Option<Strike> {
        if draws.script != self.generation || draws.asked.len() != self.script.rules.len() {
            *draws = Draws {
                script: self.generation,
                asked: vec![0; self.script.rules.len()],
            };
        }
        let all = self.script.rules.iter().zip(&self.counters).enumerate();
        for (number, (rule, counter)) in all {
            if !rule.at.contains(&situation.at) || !rule.when.holds(situation) {
                continue;
            }
            if counter.fitted.fetch_add(1, Ordering::Relaxed) < rule.after {
                continue;
            }
            draws.asked[number] += 1;
            if !self.drawn(number, rule, situation.connection, draws.asked[number]) {
                continue;
            }
            if !counter.strike(rule.times) {
                continue;
            }
            if rule.fault == Fault::Pass {
                return None;
            }
            return Some(Strike {
                rule: rule.name.clone(),
                number,
                script: self.generation,
                fault: rule.fault.clone(),
                keep: rule.keep,
                idle: rule.when.idle.unwrap_or_default(),
            });
        }
        None
    }

    /// What was to strike could not.
    pub(crate) fn give_back(&self, strike: &Strike) {
        if strike.script == self.generation
            && let Some(counter) = self.counters.get(strike.number)
        {
            counter.struck.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn drawn(&self, number: usize, rule: &Rule, connection: u64, asked: u64) -> bool {
        if rule.odds >= 1.0 {
            return true;
        }
        let seed = [number as u64, connection, asked]
            .iter()
            .fold(self.script.seed, |seed, part| mix(seed ^ part));
        fastrand::Rng::with_seed(seed).f64() < rule.odds
    }

    /// How often this key has come, this time included.
    pub(crate) fn attempt(&self, kind: At, key: &str) -> u64 {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.count(kind, key)
    }
}

impl Counter {
    /// Counts a strike, unless there were enough.
    fn strike(&self, most: Option<u64>) -> bool {
        self.struck
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |struck| {
                most.is_none_or(|most| struck < most).then_some(struck + 1)
            })
            .is_ok()
    }
}

/// Spreads the bits of a number over all of it (the finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// Keyed hashes instead of the keys: they are of any length, memory is not.
#[derive(Debug, Default)]
struct Attempts {
    hash: RandomState,
    counts: HashMap<u64, u64>,
    order: VecDeque<u64>,
}

impl Attempts {
    fn count(&mut self, kind: At, key: &str) -> u64 {
        let key = self.hash.hash_one((kind, key));
        if !self.counts.contains_key(&key) {
            if self.order.len() >= MAX_KEYS
                && let Some(oldest) = self.order.pop_front()
            {
                self.counts.remove(&oldest);
            }
            self.order.push_back(key);
        }
        let count = self.counts.entry(key).or_default();
        *count += 1;
        *count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Faults {
        Faults::new(Script::parse("script.yaml", text).unwrap(), 1)
    }

    fn at(at: At, connection: u64) -> Situation<'static> {
        Situation {
            at,
            connection,
            message: 1,
            tls: false,
            sender: Some(""),
            recipients: &["Ann@x.example", "bob@y.example"],
            attempt: Some(1),
            octets: (0, 10),
        }
    }

    /// The names of the rules that strike, one a question.
    fn struck(faults: &Faults, situations: &[Situation<'_>]) -> Vec<String> {
        let mut draws = Draws::default();
        let ask = |situation: &Situation<'_>| faults.ask(situation, &mut draws);
        let rules: Vec<_> = situations.iter().map(ask).collect();
        rules
            .into_iter()
            .map(|strike| strike.map(|strike| strike.rule).unwrap_or_default())
            .collect()
    }

    #[test]
    fn conditions() {
        let base = at(At::Rcpt, 3);
        let cases = [
            ("{}", base, true, "none"),
            ("{connection: 3}", base, true, "this connection"),
            ("{connection: 1-2}", base, false, "another"),
            ("{connection: 2-}", base, true, "an open range"),
            ("{message: 2}", base, false, "another message"),
            (
                "{message: 2-3}",
                Situation { message: 2, ..base },
                true,
                "this message",
            ),
            (
                "{recipient: ann@}",
                base,
                true,
                "one of the recipients, in any case",
            ),
            (
                "{recipient: \"@z.example\"}",
                base,
                false,
                "none of the recipients",
            ),
            ("{sender: \"*\"}", base, true, "everyone includes the null sender"),
            ("{sender: \"\"}", base, true, "the null sender"),
            ("{sender: a@x}", base, false, "another sender"),
            (
                "{sender: \"*\"}",
                Situation { sender: None, ..base },
                false,
                "no sender yet",
            ),
            ("{attempt: 1}", base, true, "the first time"),
            (
                "{attempt: 1}",
                Situation {
                    attempt: Some(2),
                    ..base
                },
                false,
                "the second",
            ),
            (
                "{attempt: 1-}",
                Situation {
                    attempt: None,
                    ..base
                },
                false,
                "nobody knows",
            ),
            ("{tls: true}", base, false, "in the clear"),
            ("{tls: false, connection: 3}", base, true, "all must hold"),
            ("{tls: false, connection: 4}", base, false, "all must hold"),
        ];
        for (when, situation, want, why) in cases {
            let faults = faults(&format!(
                "rules: [{{name: x, at: rcpt, when: {when}, do: close}}]"
            ));
            assert_eq!(struck(&faults, &[situation]) == ["x"], want, "{when}: {why}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_wins() {
        let faults = faults(
            "rules:\n- {name: a, at: mail, do: close}\n- {name: b, at: [rcpt, data], when: {connection: 2}, do: pass}\n\
             - {name: c, at: rcpt, times: 2, do: close}\n- {name: d, at: rcpt, after: 1, do: close}\n",
        );
        let asked = [
            at(At::Rcpt, 2),
            at(At::Rcpt, 1),
            at(At::Rcpt, 1),
            at(At::Rcpt, 1),
            at(At::Rcpt, 1),
            at(At::Mail, 2),
            at(At::Data, 1),
        ];
        assert_eq!(
            struck(&faults, &asked),
            ["", "c", "c", "", "d", "a", ""],
            "pass ends the search; c twice; d lets its first case go"
        );
    }

    #[test]
    fn octets_of_a_body_are_crossed_once() {
        let faults = faults("rules: [{name: x, at: body, when: {octets: 100}, do: close}]");
        let octets = |before, now| Situation {
            octets: (before, now),
            ..at(At::Body, 1)
        };
        let asked = [octets(0, 99), octets(99, 100), octets(100, 300), octets(0, 300)];
        assert_eq!(struck(&faults, &asked), ["", "x", "", "x"]);
    }

    #[test]
    fn odds_are_a_share_and_repeat_with_their_seed() {
        let text = |seed| format!("seed: {seed}\nrules: [{{name: x, at: rcpt, odds: 0.1, do: close}}]");
        let run = |seed: u64, reverse: bool| {
            let faults = faults(&text(seed));
            let mut connections: Vec<u64> = (1..=2000).collect();
            if reverse {
                connections.reverse();
            }
            let mut hit: Vec<u64> = connections
                .into_iter()
                .filter(|connection| struck(&faults, &[at(At::Rcpt, *connection)]) == ["x"])
                .collect();
            hit.sort_unstable();
            hit
        };
        let hit = run(7, false);
        assert!((120..=280).contains(&hit.len()), "{} of 2000 at 0.1", hit.len());
        assert_eq!(hit, run(7, true), "in any order of the connections");
        assert_ne!(hit, run(8, false), "another seed, other cases");
        let never = faults("rules: [{name: x, at: rcpt, odds: 0, do: close}]");
        assert_eq!(struck(&never, &[at(At::Rcpt, 1)]), [""]);
    }

    #[test]
    fn attempts_are_counted_by_kind_and_key() {
        let faults = faults("rules: []");
        let counts: Vec<u64> = [
            (At::Dot, "a"),
            (At::Dot, "a"),
            (At::Dot, "b"),
            (At::Rcpt, "a"),
            (At::Dot, "a"),
        ]
        .map(|(kind, key)| faults.attempt(kind, key))
        .to_vec();
        assert_eq!(counts, [1, 2, 1, 1, 3]);
    }
}
