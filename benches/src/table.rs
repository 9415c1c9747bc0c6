//! Policy tables and queue entries of a given size.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tdc_core::evaluator::Snapshot;
use tdc_core::pattern::Pattern;
use tdc_core::policy::{
    Connections, Connector, Format, Intake, IntakeTls, Journaling, ObjectRef, Policy, PolicyTable,
    RecipientCondition, Retry, Row, SnapshotVersion, TlsMode, TlsVersion,
};
use tdc_core::{Envelope, Mailbox, ReversePath};
use tdc_queue::{EntryKey, EntryMeta, NewEntry};

/// The intake of every table here.
pub const INTAKE: &str = "intake";

/// A snapshot of `policies` policies with `patterns` recipient patterns each, all different: addresses, and one domain.
pub fn snapshot(policies: usize, patterns: usize) -> Snapshot {
    let journaling = Journaling::Intake(INTAKE.into());
    let policies = (0..policies).map(|at| Policy {
        object: ObjectRef {
            name: format!("policy-{at}").into(),
            ..ObjectRef::default()
        },
        order: i32::try_from(at).unwrap_or(i32::MAX),
        rows: vec![Row {
            recipients: Some(RecipientCondition {
                any_of: rows(at, patterns),
                ..RecipientCondition::default()
            }),
            ..Row::default()
        }],
        journaling: journaling.clone(),
    });
    let table = PolicyTable {
        connector: Connector::default(),
        intakes: vec![intake()],
        policies: policies.collect(),
    };
    Snapshot::new(SnapshotVersion::default(), table).expect("no header rule is in it that could fail")
}

fn rows(policy: usize, patterns: usize) -> Vec<Pattern> {
    let text = |at| match at {
        0 => format!("@d{policy}.example"),
        at => format!("user{at}@p{policy}.example"),
    };
    let parse = |at| Pattern::parse(&text(at)).expect("it is a pattern");
    (0..patterns).map(parse).collect()
}

fn intake() -> Intake {
    Intake {
        name: INTAKE.into(),
        object: ObjectRef::default(),
        address: Mailbox::new("journal@intake.example"),
        format: Format::JournalReport,
        route: None,
        tls: IntakeTls {
            mode: TlsMode::None,
            min_version: TlsVersion::V1_2,
            server_name: None,
            ca_bundle: "".into(),
        },
        connections: Connections {
            min: 3,
            max: 50,
            messages_per_connection: 10,
        },
        retry: Retry {
            transient: 1,
            network: 1,
            tls: 0,
        },
    }
}

/// An envelope whose recipients are all taken by the policy of that number.
pub fn envelope(policy: usize, recipients: usize) -> Envelope {
    let recipient = |at| Mailbox::new(format!("bob{at}@d{policy}.example"));
    Envelope {
        sender: ReversePath::new("ann@partner.example"),
        recipients: (0..recipients).map(recipient).collect(),
    }
}

/// An entry that is new each time.
pub fn entry(body: &Bytes) -> NewEntry {
    NewEntry {
        key: EntryKey::new(Arc::from(INTAKE)),
        meta: EntryMeta {
            mid: 1,
            sender: "ann@partner.example".into(),
            recipients: vec!["bob@company.example".into()],
            policies: vec!["staff".into()],
            message_id: "<benchmark@partner.example>".into(),
            client_ip: "192.0.2.1".into(),
            sender_ip_header: "X-IronPort-RemoteIP".into(),
            ..EntryMeta::default()
        },
        size: body.len() as u64,
        lifetime: Duration::from_secs(120),
        in_doubt_after: Duration::from_secs(120),
        retain: None,
    }
}
