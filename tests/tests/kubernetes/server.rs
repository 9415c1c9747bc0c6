//! A real API server: etcd and kube-apiserver on free ports, in a temporary folder, with RBAC and static tokens.
//!
//! What always holds: no test runs as an administrator unless it says so; both processes end with this test process,
//! however it ends, because they are held by a pipe from it; nothing is left behind.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tdc_tests::process::{PATIENCE, free_port};
use tempfile::TempDir;

use crate::namespace::text;

/// Who may ask the server what: token, user, groups. The roles get their rights from the files of the chart.
const USERS: &str = "\
admin-token,admin,1,\"system:masters\"
tdc-policy-token,tdc-policy,2,
tdc-operator-token,tdc-operator,3,
team-token,team,4,\"system:masters\"
";

/// Writes to our resources are logged, each as one line of JSON.
const AUDIT: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch, delete]
  resources:
  - group: tdc.dev
  - group: events.k8s.io
  - group: coordination.k8s.io
- level: None
";

/// Runs a command until our end of its standard input is closed, then kills it and removes what it leaves.
const HOLD: &str = r#"exec 2>/dev/null; log=$1 rm=$2; shift 2; "$@" >>"$log" 2>&1 </dev/null & pid=$!
cat >/dev/null; kill -9 $pid; wait $pid; [ -z "$rm" ] || rm -rf "$rm""#;

/// An API server of our own.
pub(crate) struct ApiServer {
    assets: PathBuf,
    dir: PathBuf,
    _etcd: Held,
    api: Option<Held>,
    etcd_port: u16,
    pub(crate) port: u16,
}

struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The server that all tests share, or nothing when its programs are not on this machine.
pub(crate) fn shared() -> Option<&'static ApiServer> {
    static SERVER: OnceLock<Option<ApiServer>> = OnceLock::new();
    SERVER.get_or_init(|| assets().map(ApiServer::start)).as_ref()
}

/// A server for one test that stops it or changes its definitions.
pub(crate) fn private() -> Option<ApiServer> {
    assets().map(ApiServer::start)
}

/// Says that a test was not run. Not through println!, which shows nothing of a test that passes.
pub(crate) fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED, not passed: {why}\n");
}

fn assets() -> Option<PathBuf> {
    let found = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let found = found.filter(|dir| {
        ["etcd", "kube-apiserver", "kubectl"]
            .iter()
            .all(|name| dir.join(name).exists())
    });
    if found.is_none() {
        let message = "etcd, kube-apiserver and kubectl are not here: set KUBEBUILDER_ASSETS to their folder \
                       (`eval \"$(../shared/cluster/cluster env)\"` after `../shared/cluster/cluster bin`)";
        assert!(
            std::env::var_os("TDC_REQUIRE_APISERVER").is_none(),
            "TDC_REQUIRE_APISERVER is set, and {message}"
        );
        skip(message);
    }
    found
}

