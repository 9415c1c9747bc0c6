//! What a step of the queue costs while many entries wait: nothing more, as long as Redis has the memory.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tdc_benches::table::{INTAKE, entry};
use tdc_benches::{Lines, message};
use tdc_queue::{End, EntryKey, JournalQueue, RedisOptions, RedisQueue};

use crate::fail::{Fail, Outcome};
use crate::proc::{self, Proc};
use crate::report::{Table, mebibytes, number};

pub(crate) const TITLE: &str = "backlog, entries of 1 KB";
/// Entries that wait.
const WAITING: [usize; 4] = [0, 1_000, 10_000, 100_000];
/// Octets of each.
const SIZE: usize = 1024;
/// Measured rounds of prepare, commit, claim, complete.
const ROUNDS: usize = 2_000;
/// Entries that are prepared at the same time while the backlog is filled.
const TOGETHER: usize = 500;
/// How long Redis may take to answer at its start.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// The consumer.
const WORKER: &str = "worker";

/// The time of each step by the number of entries that wait.
pub(crate) fn table(base: &Path, quick: bool) -> Outcome<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Fail::of("cannot start"))?;
    let mut table = Table::new(&[
        TITLE,
        "prepare, µs, median / 99th",
        "commit",
        "claim",
        "complete",
        "stats",
        "sweep",
        "Redis, MiB",
    ]);
    let (counts, rounds) = if quick {
        (&WAITING[..2], 20)
    } else {
        (&WAITING[..], ROUNDS)
    };
    for waiting in counts {
        let dir = tempfile::tempdir_in(base).map_err(Fail::of("cannot make a folder"))?;
        let port = proc::free_port()?;
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "yes", "--maxmemory-policy", "noeviction"]);
        command.arg("--dir").arg(dir.path());
        let redis = Proc::start("redis", &mut command, dir.path())?;
        proc::wait_for_port(port, READY_WITHIN)?;
        let times = runtime.block_on(measure(port, *waiting, rounds))?;
        let memory = redis.usage().memory;
        let mut row = vec![waiting.to_string()];
        row.extend(times.into_iter().map(shown));
        row.push(mebibytes(memory as f64));
        table.row(row);
        eprintln!("  {waiting}");
    }
    Ok(table.text())
}

fn shown(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: f64| {
        let place = ((times.len().saturating_sub(1)) as f64 * share).round() as usize;
        times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    format!("{} / {}", number(at(0.5)), number(at(0.99)))
}

async fn measure(port: u16, waiting: usize, rounds: usize) -> Outcome<[Vec<Duration>; 6]> {
    let failed = || Fail::of("the queue failed");
    let url = format!("redis://127.0.0.1:{port}/0");
    let queue = RedisQueue::connect(&url, RedisOptions::default())
        .await
        .map_err(failed())?;
    let queue = Arc::new(queue);
    let body = Bytes::from(message(Lines::Prose, SIZE));
    for start in (0..waiting).step_by(TOGETHER) {
        let count = TOGETHER.min(waiting - start);
        let tasks: Vec<_> = (0..count)
            .map(|_| tokio::spawn(put(queue.clone(), body.clone())))
            .collect();
        let mut keys = Vec::with_capacity(count);
        for task in tasks {
            keys.push(task.await.map_err(Fail::of("a task ended"))??);
        }
        queue.commit(&keys).await.map_err(failed())?;
    }
    let mut times: [Vec<Duration>; 6] = Default::default();
    for round in 0..rounds {
        let start = Instant::now();
        let key = put(queue.clone(), body.clone()).await?;
        times[0].push(start.elapsed());
        let start = Instant::now();
        queue.commit(&[key]).await.map_err(failed())?;
        times[1].push(start.elapsed());
        let start = Instant::now();
        let mut claims = queue.claim(INTAKE, WORKER, 1).await.map_err(failed())?;
        times[2].push(start.elapsed());
        let claimed = claims
            .entries
            .pop()
            .ok_or_else(|| Fail("nothing could be claimed".into()))?;
        let start = Instant::now();
        let ended = queue.complete(WORKER, &claimed.claim, End::Delivered).await;
        times[3].push(start.elapsed());
        if !ended.map_err(failed())? {
            return Err(Fail("an entry was claimed by somebody else".into()));
        }
        if round % 20 == 0 {
            let start = Instant::now();
            queue.stats(INTAKE).await.map_err(failed())?;
            times[4].push(start.elapsed());
            let start = Instant::now();
            queue.sweep(INTAKE).await.map_err(failed())?;
            times[5].push(start.elapsed());
        }
    }
    Ok(times)
}

async fn put(queue: Arc<RedisQueue>, body: Bytes) -> Outcome<EntryKey> {
    let entry = entry(&body);
    let key = entry.key.clone();
    let prepared = queue.prepare(entry, 0, vec![body]).await;
    prepared.map_err(Fail::of("the queue failed"))?;
    Ok(key)
}
