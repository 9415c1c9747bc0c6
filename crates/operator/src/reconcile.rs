//! The operator's one loop: whenever something changed, every object is judged, and what its status does not say yet
//! is written.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tdc_api::{Compiled, Kind, PROGRAMMED, Reason, Verdict};
use tdc_cluster::{Cluster, Key};
use tokio::sync::watch;

use crate::conditions::{State, Wanted, desired_status};
use crate::metrics::OperatorMetrics;
use crate::probe::Probes;
use crate::replicas::Replicas;
use crate::rollout::{Forms, Rollout};
use crate::writer::{Update, Writer};

/// From the first news of a burst to the look at all objects.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// A new generation is usually acknowledged within this time: its first status can then say so at once, in one write.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pause before writes that failed are tried again.
const AGAIN: Duration = Duration::from_secs(2);

pub(crate) struct Reconciler {
    cluster: Cluster,
    replicas: Replicas,
    probes: Probes,
    writer: Writer,
    metrics: OperatorMetrics,
    compiled: watch::Receiver<Option<Arc<Compiled>>>,
    /// What was compiled last, and its table by uid.
    judged: Option<Arc<Compiled>>,
    desired: Forms,
    /// By uid.
    seen: HashMap<String, Seen>,
}

/// What must be remembered of an object.
struct Seen {
    generation: i64,
    since: Instant,
    lacking: Option<Instant>,
    round: u64,
}

/// What one look gave.
#[derive(Default)]
struct Round {
    number: u64,
    updates: Vec<Update>,
    /// When to look again without news.
    again: Option<Instant>,
    not_accepted: i64,
    not_programmed: i64,
    unreachable: i64,
}

impl Round {
    fn look_again(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |known| known.min(at)));
    }
}

impl Reconciler {
    pub(crate) fn new(
        cluster: Cluster,
        replicas: Replicas,
        probes: Probes,
        writer: Writer,
        metrics: OperatorMetrics,
    ) -> Self {
        let compiled = cluster.compiled();
        Self {
            cluster,
            replicas,
            probes,
            writer,
            metrics,
            compiled,
            judged: None,
            desired: Forms::default(),
            seen: HashMap::new(),
        }
    }

    /// For ever.
    pub(crate) async fn run(mut self) {
        let mut touched = self.cluster.touched();
        let mut acknowledged = self.replicas.changed();
        let mut probed = self.probes.changed();
        let mut compiled = self.compiled.clone();
        compiled.mark_changed();
        let mut again: Option<Instant> = None;
        let mut number = 0;
        loop {
            let timer = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = compiled.changed() => if changed.is_err() { return },
                changed = touched.changed() => if changed.is_err() { return },
                changed = acknowledged.changed() => if changed.is_err() { return },
                changed = probed.changed() => if changed.is_err() { return },
                () = timer => {}
            }
            tokio::time::sleep(DEBOUNCE).await;
            touched.mark_unchanged();
            acknowledged.mark_unchanged();
            probed.mark_unchanged();
            number += 1;
            again = self.round(&mut compiled, number).await;
        }
    }

    async fn round(
        &mut self,
        compiled: &mut watch::Receiver<Option<Arc<Compiled>>>,
        number: u64,
    ) -> Option<Instant> {
        let known = compiled.borrow_and_update().clone()?;
        let news = (self.judged.as_ref()).is_none_or(|judged| !Arc::ptr_eq(judged, &known));
        if news {
            self.desired = Forms::new(known.table.clone());
            self.probes.follow(&known.table);
            self.judged = Some(known.clone());
        }
        let mut round = self.look(&known, number);
        self.seen.retain(|_, seen| seen.round == number);
        self.count(&known, &round);
        if !self.writer.write(std::mem::take(&mut round.updates)).await {
            round.look_again(Instant::now() + AGAIN);
        }
        round.again
    }

    fn look(&mut self, compiled: &Compiled, number: u64) -> Round {
        let now = Instant::now();
        let mut round = Round {
            number,
            ..Round::default()
        };
        // One lock for all: the questions' answers wait meanwhile, mail does not.
        let Self {
            cluster,
            replicas,
            probes,
            writer,
            desired,
            seen,
            ..
        } = self;
        let rollout = replicas.rollout();
        for verdict in &compiled.verdicts {
            let mut judge = Judge {
                cluster,
                rollout: &rollout,
                probes,
                writer,
                desired,
                seen,
                now,
            };
            judge.object(verdict, &mut round);
        }
        round
    }

    fn count(&self, compiled: &Compiled, round: &Round) {
        let (replicas, clients) = self.replicas.rollout().counts();
        self.metrics.policy_replicas.set(replicas as i64);
        self.metrics.clients.set(clients as i64);
        self.metrics.objects.set(compiled.verdicts.len() as i64);
        self.metrics.not_accepted.set(round.not_accepted);
        self.metrics.not_programmed.set(round.not_programmed);
        self.metrics.unreachable.set(round.unreachable);
    }
}

/// What one object is judged by.
struct Judge<'a> {
    cluster: &'a Cluster,
    rollout: &'a Rollout,
    probes: &'a Probes,
    writer: &'a mut Writer,
    desired: &'a Forms,
    seen: &'a mut HashMap<String, Seen>,
    now: Instant,
}

impl Judge<'_> {
    fn object(&mut self, verdict: &Verdict, round: &mut Round) {
        let key = Key {
            kind: verdict.kind,
            namespace: verdict.namespace.clone(),
            name: verdict.name.clone(),
        };
        // An object that is newer than the compilation is judged with the next one.
        let Some(known) = self.cluster.known(&key).filter(|known| known.uid == verdict.uid) else {
            return;
        };
        let current = self.writer.current(&key, &known);
        let seen = self.seen.entry(verdict.uid.clone()).or_insert(Seen {
            generation: verdict.generation,
            since: self.now,
            lacking: None,
            round: round.number,
        });
        seen.round = round.number;
        if seen.generation != verdict.generation {
            seen.generation = verdict.generation;
            seen.since = self.now;
        }
        let standing = self.rollout.standing(self.desired, &verdict.uid);
        let mut programmed = Wanted::programmed(verdict, &standing);
        if let Some(at) = programmed.settle(&current, verdict.generation, &mut seen.lacking, self.now) {
            round.look_again(at);
        }
        let patient = programmed.reason == Reason::Pending && self.now < seen.since + PATIENCE;
        let until = seen.since + PATIENCE;
        round.not_accepted += i64::from(!verdict.is_good());
        round.not_programmed += i64::from(programmed.state != State::True);
        let mut wanted = vec![
            Wanted::accepted(verdict),
            Wanted::resolved_refs(verdict),
            programmed,
        ];
        if verdict.kind == Kind::IntakeAddress {
            let reachable = Wanted::reachable(verdict, self.probes.finding(&verdict.uid));
            round.unreachable += i64::from(reachable.state == State::False);
            wanted.push(reachable);
        }
        let time = Time(Timestamp::now());
        let Some(after) = desired_status(&wanted, verdict.generation, &current, &time) else {
            return;
        };
        let first = current.conditions.iter().all(|known| known.type_ != PROGRAMMED);
        if patient && (first || current.observed_generation != Some(verdict.generation)) {
            round.look_again(until);
            return;
        }
        round.updates.push(Update {
            key,
            uid: verdict.uid.clone(),
            before: current,
            after,
        });
    }
}
