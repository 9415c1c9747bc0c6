//! Who acts on what: from the snapshots that the policy replicas serve, and what their clients acknowledged, to the
//! standing of one object. Pure: no client, no clock.
//!
//! An object is *everywhere* when every policy replica serves it exactly as it compiles here, and every ingress and
//! worker that watches one of them has acknowledged a snapshot that holds it so. What counts is the compiled form, not
//! only the generation: a policy whose default intake changed is not everywhere before the new intake is.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use tdc_core::policy::{PolicyTable, SnapshotVersion};
use tdc_proto::v1;

/// Names of those that are waited for which one message lists; further ones are counted.
const MAX_NAMED: usize = 3;

/// A table with its objects by uid.
#[derive(Debug, Default)]
pub struct Forms {
    table: PolicyTable,
    places: HashMap<Arc<str>, Place>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Connector,
    Intake(usize),
    Policy(usize),
}

impl Forms {
    /// Looks through a table.
    pub fn new(table: PolicyTable) -> Self {
        let mut places = HashMap::with_capacity(table.policies.len() + table.intakes.len() + 1);
        if !table.connector.object.uid.is_empty() {
            places.insert(table.connector.object.uid.clone(), Place::Connector);
        }
        for (at, intake) in table.intakes.iter().enumerate() {
            places.insert(intake.object.uid.clone(), Place::Intake(at));
        }
        for (at, policy) in table.policies.iter().enumerate() {
            places.insert(policy.object.uid.clone(), Place::Policy(at));
        }
        Self { table, places }
    }

    /// Whether both hold the object in the same form. An object that has no place of its own in the table (the
    /// connector of another namespace than the home one) shows only in the whole of it.
    fn agree(&self, other: &Self, uid: &str) -> bool {
        match (self.places.get(uid), other.places.get(uid)) {
            (Some(Place::Connector), Some(Place::Connector)) => self.table.connector == other.table.connector,
            (Some(Place::Intake(a)), Some(Place::Intake(b))) => {
                self.table.intakes[*a] == other.table.intakes[*b]
            }
            (Some(Place::Policy(a)), Some(Place::Policy(b))) => {
                self.table.policies[*a] == other.table.policies[*b]
            }
            (None, None) => self.table == other.table,
            _ => false,
        }
    }
}

/// One run of a policy process: what it serves, and since when each object has the form that it has.
#[derive(Debug)]
struct Instance {
    sequence: u64,
    forms: Forms,
    since: HashMap<Arc<str>, u64>,
    /// Since when the whole table is what it is.
    whole: u64,
}

impl Instance {
    /// The first that is seen of it. Who has an older snapshot will have this one soon: objects count from here on.
    fn first(sequence: u64, table: PolicyTable) -> Self {
        let forms = Forms::new(table);
        let since = forms.places.keys().map(|uid| (uid.clone(), sequence)).collect();
        Self {
            sequence,
            forms,
            since,
            whole: sequence,
        }
    }

    fn next(&mut self, sequence: u64, table: PolicyTable) {
        let forms = Forms::new(table);
        let since = |uid: &Arc<str>| {
            let before = self.since.get(uid).filter(|_| forms.agree(&self.forms, uid));
            before.copied().unwrap_or(sequence)
        };
        let since = forms.places.keys().map(|uid| (uid.clone(), since(uid))).collect();
        if forms.table != self.forms.table {
            self.whole = sequence;
        }
        self.sequence = sequence;
        self.since = since;
        self.forms = forms;
    }

    /// The first snapshot that holds the object as `desired` has it; `None` when the newest does not.
    fn since(&self, desired: &Forms, uid: &str) -> Option<u64> {
        if !self.forms.agree(desired, uid) {
            return None;
        }
        Some(self.since.get(uid).copied().unwrap_or(self.whole))
    }
}

/// One replica of the policy service.
#[derive(Debug, Default)]
struct Replica {
    /// The run that it is now.
    instance: Option<Arc<str>>,
    peers: Vec<v1::Peer>,
    /// Why it cannot be asked.
    trouble: Option<String>,
}

/// All replicas, and who watches them.
#[derive(Debug, Default)]
pub struct Rollout {
    replicas: BTreeMap<SocketAddr, Replica>,
    instances: HashMap<Arc<str>, Instance>,
    /// Why the replicas are not known.
    lost: Option<String>,
}

