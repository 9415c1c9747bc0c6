//! The steps of the queue, in memory and in a Redis of its own: prepare, commit, claim, complete.
//!
//! `cargo bench -p tdc-benches --bench queue`. One caller, one entry a step: what a step takes when nobody else is
//! there. `whole` is all four; `whole_by_40` is the same by 40 callers at once, for one message.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use tdc_benches::table::{INTAKE, entry};
use tdc_benches::{Lines, SHORT, message};
use tdc_queue::{Claimed, End, EntryKey, JournalQueue, MemoryOptions, MemoryQueue, RedisOptions, RedisQueue};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The two implementations.
const QUEUES: [&str; 2] = ["memory", "redis"];
/// The consumer.
const WORKER: &str = "worker";
/// How many callers of `whole_by_40`.
const CALLERS: usize = 40;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
static BODY: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(message(Lines::Prose, SHORT)));

fn main() {
    divan::main();
}

/// A queue, and the server behind it.
struct Bench {
    queue: Arc<dyn JournalQueue>,
    server: Option<(Child, TempDir)>,
}

impl Bench {
    fn new(which: &str) -> Self {
        if which == "memory" {
            return Self {
                queue: Arc::new(MemoryQueue::new(MemoryOptions::default())),
                server: None,
            };
        }
        let dir = tempfile::tempdir().expect("a folder");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", "redis.sock", "--save", ""])
            .args(["--maxmemory-policy", "noeviction", "--appendonly", "yes"])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let url = format!("redis+unix://{}", dir.path().join("redis.sock").display());
        let queue = RUNTIME.block_on(async {
            for _ in 0..500 {
                if let Ok(queue) = RedisQueue::connect(&url, RedisOptions::default()).await {
                    return queue;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("redis-server does not answer");
        });
        Self {
            queue: Arc::new(queue),
            server: Some((child, dir)),
        }
    }

    async fn prepare(queue: &dyn JournalQueue) -> EntryKey {
        let entry = entry(&BODY);
        let key = entry.key.clone();
        queue.prepare(entry, 0, vec![BODY.clone()]).await.expect("room");
        key
    }

    async fn commit(queue: &dyn JournalQueue, key: EntryKey) {
        queue.commit(&[key]).await.expect("it is prepared");
    }

    async fn claim(queue: &dyn JournalQueue) -> Claimed {
        let mut claimed = queue.claim(INTAKE, WORKER, 1).await.expect("it answers");
        claimed.entries.pop().expect("one was committed")
    }

    async fn complete(queue: &dyn JournalQueue, claimed: Claimed) {
        let ended = queue.complete(WORKER, &claimed.claim, End::Delivered).await;
        assert!(ended.expect("it answers"), "the claim is ours");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.server {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[divan::bench(args = QUEUES, sample_count = 100, sample_size = 20)]
fn prepare(bencher: Bencher<'_, '_>, which: &str) {
    let bench = Bench::new(which);
    bencher.bench_local(|| RUNTIME.block_on(Bench::prepare(&*bench.queue)));
}

#[divan::bench(args = QUEUES, sample_count = 100, sample_size = 20)]
fn commit(bencher: Bencher<'_, '_>, which: &str) {
    let bench = Bench::new(which);
    bencher
        .with_inputs(|| RUNTIME.block_on(Bench::prepare(&*bench.queue)))
        .bench_local_values(|key| RUNTIME.block_on(Bench::commit(&*bench.queue, key)));
}

#[divan::bench(args = QUEUES, sample_count = 100, sample_size = 20)]
fn claim(bencher: Bencher<'_, '_>, which: &str) {
    let bench = Bench::new(which);
    bencher
        .with_inputs(|| {
            RUNTIME.block_on(async {
                let key = Bench::prepare(&*bench.queue).await;
                Bench::commit(&*bench.queue, key).await;
            });
        })
        .bench_local_values(|()| RUNTIME.block_on(Bench::claim(&*bench.queue)));
}

#[divan::bench(args = QUEUES, sample_count = 100, sample_size = 20)]
fn complete(bencher: Bencher<'_, '_>, which: &str) {
    let bench = Bench::new(which);
    bencher
        .with_inputs(|| {
            RUNTIME.block_on(async {
                let key = Bench::prepare(&*bench.queue).await;
                Bench::commit(&*bench.queue, key).await;
                Bench::claim(&*bench.queue).await
            })
        })
        .bench_local_values(|claimed| RUNTIME.block_on(Bench::complete(&*bench.queue, claimed)));
}

async fn all_steps(queue: Arc<dyn JournalQueue>) {
    let key = Bench::prepare(&*queue).await;
    Bench::commit(&*queue, key).await;
    let claimed = Bench::claim(&*queue).await;
    Bench::complete(&*queue, claimed).await;
}

#[divan::bench(args = QUEUES, sample_count = 100, sample_size = 20)]
fn whole(bencher: Bencher<'_, '_>, which: &str) {
    let bench = Bench::new(which);
    bencher.bench_local(|| RUNTIME.block_on(all_steps(bench.queue.clone())));
}

#[divan::bench(args = QUEUES, sample_count = 50, sample_size = 1)]
fn whole_by_40(bencher: Bencher<'_, '_>, which: &str) {
    let bench = Bench::new(which);
    bencher.counter(ItemsCount::new(CALLERS)).bench_local(|| {
        RUNTIME.block_on(async {
            let callers: Vec<_> = (0..CALLERS)
                .map(|_| tokio::spawn(all_steps(bench.queue.clone())))
                .collect();
            for caller in callers {
                caller.await.expect("no caller panics");
            }
        });
    });
}
