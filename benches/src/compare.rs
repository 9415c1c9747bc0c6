//! The comparison: the wire, Postfix and the connector, in turn, with the same generator, sinks, sizes and connections.
//!
//! The systems of a group run one after another, and then again, so that whatever else the machine does falls on all
//! of them alike. Ratios are of medians of the same group.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::fail::{Fail, Outcome};
use crate::pairs;
use crate::report::{Spread, Table, cpu, mebibytes, millis, number, processes};
use crate::run::{Generator, Run, Sample, What, about, run};
use crate::scratch::Scratch;
use crate::tdc::Setup;

/// How long a measured run should last at least.
const LASTS: Duration = Duration::from_secs(4);
/// Messages before the count begins.
const WARM_UP: u64 = 200;
/// Messages of each kind that are sent one at a time.
const ONE_BY_ONE: u64 = 1000;
/// Messages of the run that finds out how many a measured one needs.
const TRIAL: u64 = 500;

#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArgs {
    /// The program `tdc`
    #[arg(long, default_value = "target/release/tdc")]
    pub(crate) tdc: PathBuf,
    /// Where queues, logs and Redis's data go: a folder on a disk
    #[arg(long, default_value = "/var/tmp")]
    pub(crate) disk: PathBuf,
    /// Where Postfix's queue goes: a folder in memory
    #[arg(long, default_value = "/dev/shm")]
    pub(crate) memory: PathBuf,
    /// Runs of each system in each group
    #[arg(long, default_value_t = 4)]
    pub(crate) repeats: usize,
    /// A few messages of each, to see that everything works: the figures mean nothing
    #[arg(long)]
    pub(crate) quick: bool,
    /// Leaves Postfix out, which must be started by root
    #[arg(long)]
    pub(crate) without_postfix: bool,
    /// Only groups whose title contains this
    #[arg(long)]
    pub(crate) only: Option<String>,
    /// Puts the tables into this file, between its marks for them
    #[arg(long)]
    pub(crate) write: Option<PathBuf>,
}

/// Systems that are compared under the same load.
struct Group {
    title: String,
    systems: Vec<(&'static str, Run)>,
}

/// What came of it.
struct Results {
    name: &'static str,
    messages: u64,
    samples: Vec<Sample>,
}

impl Results {
    fn spread(&self, of: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.samples.iter().map(of))
    }

    fn rate(&self) -> Spread {
        self.spread(|sample| sample.rate)
    }

    /// CPU seconds for a thousand messages, of the system without generator and sinks.
    fn own_cpu(&self) -> f64 {
        processes(&self.samples)
            .into_iter()
            .filter(|name| !matches!(*name, "generator" | "mailbox" | "intake"))
            .filter_map(|name| cpu(&self.samples, name, self.messages))
            .map(|spread| spread.median)
            .sum()
    }
}

/// Runs all groups; the tables.
pub(crate) fn compare(args: &CompareArgs) -> Outcome<()> {
    if !args.tdc.is_file() {
        let path = args.tdc.display();
        return Err(Fail(format!(
            "{path} is missing: build it with `cargo build --release -p tdc`, or name it with --tdc"
        )));
    }
    let base = Scratch::new(&args.disk)?;
    let tls = base.path().join("tls");
    let mut text = String::new();
    let mut whole = None;
    for group in groups(args, base.path(), &tls) {
        if args.only.as_ref().is_some_and(|only| !group.title.contains(only)) {
            continue;
        }
        let results = measure(args, &group, base.path())?;
        if group.title.starts_with("own generator, 10 KB") && whole.is_none() {
            let tdc = results.iter().find(|one| one.name == EVERYSEC);
            whole = tdc.map(|one| one.rate().median);
        }
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "### {}\n\n{}\n{}\n",
            group.title,
            overview(&results),
            costs(&results)
        );
    }
    for (part, divisor) in whole.iter().flat_map(|_| PARTS) {
        let rate = whole.unwrap_or_default() / divisor;
        let group = part_load(args, base.path(), rate, part);
        let results = measure(args, &group, base.path())?;
        let _ = write!(text, "### {}\n\n{}\n", group.title, added(&results, rate));
    }
    let title = "one message at a time: own generator, 10 KB, two kept connections, PIPELINING";
    if args.only.as_ref().is_none_or(|only| title.contains(only)) {
        eprintln!("{title}");
        let _ = write!(text, "### {title}\n\n{}\n", one_at_a_time(args, base.path())?);
    }
    println!("{text}");
    match &args.write {
        Some(file) if !args.quick => crate::document::replace(file, "end to end", &text),
        _ => Ok(()),
    }
}

/// Parts of what the connector can do, at which its latency is measured.
const PARTS: [(&str, f64); 3] = [("an eighth", 8.0), ("a quarter", 4.0), ("half", 2.0)];

const WIRE: &str = "the wire";
const POSTFIX: &str = "Postfix, queue in memory";
const POSTFIX_DISK: &str = "Postfix, queue on disk";
const EVERYSEC: &str = "TDC, everysec";
const ALWAYS: &str = "TDC, always";
const LOCAL: &str = "TDC, everysec, decided in ingress";

