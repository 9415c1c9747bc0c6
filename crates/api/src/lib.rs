//! The custom resources, their rules, and the one function that compiles them into a policy table.
mod compile;
pub mod connector;
mod crds;
mod files;
pub mod intake;
pub mod mail_policy;
mod objects;
mod status;
pub mod syntax;

pub use compile::{Compiled, Judgement, Problem, Verdict, compile};
pub use connector::{ThreatDefenseConnector, ThreatDefenseConnectorSpec};
pub use crds::{crd, crds, crds_yaml};
pub use files::{
    ConfigWatcher, FileError, FileErrors, Loaded, MAX_ERRORS, MAX_FILE_BYTES, MAX_FILES, MAX_TOTAL_BYTES,
    load_dir,
};
pub use intake::{IntakeAddress, IntakeAddressSpec};
pub use mail_policy::{MailPolicy, MailPolicySpec};
pub use objects::{API_VERSION, GROUP, Kind, Objects};
pub use status::{ACCEPTED, ObjectStatus, PROGRAMMED, REACHABLE, RESOLVED_REFS, Reason};
