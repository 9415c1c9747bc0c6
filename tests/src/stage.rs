//! The processes of one test, on ports of their own; all of them are gone when the stage is dropped.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

pub use crate::process::{PATIENCE, Process, free_port, tdc, wait_for};

/// A message that arrived.
pub struct Arrived {
    /// What the simulator noted about it.
    pub record: Value,
    /// Its octets.
    pub bytes: Vec<u8>,
}

impl Arrived {
    /// Its sender.
    pub fn from(&self) -> &str {
        self.record["mail_from"].as_str().unwrap()
    }

    /// Its recipients.
    pub fn to(&self) -> Vec<&str> {
        let to = self.record["rcpt_to"].as_array().unwrap();
        to.iter().map(|to| to["address"].as_str().unwrap()).collect()
    }
}

/// How a stage differs from the usual one.
pub struct Options {
    /// When Redis writes its log to disk.
    pub appendfsync: &'static str,
    /// Further arguments of the mailbox simulator.
    pub mailbox: Vec<&'static str>,
    /// Further arguments of the intake simulator.
    pub intake: Vec<String>,
    /// Further resources, as YAML documents that begin with `---`.
    pub policies: String,
    /// Further settings of the connector, as YAML lines of its `spec`.
    pub connector: &'static str,
    /// Environment of the roles.
    pub env: Vec<(&'static str, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            appendfsync: "always",
            mailbox: Vec::new(),
            intake: Vec::new(),
            policies: String::new(),
            connector: "",
            env: Vec::new(),
        }
    }
}

/// Mailbox, intake, Redis, policy, ingress, worker.
pub struct Stage {
    /// Everything of this stage is below it.
    pub dir: TempDir,
    /// Where ingress takes mail.
    pub smtp: SocketAddr,
    appendfsync: &'static str,
    /// Where Redis listens.
    pub redis_port: u16,
    /// Where the mailbox server listens.
    pub next_hop: SocketAddr,
    /// Where the policy service listens.
    pub policy_address: SocketAddr,
    env: Vec<(&'static str, String)>,
    /// `None` while it is stopped; the same for the others.
    pub redis: Option<Process>,
    /// The worker.
    pub worker: Option<Process>,
    /// The ingress.
    pub ingress: Process,
    /// The policy service.
    pub policy: Option<Process>,
    _mailbox: Process,
    /// The intake; `None` while it is stopped.
    pub intake_process: Option<Process>,
}

impl Stage {
    /// Starts everything, and waits until it is ready.
    pub fn build(options: Options) -> Self {
        let dir = TempDir::new().unwrap();
        let redis_port = free_port();
        let redis = start_redis(dir.path(), redis_port, options.appendfsync);
        let mut simulate = Command::new(tdc());
        simulate
            .args(["simulate", "mailbox", "--store"])
            .arg(dir.path().join("mailbox"))
            .args(&options.mailbox);
        let mailbox = Process::start(dir.path(), "simulate-mailbox", &mut simulate);
        let mut simulate = Command::new(tdc());
        simulate
            .args(["simulate", "intake", "--store"])
            .arg(dir.path().join("intake"))
            .arg("--tls-dir")
            .arg(dir.path().join("tls"))
            .arg("--report")
            .arg(dir.path().join("report.json"))
            .args(&options.intake);
        let intake = Process::start(dir.path(), "simulate-intake", &mut simulate);
        let next_hop = mailbox.address("listening on");
        let intake_address = intake.address("listening on");
        write_policies(dir.path(), intake_address, options.connector, &options.policies);
        let env = options.env;
        let mut role = Command::new(tdc());
        role.args(["policy", "--listen", "127.0.0.1:0", "--config"])
            .arg(dir.path().join("config"));
        let policy = Process::start(dir.path(), "policy", role.envs(env.iter().cloned()));
        let policy_address = policy.address("Serving policy decisions.");
        let mut role = ingress_command(&tdc(), next_hop, redis_port, policy_address);
        role.args(["--listen", "127.0.0.1:0"]);
        let ingress = Process::start(dir.path(), "ingress", role.envs(env.iter().cloned()));
        let smtp = ingress.address("Accepting mail.");
        wait_for("the policies to reach ingress", || {
            ingress.log().contains("Applied a policy snapshot").then_some(())
        });
        let mut stage = Self {
            dir,
            smtp,
            appendfsync: options.appendfsync,
            redis_port,
            next_hop,
            policy_address,
            env,
            redis: Some(redis),
            worker: None,
            ingress,
            policy: Some(policy),
            _mailbox: mailbox,
            intake_process: Some(intake),
        };
        stage.start_worker();
        stage
    }