fn systems(args: &CompareArgs, base: &Path, generator: &Generator, size: usize) -> Vec<(&'static str, Run)> {
    let tdc = |fsync| {
        let setup = Setup {
            fsync,
            ..Setup::new(&args.tdc)
        };
        What::Tdc(Box::new(setup))
    };
    let all = [
        (WIRE, What::Wire),
        (
            POSTFIX,
            What::Postfix(args.memory.join(format!("tdc-bench-{}", std::process::id()))),
        ),
        (POSTFIX_DISK, What::Postfix(base.join("postfix"))),
        (EVERYSEC, tdc("everysec")),
        (ALWAYS, tdc("always")),
        (LOCAL, local(args)),
    ];
    all.into_iter()
        .filter(|(_, what)| !(args.without_postfix && matches!(what, What::Postfix(_))))
        .map(|(name, what)| {
            let run = Run {
                what,
                generator: generator.clone(),
                size,
                messages: 0,
                warm_up: if args.quick { 20 } else { WARM_UP },
                intake_tls: None,
            };
            (name, run)
        })
        .collect()
}

/// Without the call to the policy service for each message.
fn local(args: &CompareArgs) -> What {
    What::Tdc(Box::new(Setup {
        ingress_flags: ["--evaluation", "local"].map(str::to_owned).to_vec(),
        ..Setup::new(&args.tdc)
    }))
}

fn groups(args: &CompareArgs, base: &Path, tls: &Path) -> Vec<Group> {
    let mut groups = Vec::new();
    let sizes: &[(&str, usize)] = &[("10 KB", 10 * 1024), ("75 KB", 75 * 1024)];
    for (shown, size) in sizes {
        for (how, kept) in [
            ("a connection for each message", false),
            ("kept connections", true),
        ] {
            let generator = Generator::SmtpSource { sessions: 40, kept };
            groups.push(Group {
                title: format!("smtp-source, {shown}, 40 sessions, {how}"),
                systems: systems(args, base, &generator, *size),
            });
        }
        let generator = Generator::Own(vec!["--pipelining".into()]);
        groups.push(Group {
            title: format!("own generator, {shown}, 40 kept connections, PIPELINING"),
            systems: systems(args, base, &generator, *size),
        });
        groups.push(secured(args, base, tls, shown, *size));
    }
    // Where Postfix's queue is and who decides makes less difference for the larger messages, and is not asked again.
    for group in groups.iter_mut().filter(|group| !group.title.contains("10 KB")) {
        group
            .systems
            .retain(|(name, _)| ![POSTFIX_DISK, LOCAL].contains(name));
    }
    groups
}

/// STARTTLS at both ends. Postfix is not asked.
fn secured(args: &CompareArgs, base: &Path, tls: &Path, shown: &str, size: usize) -> Group {
    let flags = ["--pipelining", "--tls-dir", &tls.display().to_string()];
    let generator = Generator::Own(flags.map(str::to_owned).to_vec());
    let mut systems = systems(args, base, &generator, size);
    systems.retain(|(_, run)| matches!(run.what, What::Tdc(_)));
    for (_, run) in &mut systems {
        run.intake_tls = Some(tls.to_owned());
        if let What::Tdc(setup) = &mut run.what {
            setup.intake_tls = "Encrypt";
            setup.client_tls = Some(tls.to_owned());
        }
    }
    Group {
        title: format!("own generator, {shown}, 40 kept connections, PIPELINING, TLS at both ends"),
        systems,
    }
}

/// The connector and the wire at a part of what the connector can do.
fn part_load(args: &CompareArgs, base: &Path, rate: f64, part: &str) -> Group {
    let flags = vec![
        "--pipelining".to_owned(),
        "--rate".to_owned(),
        format!("{rate:.0}"),
    ];
    let mut systems = systems(args, base, &Generator::Own(flags), 10 * 1024);
    systems.retain(|(_, run)| !matches!(run.what, What::Postfix(_)));
    for (_, run) in &mut systems {
        run.messages = about(rate, LASTS, 50);
    }
    Group {
        title: format!(
            "own generator, 10 KB, 40 kept connections, {rate:.0} messages a second: {part} of the load"
        ),
        systems,
    }
}

/// Straight and through the connector, in turn.
fn one_at_a_time(args: &CompareArgs, base: &Path) -> Outcome<String> {
    let count = if args.quick { 20 } else { ONE_BY_ONE };
    let generator = Generator::Own(Vec::new());
    let mut systems = systems(args, base, &generator, 10 * 1024);
    systems.retain(|(_, run)| matches!(run.what, What::Tdc(_)));
    let mut runs = Vec::new();
    for (name, mut run) in systems {
        run.warm_up = 0;
        runs.push((name, pairs::measure(&run, base, count)?));
    }
    Ok(pairs::table(runs))
}

