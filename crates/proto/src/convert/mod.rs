//! Between the generated types and `tdc-core`.
//!
//! Writing never fails. Reading is strict: a value that this version does not know makes the whole message unusable
//! (the watcher then rejects the snapshot and keeps the one it has), because acting on half a table could journal
//! mail that nobody asked for, or lose a copy.
//!
//! | room | translates |
//! |---|---|
//! | `decision` | what `Evaluate` carries |
//! | `connector`, `policy`, `intake` | the parts of a snapshot |

mod connector;
mod decision;
mod intake;
mod policy;
#[cfg(test)]
mod tests;

use tdc_core::policy as core;
use thiserror::Error;

use crate::v1;

/// A message that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct ConvertError {
    /// Which field, as a path.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

fn error(field: &str, problem: impl Into<String>) -> ConvertError {
    ConvertError {
        field: field.to_owned(),
        problem: problem.into(),
    }
}

fn required<T>(value: Option<T>, field: &str) -> Result<T, ConvertError> {
    value.ok_or_else(|| error(field, "is missing"))
}

fn unknown(field: &str, value: i32) -> ConvertError {
    error(
        field,
        format!("has the unknown value {value}; the sender is newer than this process"),
    )
}

impl From<&core::Journaling> for v1::Journaling {
    fn from(journaling: &core::Journaling) -> Self {
        use v1::journaling::To;
        let to = match journaling {
            core::Journaling::Disabled => To::Disabled(v1::journaling::Disabled {}),
            core::Journaling::Intake(name) => To::Intake(name.to_string()),
            core::Journaling::Unresolved(why) => To::Unresolved(why.to_string()),
        };
        Self { to: Some(to) }
    }
}

fn journaling(value: Option<v1::Journaling>, field: &str) -> Result<core::Journaling, ConvertError> {
    use v1::journaling::To;
    match required(value.and_then(|journaling| journaling.to), field)? {
        To::Disabled(_) => Ok(core::Journaling::Disabled),
        To::Intake(name) => Ok(core::Journaling::Intake(name.into())),
        To::Unresolved(why) => Ok(core::Journaling::Unresolved(why.into())),
    }
}

impl From<&core::SnapshotVersion> for v1::SnapshotVersion {
    fn from(version: &core::SnapshotVersion) -> Self {
        Self {
            instance: version.instance.to_string(),
            sequence: version.sequence,
        }
    }
}

impl From<v1::SnapshotVersion> for core::SnapshotVersion {
    fn from(version: v1::SnapshotVersion) -> Self {
        Self {
            instance: version.instance.into(),
            sequence: version.sequence,
        }
    }
}

/// Writes a snapshot.
pub fn snapshot_to_proto(version: &core::SnapshotVersion, table: &core::PolicyTable) -> v1::Snapshot {
    v1::Snapshot {
        version: Some(version.into()),
        connector: Some((&table.connector).into()),
        intakes: table.intakes.iter().map(Into::into).collect(),
        policies: table.policies.iter().map(Into::into).collect(),
    }
}

/// Reads a snapshot.
///
/// # Errors
/// When a field is missing, or has a value that this version does not know.
pub fn snapshot_from_proto(
    snapshot: v1::Snapshot,
) -> Result<(core::SnapshotVersion, core::PolicyTable), ConvertError> {
    let version = required(snapshot.version, "version")?.into();
    let mut intakes = snapshot
        .intakes
        .into_iter()
        .map(intake::read)
        .collect::<Result<Vec<core::Intake>, ConvertError>>()?;
    intakes.sort_by(|a, b| a.name.cmp(&b.name));
    let table = core::PolicyTable {
        connector: connector::read(required(snapshot.connector, "connector")?)?,
        intakes,
        policies: snapshot
            .policies
            .into_iter()
            .map(policy::read)
            .collect::<Result<_, _>>()?,
    };
    Ok((version, table))
}

impl From<&core::ObjectRef> for v1::ObjectRef {
    fn from(object: &core::ObjectRef) -> Self {
        Self {
            name: object.name.to_string(),
            uid: object.uid.to_string(),
            generation: object.generation,
        }
    }
}

fn object(value: Option<v1::ObjectRef>) -> core::ObjectRef {
    let value = value.unwrap_or_default();
    core::ObjectRef {
        name: value.name.into(),
        uid: value.uid.into(),
        generation: value.generation,
    }
}
