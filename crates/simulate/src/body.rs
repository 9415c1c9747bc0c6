//! A message body on its way in: memory first, then the store's file.
//!
//! What always holds: a body that outgrows [`SPILL_AFTER`] goes on in the store's hidden file, if there is a store;
//! otherwise its memory is leased from one budget that all connections share. A body that is dropped before it is
//! published leaves no file. Once something went wrong nothing more is kept, and the end of data is answered with
//! the trouble.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tdc_smtp::Reply;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use crate::config::DEFAULT_MAX_MESSAGE;
use crate::store::Store;

/// Octets that a body may hold in memory before it goes on in a file: most mail never needs one in pieces.
const SPILL_AFTER: usize = 256 * 1024;
/// Octets of bodies that one server holds in memory at most.
pub(crate) const MEMORY_BUDGET: usize = 1024 * 1024 * 1024;
/// The budget is leased in pieces of this many octets.
const LEASE: usize = 64 * 1024;

/// Memory that all bodies of a server share.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(crate) fn new(octets: usize) -> Self {
        Self(Arc::new(Semaphore::new(octets / LEASE)))
    }
}

/// What happens to the octets.
#[derive(Clone, Debug)]
pub(crate) enum Keep {
    /// They are counted.
    Count,
    /// They stay in memory until the end of data.
    Memory,
    /// They end in the store.
    Store(Arc<Store>),
}

/// Why a body cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("the message is larger than any limit")]
    TooBig,
    #[error("the memory of all messages in transit is used up")]
    NoMemory,
    #[error("the message cannot be stored: {0}")]
    Store(#[from] io::Error),
}

impl Trouble {
    /// What the client hears (RFC 3463: mailbox full or too big 5.3.4, system full 4.3.1, other 4.3.0).
    pub(crate) fn reply(&self) -> Reply {
        match self {
            Self::TooBig => Reply::new(552, "5.3.4 Message size exceeds fixed limit"),
            Self::NoMemory => Reply::new(452, "4.3.1 Insufficient system storage"),
            Self::Store(_) => Reply::new(451, "4.3.0 The message cannot be stored now"),
        }
    }
}

/// The file of a body; removed when it is dropped before [`Spill::published`].
#[derive(Debug)]
struct Spill {
    path: Option<PathBuf>,
    file: File,
}

impl Spill {
    fn create(path: PathBuf) -> io::Result<Self> {
        let file = File::create(&path)?;
        Ok(Self {
            path: Some(path),
            file,
        })
    }

    fn published(mut self) {
        self.path = None;
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Nothing better can be done about it here, and a hidden rest does no harm.
            let _ = fs::remove_file(path);
        }
    }
}

/// A body on its way in.
#[derive(Debug)]
pub(crate) struct Body {
    number: u64,
    keep: Keep,
    buffer: Vec<u8>,
    spill: Option<Spill>,
    budget: Budget,
    lease: Option<OwnedSemaphorePermit>,
    len: u64,
    trouble: Option<Trouble>,
}

impl Body {
    pub(crate) fn new(number: u64, keep: Keep, budget: &Budget) -> Self {
        Self {
            number,
            keep,
            buffer: Vec::new(),
            spill: None,
            budget: budget.clone(),
            lease: None,
            len: 0,
            trouble: None,
        }
    }

    /// Takes the next octets.
    pub(crate) async fn push(&mut self, piece: Bytes) {
        self.len += piece.len() as u64;
        if self.trouble.is_some() {
            return;
        }
        if let Err(trouble) = self.keep_piece(&piece).await {
            tracing::warn!(%trouble, "A message is refused.");
            self.trouble = Some(trouble);
            self.buffer = Vec::new();
            self.spill = None;
            self.lease = None;
        }
    }