impl ApiServer {
    fn start(assets: PathBuf) -> Self {
        let dir = TempDir::new().unwrap().keep();
        certificates(&dir);
        std::fs::write(dir.join("tokens.csv"), USERS).unwrap();
        std::fs::write(dir.join("audit.yaml"), AUDIT).unwrap();
        let (etcd_port, peer_port, port) = (free_port(), free_port(), free_port());
        let client = format!("http://127.0.0.1:{etcd_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let mut etcd = Command::new(assets.join("etcd"));
        etcd.arg("--data-dir").arg(dir.join("etcd")).args([
            &format!("--listen-client-urls={client}"),
            &format!("--advertise-client-urls={client}"),
            &format!("--listen-peer-urls={peer}"),
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]);
        let etcd = hold(&dir, "etcd", &etcd, true);
        let mut server = Self {
            assets,
            dir,
            _etcd: etcd,
            api: None,
            etcd_port,
            port,
        };
        server.up();
        server.install();
        server
    }

    /// Starts kube-apiserver, on the same port and data as before.
    pub(crate) fn up(&mut self) {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let mut api = Command::new(self.assets.join("kube-apiserver"));
        api.args([
            &format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            &format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1",
            &format!("--cert-dir={}", file("certs")),
            &format!("--tls-cert-file={}", file("server.pem")),
            &format!("--tls-private-key-file={}", file("server.key")),
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--service-account-issuer=https://127.0.0.1/",
            &format!("--service-account-key-file={}", file("sa.pub")),
            &format!("--service-account-signing-key-file={}", file("sa.key")),
            &format!("--token-auth-file={}", file("tokens.csv")),
            &format!("--audit-policy-file={}", file("audit.yaml")),
            &format!("--audit-log-path={}", file("audit.log")),
            // Events are kept shorter than the objects that they speak of; nothing here lives for an hour.
            "--event-ttl=10m",
            "--v=1",
        ]);
        self.api = Some(hold(&self.dir, "apiserver", &api, false));
        let begun = Instant::now();
        loop {
            let output = self
                .kubectl("admin")
                .args(["get", "--raw", "/readyz"])
                .output()
                .unwrap();
            if output.status.success() {
                return;
            }
            let last = text(&output.stderr);
            let log = std::fs::read_to_string(self.dir.join("apiserver.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(10).collect();
            assert!(
                begun.elapsed() < PATIENCE,
                "the API server does not start: {last}\n{}",
                tail.join("\n")
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Kills kube-apiserver; its data stay.
    pub(crate) fn down(&mut self) {
        self.api = None;
    }

    /// `tdc crds | kubectl apply --server-side -f -`, and waits until the definitions are served.
    fn install(&self) {
        let crds = self.dir.join("crds.yaml");
        std::fs::write(&crds, tdc_api::crds_yaml()).unwrap();
        let run = |args: &[&str]| {
            let output = self.kubectl("admin").args(args).output().unwrap();
            assert!(
                output.status.success(),
                "kubectl {args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        run(&["apply", "--server-side", "-f", &crds.display().to_string()]);
        run(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ]);
    }

    /// `kubectl` as that user.
    pub(crate) fn kubectl(&self, user: &str) -> Command {
        let mut command = Command::new(self.assets.join("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig(user, "default", self.port));
        // The discovery cache of one server must not answer for another on the same port.
        command.arg("--cache-dir").arg(self.dir.join("kubectl-cache"));
        command.stdin(Stdio::null());
        command
    }

    /// A kubeconfig of that user for that namespace, for the server at `port` of this machine.
    pub(crate) fn kubeconfig(&self, user: &str, namespace: &str, port: u16) -> PathBuf {
        let path = self.dir.join(format!("{user}-{namespace}-{port}.kubeconfig"));
        if !path.exists() {
            let ca = self.dir.join("ca.pem");
            let text = format!(
                "apiVersion: v1\nkind: Config\n\
                 clusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:{port}\", certificate-authority: {}}}}}]\n\
                 users: [{{name: u, user: {{token: {user}-token}}}}]\n\
                 contexts: [{{name: x, context: {{cluster: c, user: u, namespace: {namespace}}}}}]\n\
                 current-context: x\n",
                ca.display()
            );
            // Two tests may write the same file: it appears whole or not at all.
            let draft = self.dir.join(format!("draft-{:?}", std::thread::current().id()));
            std::fs::write(&draft, text).unwrap();
            std::fs::rename(&draft, &path).unwrap();
        }
        path
    }

    /// A folder for files of a test.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.dir.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// The lines of the audit log that speak of a namespace: finished writes to our resources, leases and events.
    pub(crate) fn audit(&self, namespace: &str) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.dir.join("audit.log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|line| line["objectRef"]["namespace"] == namespace)
            .collect()
    }

    /// A name that no other test has.
    pub(crate) fn unique(&self, prefix: &str) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

fn hold(dir: &Path, name: &str, command: &Command, remove: bool) -> Held {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", HOLD, "sh"])
        .arg(dir.join(format!("{name}.log")))
        .arg(if remove { dir.as_os_str() } else { "".as_ref() })
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::piped());
    Held(shell.spawn().unwrap())
}

/// A CA, the server's certificate, and a key for service account tokens.
fn certificates(dir: &Path) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "ca of a test");
    let ca_key = KeyPair::generate().unwrap();
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let mut certificate = CertificateParams::new(names).unwrap();
    certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    let accounts = KeyPair::generate().unwrap();
    for (name, text) in [
        ("ca.pem", ca_certificate.pem()),
        ("server.pem", certificate.pem()),
        ("server.key", key.serialize_pem()),
        ("sa.key", accounts.serialize_pem()),
        ("sa.pub", accounts.public_key_pem()),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
}
