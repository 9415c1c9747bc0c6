//! Numbered messages in a folder, and their records.
//!
//! Each message is `<n>.eml`, its octets as decoded from the wire, and `<n>.json`, a [`Record`]. What always holds:
//! both are written under hidden names first; the record gets its final name before the message does, so that whoever
//! sees an `.eml` finds it whole and its record beside it. Numbers grow and go on after a restart. One server a folder.
//! Files are not synced to the disk: this is a simulator's memory, not a mail spool.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::SimulateError;

/// What is known of one message: its envelope, its connection, and what the intake made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The number in the file's name, from 1.
    pub number: u64,
    /// When the end of data arrived: RFC 3339, UTC.
    pub received: String,
    /// The same in milliseconds since 1970.
    pub received_unix_ms: u64,
    /// The client's address and port.
    pub peer: String,
    /// Which connection of this server brought it, from 1.
    pub connection: u64,
    /// Which accepted message of its connection it was, from 1.
    pub nth_of_connection: u64,
    /// The name in EHLO or HELO.
    pub helo: String,
    /// True after EHLO.
    pub esmtp: bool,
    /// TLS, if the connection had it.
    pub tls: Option<TlsRecord>,
    /// XFORWARD attributes as sent since the greeting, in order.
    pub xforward: Vec<(String, String)>,
    /// `MAIL FROM` without brackets; empty for the null sender.
    pub mail_from: String,
    /// Its parameters as spelt.
    pub mail_params: Vec<String>,
    /// Accepted recipients, in order.
    pub rcpt_to: Vec<RecipientRecord>,
    /// Octets of the message.
    pub size: u64,
    /// At an intake: what the copy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<crate::inspect::CopyRecord>,
}

/// The TLS of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsRecord {
    /// `TLSv1_2` or `TLSv1_3`.
    pub version: String,
    /// The cipher suite's name.
    pub cipher: String,
    /// The name that the client asked for (SNI).
    pub server_name: Option<String>,
}

/// One accepted recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientRecord {
    /// Without brackets.
    pub address: String,
    /// Parameters as spelt.
    pub params: Vec<String>,
}

/// A folder of messages.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    last: AtomicU64,
}

impl Store {
    /// Opens a folder, making it when it is missing; numbers go on after the highest that is there.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(dir: &Path) -> Result<Self, SimulateError> {
        let fault = |action| {
            move |source| SimulateError::File {
                action,
                path: dir.to_owned(),
                source,
            }
        };
        fs::create_dir_all(dir).map_err(fault("create"))?;
        let mut last = 0;
        for entry in fs::read_dir(dir).map_err(fault("read"))? {
            let name = entry.map_err(fault("read"))?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.split('.').next())
                .and_then(|n| n.parse().ok());
            last = last.max(number.unwrap_or(0));
        }
        Ok(Self {
            dir: dir.to_owned(),
            last: AtomicU64::new(last),
        })
    }

    /// A number that no other message has. A message that is not kept in the end leaves a gap.
    pub(crate) fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The hidden file of a message on its way.
    pub(crate) fn part(&self, number: u64) -> PathBuf {
        self.dir.join(format!(".{number}.eml.part"))
    }

    /// Gives a message whose octets are all in [`Self::part`] its final name, its record first.
    pub(crate) fn publish(&self, record: &Record) -> io::Result<()> {
        let number = record.number;
        let json = serde_json::to_vec_pretty(record)?;
        write_atomically(&self.dir.join(format!("{number}.json")), &json)?;
        fs::rename(self.part(number), self.dir.join(format!("{number}.eml")))
    }

    /// Every complete message of a folder by number: the record, and the octets.
    ///
    /// # Errors
    /// When a file cannot be read, or a record is not one.
    pub fn read(dir: &Path) -> io::Result<Vec<(Record, Vec<u8>)>> {
        let mut messages = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let hidden = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if hidden || path.extension().is_none_or(|extension| extension != "eml") {
                continue;
            }
            let record: Record = serde_json::from_slice(&fs::read(path.with_extension("json"))?)?;
            messages.push((record, fs::read(path)?));
        }
        messages.sort_by_key(|(record, _)| record.number);
        Ok(messages)
    }
}

/// Writes a whole file under a hidden name beside it, then renames: readers see the old or the new, never a half.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let part = path.with_file_name(format!(".{}.part", name.to_string_lossy()));
    fs::write(&part, content)?;
    fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_after_a_restart_and_halves_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let keep = |store: &Store, octets: &[u8]| {
            let number = store.number();
            fs::write(store.part(number), octets).unwrap();
            store
                .publish(&Record {
                    number,
                    ..Record::default()
                })
                .unwrap();
            number
        };
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(keep(&store, b"one"), 1);
        assert_eq!(keep(&store, b""), 2);
        fs::write(store.part(store.number()), b"half").unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(keep(&store, b"again"), 3);
        for other in ["10.json", "notes.txt"] {
            fs::write(dir.path().join(other), b"{}").unwrap();
        }
        let read: Vec<_> = Store::read(dir.path())
            .unwrap()
            .into_iter()
            .map(|(r, o)| (r.number, o))
            .collect();
        assert_eq!(
            read,
            [(1, b"one".to_vec()), (2, Vec::new()), (3, b"again".to_vec())]
        );
        assert_eq!(
            keep(&Store::open(dir.path()).unwrap(), b"x"),
            11,
            "a record alone takes its number too"
        );
    }
}