    async fn keep_piece(&mut self, piece: &[u8]) -> Result<(), Trouble> {
        if self.len > DEFAULT_MAX_MESSAGE {
            return Err(Trouble::TooBig);
        }
        if matches!(self.keep, Keep::Count) {
            return Ok(());
        }
        self.lease(self.buffer.len() + piece.len())?;
        self.buffer.extend_from_slice(piece);
        match &self.keep {
            Keep::Store(store) if self.buffer.len() > SPILL_AFTER => {
                let path = store.part(self.number);
                let (spill, buffer) = (self.spill.take(), std::mem::take(&mut self.buffer));
                let (spill, buffer) = spawn_blocking(move || append(spill, path, buffer))
                    .await
                    .map_err(io::Error::other)??;
                (self.spill, self.buffer) = (Some(spill), buffer);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Makes the lease cover this many octets.
    fn lease(&mut self, octets: usize) -> Result<(), Trouble> {
        let held = self.lease.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = octets.div_ceil(LEASE).saturating_sub(held);
        if missing == 0 {
            return Ok(());
        }
        let missing = u32::try_from(missing).map_err(|_| Trouble::NoMemory)?;
        let more = self
            .budget
            .0
            .clone()
            .try_acquire_many_owned(missing)
            .map_err(|_| Trouble::NoMemory)?;
        match &mut self.lease {
            Some(lease) => lease.merge(more),
            None => self.lease = Some(more),
        }
        Ok(())
    }

    /// The number that the message will have.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Octets so far, kept or not.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// What went wrong, if something did.
    pub(crate) fn take_trouble(&mut self) -> Option<Trouble> {
        self.trouble.take()
    }

    /// True when reading the octets needs memory that is not leased: the body is in a file.
    pub(crate) fn is_spilled(&self) -> bool {
        self.spill.is_some()
    }

    /// All octets that are kept. Blocks on the disk.
    pub(crate) fn octets(&mut self) -> io::Result<std::borrow::Cow<'_, [u8]>> {
        match &mut self.spill {
            None => Ok(self.buffer.as_slice().into()),
            Some(spill) => {
                let path = spill.path.as_ref().ok_or(io::ErrorKind::NotFound)?;
                let mut octets = fs::read(path)?;
                octets.extend_from_slice(&self.buffer);
                Ok(octets.into())
            }
        }
    }

    /// Publishes the message in the store, if there is one. Blocks on the disk.
    pub(crate) fn publish(mut self, record: &crate::Record) -> io::Result<()> {
        let Keep::Store(store) = &self.keep else {
            return Ok(());
        };
        let buffer = std::mem::take(&mut self.buffer);
        let (spill, _) = append(self.spill.take(), store.part(self.number), buffer)?;
        store.publish(record)?;
        spill.published();
        Ok(())
    }
}

/// Writes the buffer to the file, made when there is none yet, and gives it back empty.
fn append(spill: Option<Spill>, path: PathBuf, mut buffer: Vec<u8>) -> io::Result<(Spill, Vec<u8>)> {
    let mut spill = match spill {
        Some(spill) => spill,
        None => Spill::create(path)?,
    };
    spill.file.write_all(&buffer)?;
    buffer.clear();
    Ok((spill, buffer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Record;

    fn files(dir: &std::path::Path) -> Vec<String> {
        let name =
            |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_body_arrives_whole_whatever_its_size() {
        let sizes = [0, 1, SPILL_AFTER, SPILL_AFTER + 1, 3 * SPILL_AFTER + 17];
        for size in sizes {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(dir.path()).unwrap());
            let octets: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let mut body = Body::new(store.number(), Keep::Store(store), &Budget::new(MEMORY_BUDGET));
            for piece in octets.chunks(10_007) {
                body.push(Bytes::copy_from_slice(piece)).await;
            }
            assert_eq!(body.is_spilled(), size > SPILL_AFTER, "{size}");
            assert!(*body.octets().unwrap() == octets, "{size}: read back");
            body.publish(&Record {
                number: 1,
                ..Record::default()
            })
            .unwrap();
            assert_eq!(files(dir.path()), ["1.eml", "1.json"]);
            assert!(
                fs::read(dir.path().join("1.eml")).unwrap() == octets,
                "{size}: stored"
            );
        }
    }

    #[tokio::test]
    async fn a_body_that_is_dropped_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let mut body = Body::new(store.number(), Keep::Store(store), &Budget::new(MEMORY_BUDGET));
        body.push(Bytes::from(vec![0; SPILL_AFTER + 1])).await;
        assert_eq!(files(dir.path()), [".1.eml.part"]);
        drop(body);
        assert_eq!(files(dir.path()), [""; 0]);
    }

    #[tokio::test]
    async fn memory_is_leased_from_one_budget_and_given_back() {
        let budget = Budget::new(2 * LEASE);
        let mut first = Body::new(1, Keep::Memory, &budget);
        first.push(Bytes::from(vec![0; LEASE + 1])).await;
        assert!(first.take_trouble().is_none());
        let mut second = Body::new(2, Keep::Memory, &budget);
        second.push(Bytes::from_static(b"x")).await;
        second.push(Bytes::from_static(b"y")).await;
        assert_eq!(second.take_trouble().unwrap().reply().code(), 452);
        assert_eq!(second.len(), 2, "what is not kept is counted");
        drop(first);
        let mut third = Body::new(3, Keep::Memory, &budget);
        third.push(Bytes::from(vec![0; 2 * LEASE])).await;
        assert!(third.take_trouble().is_none());
        let mut counted = Body::new(4, Keep::Count, &budget);
        counted.push(Bytes::from(vec![0; 5 * LEASE])).await;
        assert!(
            counted.take_trouble().is_none(),
            "what is only counted needs no memory"
        );
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_written_is_a_passing_trouble() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let budget = Budget::new(MEMORY_BUDGET);
        let mut large = Body::new(1, Keep::Store(store.clone()), &budget);
        let small = Body::new(2, Keep::Store(store), &budget);
        dir.close().unwrap();
        large.push(Bytes::from(vec![0; SPILL_AFTER + 1])).await;
        assert_eq!(large.take_trouble().unwrap().reply().code(), 451);
        assert!(small.publish(&Record::default()).is_err());
    }
}
