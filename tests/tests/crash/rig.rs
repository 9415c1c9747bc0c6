//! Redis, the policy service and workers as processes of their own; all of them are gone when the rig is dropped.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tdc_queue::{EntryKey, EntryMeta, JournalQueue, NewEntry, RedisOptions, RedisQueue, Stats};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long anything may take before a test fails: generous, since machines are shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// The name of the intake.
pub(crate) const INTAKE: &str = "crash";

/// The program that was built beside this test.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join(name);
    assert!(
        path.exists(),
        "{} is missing; run `make build build-failpoints` first (make test does)",
        path.display()
    );
    path
}

/// Asks until there is an answer.
pub(crate) async fn wait_for<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// A worker process.
pub(crate) struct Worker {
    /// The name that it gives in EHLO.
    pub(crate) name: String,
    child: Child,
}

impl Worker {
    /// Sends it a signal: TERM, KILL.
    pub(crate) fn signal(&self, signal: &str) {
        if let Some(id) = self.child.id() {
            let sent = std::process::Command::new("kill")
                .args([&format!("-{signal}"), &id.to_string()])
                .status();
            assert!(sent.unwrap().success() || self.child.id().is_none());
        }
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }
}

/// Redis, policy, and what starts workers.
pub(crate) struct Rig {
    pub(crate) dir: TempDir,
    pub(crate) queue: RedisQueue,
    redis_port: u16,
    policy: SocketAddr,
    _processes: Vec<Child>,
}

impl Rig {
    /// For an intake at that address; `settings` are further lines of its `spec`.
    pub(crate) async fn start(intake: SocketAddr, settings: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let redis_port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &redis_port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
        command.arg("--dir").arg(dir.path());
        let redis = spawn(dir.path(), "redis", &mut command);
        let url = url(redis_port);
        let queue = wait_for("Redis", async || {
            RedisQueue::connect(&url, RedisOptions::default()).await.ok()
        })
        .await;
        let config = dir.path().join("config");
        std::fs::create_dir_all(&config).unwrap();
        let text = format!(
            "apiVersion: tdc.dev/v1alpha1\nkind: IntakeAddress\nmetadata: {{ name: {INTAKE} }}\nspec:\n  \
             address: t@intake.example\n  format: JournalReport\n  route: {{ host: 127.0.0.1, port: {} }}\n  \
             tls: {{ mode: None }}\n{settings}",
            intake.port()
        );
        std::fs::write(config.join("all.yaml"), text).unwrap();
        let mut command = Command::new(program("tdc"));
        command
            .args(["policy", "--listen", "127.0.0.1:0", "--config"])
            .arg(&config);
        let policy = spawn(dir.path(), "policy", &mut command);
        let log = dir.path().join("policy.log");
        let policy_address = wait_for("the policy service", async || {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            let line = log
                .lines()
                .find(|line| line.contains("Serving policy decisions."))?;
            line.split(['"', ' ', ',']).find_map(|word| word.parse().ok())
        })
        .await;
        Self {
            dir,
            queue,
            redis_port,
            policy: policy_address,
            _processes: vec![redis, policy],
        }
    }

    /// Starts a worker; with a fail point it is the program that can die there.
    pub(crate) fn worker(&self, name: &str, failpoint: Option<&str>) -> Worker {
        let mut command = Command::new(program(if failpoint.is_some() {
            "tdc-failpoints"
        } else {
            "tdc"
        }));
        command.args(["worker", "--redis", &url(self.redis_port)]);
        command.args([
            "--policy",
            &self.policy.to_string(),
            "--hostname",
            name,
            "--instance",
            name,
        ]);
        command.args(["--log", "warn"]);
        if let Some(point) = failpoint {
            command.env("TDC_FAILPOINT", point);
        }
        let name = name.to_owned();
        let child = spawn(self.dir.path(), &name, &mut command);
        Worker { name, child }
    }

    /// Puts copies of a small message into the queue.
    pub(crate) async fn put(&self, count: usize, lifetime: Duration) -> Vec<EntryKey> {
        let body = Bytes::from_static(b"Subject: crash\r\nMessage-ID: <1@x>\r\n\r\n.body\r\n");
        let mut keys = Vec::with_capacity(count);
        for _ in 0..count {
            let key = EntryKey::new(INTAKE);
            let entry = NewEntry {
                key: key.clone(),
                meta: EntryMeta {
                    sender: "a@sender.example".into(),
                    recipients: vec!["b@example.com".into()],
                    ..EntryMeta::default()
                },
                size: body.len() as u64,
                lifetime,
                in_doubt_after: Duration::from_secs(600),
                retain: None,
            };
            self.queue.prepare(entry, 0, vec![body.clone()]).await.unwrap();
            keys.push(key);
        }
        self.queue.commit(&keys).await.unwrap();
        keys
    }

    pub(crate) async fn stats(&self) -> Stats {
        self.queue.stats(INTAKE).await.unwrap()
    }

    /// How often Redis ran a command, and how long all of that took.
    pub(crate) fn calls(&self, command: &str) -> (u64, Duration) {
        let output = std::process::Command::new("redis-cli")
            .args(["-p", &self.redis_port.to_string(), "info", "commandstats"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let head = format!("cmdstat_{command}:");
        let Some(line) = text.lines().find_map(|line| line.strip_prefix(&head)) else {
            return (0, Duration::ZERO);
        };
        let number = |name: &str| {
            let field = line.split(',').find_map(|field| field.strip_prefix(name));
            field
                .and_then(|value| value.strip_prefix('='))
                .unwrap()
                .parse()
                .unwrap()
        };
        (number("calls"), Duration::from_micros(number("usec")))
    }

    /// How many bodies Redis holds.
    pub(crate) fn bodies(&self) -> usize {
        let output = std::process::Command::new("redis-cli")
            .args([
                "-p",
                &self.redis_port.to_string(),
                "--scan",
                "--pattern",
                "tdc:*:body:*",
            ])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    }
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}/0")
}

fn spawn(dir: &Path, name: &str, command: &mut Command) -> Child {
    let out = File::create(dir.join(format!("{name}.log"))).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cannot start {name}: {error}; `make test-tools` installs what is missing")
        })
}
