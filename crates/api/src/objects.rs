//! The objects of one namespace, from wherever they come.

use std::fmt;
use std::sync::Arc;

use kube::core::ObjectMeta;

use crate::{IntakeAddress, MailPolicy, ThreatDefenseConnector};

/// The API group of the three kinds.
pub const GROUP: &str = "tdc.dev";
/// `apiVersion` of the three kinds.
pub const API_VERSION: &str = "tdc.dev/v1alpha1";

/// The three kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// [`ThreatDefenseConnector`].
    ThreatDefenseConnector,
    /// [`IntakeAddress`].
    IntakeAddress,
    /// [`MailPolicy`].
    MailPolicy,
}

impl Kind {
    /// All of them, in the order in which verdicts and definitions are listed.
    pub const ALL: [Self; 3] = [
        Self::ThreatDefenseConnector,
        Self::IntakeAddress,
        Self::MailPolicy,
    ];

    /// The value of the `kind` field.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ThreatDefenseConnector => "ThreatDefenseConnector",
            Self::IntakeAddress => "IntakeAddress",
            Self::MailPolicy => "MailPolicy",
        }
    }

    /// The kind of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What [`crate::compile`] works on: the objects of one namespace, in any order.
///
/// References never leave a namespace, so objects of several namespaces do not belong into one of these.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// The global settings; at most one counts.
    pub connectors: Vec<Arc<ThreatDefenseConnector>>,
    /// The intakes.
    pub intakes: Vec<Arc<IntakeAddress>>,
    /// The policies.
    pub policies: Vec<Arc<MailPolicy>>,
    /// Objects of the three kinds that this version of the program cannot read at all.
    pub unreadable: Vec<Unreadable>,
}

/// An object whose `spec` does not have the form that this version knows: the definition in the cluster is of another
/// version. It is in use by nobody, and says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    /// Its kind.
    pub kind: Kind,
    /// What is known of it.
    pub metadata: ObjectMeta,
    /// What could not be read.
    pub error: String,
}

impl Objects {
    /// How many objects of all kinds there are.
    pub fn len(&self) -> usize {
        let Self {
            connectors,
            intakes,
            policies,
            unreadable,
        } = self;
        connectors.len() + intakes.len() + policies.len() + unreadable.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
