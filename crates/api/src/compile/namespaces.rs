//! Several namespaces in one table (`--all-namespaces`).
//!
//! What always holds:
//! - References never leave a namespace: `Global` means the default intake of the policy's own namespace.
//! - Names in the table are qualified, `namespace/name`, so that two namespaces never share a queue or a counter.
//! - One connector a namespace counts, its oldest. `enabled` and `defaultIntake` hold for the policies of its
//!   namespace. What is said about a whole message (`failurePolicy`, `queueLifetime`, `deadLetter`,
//!   `senderIpHeader`, `clean`, `defaultJournaling`) comes from the connector of the *home* namespace, the one that
//!   the policy service runs for; the other connectors are told so.

use std::collections::BTreeMap;
use std::sync::Arc;

use tdc_core::policy::{Journaling, PolicyTable};

use super::{Compiled, Part, sort};
use crate::objects::{Kind, Objects};

/// Compiles the objects of several namespaces, by namespace, into one table; `home` is the namespace whose connector
/// speaks for whole messages. It never fails, as [`super::compile`].
pub fn compile_namespaces(namespaces: &BTreeMap<String, Objects>, home: &str) -> Compiled {
    let mut table = PolicyTable::default();
    let mut policies = Vec::new();
    let mut verdicts = Vec::new();
    for (namespace, objects) in namespaces {
        let mut part = Part::of(objects);
        part.qualify(namespace);
        if namespace == home {
            table.connector = part.connector;
        } else {
            part.speaks_for_itself(home);
        }
        table.intakes.append(&mut part.intakes);
        policies.append(&mut part.policies);
        verdicts.append(&mut part.verdicts);
    }
    policies.sort_by(|a, b| a.0.cmp(&b.0));
    table.policies = policies.into_iter().map(|(_, policy)| policy).collect();
    table.intakes.sort_by(|a, b| a.name.cmp(&b.name));
    sort(&mut verdicts);
    Compiled { table, verdicts }
}

impl Part {
    /// Puts the namespace before every name.
    fn qualify(&mut self, namespace: &str) {
        let full = |name: &mut Arc<str>| {
            if !name.is_empty() {
                *name = format!("{namespace}/{name}").into();
            }
        };
        let journaling = |journaling: &mut Journaling| match journaling {
            Journaling::Intake(name) => full(name),
            Journaling::Disabled | Journaling::Unresolved(_) => {}
        };
        full(&mut self.connector.object.name);
        journaling(&mut self.connector.default_journaling);
        for intake in &mut self.intakes {
            full(&mut intake.name);
            full(&mut intake.object.name);
        }
        for (_, policy) in &mut self.policies {
            full(&mut policy.object.name);
            journaling(&mut policy.journaling);
        }
    }

    /// The connector of another namespace than the home one rules its own policies only.
    fn speaks_for_itself(&mut self, home: &str) {
        if !self.connector.enabled {
            for (_, policy) in &mut self.policies {
                policy.journaling = Journaling::Disabled;
            }
        }
        for verdict in &mut self.verdicts {
            if verdict.kind == Kind::ThreatDefenseConnector && verdict.accepted.status {
                verdict.accepted.message = format!(
                    "Its enabled and defaultIntake are in use for the policies of this namespace; what is said about \
                     whole messages comes from the connector of namespace {home}."
                );
            }
        }
    }
}
