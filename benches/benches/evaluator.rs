//! The evaluator: one decision, and compiling a table, as policies grow.
//!
//! `cargo bench -p tdc-benches --bench evaluator`. The envelope is taken by the last policy of the table.

use divan::{AllocProfiler, Bencher, black_box};
use tdc_benches::table::{envelope, snapshot};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// Policies in the table.
const POLICIES: [usize; 5] = [1, 10, 100, 1_000, 10_000];
/// Patterns of each.
const PATTERNS: usize = 10;

fn main() {
    divan::main();
}

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
        .bench_local_values(|(version, table)| tdc_core::evaluator::Snapshot::new(version, table));
}
