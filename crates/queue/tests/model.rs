//! Random interleavings of every step, with crashes of workers, against a model that is too simple to be wrong.
//!
//! Time is taken out: a lifetime, a deadline or a delay is either nothing (over at the next step) or an hour (never
//! within the test), and a crash makes a worker's claims look old. So the model knows every answer exactly: which
//! entries a claim returns and in which order, whether a worker still holds what it completes, all gauges and counters
//! after every step, and what is left in the store at the end.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::{HOUR, INTAKE, Kind, Limits, Store, Subject, entry};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tdc_queue::{
    ClaimRef, DeadLetter, End, EntryKey, Expired, NewEntry, QueueError, Replayed, RetryReason, Stats, Sweep,
};

const WORKERS: [&str; 3] = ["w0", "w1", "w2"];

/// A step. Numbers pick, modulo what there is, an entry or a claim that was ever made: old ones come again on purpose.
#[derive(Clone, Debug)]
enum Step {
    Write {
        known: usize,
    },
    Prepare {
        brief: bool,
        doubtful: bool,
        retain: bool,
    },
    Commit {
        entries: Vec<usize>,
    },
    Abort {
        entry: usize,
    },
    Claim {
        worker: usize,
        max: usize,
    },
    Complete {
        claim: usize,
        end: usize,
    },
    Retry {
        claim: usize,
        due: bool,
        no_answer: bool,
    },
    Release {
        claims: Vec<usize>,
    },
    Heartbeat {
        claim: usize,
    },
    Crash {
        worker: usize,
    },
    Sweep,
    Replay {
        letters: Vec<usize>,
    },
    Purge {
        letters: Vec<usize>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..1000usize;
    prop_oneof![
        1 => number.clone().prop_map(|known| Step::Write { known }),
        5 => (prop::bool::weighted(0.2), prop::bool::weighted(0.3), any::<bool>())
            .prop_map(|(brief, doubtful, retain)| Step::Prepare { brief, doubtful, retain }),
        5 => prop::collection::vec(number.clone(), 0..4).prop_map(|entries| Step::Commit { entries }),
        1 => number.clone().prop_map(|entry| Step::Abort { entry }),
        5 => (0..WORKERS.len(), 1..5usize).prop_map(|(worker, max)| Step::Claim { worker, max }),
        5 => (number.clone(), 0..4usize).prop_map(|(claim, end)| Step::Complete { claim, end }),
        2 => (number.clone(), prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(claim, due, no_answer)| Step::Retry { claim, due, no_answer }),
        1 => prop::collection::vec(number.clone(), 1..4).prop_map(|claims| Step::Release { claims }),
        1 => number.clone().prop_map(|claim| Step::Heartbeat { claim }),
        1 => (0..WORKERS.len()).prop_map(|worker| Step::Crash { worker }),
        3 => Just(Step::Sweep),
        2 => prop::collection::vec(number.clone(), 1..4).prop_map(|letters| Step::Replay { letters }),
        1 => prop::collection::vec(number.clone(), 1..3).prop_map(|letters| Step::Purge { letters }),
    ]
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Writing,
    Prepared,
    Ready { fresh: bool },
    InFlight { claim: usize, crashed: bool },
    Waiting { due: bool },
    Done { retained: bool },
    Forgotten,
}

struct Entry {
    new: NewEntry,
    state: State,
    /// Its turn among the commits.
    place: usize,
    attempts: u32,
    in_doubt: bool,
    possible: bool,
    /// The number of its dead letter, if it has one.
    letter: Option<usize>,
    ended_possible: bool,
}

#[derive(Default)]
struct Model {
    /// Dead letters ever: the entry of each.
    letters: Vec<usize>,
    entries: Vec<Entry>,
    /// All claims ever: worker, entry.
    claims: Vec<(usize, usize)>,
    commits: usize,
    counters: Stats,
}

impl Model {
    fn pick(&self, number: usize) -> Option<usize> {
        number.checked_rem(self.entries.len())
    }

