//! A few hundred deaths over a few thousand messages.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use crate::intake::{Arrival, Intake, Manners};
use crate::rig::{Rig, Worker, wait_for};

/// Every named step of a worker, and at which of its first passages it dies there at the latest.
const POINTS: [(&str, u32); 19] = [
    ("delivery.leased", 5),
    ("delivery.claimed", 30),
    ("delivery.dialed", 3),
    ("delivery.mail", 30),
    ("delivery.envelope", 30),
    ("delivery.body", 60),
    ("delivery.before_dot", 30),
    ("delivery.dot_sent", 30),
    ("delivery.answered", 30),
    ("delivery.before_complete", 30),
    ("delivery.after_complete", 30),
    ("delivery.before_retry", 3),
    ("delivery.after_retry", 3),
    ("delivery.before_release", 1),
    ("delivery.after_release", 1),
    ("delivery.quit", 3),
    ("delivery.heartbeat", 1),
    ("delivery.swept", 3),
    ("delivery.draining", 1),
];
/// Workers at a time.
const WORKERS: usize = 3;
/// A worker that did not come to its point by then is stopped.
const LIFE: Duration = Duration::from_secs(4);
/// The same for a heartbeat, which comes after five seconds.
const LONG_LIFE: Duration = Duration::from_secs(8);
/// The same for the points of a stop.
const SHORT_LIFE: Duration = Duration::from_millis(900);
/// More are put into the queue when fewer than that are ready; those in the hands of the dead are not.
const READY: u64 = 100;
/// Longer than any run: nothing may expire.
const LIFETIME: Duration = Duration::from_secs(1800);
/// No more deaths after this; on a machine that is too slow for all of them the test says how many there were.
const LONGEST: Duration = Duration::from_secs(150);
/// From an answer to the death of its worker: what a worker does between the two takes milliseconds.
const SOON: Duration = Duration::from_secs(10);

fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// What the run has seen.
#[derive(Default)]
struct Chronicle {
    /// When the worker of that name died, and where.
    deaths: Mutex<HashMap<String, (Instant, &'static str)>>,
    lives: AtomicUsize,
    over: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_a_worker_dies_of() {
    let wanted = setting("TDC_CRASH_DEATHS", 200);
    let messages = setting("TDC_CRASH_MESSAGES", 3000);
    let intake = Intake::start(Manners {
        defers: 5,
        breaks: 1,
        vanishes: 1,
        thinks: Duration::from_millis(20),
        works: Duration::ZERO,
    })
    .await;
    // Connections of the dead count for 15 s; there must be enough for the living.
    let settings = "  connections: { min: 400, max: 1000, messagesPerConnection: 10 }\n  \
                    retry: { transient: 10, network: 10, tls: 0 }\n";
    let rig = Arc::new(Rig::start(intake.address, settings).await);
    let chronicle = Arc::new(Chronicle::default());
    let begun = Instant::now();
    let mut supervisors = tokio::task::JoinSet::new();
    for _ in 0..WORKERS {
        supervisors.spawn(supervise(rig.clone(), chronicle.clone()));
    }
    let mut keys: HashSet<String> = HashSet::new();
    loop {
        let died = chronicle.deaths.lock().unwrap().len();
        let enough = died >= wanted && keys.len() >= messages;
        if enough || begun.elapsed() > LONGEST {
            break;
        }
        if rig.stats().await.ready < READY {
            let put = rig.put(50, LIFETIME).await;
            keys.extend(put.into_iter().map(|key| key.id.to_string()));
        }
        sleep(Duration::from_millis(50)).await;
    }
    chronicle.over.store(true, Ordering::SeqCst);
    while let Some(ended) = supervisors.join_next().await {
        ended.unwrap();
    }
    // The survivors.
    let mut last: Vec<Worker> = (0..WORKERS)
        .map(|n| rig.worker(&format!("last-{n}"), None))
        .collect();
    let stats = wait_for("the last entries to end", async || {
        let stats = rig.stats().await;
        (stats.active_recipients == 0).then_some(stats)
    })
    .await;
    for worker in &mut last {
        worker.signal("TERM");
        assert!(worker.ended().await.success(), "{} ends in order", worker.name);
    }

    let deaths = chronicle.deaths.lock().unwrap().clone();
    let (arrivals, twice) = judge(&intake.arrivals(), &keys, &deaths);
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, place) in deaths.values() {
        *places.entry(place).or_default() += 1;
    }
    println!(
        "{} deaths over {} messages in {} s: {arrivals} arrivals, {twice} of them again; {places:?}",
        deaths.len(),
        keys.len(),
        begun.elapsed().as_secs()
    );
    assert_eq!(
        (stats.committed, stats.delivered),
        (keys.len() as u64, keys.len() as u64),
        "each is delivered, and counted once: {stats:?}"
    );
    let others = stats.hard_bounced + stats.possible_delivery + stats.expired + stats.prepared;
    assert_eq!(others, 0, "{stats:?}");
    assert_eq!(rig.bodies(), 0, "nothing stays behind");
    let missing: Vec<&str> = POINTS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !places.contains_key(name))
        .collect();
    assert!(missing.is_empty(), "nobody died at {missing:?}");
}

