//! Where the time of each process goes: `perf` on each of them, under load.
//!
//! Two lists for each: what a function and all that it calls cost (of our own functions, the system calls, and the
//! largest libraries), and what the function alone costs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::Args;

use crate::fail::{Fail, Outcome};
use crate::report::number;
use crate::run::{Generator, Run, Stage, What};
use crate::scratch::Scratch;
use crate::tdc::Setup;

/// Samples a second of each thread: enough to tell 1 % within seconds, few enough to cost little.
const FREQUENCY: &str = "249";
/// What the first list shows.
const SHOWN: [&str; 10] = [
    "tdc_",
    "x64_sys_",
    "redis::",
    "tonic::",
    "h2::",
    "serde_json",
    "tracing",
    "malloc",
    "free",
    "rustls",
];
/// Lines of a list.
const LINES: usize = 40;

#[derive(Clone, Debug, Args)]
pub(crate) struct ProfileArgs {
    /// The program `tdc`
    #[arg(long, default_value = "target/release/tdc")]
    tdc: PathBuf,
    /// Where logs and samples go: a folder on a disk
    #[arg(long, default_value = "/var/tmp")]
    disk: PathBuf,
    /// Octets of a message
    #[arg(long, default_value_t = 10 * 1024)]
    size: usize,
    /// Messages
    #[arg(long, default_value_t = 20_000)]
    messages: u64,
}

/// Runs a load, and prints the profiles.
pub(crate) fn profile(args: &ProfileArgs) -> Outcome<()> {
    let dir = Scratch::new(&args.disk)?;
    let run = Run {
        what: What::Tdc(Box::new(Setup::new(&args.tdc))),
        generator: Generator::Own(vec!["--pipelining".into()]),
        size: args.size,
        messages: args.messages,
        warm_up: 400,
        intake_tls: None,
    };
    let mut stage = Stage::start(&run, dir.path())?;
    let mut recorders = Vec::new();
    for (name, pid) in stage.processes() {
        recorders.push((name, record(dir.path(), name, pid)?));
    }
    let sample = stage.measure()?;
    for (name, recorder) in &mut recorders {
        finish(name, recorder)?;
    }
    drop(stage);
    println!("{} messages a second while it was watched\n", number(sample.rate));
    for (name, _) in &recorders {
        let file = data(dir.path(), name);
        let mut inclusive = report(&file, true)?;
        inclusive.retain(|line| SHOWN.iter().any(|part| line.contains(part)));
        let alone = report(&file, false)?;
        for (what, lines) in [("with all that it calls", inclusive), ("alone", alone)] {
            println!("{name}, {what}:\n");
            for line in lines.iter().take(LINES) {
                println!("    {line}");
            }
            println!();
        }
    }
    Ok(())
}

fn data(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.perf"))
}

fn record(dir: &Path, name: &str, pid: u32) -> Outcome<Child> {
    let errors = fs::File::create(dir.join(format!("{name}.perf.log"))).map_err(Fail::of("cannot write"))?;
    Command::new("perf")
        .args([
            "record",
            "-q",
            "-F",
            FREQUENCY,
            "--call-graph",
            "dwarf,16384",
            "-p",
            &pid.to_string(),
            "-o",
        ])
        .arg(data(dir, name))
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .map_err(Fail::of("cannot run perf; install the package linux-perf"))
}

fn finish(name: &str, recorder: &mut Child) -> Outcome<()> {
    let _ = Command::new("kill")
        .args(["-INT", &recorder.id().to_string()])
        .status();
    recorder
        .wait()
        .map_err(Fail::of(format!("perf on {name} is lost")))?;
    Ok(())
}

fn report(file: &Path, children: bool) -> Outcome<Vec<String>> {
    let mut command = Command::new("perf");
    command.args([
        "report",
        "--stdio",
        "-g",
        "none",
        "--percent-limit",
        "0.5",
        "--sort",
        "symbol",
    ]);
    command.arg(if children { "--children" } else { "--no-children" });
    command.arg("-i").arg(file).stderr(Stdio::null());
    let output = command.output().map_err(Fail::of("cannot run perf"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}