    /// The entry of a claim, if the claim is still good.
    fn held(&self, claim: usize) -> Option<usize> {
        let entry = self.claims[claim].1;
        matches!(self.entries[entry].state, State::InFlight { claim: now, .. } if now == claim)
            .then_some(entry)
    }

    /// Whether it was there to be committed.
    fn commit(&mut self, entry: usize, in_doubt: bool) -> bool {
        let it = &mut self.entries[entry];
        match it.state {
            State::Writing | State::Forgotten | State::Done { retained: false } => return false,
            State::Prepared => {}
            _ => return true,
        }
        self.commits += 1;
        (it.state, it.place) = (State::Ready { fresh: true }, self.commits);
        it.in_doubt |= in_doubt;
        self.counters.committed += 1;
        self.counters.in_doubt += u64::from(in_doubt);
        true
    }

    fn end(&mut self, entry: usize, end: &End) {
        let delivered = *end == End::Delivered;
        let it = &mut self.entries[entry];
        it.state = State::Done {
            retained: !delivered && it.new.retain.is_some(),
        };
        it.ended_possible = matches!(end, End::PossibleDelivery { .. });
        if !delivered {
            it.letter = Some(self.letters.len());
            self.letters.push(entry);
        }
        match end {
            End::Delivered => self.counters.delivered += 1,
            End::HardBounced { .. } => {
                self.counters.hard_bounced += 1;
                self.counters.hard.tls += 1;
            }
            End::PossibleDelivery { .. } => self.counters.possible_delivery += 1,
            End::Expired => self.counters.expired += 1,
        }
    }

    fn replay(&mut self, letter: usize) -> Replayed {
        let entry = self.letters[letter];
        let it = &mut self.entries[entry];
        if it.letter != Some(letter) {
            return match it.state {
                State::Ready { .. } | State::InFlight { .. } | State::Waiting { .. } => Replayed::Done,
                _ => Replayed::Gone,
            };
        }
        if it.state != (State::Done { retained: true }) {
            return Replayed::NoBody;
        }
        (it.state, it.letter, it.attempts) = (State::Prepared, None, 0);
        it.possible |= it.ended_possible;
        self.counters.replayed += 1;
        self.commit(entry, false);
        Replayed::Done
    }

    fn purge(&mut self, letter: usize) -> u64 {
        let it = &mut self.entries[self.letters[letter]];
        if it.letter != Some(letter) {
            return 0;
        }
        (it.state, it.letter) = (State::Done { retained: false }, None);
        self.counters.purged += 1;
        1
    }

    fn reclaim(&mut self) {
        for it in &mut self.entries {
            if matches!(it.state, State::InFlight { crashed: true, .. }) {
                it.state = State::Ready { fresh: false };
            }
        }
    }

    /// The claimed, and the expired ones on the way.
    fn claim(&mut self, worker: usize, max: usize) -> (Vec<usize>, Vec<usize>) {
        self.reclaim();
        let mut ready: BTreeMap<(bool, usize), usize> = BTreeMap::new();
        for (number, it) in self.entries.iter().enumerate() {
            if let State::Ready { fresh } = it.state {
                ready.insert((fresh, it.place), number);
            }
        }
        let (mut claimed, mut expired) = (Vec::new(), Vec::new());
        for entry in ready.into_values() {
            if claimed.len() == max {
                break;
            }
            if self.entries[entry].new.lifetime.is_zero() {
                self.end(entry, &End::Expired);
                expired.push(entry);
            } else {
                self.claims.push((worker, entry));
                self.entries[entry].state = State::InFlight {
                    claim: self.claims.len() - 1,
                    crashed: false,
                };
                claimed.push(entry);
            }
        }
        (claimed, expired)
    }

    /// What is done, and the expired ones, which it does not hold.
    fn sweep(&mut self) -> (Sweep, Vec<usize>) {
        let (mut done, mut expired) = (Sweep::default(), Vec::new());
        self.reclaim();
        for entry in 0..self.entries.len() {
            let it = &mut self.entries[entry];
            let over = it.new.lifetime.is_zero();
            match it.state {
                State::Ready { .. } | State::Waiting { .. } if over => {
                    self.end(entry, &End::Expired);
                    expired.push(entry);
                }
                State::Waiting { due: true } => {
                    it.state = State::Ready { fresh: false };
                    done.promoted += 1;
                }
                State::Prepared if it.new.in_doubt_after.is_zero() => {
                    self.commit(entry, true);
                    done.committed_in_doubt += 1;
                }
                _ => {}
            }
        }
        (done, expired)
    }

