//! Takes up changes of a configuration directory while the program runs.
//!
//! The directory is polled, because a mounted ConfigMap changes by swapping a symbolic link and network file systems
//! send no events. A change counts once the files have been still for [`SETTLE`], so that a file in the middle of
//! being written is not taken for a shorter one.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::directory::{self, Fingerprint};
use super::load::Directory;
use super::{FileError, FileErrors};
use crate::compile::{Compiled, compile};
use crate::objects::Objects;

/// How long the files must be still before a change is taken up, or the poll interval if that is shorter.
const SETTLE: Duration = Duration::from_millis(200);
/// The times of files are not trusted to tell two changes apart within this span (FAT has 2 s).
const CLOCK_TICK: Duration = Duration::from_secs(2);
/// Looks after which files that never rest are read as they are.
const MAX_SETTLE_ROUNDS: usize = 25;

/// One good state of the directory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// Grows by one with each change that was taken up; the first is 1.
    pub sequence: u64,
    /// The objects.
    pub objects: Objects,
    /// What they mean.
    pub compiled: Compiled,
}

/// Watches a directory until it is dropped.
#[derive(Debug)]
#[must_use = "the directory is watched only as long as this lives"]
pub struct ConfigWatcher {
    loaded: watch::Receiver<Arc<Loaded>>,
    errors: watch::Receiver<Arc<[FileError]>>,
    task: JoinHandle<Option<()>>,
}

impl ConfigWatcher {
    /// Reads `dir`, and then looks for changes every `poll_interval` (a second is usual). Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the directory cannot be used as it is now; see [`super::load_dir`]. Later it keeps the last good state.
    pub async fn start(dir: impl Into<PathBuf>, poll_interval: Duration) -> Result<Self, FileErrors> {
        let mut poller = Poller {
            dir: dir.into(),
            trusted: None,
            seen: None,
        };
        let name = poller.dir.display().to_string();
        for _ in 0..MAX_SETTLE_ROUNDS {
            let Some((returned, look)) = blocking(poller, Poller::look).await else {
                break;
            };
            poller = returned;
            match look {
                Look::Bad(errors) => return Err(errors),
                Look::Good(state, problems) => {
                    log_problems(&problems);
                    let (objects, compiled) = *state;
                    let (to_loaded, loaded) = watch::channel(Arc::new(Loaded {
                        sequence: 1,
                        objects,
                        compiled,
                    }));
                    let (to_errors, errors) = watch::channel(Arc::default());
                    let task = tokio::spawn(run(poller, poll_interval, to_loaded, to_errors));
                    return Ok(Self { loaded, errors, task });
                }
                Look::Unchanged | Look::Moving => tokio::time::sleep(SETTLE).await,
            }
        }
        Err(FileErrors(vec![FileError::of_file(
            name,
            "does not come to rest; start again when its files are written",
        )]))
    }

    /// The last good state, and its changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Loaded>> {
        self.loaded.clone()
    }

    /// What is wrong with the directory as it is now; empty when the last good state is the current one.
    pub fn errors(&self) -> watch::Receiver<Arc<[FileError]>> {
        self.errors.clone()
    }
}

impl Drop for ConfigWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a look at the directory brought.
enum Look {
    /// Nothing that was not known.
    Unchanged,
    /// The files changed while they were read.
    Moving,
    /// Good content; the problems are those of single objects, which do not keep the others from being used.
    Good(Box<(Objects, Compiled)>, Vec<FileError>),
    /// Content that cannot be used.
    Bad(FileErrors),
}

/// Remembers what was seen last.
struct Poller {
    dir: PathBuf,
    /// The state of the files that `seen` was read from, if a later change is bound to show in it.
    trusted: Option<Fingerprint>,
    /// The last content, or the last failure to read it.
    seen: Option<u64>,
}

