//! Steps of many callers that go to Redis as one.
//!
//! While a call is under way, the steps that come meanwhile wait and go out together in the next: one step a call at low
//! load, many at high load, without a timer. A script costs Redis more than what it does, so this is where a busy Redis
//! gains most.
//!
//! What always holds: each caller hears of its own step and of nothing else; a failed call has failed for each of its
//! steps, whose effect is then unknown, as with a call of their own; a caller waits no longer than for two calls. When
//! the process dies, the steps that wait were never sent: each caller is as if it had died before its step.

use tokio::sync::{mpsc, oneshot};

use crate::QueueError;

/// Steps in one call, at most: it must stay short, since Redis does nothing else meanwhile, and below what Lua's
/// `unpack` can take.
const MOST: usize = 128;
/// No further step goes into a call that has so many octets.
const FULL: usize = 1024 * 1024;

/// What a caller wants done.
pub(super) trait Step: Send + 'static {
    /// What the caller hears.
    type Answer: Send + 'static;

    /// The octets of a body that goes with it.
    fn octets(&self) -> usize {
        0
    }
}

/// One caller's step, and where its answer goes.
pub(super) struct Job<S: Step> {
    pub(super) step: S,
    answer: oneshot::Sender<Result<S::Answer, QueueError>>,
}

impl<S: Step> Job<S> {
    /// Answers; gives the answer back when the caller is gone.
    pub(super) fn answer(
        self,
        answer: Result<S::Answer, QueueError>,
    ) -> Result<(), Result<S::Answer, QueueError>> {
        self.answer.send(answer)
    }
}

/// Where callers hand in steps of one kind.
pub(super) struct Together<S: Step> {
    jobs: mpsc::UnboundedSender<Job<S>>,
}

impl<S: Step> Together<S> {
    /// Starts the task that makes the calls; it ends when this is dropped and all jobs are done. `run` answers each job.
    pub(super) fn start<F, Call>(run: F) -> Self
    where
        F: Fn(Vec<Job<S>>) -> Call + Send + 'static,
        Call: Future<Output = ()> + Send,
    {
        let (jobs, mut waiting) = mpsc::unbounded_channel::<Job<S>>();
        tokio::spawn(async move {
            while let Some(first) = waiting.recv().await {
                // Whatever else is ready to run now may have a step, too.
                tokio::task::yield_now().await;
                let batch = batch(first, &mut waiting);
                if !batch.is_empty() {
                    run(batch).await;
                }
            }
        });
        Self { jobs }
    }

    /// Hands a step in, and waits for its answer.
    pub(super) async fn step(&self, step: S) -> Result<S::Answer, QueueError> {
        let (answer, answered) = oneshot::channel();
        let gone = || QueueError::Unavailable("the queue is closed".to_owned());
        self.jobs.send(Job { step, answer }).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// What waits, as far as it goes into one call. Who gave up does not want it done any more: its effect is unknown to that
/// caller either way.
fn batch<S: Step>(first: Job<S>, waiting: &mut mpsc::UnboundedReceiver<Job<S>>) -> Vec<Job<S>> {
    let (mut batch, mut octets, mut next) = (Vec::new(), 0, Some(first));
    while let Some(job) = next {
        if !job.answer.is_closed() {
            octets += job.step.octets();
            batch.push(job);
        }
        if batch.len() == MOST || octets >= FULL {
            break;
        }
        next = waiting.try_recv().ok();
    }
    batch
}

/// Puts jobs that go into the same call together, in the order of their first.
pub(super) fn groups<S: Step, K: PartialEq>(
    jobs: Vec<Job<S>>,
    key: impl Fn(&S) -> K,
) -> Vec<(K, Vec<Job<S>>)> {
    let mut groups: Vec<(K, Vec<Job<S>>)> = Vec::new();
    for job in jobs {
        let key = key(&job.step);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(job),
            None => groups.push((key, vec![job])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::Semaphore;

    use super::{FULL, Job, Step, Together};
    use crate::QueueError;

    impl Step for u32 {
        type Answer = u32;

        fn octets(&self) -> usize {
            if *self == 7 { FULL } else { 0 }
        }
    }

    /// Notes each call, and holds it until it may go on.
    fn doubler() -> (Arc<Together<u32>>, Arc<Mutex<Vec<Vec<u32>>>>, Arc<Semaphore>) {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(Semaphore::new(0));
        let (noted, held) = (calls.clone(), gate.clone());
        let together = Together::start(move |jobs: Vec<Job<u32>>| {
            noted
                .lock()
                .unwrap()
                .push(jobs.iter().map(|job| job.step).collect());
            let held = held.clone();
            async move {
                held.acquire().await.unwrap().forget();
                for job in jobs {
                    let step = job.step;
                    let answer = if step == 13 {
                        Err(QueueError::Unavailable("13".into()))
                    } else {
                        Ok(2 * step)
                    };
                    let _ = job.answer(answer);
                }
            }
        });
        (Arc::new(together), calls, gate)
    }

    #[tokio::test]
    async fn what_comes_during_a_call_goes_out_together() {
        let (together, calls, gate) = doubler();
        let hand_in = |step| {
            let together = together.clone();
            tokio::spawn(async move { together.step(step).await })
        };
        let first = hand_in(1);
        while calls.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = [2, 13, 4, 7].map(hand_in).into();
        let gone = hand_in(99);
        let last = hand_in(5);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        gone.abort();
        let _ = gone.await;
        gate.add_permits(3);
        assert_eq!(first.await.unwrap().unwrap(), 2);
        let mut answers = Vec::new();
        for other in others {
            answers.push(other.await.unwrap().ok());
        }
        assert_eq!(
            answers,
            [Some(4), None, Some(8), Some(14)],
            "each hears of its own step"
        );
        assert_eq!(last.await.unwrap().ok(), Some(10));
        assert_eq!(
            *calls.lock().unwrap(),
            [vec![1], vec![2, 13, 4, 7], vec![5]],
            "no more into a full one, and nothing for the one that gave up"
        );
    }
}