/// Lets one worker after the other live until it dies.
async fn supervise(rig: Arc<Rig>, chronicle: Arc<Chronicle>) {
    while !chronicle.over.load(Ordering::SeqCst) {
        let life = chronicle.lives.fetch_add(1, Ordering::SeqCst);
        let (point, most) = POINTS[life % POINTS.len()];
        let worker = rig.worker(
            &format!("w{life}"),
            Some(&format!("{point}@{}", fastrand::u32(1..=most))),
        );
        live(worker, point, &chronicle).await;
    }
}

async fn live(mut worker: Worker, point: &'static str, chronicle: &Chronicle) {
    let stops = matches!(
        point,
        "delivery.before_release" | "delivery.after_release" | "delivery.draining"
    );
    let name = worker.name.clone();
    let died = |place| {
        let mut deaths = chronicle.deaths.lock().unwrap();
        deaths.insert(name, (Instant::now(), place));
    };
    let limit = match point {
        _ if stops => SHORT_LIFE,
        "delivery.heartbeat" => LONG_LIFE,
        _ => LIFE,
    };
    let status = match timeout(limit, worker.ended()).await {
        Ok(status) => status,
        Err(_) if stops || fastrand::bool() => {
            worker.signal("TERM");
            timeout(crate::rig::PATIENCE, worker.ended())
                .await
                .expect("a worker ends within its grace")
        }
        Err(_) => {
            worker.signal("KILL");
            worker.ended().await
        }
    };
    match status.signal() {
        // SIGABRT: its point.
        Some(6) => died(point),
        Some(9) => died("anywhere"),
        None if status.success() => {}
        _ => panic!("{} ended with {status}", worker.name),
    }
}

/// Compares what arrived with what was to arrive. Gives all arrivals, and those that came again.
fn judge(
    arrivals: &[Arrival],
    keys: &HashSet<String>,
    deaths: &HashMap<String, (Instant, &'static str)>,
) -> (usize, usize) {
    let mut by_id: HashMap<&str, Vec<&Arrival>> = HashMap::new();
    for arrival in arrivals {
        by_id.entry(&arrival.id).or_default().push(arrival);
    }
    let lost: Vec<&String> = keys
        .iter()
        .filter(|id| !by_id.contains_key(id.as_str()))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(
        by_id.keys().all(|id| keys.contains(*id)),
        "nothing arrives that was not sent"
    );
    let mut twice = 0;
    for (id, came) in &mut by_id {
        came.sort_by_key(|arrival| arrival.at);
        for (arrival, later) in came.iter().zip(&came[1..]) {
            twice += 1;
            if !arrival.answered {
                continue;
            }
            // The intake said yes, and it came again: only when its worker died before the queue knew.
            let (death, place) = deaths
                .get(&arrival.from)
                .unwrap_or_else(|| panic!("{id} came again although {} lived on", arrival.from));
            let between = death.saturating_duration_since(arrival.at);
            assert!(
                between < SOON,
                "{id} came again, {between:?} before the death of {} at {place}",
                arrival.from
            );
            assert_ne!(arrival.from, later.from, "{id} came twice from the same worker");
        }
    }
    (arrivals.len(), twice)
}