/// How far an object has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Everywhere.
    Everywhere,
    /// Not everywhere; the text says who is waited for.
    Waiting(String),
    /// Somebody said that it cannot be applied; the text says who, and why.
    Rejected(String),
    /// Nobody can be asked; the text says why.
    Unknown(String),
}

impl Rollout {
    /// These are the ready replicas now. Returns whether that is news.
    pub fn these(&mut self, found: impl IntoIterator<Item = SocketAddr>) -> bool {
        let found: Vec<SocketAddr> = found.into_iter().collect();
        let before = (self.replicas.len(), self.lost.take().is_some());
        let gone = self.replicas.keys().any(|known| !found.contains(known));
        self.replicas.retain(|known, _| found.contains(known));
        for replica in found {
            self.replicas.entry(replica).or_default();
        }
        let Self {
            replicas, instances, ..
        } = self;
        instances.retain(|name, _| {
            replicas
                .values()
                .any(|replica| replica.instance.as_ref() == Some(name))
        });
        gone || before != (self.replicas.len(), false)
    }

    /// The replicas cannot be found; those that are known stay.
    pub fn lost(&mut self, why: String) -> bool {
        let news = self.lost.is_none();
        self.lost = Some(why);
        news
    }

    /// A replica serves a snapshot.
    pub fn serves(&mut self, replica: SocketAddr, version: SnapshotVersion, table: PolicyTable) {
        let Some(known) = self.replicas.get_mut(&replica) else {
            return;
        };
        known.trouble = None;
        let before = known.instance.replace(version.instance.clone());
        if let Some(before) = before.filter(|before| *before != version.instance) {
            self.instances.remove(&before);
        }
        match self.instances.get_mut(&version.instance) {
            Some(instance) => instance.next(version.sequence, table),
            None => {
                let instance = Instance::first(version.sequence, table);
                self.instances.insert(version.instance, instance);
            }
        }
    }

    /// Who watches a replica, and what each has. Returns whether that is news.
    pub fn watched_by(&mut self, replica: SocketAddr, peers: Vec<v1::Peer>) -> bool {
        let Some(known) = self.replicas.get_mut(&replica) else {
            return false;
        };
        let news = known.peers != peers || known.trouble.is_some();
        known.trouble = None;
        known.peers = peers;
        news
    }

    /// A replica cannot be asked. Returns whether that is news.
    pub fn trouble(&mut self, replica: SocketAddr, why: String) -> bool {
        let Some(known) = self.replicas.get_mut(&replica) else {
            return false;
        };
        known.peers.clear();
        known.trouble.replace(why).is_none()
    }

    /// How many replicas there are, and how many ingresses and workers watch them.
    pub fn counts(&self) -> (usize, usize) {
        let peers = self.replicas.values().map(|replica| replica.peers.len()).sum();
        (self.replicas.len(), peers)
    }

    /// How far the object of that uid has come towards its form in `desired`.
    pub fn standing(&self, desired: &Forms, uid: &str) -> Standing {
        let troubles: Vec<&String> = self
            .replicas
            .values()
            .filter_map(|replica| replica.trouble.as_ref())
            .collect();
        if self.replicas.is_empty() || troubles.len() == self.replicas.len() {
            let why = (troubles.first().copied()).or(self.lost.as_ref());
            let why = why.map_or("its name has no address", String::as_str);
            return Standing::Unknown(format!("No replica of the policy service can be asked: {why}."));
        }
        let since: HashMap<&str, Option<u64>> = self
            .instances
            .iter()
            .map(|(name, instance)| (&**name, instance.since(desired, uid)))
            .collect();
        let has = |version: &Option<v1::SnapshotVersion>| {
            version.as_ref().is_some_and(|version| {
                let since = since.get(&*version.instance).copied().flatten();
                since.is_some_and(|since| version.sequence >= since)
            })
        };
        let mut waiting: Vec<String> = Vec::new();
        for (address, replica) in &self.replicas {
            let serves = replica
                .instance
                .as_ref()
                .is_some_and(|instance| since.get(&**instance).copied().flatten().is_some());
            if !serves || replica.trouble.is_some() {
                waiting.push(format!("policy {address}"));
            }
        }
        for (name, streams) in self.clients() {
            if streams.iter().any(|peer| has(&peer.applied)) {
                continue;
            }
            if let Some(peer) = streams.iter().find(|peer| has(&peer.rejected)) {
                return Standing::Rejected(format!("{name} cannot apply the table: {}", peer.error));
            }
            waiting.push(name);
        }
        match waiting.len() {
            0 => Standing::Everywhere,
            count => {
                let mut text = waiting[..count.min(MAX_NAMED)].join(", ");
                if count > MAX_NAMED {
                    text.push_str(&format!(" and {} more", count - MAX_NAMED));
                }
                Standing::Waiting(format!("Waiting for {text}."))
            }
        }
    }

