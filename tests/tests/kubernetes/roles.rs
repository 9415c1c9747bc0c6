//! The roles of one test, run with the rights that the chart gives them, and the resources that they see.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tdc_tests::process::{Process, tdc, wait_for};

use crate::namespace::{Namespace, text};

/// `tdc policy --kubernetes` for the namespace; with its address, and that of its health and metrics.
pub(crate) struct PolicyService {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl PolicyService {
    pub(crate) fn start(namespace: &Namespace<'_>) -> Self {
        Self::with(namespace, &namespace.kubeconfig("tdc-policy"), "127.0.0.1:0", &[])
    }

    pub(crate) fn with(namespace: &Namespace<'_>, kubeconfig: &PathBuf, listen: &str, more: &[&str]) -> Self {
        let mut command = Command::new(tdc());
        command
            .args([
                "policy",
                "--kubernetes",
                "--listen",
                listen,
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .args(more)
            .arg("--kubeconfig")
            .arg(kubeconfig);
        let process = Process::start(namespace.path(), "policy", &mut command);
        let admin = process.address("Serving health and metrics.");
        let address = process.address("Serving policy decisions.");
        Self {
            process,
            address,
            admin,
        }
    }

    /// What `tdc policy test --server` says.
    pub(crate) fn test(&self, from: &str, to: &str) -> String {
        ask(&[
            "policy",
            "test",
            "--server",
            &self.address.to_string(),
            "--from",
            from,
            "--to",
            to,
        ])
    }

    /// What `tdc policy show --server` says.
    pub(crate) fn show(&self) -> String {
        ask(&["policy", "show", "--server", &self.address.to_string()])
    }

    /// Waits until the answer for an envelope holds `part`.
    pub(crate) fn decides(&self, from: &str, to: &str, part: &str) -> String {
        wait_for(
            &format!("the policy service to say {part:?} of mail to {to}"),
            || {
                let answer = self.test(from, to);
                answer.contains(part).then_some(answer)
            },
        )
    }
}

/// The program; with a hosts file of its own, so that a name has the addresses that a test gives it.
pub(crate) fn role(hosts: Option<&Path>) -> Command {
    let Some(hosts) = hosts else {
        return Command::new(tdc());
    };
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "sh",
        "-c",
        "mount --bind \"$0\" /etc/hosts && exec \"$@\"",
    ]);
    command.arg(hosts).arg(tdc());
    command
}

/// `tdc operator` for the namespace; with the address of its health and metrics.
pub(crate) struct Operator {
    pub(crate) process: Process,
    pub(crate) admin: SocketAddr,
}

impl Operator {
    pub(crate) fn start(namespace: &Namespace<'_>, policy: SocketAddr, more: &[&str]) -> Self {
        Self::with(namespace, role(None), &policy.to_string(), more)
    }

    pub(crate) fn with(namespace: &Namespace<'_>, mut command: Command, policy: &str, more: &[&str]) -> Self {
        command
            .args(["operator", "--admin-listen", "127.0.0.1:0", "--policy", policy])
            .args(more)
            .arg("--kubeconfig")
            .arg(namespace.kubeconfig("tdc-operator"));
        let process = Process::start(namespace.path(), "operator", &mut command);
        let admin = process.address("Serving health and metrics.");
        Self { process, admin }
    }
}

/// What the program says, on either output.
pub(crate) fn ask(args: &[&str]) -> String {
    let output = Command::new(tdc()).args(args).output().unwrap();
    text(&output.stdout) + &text(&output.stderr)
}

/// A GET of a path, body and all.
pub(crate) fn http(address: SocketAddr, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// The value of a metric without labels, or with exactly these.
pub(crate) fn metric(address: SocketAddr, name: &str) -> Option<f64> {
    let response = http(address, "/metrics");
    let line = response
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// An intake that nobody answers for.
pub(crate) fn intake(name: &str) -> String {
    format!(
        "---\napiVersion: tdc.dev/v1alpha1\nkind: IntakeAddress\nmetadata: {{ name: {name} }}\nspec:\n  \
         address: {name}@intake.example\n  route: {{ host: 127.0.0.1, port: 9 }}\n"
    )
}

/// A policy for one recipient pattern.
pub(crate) fn policy(name: &str, order: i32, recipients: &str, journaling: &str) -> String {
    format!(
        "---\napiVersion: tdc.dev/v1alpha1\nkind: MailPolicy\nmetadata: {{ name: {name} }}\nspec:\n  \
         order: {order}\n  users:\n  - recipients: {{ anyOf: [\"{recipients}\"] }}\n  journaling: {journaling}\n"
    )
}

/// A connector.
pub(crate) fn connector(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: tdc.dev/v1alpha1\nkind: ThreatDefenseConnector\nmetadata: {{ name: {name} }}\nspec: {spec}\n"
    )
}