impl Poller {
    fn look(&mut self) -> Look {
        let now = SystemTime::now();
        let before = Fingerprint::of(&self.dir);
        if self.trusted.as_ref() == Some(&before) {
            return Look::Unchanged;
        }
        let texts = directory::read(&self.dir);
        if Fingerprint::of(&self.dir) != before {
            return Look::Moving;
        }
        let still = before.newest().is_none_or(|newest| newest + CLOCK_TICK < now);
        self.trusted = (texts.is_ok() && still).then_some(before);
        let content = match &texts {
            Ok(texts) => directory::content_hash(texts),
            Err(errors) => hash_of(errors),
        };
        if self.seen.replace(content) == Some(content) {
            return Look::Unchanged;
        }
        match texts
            .map_err(FileErrors)
            .and_then(|texts| Directory::parse(&self.dir, &texts))
        {
            Ok(directory) => {
                let compiled = compile(&directory.objects);
                let problems = directory.place_problems(&compiled);
                Look::Good(Box::new((directory.objects, compiled)), problems)
            }
            Err(errors) => Look::Bad(errors),
        }
    }

    fn is_unchanged(&mut self) -> bool {
        self.trusted
            .as_ref()
            .is_some_and(|trusted| *trusted == Fingerprint::of(&self.dir))
    }

    fn fingerprint(&mut self) -> Fingerprint {
        Fingerprint::of(&self.dir)
    }
}

fn hash_of(errors: &[FileError]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for error in errors {
        error.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

/// Runs a step that reads files where it may block; `None` when the runtime is shutting down.
async fn blocking<R: Send + 'static>(mut poller: Poller, step: fn(&mut Poller) -> R) -> Option<(Poller, R)> {
    let done = tokio::task::spawn_blocking(move || {
        let result = step(&mut poller);
        (poller, result)
    });
    done.await.ok()
}

/// Polls until the runtime shuts down.
async fn run(
    mut poller: Poller,
    poll_interval: Duration,
    loaded: watch::Sender<Arc<Loaded>>,
    errors: watch::Sender<Arc<[FileError]>>,
) -> Option<()> {
    loop {
        tokio::time::sleep(poll_interval).await;
        let unchanged;
        (poller, unchanged) = blocking(poller, Poller::is_unchanged).await?;
        if unchanged {
            continue;
        }
        poller = settled(poller, SETTLE.min(poll_interval)).await?;
        let look;
        (poller, look) = blocking(poller, Poller::look).await?;
        match look {
            Look::Unchanged | Look::Moving => {}
            Look::Good(state, problems) => take_up(&loaded, &errors, *state, &problems),
            Look::Bad(FileErrors(found)) => {
                for error in &found {
                    tracing::error!(
                        "The changed configuration is not used, the last good one stays: {error}"
                    );
                }
                errors.send_replace(found.into());
            }
        }
    }
}

/// Waits until two looks in a row show the same files.
async fn settled(mut poller: Poller, settle: Duration) -> Option<Poller> {
    let mut last;
    (poller, last) = blocking(poller, Poller::fingerprint).await?;
    for _ in 0..MAX_SETTLE_ROUNDS {
        tokio::time::sleep(settle).await;
        let now;
        (poller, now) = blocking(poller, Poller::fingerprint).await?;
        if now == last {
            break;
        }
        last = now;
    }
    Some(poller)
}

fn take_up(
    loaded: &watch::Sender<Arc<Loaded>>,
    errors: &watch::Sender<Arc<[FileError]>>,
    (objects, compiled): (Objects, Compiled),
    problems: &[FileError],
) {
    log_problems(problems);
    loaded.send_if_modified(|current| {
        let changed = current.objects != objects;
        if changed {
            let sequence = current.sequence + 1;
            tracing::info!(
                sequence,
                objects = objects.len(),
                "The changed configuration is in use."
            );
            *current = Arc::new(Loaded {
                sequence,
                objects,
                compiled,
            });
        }
        changed
    });
    errors.send_if_modified(|current| {
        let was_bad = !current.is_empty();
        if was_bad {
            tracing::info!("The configuration has been repaired.");
            *current = Arc::default();
        }
        was_bad
    });
}

fn log_problems(problems: &[FileError]) {
    for problem in problems {
        tracing::warn!("An object of the configuration is not in use as it is written: {problem}");
    }
}
