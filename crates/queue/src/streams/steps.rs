//! The steps that many callers take at the same time: prepare, commit, claim, complete. Each kind goes out as
//! [`Together`] says, with one call for each intake.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use redis::{Cmd, Pipeline, Value};

use super::check_chunk;
use super::link::Link;
use super::options::{RedisOptions, millis};
use super::read;
use super::script::{self, body, call, call_each};
use super::together::{Job, Step, Together, groups};
use crate::QueueError;
use crate::entry::{ClaimRef, End, EntryKey, NewEntry, short};

/// Makes an entry durable: its metadata, the chunks of its body that were not written before, and the step itself.
pub(super) struct Prepare {
    entry: NewEntry,
    /// As JSON.
    meta: Vec<u8>,
    /// Chunks that were written before.
    before: u32,
    rest: Vec<Bytes>,
}

impl Prepare {
    /// # Errors
    /// [`QueueError::Full`] for a chunk that is too large.
    pub(super) fn new(entry: NewEntry, before: u32, rest: Vec<Bytes>) -> Result<Self, QueueError> {
        let meta =
            serde_json::to_vec(&entry.meta).map_err(|e| QueueError::Corrupt(format!("metadata: {e}")))?;
        rest.iter().try_for_each(check_chunk)?;
        Ok(Self {
            entry,
            meta,
            before,
            rest,
        })
    }

    /// What is stored before the script `prepare` looks at it. Bodies do not go through the script: Lua hashes each octet
    /// of its arguments, which takes longer than all else. The TTL is that of a prepared entry at once; when the script
    /// does not come to it, the body stays for so long.
    fn store(&self, pipe: &mut Pipeline, options: &RedisOptions) {
        let entry = &self.entry;
        let stored = body(&entry.key.intake, &entry.key.id);
        let chunks = self.before as usize + self.rest.len();
        let (doubt, life) = (millis(entry.in_doubt_after), millis(entry.lifetime));
        let retain = millis(entry.retain.unwrap_or_default());
        let store = pipe.cmd("HSET").arg(&stored).arg("m").arg(&self.meta[..]);
        for (chunk, index) in self.rest.iter().zip(self.before..) {
            store.arg(index).arg(&chunk[..]);
        }
        store.arg("n").arg(chunks).arg("sz").arg(entry.size);
        store.arg("life").arg(life).arg("ret").arg(retain);
        store.arg("mid").arg(entry.meta.mid);
        store.arg("rcpt").arg(entry.meta.recipients.len());
        store.arg("tp").arg(short(&entry.meta.traceparent));
        let ttl = doubt + life + millis(options.grace) + retain;
        let expire = pipe.cmd("PEXPIRE").arg(&stored).arg(ttl);
        // Chunks that were written before gave it a shorter one. Else there is none, or it is a repetition after an
        // answer was lost, which must not touch that of an entry.
        if self.before == 0 {
            expire.arg("NX");
        }
    }

    /// What the script wants to know of it.
    fn tell(&self, cmd: &mut Cmd) {
        let entry = &self.entry;
        cmd.arg(&*entry.key.id).arg(self.before).arg(entry.size);
        cmd.arg(millis(entry.in_doubt_after));
    }

    /// Several for the same intake, in one pipeline; the results in their order.
    pub(super) async fn run(
        steps: &[&Self],
        intake: &str,
        link: &Link,
        options: &RedisOptions,
    ) -> Result<Vec<i64>, QueueError> {
        let mut pipe = redis::pipe();
        let mut cmd = call(&script::PREPARE, intake, options);
        for step in steps {
            step.store(&mut pipe, options);
            step.tell(&mut cmd);
        }
        pipe.add_command(cmd);
        read(link.run(&mut pipe).await?.pop().unwrap_or(Value::Nil))
    }
}

impl Step for Prepare {
    type Answer = ();

    fn octets(&self) -> usize {
        self.rest.iter().map(Bytes::len).sum()
    }
}

/// What the script `prepare` says of an entry.
pub(super) fn prepared(id: &str, result: i64) -> Result<(), QueueError> {
    if result < 0 {
        return Err(QueueError::Unknown(format!(
            "{id}: chunks of its body are missing"
        )));
    }
    Ok(())
}

impl Step for EntryKey {
    type Answer = ();
}

/// Asks for entries.
pub(super) struct Claim {
    pub(super) intake: Arc<str>,
    pub(super) consumer: Arc<str>,
    pub(super) max: usize,
}

impl Step for Claim {
    type Answer = Rows;
}

/// What a claim got: the rows of the script `claim`.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) claimed: Vec<[Value; 9]>,
    pub(super) expired: Vec<[Value; 9]>,
    pub(super) more: bool,
}

/// Ends an entry.
pub(super) struct Complete {
    pub(super) consumer: Arc<str>,
    pub(super) claim: ClaimRef,
    pub(super) end: End,
}

impl Step for Complete {
    type Answer = bool;
}

/// Where they are handed in.
pub(super) struct Steps {
    pub(super) prepare: Together<Prepare>,
    pub(super) commit: Together<EntryKey>,
    pub(super) claim: Together<Claim>,
    pub(super) complete: Together<Complete>,
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").finish_non_exhaustive()
    }
}

/// What a call needs.
#[derive(Clone)]
struct Calls {
    control: Link,
    options: RedisOptions,
}