    /// A further ingress, of this program.
    pub fn ingress_command(&self, program: &Path) -> Command {
        ingress_command(program, self.next_hop, self.redis_port, self.policy_address)
    }

    /// A worker of this program.
    pub fn worker_command(&self) -> Command {
        let mut role = Command::new(tdc());
        role.args(["worker", "--redis", &redis_url(self.redis_port)]);
        role.args(["--policy", &self.policy_address.to_string()]);
        role
    }

    /// Runs an operator's command on the queue; its output, and its exit code.
    pub fn operate(&self, args: &[&str]) -> (String, i32) {
        let mut command = Command::new(tdc());
        command.args(args).args(["--redis", &redis_url(self.redis_port)]);
        let output = run(&mut command);
        let text = [output.stdout, output.stderr].concat();
        (
            String::from_utf8_lossy(&text).into_owned(),
            output.status.code().unwrap_or(-1),
        )
    }

    /// Sends Redis a command of its own.
    pub fn redis_cli(&self, args: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.redis_port.to_string()]).args(args);
        String::from_utf8_lossy(&run(&mut command).stdout)
            .trim()
            .to_owned()
    }

    /// Starts a worker.
    pub fn start_worker(&mut self) {
        let mut role = self.worker_command();
        let worker = Process::start(self.dir.path(), "worker", role.envs(self.env.iter().cloned()));
        wait_for("the policies to reach the worker", || {
            worker.log().contains("Applied a policy snapshot").then_some(())
        });
        self.worker = Some(worker);
    }

    /// Kills Redis.
    pub fn stop_redis(&mut self) {
        if let Some(redis) = self.redis.take() {
            redis.kill();
        }
    }

    /// Starts Redis on the same data.
    pub fn restart_redis(&mut self) {
        self.redis = Some(start_redis(self.dir.path(), self.redis_port, self.appendfsync));
    }

    /// What the mailbox server has, in the order of arrival.
    pub fn mailbox(&self) -> Vec<Arrived> {
        arrived(&self.dir.path().join("mailbox"))
    }

    /// What the intake has, once it has at least `count`.
    pub fn intake(&self, count: usize) -> Vec<Arrived> {
        let dir = self.dir.path().join("intake");
        wait_for(&format!("{count} copies"), || {
            (whole(&dir).len() >= count).then_some(())
        });
        arrived(&dir)
    }

    /// How many copies the intake has.
    pub fn arrived_at_intake(&self) -> usize {
        whole(&self.dir.path().join("intake")).len()
    }

    /// The intake's own report.
    pub fn report(&self) -> Value {
        let path = self.dir.path().join("report.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// Sends with swaks; gives its transcript and whether it succeeded.
    pub fn swaks(&self, from: &str, to: &str, message: Option<&[u8]>) -> (bool, String) {
        let mut command = Command::new("swaks");
        command.args([
            "--server",
            &self.smtp.to_string(),
            "--from",
            from,
            "--to",
            to,
            "--helo",
            "client.example",
        ]);
        command.args(["--timeout", "60"]);
        if let Some(message) = message {
            // As it goes over the wire: swaks adds only the line end behind the final dot.
            let mut wire = Vec::with_capacity(message.len() + 100);
            for line in message.split_inclusive(|octet| *octet == b'\n') {
                if line.starts_with(b".") {
                    wire.push(b'.');
                }
                wire.extend_from_slice(line);
            }
            wire.push(b'.');
            let path = self.dir.path().join("message.eml");
            File::create(&path).unwrap().write_all(&wire).unwrap();
            command.arg("--no-data-fixup");
            command.arg("--data").arg(path);
        }
        let output = run(&mut command);
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }
}

/// Runs a client to its end.
pub fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}; `make test-tools` installs it"))
}

