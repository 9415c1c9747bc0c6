//! The processes of a test: started on ports of their own, their output in files, all gone with the test.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails: generous, since machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The program under test: `TDC_BIN`, or the one that was built beside this test.
pub fn tdc() -> PathBuf {
    if let Some(path) = std::env::var_os("TDC_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("tdc");
    assert!(
        path.exists(),
        "{} is missing; run `cargo build -p tdc` first (make test does)",
        path.display()
    );
    path
}

/// A child process whose output goes to a file.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; a process of the same name before it has its output kept beside.
    pub fn start(dir: &Path, name: &str, command: &mut Command) -> Self {
        let log = (0..)
            .map(|nth| dir.join(format!("{name}.{nth}.log")))
            .find(|path| !path.exists())
            .unwrap();
        let out = File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {name}: {error}; `make test-tools` installs what is missing")
            });
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has written `text`.
    pub fn says(&self, text: &str) {
        wait_for(&format!("{} to say \"{text}\"", self.name), || {
            self.log().contains(text).then_some(())
        });
    }

    /// The address behind the first line that holds `text`.
    pub fn address(&self, text: &str) -> SocketAddr {
        wait_for(&format!("{} to say \"{text}\"", self.name), || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains(text))?;
            line.split(['"', ' ', ',', '='])
                .find_map(|word| word.parse().ok())
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, as `TERM` or `STOP`.
    pub fn signal(&self, signal: &str) {
        let kill = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(kill.success());
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let Self { name, child, .. } = self;
        wait_for(&format!("{name} to end"), || child.try_wait().unwrap())
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGTERM; the exit must be clean.
    pub fn terminate(mut self) {
        self.signal("TERM");
        let status = self.ended();
        assert!(
            status.success(),
            "{} ended with {status}: {}",
            self.name,
            self.log()
        );
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            println!("--- {} (last lines first) ---\n{}", self.name, tail.join("\n"));
        }
    }
}

/// Asks until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that nobody listens on now, below those that the kernel gives to outgoing connections: one of them would take
/// it before it is used.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 24_000..29_900;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    // Processes that run at the same time begin at different places.
    let begin = std::process::id().wrapping_mul(997);
    (0..count)
        .map(|_| begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count)
        .map(|at| PORTS.start + u16::try_from(at).unwrap())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}
