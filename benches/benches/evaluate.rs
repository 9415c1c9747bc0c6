//! The evaluator on tables of 10,000 rows: time for an envelope with one recipient and with a thousand.
//!
//! `cargo bench -p tdc-benches --bench evaluate`. `distinct` is the usual table; in the others all rows share patterns,
//! which is where the time could grow with rows times recipients.

use divan::{Bencher, black_box};
use tdc_benches::table::{envelope, snapshot};
use tdc_core::evaluator::Snapshot;
use tdc_core::pattern::Pattern;
use tdc_core::policy::{
    Journaling, ObjectRef, Policy, PolicyTable, RecipientCondition, Row, SenderCondition, SnapshotVersion,
};
use tdc_core::{Envelope, Mailbox, ReversePath};

/// Rows in each table, each of a policy of its own.
const ROWS: usize = 10_000;
/// Recipients of one message: the limit of ingress.
const RECIPIENTS: [usize; 2] = [1, 1000];

fn main() {
    divan::main();
}

fn patterns(texts: &[String]) -> Vec<Pattern> {
    let parse = |text: &String| Pattern::parse(text).expect("the patterns of this file are patterns");
    texts.iter().map(parse).collect()
}

/// The row of that number: patterns of senders and recipients, and whom the message must be addressed to.
fn row(senders: &str, any_of: &[String], all_of: &[String]) -> Row {
    Row {
        senders: Some(SenderCondition {
            any_of: patterns(&[senders.to_owned()]),
            none_of: Vec::new(),
        }),
        recipients: Some(RecipientCondition {
            any_of: patterns(any_of),
            all_of: patterns(all_of),
            none_of: Vec::new(),
        }),
        ..Row::default()
    }
}

fn run(bencher: Bencher<'_, '_>, recipients: usize, row: impl Fn(usize) -> Row) {
    let policy = |number: usize| Policy {
        object: ObjectRef {
            name: format!("p{number}").into(),
            ..ObjectRef::default()
        },
        order: 0,
        rows: vec![row(number)],
        journaling: Journaling::Disabled,
    };
    let table = PolicyTable {
        policies: (0..ROWS).map(policy).collect(),
        ..PolicyTable::default()
    };
    let snapshot = Snapshot::new(SnapshotVersion::default(), table).expect("the table has no header rules");
    let to = |number| Mailbox::new(format!("u{number}@company.example"));
    let envelope = Envelope {
        sender: ReversePath::new("a@mail.partner.example"),
        recipients: (0..recipients).map(to).collect(),
    };
    bencher.bench_local(|| snapshot.evaluate(black_box(&envelope)));
}

#[divan::bench(args = RECIPIENTS)]
fn distinct(bencher: Bencher<'_, '_>, recipients: usize) {
    run(bencher, recipients, |n| {
        row(&format!("@s{n}.example"), &[format!("@r{n}.example")], &[])
    });
}

#[divan::bench(args = RECIPIENTS)]
fn one_sender_pattern(bencher: Bencher<'_, '_>, recipients: usize) {
    run(bencher, recipients, |n| {
        row("@.partner.example", &[format!("@r{n}.example")], &[])
    });
}

/// Every row is on the lists of sender and recipient, and none holds.
#[divan::bench(args = RECIPIENTS, sample_count = 5)]
fn one_sender_and_one_of_100_recipient_patterns(bencher: Bencher<'_, '_>, recipients: usize) {
    run(bencher, recipients, |n| {
        let own = (0..99).map(|k| format!("u{k}@r{n}.example"));
        let any_of: Vec<String> = own.chain(["@company.example".to_owned()]).collect();
        row("@.partner.example", &any_of, &[format!("x{n}@absent.example")])
    });
}

/// Policies in the table, each with ten patterns of its own; the last one takes the recipients.
const POLICIES: [usize; 5] = [1, 10, 100, 1_000, 10_000];
const PATTERNS: usize = 10;

#[divan::bench(args = POLICIES)]
fn one_recipient(bencher: Bencher<'_, '_>, policies: usize) {
    let snapshot = snapshot(policies, PATTERNS);
    let envelope = envelope(policies - 1, 1);
    assert_eq!(snapshot.evaluate(&envelope).copies.len(), 1);
    bencher.bench_local(|| snapshot.evaluate(black_box(&envelope)));
}

#[divan::bench(args = POLICIES)]
fn one_recipient_that_none_takes(bencher: Bencher<'_, '_>, policies: usize) {
    let snapshot = snapshot(policies, PATTERNS);
    let envelope = envelope(policies, 1);
    assert_eq!(snapshot.evaluate(&envelope).copies.len(), 0);
    bencher.bench_local(|| snapshot.evaluate(black_box(&envelope)));
}

#[divan::bench(args = [1, 10, 100, 1_000])]
fn recipients_with_1000_policies(bencher: Bencher<'_, '_>, recipients: usize) {
    let snapshot = snapshot(1_000, PATTERNS);
    let envelope = envelope(999, recipients);
    bencher.bench_local(|| snapshot.evaluate(black_box(&envelope)));
}

#[divan::bench(args = [100, 1_000, 10_000], sample_count = 10)]
fn compile(bencher: Bencher<'_, '_>, policies: usize) {
    let snapshot = snapshot(policies, PATTERNS);
    bencher
        .with_inputs(|| (snapshot.version.clone(), snapshot.table.clone()))
        .bench_local_values(|(version, table)| Snapshot::new(version, table));
}
