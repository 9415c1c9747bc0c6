//! What the connector costs as work grows: size, connections, policies, workers, intakes, backlog.
//!
//! One run for each figure, a few seconds long. What counts is how a column grows, not its first digit.

use std::path::PathBuf;

use clap::Args;

use crate::backlog;
use crate::fail::Outcome;
use crate::report::{Table, mebibytes, millis, number};
use crate::run::{Generator, Run, Sample, What, run};
use crate::scratch::Scratch;
use crate::tdc::Setup;

/// Octets of an ordinary message.
const SIZE: usize = 10 * 1024;
/// One mebibyte.
const MIB: usize = 1024 * 1024;

#[derive(Clone, Debug, Args)]
pub(crate) struct GrowthArgs {
    /// The program `tdc`
    #[arg(long, default_value = "target/release/tdc")]
    tdc: PathBuf,
    /// Where logs and Redis's data go: a folder on a disk
    #[arg(long, default_value = "/var/tmp")]
    disk: PathBuf,
    /// Only tables whose title contains this
    #[arg(long)]
    only: Option<String>,
    /// The smallest two of each, with few messages, to see that everything works
    #[arg(long)]
    quick: bool,
    /// Puts the tables into this file, between its marks for them
    #[arg(long)]
    write: Option<PathBuf>,
}

/// One line of a table.
struct Point {
    shown: String,
    run: Run,
}

/// Runs everything; the tables.
pub(crate) fn growth(args: &GrowthArgs) -> Outcome<()> {
    let base = Scratch::new(&args.disk)?;
    let mut text = String::new();
    for (title, mut points) in tables(args) {
        if !wanted(args, title) {
            continue;
        }
        eprintln!("{title}");
        if args.quick {
            points.truncate(2);
            for point in &mut points {
                point.run.messages = point.run.messages.min(20);
            }
        }
        let mut table = Table::new(&[
            title,
            "messages/s",
            "MB/s",
            "250 after, ms, median / 99th",
            "CPU ms a message: ingress",
            "policy",
            "Redis",
            "workers",
            "peak MiB: ingress",
            "policy",
            "workers",
        ]);
        for point in &points {
            let sample = run(&point.run, base.path())?;
            eprintln!("  {}: {} messages a second", point.shown, number(sample.rate));
            table.row(row(point, &sample));
        }
        text.push_str(&table.text());
        text.push('\n');
    }
    if wanted(args, backlog::TITLE) {
        eprintln!("{}", backlog::TITLE);
        text.push_str(&backlog::table(base.path(), args.quick)?);
    }
    println!("{text}");
    match &args.write {
        Some(file) if !args.quick => crate::document::replace(file, "growth", &text),
        _ => Ok(()),
    }
}

fn wanted(args: &GrowthArgs, title: &str) -> bool {
    args.only.as_ref().is_none_or(|only| title.contains(only))
}

fn row(point: &Point, sample: &Sample) -> Vec<String> {
    let messages = point.run.messages as f64;
    let sum = |name: &str, of: fn(&crate::proc::Usage) -> f64| -> f64 {
        let of_name = sample.usage.iter().filter(|(known, _)| known.starts_with(name));
        of_name.map(|(_, usage)| of(usage)).sum()
    };
    let cpu = |name| number(sum(name, |usage| usage.cpu.as_secs_f64()) * 1000.0 / messages);
    let memory = |name| mebibytes(sum(name, |usage| usage.memory as f64));
    let latency = sample.sent.as_ref().map_or_else(String::new, |sent| {
        format!("{} / {}", millis(sent.median as f64), millis(sent.p99 as f64))
    });
    vec![
        point.shown.clone(),
        number(sample.rate),
        number(sample.rate * point.run.size as f64 / 1e6),
        latency,
        cpu("ingress"),
        cpu("policy"),
        cpu("redis"),
        cpu("worker"),
        memory("ingress"),
        memory("policy"),
        memory("worker"),
    ]
}

fn point(shown: impl Into<String>, setup: &Setup, size: usize, messages: u64, flags: &[&str]) -> Point {
    let mut flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    flags.push("--pipelining".to_owned());
    Point {
        shown: shown.into(),
        run: Run {
            what: What::Tdc(Box::new(setup.clone())),
            generator: Generator::Own(flags),
            size,
            messages,
            warm_up: messages.min(200),
            intake_tls: None,
        },
    }
}

fn tables(args: &GrowthArgs) -> Vec<(&'static str, Vec<Point>)> {
    let setup = Setup::new(&args.tdc);
    let sizes = [
        ("1 KB", 1024, 10_000),
        ("10 KB", SIZE, 10_000),
        ("100 KB", 100 * 1024, 3000),
        ("1 MB", MIB, 400),
        ("5 MB", 5 * MIB, 80),
        ("25 MB", 25 * MIB, 40),
    ];
    let sizes =
        sizes.map(|(shown, size, messages)| point(shown, &setup, size, messages, &["--connections", "10"]));
    let budget = Setup {
        ingress_flags: vec!["--memory-budget".to_owned(), (64 * MIB).to_string()],
        worker_flags: vec!["--delivery-memory".to_owned(), (64 * MIB).to_string()],
        ..setup.clone()
    };
    let large = [
        ("1", &setup, 1),
        ("10", &setup, 10),
        ("40", &setup, 40),
        ("200", &setup, 200),
        ("200, budgets of 64 MiB", &budget, 200),
    ];
    let large = large.map(|(shown, setup, connections): (_, _, u64)| {
        let flags = ["--connections", &connections.to_string(), "--retry"];
        point(shown, setup, 25 * MIB, connections.max(40), &flags)
    });
    let connections = [1, 10, 40, 100, 300, 1000].map(|connections: u32| {
        let connections = connections.to_string();
        let messages = if connections == "1" { 2000 } else { 10_000 };
        point(
            connections.as_str(),
            &setup,
            SIZE,
            messages,
            &["--connections", &connections],
        )
    });
    let policies = [1, 10, 100, 1000, 10_000].map(|policies| {
        let setup = Setup {
            policies,
            ..setup.clone()
        };
        point(policies.to_string(), &setup, SIZE, 5000, &[])
    });
    let workers = [1, 2, 3, 4].map(|workers| {
        let setup = Setup {
            workers,
            ..setup.clone()
        };
        point(workers.to_string(), &setup, SIZE, 10_000, &[])
    });
    let intakes = [1, 10, 100, 500].map(|intakes| {
        let setup = Setup {
            policies: intakes,
            intakes,
            ..setup.clone()
        };
        let domains = intakes.to_string();
        point(intakes.to_string(), &setup, SIZE, 5000, &["--domains", &domains])
    });
    vec![
        ("size, 10 connections", sizes.into()),
        ("connections with 25 MB", large.into()),
        ("connections with 10 KB", connections.into()),
        ("policies, the last takes", policies.into()),
        ("workers", workers.into()),
        ("intakes, one policy each", intakes.into()),
    ]
}
