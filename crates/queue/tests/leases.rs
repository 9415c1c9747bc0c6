//! Random calls for leases: the two implementations decide the same, and what must always hold does.
//!
//! Workers keep to what they are granted, at once or late, and die at any step without giving anything back.

mod common;

use common::{INTAKE, Kind, Limits, Store, Subject, entry};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::time::Duration;
use tdc_queue::{End, LeaseGrant, LeaseRequest};

const WORKERS: [&str; 4] = ["w0", "w1", "w2", "w3"];
const MAX: u32 = 20;

#[derive(Clone, Debug)]
enum Step {
    /// Entries arrive.
    Add { count: usize },
    /// Entries are delivered.
    Deliver { count: usize },
    /// A worker opens what it may (or part of it), closes what is too much (or not yet), and calls.
    Call {
        worker: usize,
        prompt: bool,
        wanted: u32,
        delivered: u32,
        refused: u32,
        service_ms: Option<u64>,
        reachable: Option<bool>,
    },
    /// A worker dies; its connections are gone, its leases look fresh for a while.
    Die { worker: usize },
    /// Time passes for the dead.
    Lapse,
}

fn step() -> impl Strategy<Value = Step> {
    let feedback = (
        prop_oneof![2 => Just(0), 3 => Just(MAX), 1 => 0..8u32],
        0..40u32,
        prop_oneof![4 => Just(0), 1 => 1..6u32],
        prop::option::of(0..20_000u64),
        prop::option::of(any::<bool>()),
    );
    prop_oneof![
        3 => (1..12usize).prop_map(|count| Step::Add { count }),
        1 => (1..30usize).prop_map(|count| Step::Deliver { count }),
        12 => (0..WORKERS.len(), any::<bool>(), feedback).prop_map(
            |(worker, prompt, (wanted, delivered, refused, service_ms, reachable))| Step::Call {
                worker, prompt, wanted, delivered, refused, service_ms, reachable,
            }
        ),
        1 => (0..WORKERS.len()).prop_map(|worker| Step::Die { worker }),
        1 => Just(Step::Lapse),
    ]
}

/// What is true of a worker, whatever anybody believes of it.
#[derive(Clone, Copy, Default)]
struct Worker {
    open: u32,
    granted: u32,
    dead: bool,
}

struct Run<'a> {
    both: [&'a Subject; 2],
    workers: [Worker; 4],
    /// Entries in the queue.
    waiting: u64,
}

