//! One standalone process between a simulated mailbox server and a simulated intake; everything is journaled.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use tdc_tests::process::{Process, tdc, wait_for};
use tdc_tests::stage::{Arrived, arrived};
use tempfile::TempDir;

use crate::client::Client;

pub(crate) struct Rig {
    pub(crate) dir: TempDir,
    pub(crate) smtp: SocketAddr,
    pub(crate) edge: Process,
    admin: SocketAddr,
    _mailbox: Process,
    _intake: Process,
}

impl Rig {
    /// With these further flags.
    pub(crate) fn new(flags: &[&str]) -> Self {
        Self::in_dir(TempDir::new().unwrap(), flags, None)
    }

    /// In a folder that holds what the flags name; `files`: the limit on open files.
    pub(crate) fn in_dir(dir: TempDir, flags: &[&str], files: Option<u32>) -> Self {
        let simulate = |what: &str| {
            let mut command = Command::new(tdc());
            command
                .args(["simulate", what, "--store"])
                .arg(dir.path().join(what));
            command
        };
        let mailbox = Process::start(dir.path(), "mailbox", &mut simulate("mailbox"));
        let intake = Process::start(dir.path(), "intake", simulate("intake").arg("--allow-plaintext"));
        let next_hop = mailbox.address("listening on");
        write_policies(dir.path(), intake.address("listening on"));
        let mut command = match files {
            None => Command::new(tdc()),
            Some(files) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")])
                    .arg(tdc());
                shell
            }
        };
        command
            .args([
                "standalone",
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .args([
                "--hostname",
                "edge.example",
                "--next-hop",
                &next_hop.to_string(),
                "--config",
            ])
            .arg(dir.path().join("config"))
            .args(flags);
        let edge = Process::start(dir.path(), "edge", &mut command);
        Self {
            smtp: edge.address("Accepting mail."),
            admin: edge.address("Serving health and metrics."),
            dir,
            edge,
            _mailbox: mailbox,
            _intake: intake,
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.smtp)
    }

    /// A client that has said EHLO.
    pub(crate) fn greeted(&self) -> Client {
        let mut client = self.client();
        assert_eq!(client.code(), 220);
        assert_eq!(client.says("EHLO client.example"), 250);
        client
    }

    pub(crate) fn mailbox(&self) -> Vec<Arrived> {
        arrived(&self.dir.path().join("mailbox"))
    }

    /// What the intake has, once it has at least `count`.
    pub(crate) fn intake(&self, count: usize) -> Vec<Arrived> {
        wait_for(&format!("{count} copies"), || {
            Some(arrived(&self.dir.path().join("intake"))).filter(|all| all.len() >= count)
        })
    }

    /// The value of one line of the metrics; 0 when there is none.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// Waits until a metric is at least that much.
    pub(crate) fn reaches(&self, name: &str, least: f64) {
        wait_for(&format!("{name} to reach {least}"), || {
            (self.metric(name) >= least).then_some(())
        });
    }

    /// How many lines of the edge's log hold `text`.
    pub(crate) fn lines(&self, text: &str) -> usize {
        self.edge.log().lines().filter(|line| line.contains(text)).count()
    }
}

fn write_policies(dir: &Path, intake: SocketAddr) {
    let text = format!(
        "apiVersion: tdc.dev/v1alpha1\nkind: ThreatDefenseConnector\nmetadata: {{ name: default }}\nspec:\n  \
         defaultIntake: etd\n  defaultJournaling: Global\n---\napiVersion: tdc.dev/v1alpha1\nkind: IntakeAddress\n\
         metadata: {{ name: etd }}\nspec:\n  address: etd@intake.example\n  format: JournalReport\n  \
         route: {{ host: 127.0.0.1, port: {} }}\n  tls: {{ mode: None }}\n",
        intake.port()
    );
    let config = dir.join("config");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("all.yaml"), text).unwrap();
}