    fn stats(&self) -> Stats {
        let count = |is: fn(&State) -> bool| self.entries.iter().filter(|it| is(&it.state)).count() as u64;
        let ready = count(|s| matches!(s, State::Ready { .. }));
        let in_flight = count(|s| matches!(s, State::InFlight { .. }));
        let retrying = count(|s| matches!(s, State::Waiting { .. }));
        let prepared = count(|s| *s == State::Prepared);
        let active_recipients = ready + in_flight + retrying;
        Stats {
            ready,
            in_flight,
            retrying,
            prepared,
            active_recipients,
            ..self.counters
        }
    }
}

/// The model and the queue side by side.
struct Run<'a> {
    subject: &'a Subject,
    model: Model,
    tokens: Vec<ClaimRef>,
    /// Dead letters ever seen, by their number in the model.
    letters: BTreeMap<usize, DeadLetter>,
}

impl Run<'_> {
    fn keys(&self, entries: &[usize]) -> Vec<EntryKey> {
        entries
            .iter()
            .map(|&number| self.model.entries[number].new.key.clone())
            .collect()
    }

    /// The next entry. Ids grow, so that those in doubt since the same millisecond have one order.
    fn next(&self) -> NewEntry {
        let id = format!("{:08}", self.model.entries.len()).into();
        NewEntry {
            key: EntryKey {
                intake: INTAKE.into(),
                id,
            },
            ..entry()
        }
    }

    fn open(&mut self, new: NewEntry, state: State) {
        self.model.entries.push(Entry {
            new,
            state,
            place: 0,
            attempts: 0,
            in_doubt: false,
            possible: false,
            letter: None,
            ended_possible: false,
        });
    }

    async fn step(&mut self, step: &Step) -> Result<(), QueueError> {
        match step {
            Step::Write { .. } | Step::Prepare { .. } | Step::Commit { .. } | Step::Abort { .. } => {
                self.arrive(step).await
            }
            Step::Claim { .. } | Step::Crash { .. } | Step::Sweep => self.pass(step).await,
            Step::Complete { .. } | Step::Retry { .. } | Step::Release { .. } | Step::Heartbeat { .. } => {
                self.answer(step).await
            }
            Step::Replay { letters } | Step::Purge { letters } => self.dead(step, letters).await,
        }
    }

    /// Reads the dead letters, which must be the model's, newest first; old ones are kept on purpose.
    async fn read_letters(&mut self) -> Result<(), QueueError> {
        let mut before: Option<Arc<str>> = None;
        let mut found = Vec::new();
        loop {
            let page = self
                .subject
                .dead
                .dead_letters(INTAKE, before.as_deref(), 3)
                .await?;
            let Some(last) = page.last() else { break };
            before = Some(last.place.clone());
            found.extend(page);
        }
        let mut expected: Vec<usize> = self.model.entries.iter().filter_map(|it| it.letter).collect();
        expected.sort_unstable();
        let ids = |numbers: &[usize]| -> Vec<_> {
            let entries: Vec<usize> = numbers.iter().map(|&number| self.model.letters[number]).collect();
            self.keys(&entries)
        };
        let mut keys: Vec<EntryKey> = found.iter().map(|letter| letter.key.clone()).collect();
        let mut wanted = ids(&expected);
        // Those of one sweep have no order among themselves.
        keys.sort_by(|a, b| a.id.cmp(&b.id));
        wanted.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(keys, wanted, "the dead letters");
        for letter in found {
            let at = expected
                .iter()
                .copied()
                .find(|&number| self.keys(&[self.model.letters[number]])[0] == letter.key)
                .expect("one of them");
            self.letters.insert(at, letter);
        }
        Ok(())
    }

    async fn dead(&mut self, step: &Step, picked: &[usize]) -> Result<(), QueueError> {
        self.read_letters().await?;
        if self.letters.is_empty() {
            return Ok(());
        }
        let known: Vec<usize> = self.letters.keys().copied().collect();
        let mut numbers: Vec<usize> = picked.iter().map(|&n| known[n % known.len()]).collect();
        numbers.dedup();
        let letters: Vec<DeadLetter> = numbers.iter().map(|n| self.letters[n].clone()).collect();
        if let Step::Replay { .. } = step {
            let expected: Vec<Replayed> = numbers.iter().map(|&n| self.model.replay(n)).collect();
            assert_eq!(self.subject.dead.replay(&letters).await?, expected);
        } else {
            let expected: u64 = numbers.iter().map(|&n| self.model.purge(n)).sum();
            assert_eq!(self.subject.dead.purge(&letters).await?, expected);
        }
        Ok(())
    }

    async fn arrive(&mut self, step: &Step) -> Result<(), QueueError> {
        let queue = Arc::clone(&self.subject.queue);
        match step {
            Step::Write { known } => {
                let new = self.next();
                queue.write_chunk(&new.key, 0, "12".into()).await?;
                self.open(new, State::Writing);
                // Half of them go on to be prepared, the others stay as a dead ingress would leave them.
                if known % 2 == 0 {
                    let last = self.model.entries.len() - 1;
                    let new = self.model.entries[last].new.clone();
                    queue.prepare(new, 1, vec!["345".into()]).await?;
                    self.model.entries[last].state = State::Prepared;
                }
            }
            &Step::Prepare {
                brief,
                doubtful,
                retain,
            } => {
                let time = |nothing: bool| if nothing { Duration::ZERO } else { HOUR };
                let (lifetime, in_doubt_after) = (time(brief), time(doubtful));
                let new = NewEntry {
                    lifetime,
                    in_doubt_after,
                    retain: retain.then_some(HOUR),
                    ..self.next()
                };
                self.subject.prepare(new.clone()).await;
                self.open(new, State::Prepared);
            }
            Step::Commit { entries } => {
                let entries: Vec<usize> = entries.iter().filter_map(|&n| self.model.pick(n)).collect();
                let missing = entries
                    .iter()
                    .filter(|&&entry| !self.model.commit(entry, false))
                    .count();
                match queue.commit(&self.keys(&entries)).await {
                    Ok(()) => assert_eq!(missing, 0),
                    Err(QueueError::Unknown(_)) => assert!(missing > 0, "all were there"),
                    Err(error) => return Err(error),
                }
            }
            Step::Abort { entry } => {
                let Some(entry) = self.model.pick(*entry) else {
                    return Ok(());
                };
                queue.abort(&self.keys(&[entry])).await?;
                let state = &mut self.model.entries[entry].state;
                if matches!(state, State::Writing | State::Prepared) {
                    *state = State::Forgotten;
                    self.model.counters.aborted += 1;
                }
            }
            other => unreachable!("{other:?} is another kind of step"),
        }
        Ok(())
    }

    async fn pass(&mut self, step: &Step) -> Result<(), QueueError> {
        match *step {
            Step::Claim { worker, max } => {
                let (expected, expired) = self.model.claim(worker, max);
                let got = self.subject.queue.claim(INTAKE, WORKERS[worker], max).await?;
                self.told(&expired, &got.expired);
                let got = got.entries;
                let keys: Vec<_> = got.iter().map(|c| c.claim.key.clone()).collect();
                assert_eq!(keys, self.keys(&expected), "the claim's entries, in order");
                for (number, claimed) in expected.iter().zip(got) {
                    let it = &self.model.entries[*number];
                    assert_eq!(
                        (claimed.attempts, claimed.in_doubt, claimed.possible_delivery),
                        (it.attempts, it.in_doubt, it.possible)
                    );
                    assert_eq!(claimed.meta, it.new.meta);
                    assert_eq!(claimed.body.concat().len(), 5);
                    self.tokens.push(claimed.claim);
                }
            }
            Step::Crash { worker } => {
                self.subject.crash(WORKERS[worker]).await;
                for it in &mut self.model.entries {
                    if let State::InFlight { claim, crashed } = &mut it.state
                        && self.model.claims[*claim].0 == worker
                    {
                        *crashed = true;
                    }
                }
            }
            Step::Sweep => {
                let mut swept = self.subject.queue.sweep(INTAKE).await?;
                let (expected, expired) = self.model.sweep();
                self.told(&expired, &std::mem::take(&mut swept.expired));
                assert_eq!(swept, expected);
            }
            ref other => unreachable!("{other:?} is another kind of step"),
        }
        Ok(())
    }

    /// Each entry that a step expires is told of by that step, with what is known of it.
    fn told(&self, expected: &[usize], told: &[Expired]) {
        let mut expected: Vec<Expired> = expected
            .iter()
            .map(|&number| {
                let it = &self.model.entries[number];
                Expired {
                    key: it.new.key.clone(),
                    mid: it.new.meta.mid,
                    recipients: 2,
                    attempts: it.attempts,
                    traceparent: it.new.meta.traceparent.clone(),
                    in_doubt: it.in_doubt,
                    possible_delivery: it.possible,
                    age: Duration::ZERO,
                    detail: if it.attempts > 0 { "later" } else { "" }.to_owned(),
                }
            })
            .collect();
        let mut told: Vec<Expired> = told.to_vec();
        for expired in &mut told {
            expired.age = Duration::ZERO;
        }
        expected.sort_by(|a, b| a.key.id.cmp(&b.key.id));
        told.sort_by(|a, b| a.key.id.cmp(&b.key.id));
        assert_eq!(told, expected);
    }

    async fn answer(&mut self, step: &Step) -> Result<(), QueueError> {
        let queue = &self.subject.queue;
        let pick = |number: &usize| number.checked_rem(self.tokens.len());
        let (Step::Complete { claim, .. } | Step::Retry { claim, .. } | Step::Heartbeat { claim }) = step
        else {
            let Step::Release { claims } = step else {
                unreachable!("{step:?} is another kind of step")
            };
            let claims: Vec<usize> = claims.iter().filter_map(pick).collect();
            for claim in claims {
                // Each with the name of the worker that made it.
                let worker = WORKERS[self.model.claims[claim].0];
                queue.release(worker, &[self.tokens[claim].clone()]).await?;
                if let Some(entry) = self.model.held(claim) {
                    self.model.entries[entry].state = State::Ready { fresh: false };
                }
            }
            return Ok(());
        };
        let Some(number) = pick(claim) else { return Ok(()) };
        let (worker, token) = (WORKERS[self.model.claims[number].0], &self.tokens[number]);
        let held = self.model.held(number);
        match step {
            Step::Complete { end, .. } => {
                let end = ends()[*end].clone();
                assert_eq!(
                    queue.complete(worker, token, end.clone()).await?,
                    held.is_some(),
                    "{end:?}"
                );
                if let Some(entry) = held {
                    self.model.end(entry, &end);
                }
            }
            &Step::Retry { due, no_answer, .. } => {
                let delay = if due { Duration::ZERO } else { HOUR };
                let text = "later".to_owned();
                let why = if no_answer {
                    RetryReason::NoAnswer(text)
                } else {
                    RetryReason::SoftBounce(text)
                };
                assert_eq!(queue.retry(worker, token, delay, why).await?, held.is_some());
                if let Some(entry) = held {
                    let it = &mut self.model.entries[entry];
                    it.state = State::Waiting { due };
                    it.attempts += 1;
                    it.possible |= no_answer;
                    self.model.counters.soft_bounced += 1;
                }
            }
            _ => {
                queue.heartbeat(worker, std::slice::from_ref(token)).await?;
                if let Some(entry) = held {
                    self.model.entries[entry].state = State::InFlight {
                        claim: number,
                        crashed: false,
                    };
                }
            }
        }
        Ok(())
    }

    async fn agree(&self, after: &Step) -> Result<(), QueueError> {
        let stats = Stats {
            oldest: Duration::ZERO,
            ..self.subject.queue.stats(INTAKE).await?
        };
        assert_eq!(stats, self.model.stats(), "after {after:?}");
        let ends = stats.delivered + stats.hard_bounced + stats.possible_delivery + stats.expired;
        assert_eq!(
            ends + stats.ready + stats.in_flight + stats.retrying,
            stats.committed,
            "each in one place"
        );
        Ok(())
    }

    /// All workers crash, and one that is left ends everything: nothing may be stuck, and nothing may stay.
    async fn drain(mut self) -> Result<(), QueueError> {
        for worker in 0..WORKERS.len() {
            self.step(&Step::Crash { worker }).await?;
        }
        // Twice: what the first one commits in doubt may be over its lifetime.
        self.step(&Step::Sweep).await?;
        self.step(&Step::Sweep).await?;
        self.step(&Step::Claim { worker: 0, max: 1000 }).await?;
        for claim in 0..self.tokens.len() {
            self.step(&Step::Complete { claim, end: 0 }).await?;
        }
        self.agree(&Step::Sweep).await?;
        let stats = self.model.stats();
        assert_eq!(
            (stats.ready, stats.in_flight),
            (0, 0),
            "all that could be delivered was"
        );

        self.read_letters().await?;
        let letters = self.subject.dead.dead_letters(INTAKE, None, 1000).await?.len() as u64;
        assert_eq!(
            letters + stats.replayed + stats.purged,
            stats.hard_bounced + stats.possible_delivery + stats.expired
        );
        for number in 0..self.model.entries.len() {
            let key = self.keys(&[number]).remove(0);
            let kept = self.subject.dead.dead_body(&key).await.is_ok();
            assert_eq!(
                kept,
                self.model.entries[number].state == State::Done { retained: true }
            );
        }
        self.only_what_should_stay().await;
        Ok(())
    }

    async fn only_what_should_stay(&self) {
        let Store::Redis(server) = &self.subject.store else {
            return;
        };
        let mut redis = server.connection().await;
        let mut expected = Vec::new();
        for it in &self.model.entries {
            match it.state {
                State::Done { retained: false } | State::Forgotten => {}
                _ => expected.push(format!("tdc:{{{INTAKE}}}:body:{}", it.new.key.id)),
            }
        }
        let mut found = self.subject.leftovers().await;
        found.retain(|key| key.contains(":body:"));
        for key in &found {
            let ttl: i64 = redis::cmd("PTTL")
                .arg(key)
                .query_async(&mut redis)
                .await
                .expect("answers");
            assert!(ttl > 0, "{key}: every body goes by itself, whatever dies");
        }
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "bodies that should be there, and no other");
    }
}

