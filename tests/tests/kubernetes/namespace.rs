//! A namespace of one test: what it holds, what `kubectl` says of it, and who may do what in it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tdc_tests::process::wait_for;

use crate::server::ApiServer;

/// The files of the chart that say what a role may do.
const RULES: [(&str, &str); 2] = [
    (
        "policy",
        include_str!("../../../charts/threat-defense-connector/files/rbac-policy.yaml"),
    ),
    (
        "operator",
        include_str!("../../../charts/threat-defense-connector/files/rbac-operator.yaml"),
    ),
];

/// A fresh namespace in which the roles have exactly the rights that the chart gives them.
pub(crate) struct Namespace<'a> {
    pub(crate) server: &'a ApiServer,
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    /// Where the roles look for the API server.
    pub(crate) port: u16,
}

/// What a role has rights in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Namespace,
    Cluster,
}

impl<'a> Namespace<'a> {
    pub(crate) fn new(server: &'a ApiServer, prefix: &str) -> Self {
        let namespace = Self::without_roles(server, prefix);
        namespace.grant(Reach::Namespace);
        namespace
    }

    /// One whose roles look after all namespaces of the server. Their rights hold everywhere: not for a shared server.
    pub(crate) fn home(server: &'a ApiServer, prefix: &str) -> Self {
        let namespace = Self::without_roles(server, prefix);
        namespace.grant(Reach::Cluster);
        namespace
    }

    /// One in which no role has any right of its own.
    pub(crate) fn without_roles(server: &'a ApiServer, prefix: &str) -> Self {
        let name = server.unique(prefix);
        let dir = server.folder(&name);
        let namespace = Self {
            server,
            name,
            dir,
            port: server.port,
        };
        namespace.must(&["create", "namespace", &namespace.name]);
        namespace
    }

    /// What the chart makes of its files: the rules in a Role, or with `allNamespaces` in a ClusterRole; those of the
    /// own namespace in a Role; each bound to the role's account.
    fn grant(&self, reach: Reach) {
        for (role, file) in RULES {
            let file = serde_yaml_ng::from_str::<serde_yaml_ng::Value>(file).unwrap();
            let file = serde_json::to_value(file).unwrap();
            self.bind(role, role, reach, &file["rules"]);
            if file["ownNamespaceRules"].is_array() {
                let name = format!("{role}-lease");
                self.bind(&name, role, Reach::Namespace, &file["ownNamespaceRules"]);
            }
        }
    }

    fn bind(&self, name: &str, role: &str, reach: Reach, rules: &Value) {
        let (kind, namespace) = match reach {
            Reach::Namespace => ("Role", Some(&self.name)),
            Reach::Cluster => ("ClusterRole", None),
        };
        let metadata = serde_json::json!({ "name": name, "namespace": namespace });
        let items = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules },
            { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"), "metadata": metadata,
              "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name },
              "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": format!("tdc-{role}") }] },
        ]});
        self.apply(&items.to_string()).unwrap();
    }

    /// `kubectl -n NAMESPACE` as an administrator.
    pub(crate) fn kubectl(&self) -> Command {
        self.kubectl_as("admin")
    }

    /// The same as another user.
    pub(crate) fn kubectl_as(&self, user: &str) -> Command {
        let mut command = self.server.kubectl(user);
        command.args(["-n", &self.name]);
        command
    }

    /// Runs kubectl; it must succeed. Returns what it writes.
    pub(crate) fn must(&self, args: &[&str]) -> String {
        let output = self.kubectl().args(args).output().unwrap();
        assert!(
            output.status.success(),
            "kubectl {args:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// `kubectl apply --server-side -f -`; the error is what a person reads.
    pub(crate) fn apply(&self, yaml: &str) -> Result<String, String> {
        feed(
            self.kubectl()
                .args(["apply", "--server-side", "--force-conflicts", "-f", "-"]),
            yaml,
        )
    }

    /// An object as JSON.
    pub(crate) fn get(&self, kind: &str, name: &str) -> Value {
        serde_json::from_str(&self.must(&["get", kind, name, "-o", "json"])).unwrap()
    }

    /// A condition: status, reason, message; empty when there is none.
    pub(crate) fn condition(&self, kind: &str, name: &str, condition: &str) -> (String, String, String) {
        let object = self.get(kind, name);
        let conditions = object["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let found = conditions.iter().find(|found| found["type"] == condition);
        let field = |field: &str| {
            let value = found.and_then(|found| found[field].as_str());
            value.unwrap_or_default().to_owned()
        };
        (field("status"), field("reason"), field("message"))
    }

    /// Waits until a condition has a status and a reason; returns its message.
    pub(crate) fn shows(
        &self,
        kind: &str,
        name: &str,
        condition: &str,
        status: &str,
        reason: &str,
    ) -> String {
        wait_for(
            &format!("{kind} {name} to be {condition}={status} {reason}"),
            || {
                let found = self.condition(kind, name, condition);
                (found.0 == status && found.1 == reason).then_some(found.2)
            },
        )
    }

    /// A kubeconfig of a role for this namespace.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.server.kubeconfig(user, &self.name, self.port)
    }

    /// Where the files of this test are.
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }
}

/// Gives a command its standard input; what it writes, or what it complains of.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let _ = writer.join();
    if status.success() {
        Ok(text(&stdout))
    } else {
        Err(text(&stderr))
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