impl Run<'_> {
    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Add { count } => {
                for subject in self.both {
                    for _ in 0..count {
                        subject.add(entry()).await;
                    }
                }
                self.waiting += count as u64;
            }
            Step::Deliver { count } => {
                for subject in self.both {
                    let taken = subject
                        .queue
                        .claim(INTAKE, "w", count)
                        .await
                        .expect("claims")
                        .entries;
                    for claimed in taken {
                        let end = subject.queue.complete("w", &claimed.claim, End::Delivered);
                        assert!(end.await.expect("completes"));
                    }
                }
                self.waiting = self.waiting.saturating_sub(count as u64);
            }
            Step::Die { worker } => {
                self.workers[worker] = Worker {
                    dead: true,
                    ..Worker::default()
                }
            }
            Step::Lapse => {
                for (name, worker) in WORKERS.iter().zip(&mut self.workers) {
                    if std::mem::take(&mut worker.dead) {
                        for subject in self.both {
                            subject.lapse(name).await;
                        }
                    }
                }
            }
            Step::Call {
                worker,
                prompt,
                wanted,
                ..
            } => self.call(step, worker, prompt, wanted).await,
        }
    }

    async fn call(&mut self, step: &Step, number: usize, prompt: bool, wanted: u32) {
        let Step::Call {
            delivered,
            refused,
            service_ms,
            reachable,
            ..
        } = *step
        else {
            return;
        };
        let worker = &mut self.workers[number];
        if worker.dead {
            return;
        }
        // Above its grant it closes some, below it opens some; a lazy one does half.
        let distance = worker.granted.abs_diff(worker.open);
        let moved = if prompt { distance } else { distance / 2 };
        worker.open = if worker.open > worker.granted {
            worker.open - moved
        } else {
            worker.open + moved
        };
        worker.open = worker.open.saturating_sub(refused);
        let request = LeaseRequest {
            min: 3,
            max: MAX,
            open: worker.open,
            wanted,
            delivered,
            refused,
            service: service_ms.map(Duration::from_millis),
            reachable,
            last_error: None,
        };
        let before = self.total().await;
        let [a, b] = self.both;
        let grant = a
            .queue
            .lease(INTAKE, WORKERS[number], &request)
            .await
            .expect("leases");
        let same = b
            .queue
            .lease(INTAKE, WORKERS[number], &request)
            .await
            .expect("leases");
        assert_eq!(grant, same, "both decide the same on {request:?}");
        self.workers[number].granted = grant.connections;
        self.holds(&request, &grant, before).await;
    }

    async fn total(&self) -> u32 {
        self.both[0].queue.leases(INTAKE).await.expect("answers").total
    }

    async fn holds(&self, request: &LeaseRequest, grant: &LeaseGrant, before: u32) {
        let LeaseGrant {
            connections,
            target,
            total,
            waiting,
        } = *grant;
        assert_eq!(waiting, self.waiting);
        assert!(target <= MAX && u64::from(target) <= waiting, "{grant:?}");
        assert_eq!(target == 0, waiting == 0, "{grant:?}");
        assert!(
            connections <= request.wanted && connections <= target,
            "{grant:?}"
        );
        assert!(
            total <= target || total <= before.max(request.open) || connections <= request.open,
            "nothing is granted above the target: {grant:?}, {before} before"
        );
        let exist: u32 = self.workers.iter().map(|w| w.open).sum();
        assert!(exist <= total, "{exist} exist, {total} are counted");
        for subject in self.both {
            let status = subject.queue.leases(INTAKE).await.expect("answers");
            assert_eq!(status.total, total);
            assert!(
                status.window.is_none_or(|w| (1.0..f64::from(MAX)).contains(&w)),
                "{status:?}"
            );
        }
        let [a, b] = [
            self.both[0].queue.leases(INTAKE).await.expect("answers"),
            self.both[1].queue.leases(INTAKE).await.expect("answers"),
        ];
        assert_eq!(
            (a.window, a.service, a.holders, a.down_since_ms.is_some()),
            (b.window, b.service, b.holders, b.down_since_ms.is_some())
        );
    }

    /// With time, all living workers that want more than there is have equal parts of the whole target.
    async fn settles(mut self) {
        self.step(&Step::Lapse).await;
        self.step(&Step::Add { count: 8 }).await;
        for _ in 0..8 {
            for worker in 0..WORKERS.len() {
                let call = Step::Call {
                    worker,
                    prompt: true,
                    wanted: MAX,
                    delivered: 0,
                    refused: 0,
                    service_ms: None,
                    reachable: None,
                };
                self.step(&call).await;
            }
        }
        let granted: Vec<u32> = self.workers.iter().map(|w| w.granted).collect();
        let asks = LeaseRequest {
            min: 3,
            max: MAX,
            ..LeaseRequest::default()
        };
        let last = self.both[0].queue.lease(INTAKE, "w9", &asks).await;
        let target = last.expect("leases").target;
        assert_eq!(granted.iter().sum::<u32>(), target, "{granted:?} are all of it");
        let (least, most) = (granted.iter().min(), granted.iter().max());
        assert!(
            most.zip(least).is_some_and(|(most, least)| most - least <= 1),
            "{granted:?}"
        );
    }
}

#[test]
fn both_decide_the_same_and_keep_the_rules() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let redis = runtime.block_on(Kind::Redis.start(Limits::default()));
    let mut runner = TestRunner::new(Config {
        cases: 80,
        failure_persistence: None,
        ..Config::default()
    });
    let script = prop::collection::vec(step(), 1..80);
    let result = runner.run(&script, |script| {
        runtime.block_on(async {
            if let Store::Redis(server) = &redis.store {
                let mut connection = server.connection().await;
                let mut flush = redis::cmd("FLUSHALL");
                flush
                    .arg("SYNC")
                    .exec_async(&mut connection)
                    .await
                    .expect("flushes");
            }
            let memory = Kind::Memory.start(Limits::default()).await;
            let mut run = Run {
                both: [&memory, &redis],
                workers: [Worker::default(); 4],
                waiting: 0,
            };
            for step in &script {
                run.step(step).await;
            }
            run.settles().await;
        });
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