    /// Ingresses and workers by name: one that has just changed to another replica may show twice. One that has said
    /// neither yes nor no to any snapshot decides about no mail yet, and is not waited for.
    fn clients(&self) -> BTreeMap<String, Vec<&v1::Peer>> {
        let mut clients: BTreeMap<String, Vec<&v1::Peer>> = BTreeMap::new();
        for peer in self.replicas.values().flat_map(|replica| &replica.peers) {
            let Some(node) = &peer.node else { continue };
            if peer.applied.is_some() || peer.rejected.is_some() {
                let name = format!("{} {}", node.role, node.name);
                clients.entry(name).or_default().push(peer);
            }
        }
        clients
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tdc_core::policy::{Journaling, ObjectRef, Policy};

    fn table(policies: &[(&str, i64, i32)]) -> PolicyTable {
        PolicyTable {
            policies: policies
                .iter()
                .map(|(uid, generation, order)| Policy {
                    object: ObjectRef {
                        name: (*uid).into(),
                        uid: (*uid).into(),
                        generation: *generation,
                    },
                    order: *order,
                    rows: Vec::new(),
                    journaling: Journaling::Disabled,
                })
                .collect(),
            ..PolicyTable::default()
        }
    }

    fn version(instance: &str, sequence: u64) -> SnapshotVersion {
        SnapshotVersion {
            instance: instance.into(),
            sequence,
        }
    }

    fn peer(name: &str, applied: Option<(&str, u64)>, rejected: Option<(&str, u64)>) -> v1::Peer {
        let version = |of: Option<(&str, u64)>| {
            of.map(|(instance, sequence)| v1::SnapshotVersion {
                instance: instance.into(),
                sequence,
            })
        };
        v1::Peer {
            node: Some(v1::Node {
                name: name.into(),
                role: "ingress".into(),
            }),
            applied: version(applied),
            rejected: version(rejected),
            error: if rejected.is_some() {
                "no such thing".into()
            } else {
                String::new()
            },
        }
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    /// Two replicas that both serve the first table.
    fn two() -> Rollout {
        let mut rollout = Rollout::default();
        assert!(rollout.these([at(1), at(2)]));
        assert!(!rollout.these([at(1), at(2)]), "nothing new");
        rollout.serves(at(1), version("p1", 4), table(&[("a", 1, 10), ("b", 1, 20)]));
        rollout.serves(at(2), version("p2", 9), table(&[("a", 1, 10), ("b", 1, 20)]));
        rollout
    }

    #[test]
    fn everywhere_means_every_replica_and_every_client() {
        let first = Forms::new(table(&[("a", 1, 10), ("b", 1, 20)]));
        let second = Forms::new(table(&[("a", 2, 11), ("b", 1, 20)]));
        let mut rollout = two();
        assert_eq!(
            rollout.standing(&first, "a"),
            Standing::Everywhere,
            "nobody watches"
        );
        rollout.watched_by(at(1), vec![peer("i1", Some(("p1", 4)), None)]);
        rollout.watched_by(at(2), vec![peer("i2", None, None)]);
        assert_eq!(
            rollout.standing(&first, "a"),
            Standing::Everywhere,
            "i2 has nothing and decides nothing"
        );
        assert_eq!(
            rollout.standing(&second, "a"),
            Standing::Waiting("Waiting for policy 10.0.0.1:1, policy 10.0.0.1:2, ingress i1.".into())
        );
        rollout.serves(at(1), version("p1", 5), table(&[("a", 2, 11), ("b", 1, 20)]));
        rollout.serves(at(2), version("p2", 10), table(&[("a", 2, 11), ("b", 1, 20)]));
        assert_eq!(
            rollout.standing(&second, "a"),
            Standing::Waiting("Waiting for ingress i1.".into())
        );
        assert_eq!(
            rollout.standing(&second, "b"),
            Standing::Everywhere,
            "b did not change"
        );
        assert!(rollout.watched_by(at(1), vec![peer("i1", Some(("p1", 5)), None)]));
        assert_eq!(rollout.standing(&second, "a"), Standing::Everywhere);
        assert!(
            !rollout.watched_by(at(1), vec![peer("i1", Some(("p1", 5)), None)]),
            "nothing new"
        );
    }

    #[test]
    fn a_client_that_changes_replicas_keeps_what_it_has() {
        let desired = Forms::new(table(&[("a", 1, 10), ("b", 1, 20)]));
        let mut rollout = two();
        rollout.watched_by(at(2), vec![peer("i1", Some(("p1", 4)), None)]);
        assert_eq!(
            rollout.standing(&desired, "a"),
            Standing::Everywhere,
            "it has p1's snapshot"
        );
        rollout.watched_by(at(2), vec![peer("i1", Some(("p0", 99)), None)]);
        assert!(
            matches!(rollout.standing(&desired, "a"), Standing::Waiting(_)),
            "of a run that nobody knows"
        );
        rollout.watched_by(at(1), vec![peer("i1", Some(("p1", 4)), None)]);
        assert_eq!(
            rollout.standing(&desired, "a"),
            Standing::Everywhere,
            "its other stream says more"
        );
    }

    #[test]
    fn a_rejection_is_told() {
        let desired = Forms::new(table(&[("a", 2, 11)]));
        let mut rollout = Rollout::default();
        rollout.these([at(1)]);
        rollout.serves(at(1), version("p1", 1), table(&[("a", 1, 10)]));
        rollout.serves(at(1), version("p1", 2), table(&[("a", 2, 11)]));
        rollout.watched_by(at(1), vec![peer("i1", Some(("p1", 1)), Some(("p1", 2)))]);
        let told = "ingress i1 cannot apply the table: no such thing";
        assert_eq!(rollout.standing(&desired, "a"), Standing::Rejected(told.into()));
    }

    #[test]
    fn without_a_replica_nothing_is_known() {
        let desired = Forms::new(table(&[("a", 1, 10)]));
        let mut rollout = Rollout::default();
        assert!(matches!(rollout.standing(&desired, "a"), Standing::Unknown(_)));
        rollout.these([at(1), at(2)]);
        rollout.serves(at(1), version("p1", 1), table(&[("a", 1, 10)]));
        assert!(rollout.trouble(at(2), "refused".into()));
        assert_eq!(
            rollout.standing(&desired, "a"),
            Standing::Waiting("Waiting for policy 10.0.0.1:2.".into())
        );
        rollout.trouble(at(1), "refused".into());
        let told = "No replica of the policy service can be asked: refused.";
        assert_eq!(rollout.standing(&desired, "a"), Standing::Unknown(told.into()));
        rollout.these([at(1)]);
        rollout.serves(at(1), version("p2", 1), table(&[("a", 1, 10)]));
        assert_eq!(
            rollout.standing(&desired, "a"),
            Standing::Everywhere,
            "restarted as p2"
        );
        assert_eq!(rollout.instances.len(), 1, "p1 is forgotten");
    }

    #[test]
    fn an_object_without_a_place_of_its_own_shows_in_the_whole() {
        let mut rollout = Rollout::default();
        rollout.these([at(1)]);
        rollout.serves(at(1), version("p1", 1), table(&[("a", 1, 10)]));
        rollout.serves(at(1), version("p1", 2), table(&[("a", 2, 11)]));
        rollout.watched_by(at(1), vec![peer("i1", Some(("p1", 1)), None)]);
        let desired = Forms::new(table(&[("a", 2, 11)]));
        assert!(matches!(
            rollout.standing(&desired, "elsewhere"),
            Standing::Waiting(_)
        ));
        rollout.watched_by(at(1), vec![peer("i1", Some(("p1", 2)), None)]);
        assert_eq!(rollout.standing(&desired, "elsewhere"), Standing::Everywhere);
    }
}
