//! Processes that a run starts and ends, and what they cost.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::fail::{Fail, Outcome};
use crate::interrupt::Noted;

/// Length of a clock tick in /proc: `USER_HZ`, 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);
/// How long a process may take to end when it is asked to.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// What a process and its descendants cost so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// Memory in octets: the highest resident size of one process; of several that share pages, what they have now,
    /// each shared page counted once (PSS).
    pub(crate) memory: u64,
}

/// A running process; it ends with this.
#[derive(Debug)]
pub(crate) struct Proc {
    pub(crate) name: &'static str,
    child: Child,
    pub(crate) log: PathBuf,
    _noted: Noted,
}

impl Proc {
    /// Starts it, its output in a file of `dir`.
    pub(crate) fn start(name: &'static str, command: &mut Command, dir: &Path) -> Outcome<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).map_err(Fail::of(format!("cannot write {}", log.display())))?;
        let errors = file.try_clone().map_err(Fail::of("cannot open the log twice"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .map_err(Fail::of(format!(
                "cannot start {}",
                command.get_program().display()
            )))?;
        Ok(Self {
            name,
            _noted: Noted::process(child.id()),
            child,
            log,
        })
    }

    /// Takes a process whose pipes somebody else holds.
    pub(crate) fn from_child(name: &'static str, child: Child) -> Self {
        Self {
            name,
            _noted: Noted::process(child.id()),
            child,
            log: PathBuf::new(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its output holds `text`.
    pub(crate) fn wait_for(&mut self, text: &str, limit: Duration) -> Outcome<()> {
        let until = Instant::now() + limit;
        loop {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            if log.contains(text) {
                return Ok(());
            }
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > until {
                let end: Vec<&str> = log.lines().rev().take(5).collect();
                return Err(Fail(format!(
                    "{} did not say \"{text}\"; the end of its output: {end:?}",
                    self.name
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to end, and waits.
    fn terminate(&mut self) -> Outcome<()> {
        if self.child.try_wait().ok().flatten().is_some() {
            return Ok(());
        }
        let _ = Command::new("kill").arg(self.id().to_string()).status();
        let until = Instant::now() + STOP_WITHIN;
        while Instant::now() < until {
            if self.child.try_wait().ok().flatten().is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        Err(Fail(format!("{} did not end within {STOP_WITHIN:?}", self.name)))
    }

    pub(crate) fn usage(&self) -> Usage {
        usage(self.id())
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _ = self.terminate();
    }
}

/// The fields of /proc/PID/stat behind the name: state is the first.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// What a process, its living descendants, and those that they have waited for cost.
pub(crate) fn usage(pid: u32) -> Usage {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut sum = Usage::default();
    let mut open = vec![pid];
    let alone = !children.contains_key(&pid);
    while let Some(pid) = open.pop() {
        open.extend(children.get(&pid).into_iter().flatten());
        // utime, stime, and those of children that ended and were waited for.
        sum.cpu += ticks(pid, 11..15);
        let memory = if alone {
            kibibytes(pid, "status", "VmHWM:")
        } else {
            kibibytes(pid, "smaps_rollup", "Pss:")
        };
        sum.memory += memory.unwrap_or(0);
    }
    sum
}

fn ticks(pid: u32, fields: std::ops::Range<usize>) -> Duration {
    let Some(stat) = stat(pid) else {
        return Duration::ZERO;
    };
    let ticks: u32 = stat[fields]
        .iter()
        .filter_map(|field| field.parse::<u32>().ok())
        .sum();
    TICK * ticks
}

/// What the children of this process cost that ended and were waited for.
pub(crate) fn ended_children() -> Duration {
    ticks(std::process::id(), 13..15)
}

/// A field of a file of /proc/PID that is given in kB, in octets.
fn kibibytes(pid: u32, file: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Octets that a process has read, from files and sockets alike.
pub(crate) fn octets_read(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: "))?;
    line.trim().parse().ok()
}

/// Ports below those that the kernel gives to outgoing connections, of which a load has thousands: one of them would
/// take a port between its choice and its use.
const PORTS: std::ops::Range<u16> = 24_000..29_900;

/// A port that nobody listens on.
pub(crate) fn free_port() -> Outcome<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    // Processes that run at the same time begin at different places.
    let begin = std::process::id().wrapping_mul(997);
    for _ in 0..count {
        let at = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
        let port = PORTS.start + u16::try_from(at).unwrap_or(0);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Fail(format!(
        "no port is free between {} and {}",
        PORTS.start, PORTS.end
    )))
}

/// Waits until somebody listens.
pub(crate) fn wait_for_port(port: u16, limit: Duration) -> Outcome<()> {
    let until = Instant::now() + limit;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > until {
            return Err(Fail(format!("nobody listens on port {port} after {limit:?}")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
