//! What is known of a cluster's objects, driven by watch events. Pure: no client, no clock.
//!
//! A full list replaces a kind as a whole (*reset*), when it is complete and not before; single events *apply* and
//! *delete*. An object that cannot be read is kept as such, beside the good ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt as _};
use tdc_api::{
    Compiled, IntakeAddress, Kind, MailPolicy, ObjectStatus, Objects, ThreatDefenseConnector, Unreadable,
    compile, compile_namespaces,
};

/// Which namespaces count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One.
    Namespace(String),
    /// All of the cluster; `home` is the one whose connector speaks for whole messages.
    All {
        /// The namespace that the process runs for.
        home: String,
    },
}

impl Scope {
    /// The namespace that the process runs for.
    pub fn home(&self) -> &str {
        match self {
            Self::Namespace(name) | Self::All { home: name } => name,
        }
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// What a writer of statuses must know of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `status`; empty when the object cannot be read.
    pub status: ObjectStatus,
}

/// What an event changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing that matters here.
    Nothing,
    /// A status or other metadata.
    Status,
    /// What is compiled: an object came, went, or has another spec.
    Spec,
}

/// One of the three kinds.
pub trait Indexed: Resource<DynamicType = ()> + Clone + PartialEq + Send + Sync + 'static {
    /// Which.
    const KIND: Kind;
    /// Its status.
    fn status(&self) -> Option<&ObjectStatus>;
    /// Whether both have the same spec.
    fn same_spec(&self, other: &Self) -> bool;
    /// The shelf of this kind.
    fn shelf(index: &mut Index) -> &mut Shelf<Self>;
}

macro_rules! indexed {
    ($type:ident, $shelf:ident) => {
        impl Indexed for $type {
            const KIND: Kind = Kind::$type;

            fn status(&self) -> Option<&ObjectStatus> {
                self.status.as_ref()
            }

            fn same_spec(&self, other: &Self) -> bool {
                self.spec == other.spec
            }

            fn shelf(index: &mut Index) -> &mut Shelf<Self> {
                &mut index.$shelf
            }
        }
    };
}

indexed!(ThreatDefenseConnector, connectors);
indexed!(IntakeAddress, intakes);
indexed!(MailPolicy, policies);

/// The objects of one kind, by namespace and name.
#[derive(Debug)]
pub struct Shelf<K> {
    live: BTreeMap<(String, String), Entry<K>>,
    /// A list that is still arriving.
    arriving: Option<BTreeMap<(String, String), Entry<K>>>,
    listed: bool,
}

#[derive(Debug)]
enum Entry<K> {
    Good(Arc<K>),
    Unreadable(Box<Unreadable>),
}

impl<K> Default for Shelf<K> {
    fn default() -> Self {
        Self {
            live: BTreeMap::new(),
            arriving: None,
            listed: false,
        }
    }
}

impl<K: Indexed> Entry<K> {
    fn of(object: DeserializeGuard<K>) -> Self {
        match object.0 {
            Ok(object) => Self::Good(Arc::new(object)),
            Err(invalid) => Self::Unreadable(Box::new(Unreadable {
                kind: K::KIND,
                metadata: invalid.metadata,
                error: invalid.error,
            })),
        }
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Good(object) => object.meta(),
            Self::Unreadable(object) => &object.metadata,
        }
    }

    /// What replacing `self` by `new` changes.
    fn change(&self, new: &Self) -> Change {
        let identity = |meta: &ObjectMeta| (meta.uid.clone(), meta.generation);
        let same = match (self, new) {
            (Self::Good(old), Self::Good(new)) => old.same_spec(new),
            (Self::Unreadable(old), Self::Unreadable(new)) => old.error == new.error,
            _ => false,
        };
        if !same || identity(self.meta()) != identity(new.meta()) {
            Change::Spec
        } else if self.meta().resource_version != new.meta().resource_version {
            Change::Status
        } else {
            Change::Nothing
        }
    }
}