fn ends() -> [End; 4] {
    [
        End::Delivered,
        End::HardBounced {
            class: "tls",
            detail: "no STARTTLS".to_owned(),
        },
        End::PossibleDelivery {
            detail: "timed out".to_owned(),
        },
        End::Expired,
    ]
}

fn check(kind: Kind, cases: u32, steps: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    // One server for all cases: each begins on an empty one.
    let shared = runtime.block_on(kind.start(Limits::default()));
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let script = prop::collection::vec(step(), 1..steps);
    let result = runner.run(&script, |script| {
        runtime.block_on(async {
            let fresh = match &shared.store {
                Store::Memory(_) => Some(kind.start(Limits::default()).await),
                Store::Redis(server) => {
                    let mut redis = server.connection().await;
                    redis::cmd("FLUSHALL")
                        .exec_async(&mut redis)
                        .await
                        .expect("flushes");
                    None
                }
            };
            let subject = fresh.as_ref().unwrap_or(&shared);
            let mut run = Run {
                subject,
                model: Model::default(),
                tokens: Vec::new(),
                letters: BTreeMap::new(),
            };
            for step in &script {
                run.step(step)
                    .await
                    .unwrap_or_else(|error| panic!("{step:?}: {error}"));
                run.agree(step).await.expect("stats");
            }
            run.drain().await.expect("drains");
        });
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn memory_keeps_to_the_model() {
    check(Kind::Memory, 400, 150);
}

#[test]
fn redis_keeps_to_the_model() {
    check(Kind::Redis, 60, 120);
}
