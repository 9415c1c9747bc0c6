//! The three watches, and what follows from a change.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, pin_mut};
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tdc_api::{Compiled, IntakeAddress, Kind, MailPolicy, ThreatDefenseConnector};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::index::{Change, Index, Indexed, Key, Known, Scope, compiled};

/// From the first change of a burst to its compilation: `kubectl apply` of a folder is one snapshot, not ten.
pub const DEBOUNCE: Duration = Duration::from_millis(75);
/// How long one watch lasts before it is opened anew, in seconds; a dead connection is noticed 5 s later.
const WATCH_SECONDS: u32 = 60;
/// The first pause before a watch that broke is opened again; doubled each time, with jitter.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause: after an outage of any length the cluster is seen again within this time.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A watch that is opened again says nothing until something happens: without another error for this time it is well.
/// Longer than a pause and an attempt that runs into its time limit.
const TROUBLE_LASTS: Duration = Duration::from_secs(20);

/// A cluster that is watched. Cheap to clone; the watches end with the last clone.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    compiled: watch::Receiver<Option<Arc<Compiled>>>,
    touched: watch::Receiver<u64>,
    _tasks: Arc<Tasks>,
}

/// Ends the tasks.
struct Tasks(#[expect(dead_code, reason = "dropping it ends the tasks")] JoinSet<()>);

struct Shared {
    scope: Scope,
    index: Mutex<Index>,
    /// Grows with each change of a spec.
    specs: watch::Sender<u64>,
    /// Grows with each change of anything.
    touched: watch::Sender<u64>,
    /// By kind: what was wrong with its watch, and when.
    trouble: Mutex<BTreeMap<Kind, (String, Instant)>>,
    errors: AtomicU64,
}

impl Cluster {
    /// Starts to watch. Must be called within a tokio runtime.
    pub fn watch(client: &Client, scope: Scope) -> Self {
        let (touched, touched_receiver) = watch::channel(0);
        let shared = Arc::new(Shared {
            scope,
            index: Mutex::default(),
            specs: watch::channel(0).0,
            touched,
            trouble: Mutex::default(),
            errors: AtomicU64::new(0),
        });
        let (sender, compiled) = watch::channel(None);
        let mut tasks = JoinSet::new();
        tasks.spawn(follow::<ThreatDefenseConnector>(client.clone(), shared.clone()));
        tasks.spawn(follow::<IntakeAddress>(client.clone(), shared.clone()));
        tasks.spawn(follow::<MailPolicy>(client.clone(), shared.clone()));
        tasks.spawn(compile(shared.clone(), sender));
        Self {
            shared,
            compiled,
            touched: touched_receiver,
            _tasks: Arc::new(Tasks(tasks)),
        }
    }

    /// What the objects compile to; `None` until everything was listed once.
    pub fn compiled(&self) -> watch::Receiver<Option<Arc<Compiled>>> {
        self.compiled.clone()
    }

    /// Changes with every change of any object, its status too.
    pub fn touched(&self) -> watch::Receiver<u64> {
        self.touched.clone()
    }

    /// An object as it was seen last.
    pub fn known(&self, key: &Key) -> Option<Known> {
        self.shared.index().known(key)
    }

    /// Which namespaces count.
    pub fn scope(&self) -> &Scope {
        &self.shared.scope
    }

    /// What is wrong with the watches now, for a person.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.shared.trouble();
        let each: Vec<String> = trouble
            .iter()
            .filter(|(_, (_, at))| at.elapsed() < TROUBLE_LASTS)
            .map(|(kind, (error, _))| format!("{kind}: {error}"))
            .collect();
        (!each.is_empty()).then(|| each.join("; "))
    }

    /// How often a watch broke with an error since the start.
    pub fn errors(&self) -> u64 {
        self.shared.errors.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        // Each event is taken in as a whole: the index is in order even if a holder panicked.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, BTreeMap<Kind, (String, Instant)>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, change: Change) {
        match change {
            Change::Nothing => {}
            Change::Status => self.touched.send_modify(|n| *n += 1),
            Change::Spec => {
                self.specs.send_modify(|n| *n += 1);
                self.touched.send_modify(|n| *n += 1);
            }
        }
    }

    /// Whether it was in trouble before.
    fn well(&self, kind: Kind) {
        if self.trouble().remove(&kind).is_some() {
            tracing::info!(%kind, "The resources are watched again.");
        }
    }

    fn ill(&self, kind: Kind, error: &watcher::Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let text = chain(error);
        let known = self.trouble().insert(kind, (text.clone(), Instant::now()));
        if known.is_none_or(|(_, at)| at.elapsed() >= TROUBLE_LASTS) {
            tracing::warn!(%kind, error = text, "The resources cannot be watched; going on with what is known.");
        } else {
            tracing::debug!(%kind, error = text, "The resources still cannot be watched.");
        }
    }
}

/// An error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

async fn follow<K>(client: Client, shared: Arc<Shared>)
where
    K: Indexed + Resource<Scope = NamespaceResourceScope> + DeserializeOwned + Debug,
{
    let api: Api<DeserializeGuard<K>> = match &shared.scope {
        Scope::Namespace(name) => Api::namespaced(client, name),
        Scope::All { .. } => Api::all(client),
    };
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let events = watcher(api, config).modify(|object| {
        // Nothing here reads them, and they are as large as the rest.
        object.managed_fields_mut().clear();
        object.annotations_mut().clear();
    });
    let events = events.backoff(Pause::default());
    pin_mut!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                // A list that only begins is no success yet.
                if !matches!(event, watcher::Event::Init) {
                    shared.well(K::KIND);
                }
                let change = shared.index().take(event);
                shared.changed(change);
            }
            Err(error) => shared.ill(K::KIND, &error),
        }
    }
}

/// Compiles after each burst of changes, for as long as the watches run.
async fn compile(shared: Arc<Shared>, sender: watch::Sender<Option<Arc<Compiled>>>) {
    let mut specs = shared.specs.subscribe();
    while specs.changed().await.is_ok() {
        tokio::time::sleep(DEBOUNCE).await;
        specs.mark_unchanged();
        let objects = {
            let index = shared.index();
            if !index.is_complete() {
                continue;
            }
            index.objects()
        };
        let scope = shared.scope.clone();
        // Thousands of policies take a tenth of a second: not on a thread that serves calls.
        let compiling = tokio::task::spawn_blocking(move || compiled(&scope, objects));
        match compiling.await {
            Ok(compiled) => {
                sender.send_replace(Some(Arc::new(compiled)));
            }
            Err(error) => {
                tracing::error!(%error, "The objects could not be compiled; going on with the table before.");
            }
        }
    }
}

/// Pauses between two attempts: growing, with jitter, for ever; short again when there was no trouble for a while.
#[derive(Default)]
struct Pause {
    next: Duration,
    asked: Option<Instant>,
}

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if (self.asked.replace(now)).is_none_or(|before| now - before > TROUBLE_LASTS) {
            self.next = PAUSE_MIN;
        }
        let pause = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(PAUSE_MAX);
        Some(pause)
    }
}

impl Backoff for Pause {
    /// Called for every event, also for the beginning of a list that then fails: time decides instead.
    fn reset(&mut self) {}
}