fn ingress_command(program: &Path, next_hop: SocketAddr, redis: u16, policy: SocketAddr) -> Command {
    let mut role = Command::new(program);
    role.args(["ingress", "--next-hop", &next_hop.to_string()]);
    role.args(["--redis", &redis_url(redis), "--policy", &policy.to_string()]);
    role
}

fn redis_url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}/0")
}

fn start_redis(dir: &Path, port: u16, appendfsync: &str) -> Process {
    let mut command = Command::new("redis-server");
    command.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--appendonly",
        "yes",
        "--appendfsync",
        appendfsync,
    ]);
    command.args(["--save", "", "--dir"]).arg(dir);
    let redis = Process::start(dir, "redis", &mut command);
    wait_for("Redis", || {
        redis.log().contains("Ready to accept connections").then_some(())
    });
    redis
}

/// The messages of a folder that are whole: a message gets its name after its record has one.
fn whole(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "eml"))
        .collect()
}

/// The messages that a simulator has kept in this folder, in the order of arrival.
pub fn arrived(dir: &Path) -> Vec<Arrived> {
    let mut all: Vec<Arrived> = whole(dir)
        .into_iter()
        .map(|path| Arrived {
            record: serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap(),
            bytes: std::fs::read(path).unwrap(),
        })
        .collect();
    all.sort_by_key(|message| message.record["number"].as_u64());
    all
}

fn write_policies(dir: &Path, intake: SocketAddr, connector: &str, more: &str) {
    let ca = wait_for("the intake's CA", || {
        std::fs::read_to_string(dir.join("tls/ca.pem")).ok()
    });
    let ca = ca
        .lines()
        .map(|line| format!("      {line}\n"))
        .collect::<String>();
    let address = |name: &str, format: &str| {
        format!(
            "---\napiVersion: tdc.dev/v1alpha1\nkind: IntakeAddress\nmetadata: {{ name: {name} }}\nspec:\n  \
             address: {name}@intake.example\n  format: {format}\n  \
             route: {{ host: 127.0.0.1, port: {} }}\n  tls:\n    mode: Verify\n    serverName: localhost\n    \
             caBundle: |\n{ca}",
            intake.port()
        )
    };
    let policy = |name: &str, order: u32, users: &str, journaling: &str| {
        format!(
            "---\napiVersion: tdc.dev/v1alpha1\nkind: MailPolicy\nmetadata: {{ name: {name} }}\nspec:\n  \
             order: {order}\n  users:\n  - {users}\n  journaling: {journaling}\n"
        )
    };
    let text = [
        "apiVersion: tdc.dev/v1alpha1\nkind: ThreatDefenseConnector\nmetadata: { name: default }\nspec:\n  \
         defaultIntake: etd-eu\n"
            .to_owned(),
        connector.to_owned(),
        address("etd-eu", "JournalReport"),
        address("etd-finance", "Raw"),
        policy(
            "hr",
            10,
            "recipients: { anyOf: [\"@hr.example\"] }",
            "{ mode: Disabled }",
        ),
        policy(
            "finance",
            20,
            "recipients: { anyOf: [\"@finance.example\"], noneOf: [\"intern@finance.example\"] }",
            "{ mode: Custom, intake: etd-finance }",
        ),
        policy(
            "partners",
            30,
            "senders: { anyOf: [\"@.partner.example\"] }",
            "{ mode: Custom, intake: etd-finance }",
        ),
        policy(
            "staff",
            40,
            "recipients: { anyOf: [\"@company.example\"] }",
            "{ mode: Global }",
        ),
        more.to_owned(),
    ]
    .concat();
    let config = dir.join("config");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("all.yaml"), text).unwrap();
}
