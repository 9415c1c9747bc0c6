//! The queue of real processes in trouble, and what an operator is shown of it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test ends with a panic, says what it did, and has no runtime to block"
)]

mod dlq;
mod hosts;
mod redis;

use std::collections::BTreeMap;

use tdc_tests::stage::Stage;

/// One line of `tdc tophosts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Host {
    down: bool,
    active: u64,
    connections: u64,
    delivered: u64,
    soft: u64,
    hard: u64,
}

/// Reads `tdc tophosts`.
fn top_hosts(stage: &Stage) -> BTreeMap<String, Host> {
    let (text, code) = stage.operate(&["tophosts"]);
    assert_eq!(code, 0, "{text}");
    let rows = text.lines().skip_while(|line| !line.starts_with('#')).skip(1);
    rows.map(|row| {
        let words: Vec<&str> = row.split_whitespace().collect();
        let number = |at: usize| words[at].replace(',', "").parse().unwrap();
        let host = Host {
            down: words[0].ends_with('*'),
            active: number(2),
            connections: number(3),
            delivered: number(4),
            soft: number(5),
            hard: number(6),
        };
        (words[1].to_owned(), host)
    })
    .collect()
}