fn measure(args: &CompareArgs, group: &Group, base: &Path) -> Outcome<Vec<Results>> {
    eprintln!("{}", group.title);
    let mut results = Vec::new();
    for (name, system) in &group.systems {
        let messages = if args.quick {
            50
        } else if system.messages > 0 {
            system.messages
        } else {
            let trial = Run {
                messages: TRIAL,
                ..system.clone()
            };
            about(run(&trial, base)?.rate, LASTS, 2 * TRIAL)
        };
        results.push(Results {
            name,
            messages,
            samples: Vec::new(),
        });
    }
    for _ in 0..if args.quick { 1 } else { args.repeats } {
        for ((_, system), results) in group.systems.iter().zip(&mut results) {
            let system = Run {
                messages: results.messages,
                ..system.clone()
            };
            let sample = run(&system, base)?;
            eprintln!("  {}: {} messages a second", results.name, number(sample.rate));
            results.samples.push(sample);
        }
    }
    Ok(results)
}

fn overview(results: &[Results]) -> String {
    let find = |name| results.iter().find(|one| one.name == name);
    let ratio = |one: &Results, to: Option<&Results>| {
        to.map_or_else(
            || "–".to_owned(),
            |to| number(one.rate().median / to.rate().median),
        )
    };
    let mut table = Table::new(&[
        "system",
        "messages/s, median (least–most)",
        "× Postfix",
        "× wire",
        "CPU s per 1,000, its own",
        "× Postfix",
        "250 after, ms, median / 99th",
        "original there after, ms",
        "copy there after, ms",
    ]);
    for one in results {
        let postfix = find(POSTFIX);
        let own = one.own_cpu();
        let cpu_ratio = match postfix {
            Some(postfix) if own > 0.0 => number(own / postfix.own_cpu()),
            _ => "–".to_owned(),
        };
        let pair = |of: &dyn Fn(&Sample) -> Option<(u64, u64)>| {
            if one.samples.iter().all(|sample| of(sample).is_none()) {
                return "–".to_owned();
            }
            let median = one.spread(|sample| of(sample).map_or(0.0, |pair| pair.0 as f64));
            let p99 = one.spread(|sample| of(sample).map_or(0.0, |pair| pair.1 as f64));
            format!("{} / {}", millis(median.median), millis(p99.median))
        };
        let arrived =
            |arrived: &crate::sink::Arrived| (arrived.median > 0).then_some((arrived.median, arrived.p99));
        table.row([
            one.name.to_owned(),
            one.rate().to_string(),
            ratio(one, postfix),
            ratio(one, find(WIRE)),
            if own > 0.0 { number(own) } else { "–".to_owned() },
            cpu_ratio,
            pair(&|sample| sample.sent.as_ref().map(|sent| (sent.median, sent.p99))),
            pair(&|sample| arrived(&sample.originals)),
            pair(&|sample| arrived(&sample.copies)),
        ]);
    }
    table.text()
}

fn costs(results: &[Results]) -> String {
    let mut table = Table::new(&[
        "system",
        "CPU s per 1,000 messages, and peak memory in MiB, of each process",
    ]);
    for one in results {
        let parts: Vec<String> = processes(&one.samples)
            .into_iter()
            .filter_map(|name| {
                let cpu = cpu(&one.samples, name, one.messages)?;
                let memory = one.spread(|sample| {
                    let usage = sample.usage.iter().find(|(known, _)| *known == name);
                    usage.map_or(0.0, |(_, usage)| usage.memory as f64)
                });
                let memory = match memory.most {
                    most if most > 0.0 => format!(", {} MiB", mebibytes(most)),
                    _ => String::new(),
                };
                Some(format!("{name} {}{memory}", number(cpu.median)))
            })
            .collect();
        table.row([one.name.to_owned(), parts.join("; ")]);
    }
    table.text()
}

/// What the connector adds to the wire's latency, at so many messages a second.
fn added(results: &[Results], rate: f64) -> String {
    let mut table = Table::new(&[
        "system",
        "cores busy, all processes",
        "250 after, ms: median",
        "99th",
        "added: median",
        "99th",
        "copy there after, ms: median / 99th",
    ]);
    let of = |one: &Results, which: fn(&crate::load::Sent) -> u64| {
        one.spread(|sample| sample.sent.as_ref().map_or(0.0, |sent| which(sent) as f64))
            .median
    };
    let wire = results.iter().find(|one| one.name == WIRE);
    for one in results {
        let (median, p99) = (of(one, |sent| sent.median), of(one, |sent| sent.p99));
        let less =
            |figure: f64, which| wire.map_or_else(|| "–".to_owned(), |wire| millis(figure - of(wire, which)));
        let copies = [
            one.spread(|sample| sample.copies.median as f64).median,
            one.spread(|sample| sample.copies.p99 as f64).median,
        ];
        // Milliseconds a message.
        let cost: f64 = processes(&one.samples)
            .into_iter()
            .filter_map(|name| cpu(&one.samples, name, one.messages))
            .map(|cpu| cpu.median)
            .sum();
        table.row([
            one.name.to_owned(),
            number(cost * rate / 1000.0),
            millis(median),
            millis(p99),
            less(median, |sent| sent.median),
            less(p99, |sent| sent.p99),
            format!("{} / {}", millis(copies[0]), millis(copies[1])),
        ]);
    }
    table.text()
}