impl<K: Indexed> Shelf<K> {
    fn take(&mut self, event: Event<DeserializeGuard<K>>) -> Change {
        match event {
            Event::Init => {
                self.arriving = Some(BTreeMap::new());
                Change::Nothing
            }
            Event::InitApply(object) => {
                self.arriving
                    .get_or_insert_default()
                    .insert(key(&object), Entry::of(object));
                Change::Nothing
            }
            Event::InitDone => self.reset(),
            Event::Apply(object) => {
                let key = key(&object);
                let new = Entry::of(object);
                let change = self.live.get(&key).map_or(Change::Spec, |old| old.change(&new));
                self.live.insert(key, new);
                change
            }
            Event::Delete(object) => match self.live.remove(&key(&object)) {
                Some(_) => Change::Spec,
                None => Change::Nothing,
            },
        }
    }

    fn reset(&mut self) -> Change {
        let new = self.arriving.take().unwrap_or_default();
        let first = !std::mem::replace(&mut self.listed, true);
        let gone = self.live.keys().any(|key| !new.contains_key(key));
        let change = new
            .iter()
            .map(|(key, new)| self.live.get(key).map_or(Change::Spec, |old| old.change(new)))
            .max()
            .unwrap_or(Change::Nothing);
        self.live = new;
        if first || gone { Change::Spec } else { change }
    }

    fn known(&self, namespace: &str, name: &str) -> Option<Known> {
        let entry = self.live.get(&(namespace.to_owned(), name.to_owned()))?;
        let meta = entry.meta();
        Some(Known {
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            status: match entry {
                Entry::Good(object) => object.status().cloned().unwrap_or_default(),
                Entry::Unreadable(_) => ObjectStatus::default(),
            },
        })
    }

    fn fill(
        &self,
        namespaces: &mut BTreeMap<String, Objects>,
        list: impl Fn(&mut Objects) -> &mut Vec<Arc<K>>,
    ) {
        for ((namespace, _), entry) in &self.live {
            if !namespaces.contains_key(namespace) {
                namespaces.insert(namespace.clone(), Objects::default());
            }
            let Some(objects) = namespaces.get_mut(namespace) else {
                continue;
            };
            match entry {
                Entry::Good(object) => list(objects).push(object.clone()),
                Entry::Unreadable(object) => objects.unreadable.push((**object).clone()),
            }
        }
    }
}

fn key<K: Resource>(object: &DeserializeGuard<K>) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Index {
    connectors: Shelf<ThreatDefenseConnector>,
    intakes: Shelf<IntakeAddress>,
    policies: Shelf<MailPolicy>,
}

impl Index {
    /// Takes in what a watch says.
    pub fn take<K: Indexed>(&mut self, event: Event<DeserializeGuard<K>>) -> Change {
        K::shelf(self).take(event)
    }

    /// Whether every kind was listed once.
    pub fn is_complete(&self) -> bool {
        self.connectors.listed && self.intakes.listed && self.policies.listed
    }

    /// An object as it was seen last.
    pub fn known(&self, key: &Key) -> Option<Known> {
        let Key {
            kind,
            namespace,
            name,
        } = key;
        match kind {
            Kind::ThreatDefenseConnector => self.connectors.known(namespace, name),
            Kind::IntakeAddress => self.intakes.known(namespace, name),
            Kind::MailPolicy => self.policies.known(namespace, name),
        }
    }

    /// All objects, by namespace.
    pub fn objects(&self) -> BTreeMap<String, Objects> {
        let mut namespaces = BTreeMap::new();
        self.connectors
            .fill(&mut namespaces, |objects| &mut objects.connectors);
        self.intakes.fill(&mut namespaces, |objects| &mut objects.intakes);
        self.policies
            .fill(&mut namespaces, |objects| &mut objects.policies);
        namespaces
    }
}

/// Compiles the objects as the scope wants it.
pub fn compiled(scope: &Scope, mut namespaces: BTreeMap<String, Objects>) -> Compiled {
    match scope {
        Scope::Namespace(name) => compile(&namespaces.remove(name).unwrap_or_default()),
        Scope::All { home } => compile_namespaces(&namespaces, home),
    }
}