impl Steps {
    pub(super) fn start(control: &Link, options: &RedisOptions) -> Self {
        let calls = Calls {
            control: control.clone(),
            options: options.clone(),
        };
        let (prepare, commit, claim, complete) = (calls.clone(), calls.clone(), calls.clone(), calls);
        Self {
            prepare: Together::start(move |jobs| prepare.clone().prepare(jobs)),
            commit: Together::start(move |jobs| commit.clone().commit(jobs)),
            claim: Together::start(move |jobs| claim.clone().claim(jobs)),
            complete: Together::start(move |jobs| complete.clone().complete(jobs)),
        }
    }
}

impl Calls {
    async fn prepare(self, jobs: Vec<Job<Prepare>>) {
        let groups = groups(jobs, |step| step.entry.key.intake.clone());
        join_all(groups.into_iter().map(async |(intake, jobs)| {
            let steps: Vec<&Prepare> = jobs.iter().map(|job| &job.step).collect();
            let results = Prepare::run(&steps, &intake, &self.control, &self.options).await;
            answer(jobs, results, |step, result| prepared(&step.entry.key.id, result));
        }))
        .await;
    }

    async fn commit(self, jobs: Vec<Job<EntryKey>>) {
        let groups = groups(jobs, |entry| entry.intake.clone());
        join_all(groups.into_iter().map(async |(intake, jobs)| {
            let ids = jobs.iter().map(|job| &*job.step.id);
            let cmd = call_each(&script::COMMIT, &intake, &self.options, ids);
            let results: Result<Vec<i64>, QueueError> = self.control.one(cmd).await.and_then(read);
            answer(jobs, results, |job, result| {
                if result < 0 {
                    return Err(QueueError::Unknown(job.id.to_string()));
                }
                Ok(())
            });
        }))
        .await;
    }

    async fn complete(self, jobs: Vec<Job<Complete>>) {
        let groups = groups(jobs, |step| {
            (step.claim.key.intake.clone(), step.consumer.clone())
        });
        join_all(groups.into_iter().map(async |((intake, consumer), jobs)| {
            let mut cmd = call(&script::COMPLETE, &intake, &self.options);
            cmd.arg(&*consumer);
            for job in &jobs {
                let step = &job.step;
                // A token that is not one of ours is held by nobody.
                let (sid, deliveries) = step.claim.token.split_once('#').unwrap_or(("0-0", "0"));
                let (class, detail) = step.end.reason();
                cmd.arg(sid).arg(deliveries).arg(&*step.claim.key.id);
                cmd.arg(step.end.counter()).arg(class).arg(detail);
            }
            let results: Result<Vec<bool>, QueueError> = self.control.one(cmd).await.and_then(read);
            answer(jobs, results, |_, result| Ok(result));
        }))
        .await;
    }

    /// One claim for all who ask, who share what it got: the first come first.
    async fn claim(self, jobs: Vec<Job<Claim>>) {
        let groups = groups(jobs, |step| (step.intake.clone(), step.consumer.clone()));
        join_all(groups.into_iter().map(async |((intake, consumer), jobs)| {
            let options = &self.options;
            let max: usize = jobs.iter().map(|job| job.step.max).sum();
            let mut cmd = call(&script::CLAIM, &intake, options);
            cmd.arg(&*consumer).arg(max).arg(options.claim_bytes);
            cmd.arg(millis(options.takeover)).arg(millis(options.scan_every));
            let rows: Result<(Vec<[Value; 9]>, Vec<[Value; 9]>, bool), QueueError> =
                self.control.one(cmd).await.and_then(read);
            let (claimed, mut expired, more) = match rows {
                Ok(rows) => rows,
                Err(error) => return answer(jobs, Err::<Vec<()>, _>(error), |_, ()| Ok(Rows::default())),
            };
            let mut claimed = claimed.into_iter();
            for job in jobs {
                let rows = Rows {
                    claimed: claimed.by_ref().take(job.step.max).collect(),
                    expired: std::mem::take(&mut expired),
                    more,
                };
                if let Err(Ok(rows)) = job.answer(Ok(rows)) {
                    self.give_back(&intake, &consumer, rows).await;
                }
            }
        }))
        .await;
    }

    /// Rows whose caller is gone.
    async fn give_back(&self, intake: &str, consumer: &str, rows: Rows) {
        if !rows.expired.is_empty() {
            let expired = rows.expired.len();
            tracing::warn!(
                intake,
                expired,
                "copies expired in the queue, and nobody was there to tell of each"
            );
        }
        let mut cmd = call(&script::RELEASE, intake, &self.options);
        cmd.arg(consumer);
        for [sid, _, deliveries, ..] in rows.claimed {
            if let (Ok(sid), Ok(deliveries)) = (read::<String>(sid), read::<u64>(deliveries)) {
                cmd.arg(sid).arg(deliveries);
            }
        }
        // If this fails, the claims pass on after the takeover time.
        let _ = self.control.one(cmd).await;
    }
}

/// Gives each job its own result, or all of them the error.
fn answer<S: Step, R>(
    jobs: Vec<Job<S>>,
    results: Result<Vec<R>, QueueError>,
    convert: impl Fn(&S, R) -> Result<S::Answer, QueueError>,
) {
    let count = results.as_ref().map_or(jobs.len(), Vec::len);
    let results = match results {
        Ok(_) if count != jobs.len() => {
            let detail = format!("{count} results for {} steps", jobs.len());
            Err(QueueError::Corrupt(detail))
        }
        other => other,
    };
    match results {
        Ok(results) => {
            for (job, result) in jobs.into_iter().zip(results) {
                let answer = convert(&job.step, result);
                // Who is gone does not hear it.
                let _ = job.answer(answer);
            }
        }
        Err(error) => {
            for job in jobs {
                let _ = job.answer(Err(error.clone()));
            }
        }
    }
}
