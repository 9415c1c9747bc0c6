//! Ctrl-C and SIGTERM: what the benchmark has started ends with it.
//!
//! What always holds: everything that was started and not yet stopped stands in one list, so that a signal can end it
//! and remove its folders. Against SIGKILL nothing helps but the next reboot.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::signal::unix::{SignalKind, signal};

/// What a signal has to clear away.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// A process, by its id.
    Process(u32),
    /// A Postfix, by its configuration's folder.
    Postfix(PathBuf),
    /// A folder.
    Folder(PathBuf),
}

static ALL: Mutex<Vec<Left>> = Mutex::new(Vec::new());

fn all() -> MutexGuard<'static, Vec<Left>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers it until this is dropped.
#[derive(Debug)]
#[must_use = "it is forgotten when this is dropped"]
pub(crate) struct Noted(Left);

impl Noted {
    pub(crate) fn process(id: u32) -> Self {
        all().push(Left::Process(id));
        Self(Left::Process(id))
    }

    pub(crate) fn postfix(etc: &Path) -> Self {
        all().push(Left::Postfix(etc.to_owned()));
        Self(Left::Postfix(etc.to_owned()))
    }

    pub(crate) fn folder(folder: &Path) -> Self {
        all().push(Left::Folder(folder.to_owned()));
        Self(Left::Folder(folder.to_owned()))
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        all().retain(|left| *left != self.0);
    }
}

/// Waits for the signals on a thread of its own.
pub(crate) fn watch() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // Held to the end: nothing else is started.
            let mut left = all();
            while let Some(last) = left.pop() {
                clear(&last);
            }
            eprintln!("tdc-bench: interrupted; what it had started is stopped");
            std::process::exit(130);
        });
    });
}

fn clear(left: &Left) {
    match left {
        Left::Process(id) => {
            let _ = Command::new("kill").arg(id.to_string()).status();
        }
        Left::Postfix(etc) => {
            let _ = Command::new("postfix").arg("-c").arg(etc).arg("stop").output();
        }
        Left::Folder(folder) => {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}
