//! The custom resources, their rules, and the one function that compiles them into a policy table.
//!
//! The types of [`connector`], [`intake`] and [`mail_policy`] are the source of everything: the definitions that
//! [`crds`] returns carry their bounds, defaults and rules, the API server enforces these, and [`load_dir`] enforces
//! the very same on files. So an object that compiles in one place compiles in all, and [`compile`] says the same of it.
//!
//! What always holds: no client and no watch of a cluster here. Objects come in as values and leave as a table and
//! verdicts; who asks decides where they come from and where the verdicts go.
//!
//! | part | holds |
//! |---|---|
//! | [`connector`], [`intake`], [`mail_policy`] | the three kinds of `tdc.dev/v1alpha1` |
//! | [`syntax`] | the forms of their strings, and what a person is told about them |
//! | [`crds`], [`crd`], [`crds_yaml`] | the CustomResourceDefinitions |
//! | [`reference`] | every field in words: `docs/resources.md` |
//! | [`compile`] | objects to policy table and verdicts; its rules for what cannot be read |
//! | [`load_dir`], [`ConfigWatcher`] | `--config DIR`: the same YAML from files, with file, line and field of each error |

mod compile;
pub mod connector;
mod crds;
mod files;
pub mod intake;
pub mod mail_policy;
mod objects;
mod reference;
mod status;
pub mod syntax;

pub use compile::{Compiled, Judgement, Problem, Verdict, compile, compile_namespaces};
pub use connector::{ThreatDefenseConnector, ThreatDefenseConnectorSpec};
pub use crds::{crd, crds, crds_yaml};
pub use files::{
    ConfigWatcher, FileError, FileErrors, Loaded, MAX_ERRORS, MAX_FILE_BYTES, MAX_FILES, MAX_TOTAL_BYTES,
    load_dir,
};
pub use intake::{IntakeAddress, IntakeAddressSpec};
pub use mail_policy::{MailPolicy, MailPolicySpec};
pub use objects::{API_VERSION, GROUP, Kind, Objects, Unreadable};
pub use reference::{EXAMPLES, reference};
pub use status::{ACCEPTED, ObjectStatus, PROGRAMMED, REACHABLE, RESOLVED_REFS, Reason};
