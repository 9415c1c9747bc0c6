//! The script in use, and the next one when its file changes.
//!
//! What always holds: a connection asks one whole script at a time; a file that cannot be used changes nothing, and is
//! complained of once. Counters (`times`, `after`, `attempt`) begin anew with each script.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Faults, Script};
use crate::server::Shared;

/// The file is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The script in use.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    current: ArcSwapOption<Faults>,
    generations: AtomicU64,
}

impl Watched {
    /// The script in use now, if there is one.
    pub(crate) fn faults(&self) -> Option<Arc<Faults>> {
        self.current.load_full()
    }

    /// From now on this one.
    pub(crate) fn set(&self, script: Script) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        self.current
            .store(Some(Arc::new(Faults::new(script, generation))));
    }
}

/// What tells one state of a file from another.
fn fingerprint(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Reads the script again when its file changes, until the server stops.
pub(crate) async fn follow(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let path = shared
        .options
        .script
        .as_ref()
        .and_then(|script| script.path.clone());
    let Some(path) = path else { return };
    // None: the first look reads it once more, in case it changed since the start.
    let mut seen = None;
    while timeout(LOOK_EVERY, stopped.wait_for(|stopped| *stopped))
        .await
        .is_err()
    {
        let (shared, path) = (shared.clone(), path.clone());
        let looked = spawn_blocking(move || {
            let now = fingerprint(&path);
            if now != seen && now.is_some() {
                reread(&shared, &path);
            }
            now
        });
        seen = looked.await.unwrap_or(seen).or(seen);
    }
}

fn reread(shared: &Shared, path: &Path) {
    let script = match Script::load(path) {
        Ok(script) => script,
        Err(errors) => {
            tracing::warn!(%errors, "The script cannot be used; the one before it stays in force.");
            return;
        }
    };
    let same = shared
        .script
        .faults()
        .is_some_and(|faults| faults.script.is_like(&script));
    if same {
        return;
    }
    if let Err(error) = shared.take_script(script) {
        tracing::warn!(%error, "The script cannot be used; the one before it stays in force.");
        return;
    }
    tracing::info!(script = %path.display(), "A changed script is in force.");
}
