//! The one function that turns objects into a policy table, with a verdict for each object.
//!
//! What always holds:
//! - It is pure, and the order of its input does not matter: the same objects give the same table everywhere.
//! - It never fails. An object that cannot be used says so in its verdict and never stops the others.
//! - Nothing falls back silently. A policy whose intake does not resolve stays in the table and takes whom it says,
//!   as [`tdc_core::policy::Journaling::Unresolved`]: its mail follows `failurePolicy`.
//! - An unreadable part never makes a policy take more. A policy takes whom it can be proven to take: an unreadable
//!   pattern in `anyOf` takes nobody; a row with an unreadable pattern in `noneOf` or `allOf`, or with none left in
//!   `anyOf`, takes nobody; a policy without a readable row is not in the table. Its verdict says which of these.
//! - An unreadable not-clean rule is left out: a copy too many can be recognised, a missing copy cannot.
//! - The result always compiles: `Snapshot::new` accepts it.

mod connector;
mod intake;
mod namespaces;
mod policy;
mod verdict;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use tdc_core::policy::{self as policy_table, ObjectRef, PolicyTable};

pub use namespaces::compile_namespaces;
pub use verdict::{Judgement, Problem, Verdict};

use crate::objects::{Kind, Objects, Unreadable};
use crate::status::Reason;

/// What [`compile`] returns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// The table that decides.
    pub table: PolicyTable,
    /// One for each object, in the order of [`crate::Kind::ALL`], then by namespace and name.
    pub verdicts: Vec<Verdict>,
}

/// Compiles the objects of one namespace.
///
/// It never fails: what cannot be used is said in the verdicts. An unreadable pattern makes a policy take fewer
/// recipients, never more; a policy whose intake does not resolve stays in the table as
/// [`Unresolved`](tdc_core::policy::Journaling::Unresolved) and its mail follows `failurePolicy`. Kind and name identify an object; should two intakes of several namespaces
/// have the same name, the oldest counts.
pub fn compile(objects: &Objects) -> Compiled {
    let mut part = Part::of(objects);
    part.policies.sort_by(|a, b| a.0.cmp(&b.0));
    sort(&mut part.verdicts);
    Compiled {
        table: PolicyTable {
            connector: part.connector,
            intakes: part.intakes,
            policies: part.policies.into_iter().map(|(_, policy)| policy).collect(),
        },
        verdicts: part.verdicts,
    }
}

fn sort(verdicts: &mut [Verdict]) {
    verdicts.sort_by(|a, b| {
        (a.kind, &a.namespace, &a.name, &a.uid).cmp(&(b.kind, &b.namespace, &b.name, &b.uid))
    });
}

/// What the objects of one namespace give.
struct Part {
    connector: policy_table::Connector,
    intakes: Vec<policy_table::Intake>,
    policies: Vec<(Rank, policy_table::Policy)>,
    verdicts: Vec<Verdict>,
}

/// Where a policy stands in the table.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    order: i32,
    created: Option<Timestamp>,
    name: String,
    namespace: String,
    uid: String,
}

impl Part {
    fn of(objects: &Objects) -> Self {
        let Objects {
            connectors,
            intakes,
            policies,
            unreadable,
        } = objects;
        let mut verdicts = Vec::with_capacity(objects.len());
        let (intakes, mut states) = intake::compile(intakes, &mut verdicts);
        for object in unreadable {
            if object.kind == Kind::IntakeAddress
                && let Some(name) = &object.metadata.name
            {
                states.0.entry(name.as_str().into()).or_insert(false);
            }
            verdicts.push(unread(object));
        }
        let (connector, default_intake) = connector::compile(connectors, &states, &mut verdicts);
        let policies = policy::compile(policies, &states, &default_intake, &mut verdicts);
        Self {
            connector,
            intakes,
            policies,
            verdicts,
        }
    }
}

/// The verdict on an object that this version cannot read.
fn unread(object: &Unreadable) -> Verdict {
    let message = format!(
        "cannot be read by this version ({}); the definition in the cluster is of another version: apply `tdc crds`, \
         or correct the object",
        object.error
    );
    let problems = vec![Problem::new("spec", Reason::Unreadable, message)];
    let accepted = Judgement::because(&problems[0], "The object is not in use.");
    let resolved = Judgement::because(&problems[0], "Its references are not known.");
    Verdict::of(object.kind, &object.metadata, accepted, resolved, problems)
}

/// The intakes by name, and whether each can be used.
#[derive(Debug, Default)]
struct IntakeStates(BTreeMap<Arc<str>, bool>);

impl IntakeStates {
    /// The intake that `field` refers to.
    fn resolve(&self, field: &str, name: &str) -> Result<Arc<str>, Problem> {
        match self.0.get_key_value(name) {
            Some((name, true)) => Ok(name.clone()),
            Some((_, false)) => Err(Problem::new(
                field,
                Reason::IntakeNotAccepted,
                format!("IntakeAddress {name} is not accepted; see its Accepted condition"),
            )),
            None => Err(Problem::new(
                field,
                Reason::IntakeNotFound,
                format!("there is no IntakeAddress {name} in this namespace; create it, or correct the name"),
            )),
        }
    }
}

fn object_ref(object: &impl Resource) -> ObjectRef {
    let meta = object.meta();
    ObjectRef {
        name: meta.name.as_deref().unwrap_or_default().into(),
        uid: meta.uid.as_deref().unwrap_or_default().into(),
        generation: meta.generation.unwrap_or(0),
    }
}

/// Oldest first, then by name. An object without a time stamp (one from a file) is older than those that have one.
fn by_age<T: Resource>(a: &T, b: &T) -> Ordering {
    let (a, b) = (a.meta(), b.meta());
    let key = |meta: &kube::core::ObjectMeta| meta.creation_timestamp.as_ref().map(|time| time.0);
    key(a)
        .cmp(&key(b))
        .then_with(|| a.name.cmp(&b.name))
        .then_with(|| a.namespace.cmp(&b.namespace))
        .then_with(|| a.uid.cmp(&b.uid))
}

/// The objects, the first by `order` in front.
fn sorted<T>(objects: &[Arc<T>], order: impl Fn(&T, &T) -> Ordering) -> Vec<&T> {
    let mut sorted: Vec<&T> = objects.iter().map(|object| &**object).collect();
    sorted.sort_by(|a, b| order(a, b));
    sorted
}
