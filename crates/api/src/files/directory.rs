//! The files of a configuration directory: which there are, whether they changed, what they hold.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, Metadata};
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tdc_yaml::FileError;

/// Bytes of one file.
pub const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Files of a directory.
pub const MAX_FILES: usize = 1024;
/// Bytes of all files of a directory together.
pub const MAX_TOTAL_BYTES: u64 = 64 * 1024 * 1024;

/// What a file held when it was read.
#[derive(Debug)]
pub(super) struct FileText {
    /// Its name without the directory.
    pub(super) name: String,
    /// Its content.
    pub(super) text: String,
}

/// Tells cheaply whether a directory may have changed: names, sizes, times and inodes of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    files: Vec<(PathBuf, u64, u64, Option<SystemTime>)>,
}

impl Fingerprint {
    /// Of the directory as it is now; a directory that cannot be listed looks empty.
    pub(super) fn of(dir: &Path) -> Self {
        let files = list(dir).unwrap_or_default();
        let stamp =
            |(path, meta): (PathBuf, Metadata)| (path, meta.len(), inode(&meta), meta.modified().ok());
        Self {
            files: files.into_iter().map(stamp).collect(),
        }
    }

    /// When a file was last changed; a change within the same tick of the file system's clock would not show.
    pub(super) fn newest(&self) -> Option<SystemTime> {
        self.files
            .iter()
            .filter_map(|(_, _, _, modified)| *modified)
            .max()
    }
}

/// The content of all files, or every file that could not be read.
pub(super) fn read(dir: &Path) -> Result<Vec<FileText>, Vec<FileError>> {
    let of_dir = |problem: String| vec![FileError::of_file(dir.display().to_string(), problem)];
    let files = list(dir).map_err(|error| {
        of_dir(format!(
            "cannot be listed: {error}; give a directory that this process may read"
        ))
    })?;
    if files.is_empty() {
        return Err(of_dir(
            "holds no *.yaml or *.yml file; put the resources there".into(),
        ));
    }
    if files.len() > MAX_FILES {
        return Err(of_dir(format!(
            "holds more than {MAX_FILES} files; put several resources into one file"
        )));
    }
    let (mut texts, mut errors, mut total) = (Vec::with_capacity(files.len()), Vec::new(), 0);
    for (path, _) in files {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        match tdc_yaml::read_text(&path, MAX_FILE_BYTES >> 20) {
            Ok(text) => {
                total += text.len() as u64;
                texts.push(FileText { name, text });
            }
            Err(error) => errors.push(FileError::of_file(name, format!("cannot be read: {error}"))),
        }
        if total > MAX_TOTAL_BYTES {
            return Err(of_dir(format!(
                "holds more than {} MiB in all",
                MAX_TOTAL_BYTES >> 20
            )));
        }
    }
    if errors.is_empty() { Ok(texts) } else { Err(errors) }
}

/// A number that differs when the content does.
pub(super) fn content_hash(texts: &[FileText]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for FileText { name, text } in texts {
        (name, text).hash(&mut hasher);
    }
    hasher.finish()
}

/// The regular files that count, by name. A file that vanishes while we look is not there.
fn list(dir: &Path) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        if hidden || !yaml {
            continue;
        }
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => files.push((path, meta)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&path).is_err() => {
            }
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("{}: {error}", path.display()),
                ));
            }
        }
        if files.len() > MAX_FILES {
            break;
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(files)
}

#[cfg(unix)]
fn inode(meta: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}
