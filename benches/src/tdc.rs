//! The connector as its users run it: Redis, policy, ingress and workers, a process each.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::fail::{Fail, Outcome};
use crate::proc::{self, Proc, Usage};

/// How long a role may take to be ready; 10,000 policies take seconds to load.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// How the connector is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) tdc: PathBuf,
    /// `appendfsync` of Redis.
    pub(crate) fsync: &'static str,
    pub(crate) policies: usize,
    pub(crate) intakes: usize,
    pub(crate) workers: usize,
    /// `spec.tls.mode` of the intakes.
    pub(crate) intake_tls: &'static str,
    /// Certificate folder for clients' STARTTLS.
    pub(crate) client_tls: Option<PathBuf>,
    /// Further flags of ingress.
    pub(crate) ingress_flags: Vec<String>,
    /// Further flags of the workers.
    pub(crate) worker_flags: Vec<String>,
}

impl Setup {
    pub(crate) fn new(tdc: &Path) -> Self {
        Self {
            tdc: tdc.to_owned(),
            fsync: "everysec",
            policies: 1,
            intakes: 1,
            workers: 1,
            intake_tls: "None",
            client_tls: None,
            ingress_flags: Vec::new(),
            worker_flags: Vec::new(),
        }
    }
}

/// All its processes; they end with this, in the order in which mail passes them.
#[derive(Debug)]
pub(crate) struct Tdc {
    ingress: Option<Proc>,
    workers: Vec<Proc>,
    policy: Proc,
    redis: Proc,
    pub(crate) port: u16,
}

impl Tdc {
    /// Starts it in `dir`. `originals` is the next hop, `copies` the intake.
    pub(crate) fn start(setup: &Setup, dir: &Path, originals: u16, copies: u16) -> Outcome<Self> {
        let (port, redis_port, policy_port) = (proc::free_port()?, proc::free_port()?, proc::free_port()?);
        let config = dir.join("config");
        write_config(setup, &config, copies)?;
        let redis = Proc::start("redis", &mut redis(redis_port, setup.fsync, dir)?, dir)?;
        proc::wait_for_port(redis_port, READY_WITHIN)?;
        let mut command = Command::new(&setup.tdc);
        command.arg("policy").arg("--config").arg(&config);
        command.args(["--listen", &format!("127.0.0.1:{policy_port}")]);
        let policy = Proc::start("policy", &mut command, dir)?;
        proc::wait_for_port(policy_port, READY_WITHIN)?;
        let mut tdc = Self {
            ingress: None,
            workers: Vec::new(),
            policy,
            redis,
            port,
        };
        let shared = [
            "--redis".to_owned(),
            format!("redis://127.0.0.1:{redis_port}/0"),
            "--policy".to_owned(),
            format!("127.0.0.1:{policy_port}"),
        ];
        tdc.start_workers(setup, dir, &shared)?;
        let mut command = Command::new(&setup.tdc);
        command.arg("ingress").args(&shared);
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        command.args(["--next-hop", &format!("127.0.0.1:{originals}")]);
        if let Some(tls) = &setup.client_tls {
            command.arg("--tls-cert").arg(tls.join("cert.pem"));
            command.arg("--tls-key").arg(tls.join("key.pem"));
        }
        command.args(&setup.ingress_flags);
        let mut ingress = Proc::start("ingress", &mut command, dir)?;
        ingress.wait_for("Accepting mail.", READY_WITHIN)?;
        tdc.ingress = Some(ingress);
        Ok(tdc)
    }

    fn start_workers(&mut self, setup: &Setup, dir: &Path, shared: &[String]) -> Outcome<()> {
        for name in ["worker", "worker-2", "worker-3", "worker-4"]
            .iter()
            .take(setup.workers)
        {
            let mut command = Command::new(&setup.tdc);
            command.arg("worker").args(shared).args(&setup.worker_flags);
            let mut worker = Proc::start(name, &mut command, dir)?;
            worker.wait_for("the intake is served", READY_WITHIN)?;
            self.workers.push(worker);
        }
        Ok(())
    }

    pub(crate) fn processes(&self) -> impl Iterator<Item = &Proc> {
        let shared = [&self.policy, &self.redis];
        self.ingress.iter().chain(&self.workers).chain(shared)
    }

    /// What each process cost so far.
    pub(crate) fn usage(&self) -> Vec<(&'static str, Usage)> {
        self.processes()
            .map(|process| (process.name, process.usage()))
            .collect()
    }
}

impl Drop for Tdc {
    fn drop(&mut self) {
        self.ingress = None;
        self.workers.clear();
    }
}

fn redis(port: u16, fsync: &str, dir: &Path) -> Outcome<Command> {
    let data = dir.join("redis");
    fs::create_dir_all(&data).map_err(Fail::of("cannot make Redis's folder"))?;
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", fsync]);
    // As in the chart.
    command.args(["--auto-aof-rewrite-min-size", "512mb", "--rdbcompression", "no"]);
    command.args(["--latency-tracking", "no", "--stream-node-max-entries", "16"]);
    command
        .args(["--maxmemory-policy", "noeviction", "--dir"])
        .arg(data);
    Ok(command)
}

/// One policy more than asked for would hide nothing: the last takes every recipient that the others leave.
fn write_config(setup: &Setup, dir: &Path, copies: u16) -> Outcome<()> {
    fs::create_dir_all(dir).map_err(Fail::of("cannot make the configuration's folder"))?;
    let mut text = "apiVersion: tdc.dev/v1alpha1
kind: ThreatDefenseConnector
metadata: { name: default }
spec: { enabled: true, defaultIntake: intake-0, defaultJournaling: Disabled, failurePolicy: Fail }
"
    .to_owned();
    for at in 0..setup.intakes {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "---
apiVersion: tdc.dev/v1alpha1
kind: IntakeAddress
metadata: {{ name: intake-{at} }}
spec:
  address: journal-{at}@intake.example
  format: JournalReport
  route: {{ host: 127.0.0.1, port: {copies} }}
  tls: {{ mode: {} }}
  connections: {{ messagesPerConnection: 10000 }}
",
            setup.intake_tls
        );
    }
    for at in 0..setup.policies {
        // The generator's recipients are at d0.example, d1.example …; policies count down to them, so that the first
        // ones are passed by.
        let domain = setup.policies - 1 - at;
        let users = if domain == 0 {
            "[]".to_owned()
        } else {
            format!("[{{ recipients: {{ anyOf: [\"@d{domain}.example\"] }} }}]")
        };
        let _ = write!(
            text,
            "---
apiVersion: tdc.dev/v1alpha1
kind: MailPolicy
metadata: {{ name: policy-{domain} }}
spec:
  order: {}
  users: {users}
  journaling: {{ mode: Custom, intake: intake-{} }}
",
            at + 1,
            domain % setup.intakes
        );
    }
    fs::write(dir.join("all.yaml"), text).map_err(Fail::of("cannot write the configuration"))
}
