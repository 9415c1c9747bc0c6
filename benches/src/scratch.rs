//! The folder of one benchmark: it goes with the benchmark, but not what a failed run leaves to be looked at.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::fail::{Fail, Outcome};
use crate::interrupt::Noted;

/// Where the runs of this benchmark are.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
    _noted: Noted,
}

impl Scratch {
    pub(crate) fn new(disk: &Path) -> Outcome<Self> {
        let dir = tempfile::tempdir_in(disk)
            .map_err(Fail::of(format!("cannot make a folder in {}", disk.display())))?;
        let noted = Noted::folder(dir.path());
        Ok(Self { dir, _noted: noted })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Moves the folder of a failed run out of its benchmark's.
pub(crate) fn keep(run: TempDir) -> PathBuf {
    let run = run.keep();
    let kept = run
        .parent()
        .and_then(Path::parent)
        .zip(run.file_name())
        .map(|(disk, name)| {
            let mut kept = std::ffi::OsString::from("tdc-bench-failed");
            kept.push(name);
            disk.join(kept)
        });
    match kept {
        Some(kept) if std::fs::rename(&run, &kept).is_ok() => kept,
        _ => run,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_failed_run_outlives_its_benchmark() {
        let disk = tempfile::tempdir().unwrap();
        let scratch = super::Scratch::new(disk.path()).unwrap();
        let run = tempfile::tempdir_in(scratch.path()).unwrap();
        std::fs::write(run.path().join("ingress.log"), "why").unwrap();
        let kept = super::keep(run);
        drop(scratch);
        assert_eq!(std::fs::read_to_string(kept.join("ingress.log")).unwrap(), "why");
        assert_eq!(
            std::fs::read_dir(disk.path()).unwrap().count(),
            1,
            "and nothing else"
        );
    }
}
