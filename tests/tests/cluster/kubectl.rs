//! kubectl and Helm as an operator uses them, and waiting.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Where the connector is.
pub(crate) const NAMESPACE: &str = "mail";
/// Where both ends and Jaeger are.
pub(crate) const DEMO: &str = "tdc-demo";
/// How long anything may take: generous, since machines are shared.
const PATIENCE: Duration = Duration::from_secs(240);

/// What is different in each run: the ends keep what came before.
pub(crate) fn run_id() -> u32 {
    std::process::id()
}

/// The repository.
pub(crate) fn repository(path: &str) -> String {
    format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a program with words; gives its output, which must be that of a success.
pub(crate) fn run(program: &str, words: &[&str]) -> Output {
    feed(program, words, "")
}

/// The same, with a standard input.
pub(crate) fn feed(program: &str, words: &[&str], input: &str) -> Output {
    let output = attempt(program, words, input);
    assert!(
        output.status.success(),
        "{program} {}: {}{}",
        words.join(" "),
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// The same, whether it succeeds or not.
pub(crate) fn attempt(program: &str, words: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; `make test-cluster` sets the PATH"));
    let mut stdin = child.stdin.take().unwrap();
    // A program that ends early does not read everything.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap()
}

/// Octets as text.
pub(crate) fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// `kubectl WORDS`, split at spaces; its standard output.
pub(crate) fn kubectl(words: &str) -> String {
    let words: Vec<&str> = words.split_whitespace().collect();
    text(&run("kubectl", &words).stdout)
}

/// `kubectl get WORDS -o json`.
pub(crate) fn get(words: &str) -> Value {
    serde_json::from_str(&kubectl(&format!("get {words} -o json"))).unwrap()
}

/// `kubectl apply -f -`; its warnings.
pub(crate) fn apply(manifest: &str) -> String {
    text(&feed("kubectl", &["apply", "-f", "-"], manifest).stderr)
}

/// The body at a path of a web server of the cluster.
pub(crate) fn http(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: cluster\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{address}{path}: {head}");
    body.to_owned()
}

/// Asks until there is an answer.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// Waits until a workload of the connector has all its pods, new ones only.
pub(crate) fn rolled_out(role: &str) {
    kubectl(&format!(
        "-n {NAMESPACE} rollout status deployment/tdc-{role} --timeout=240s"
    ));
}

/// The names of a role's pods that are not being deleted.
pub(crate) fn pods(role: &str) -> Vec<String> {
    let list = get(&format!(
        "pods -n {NAMESPACE} -l app.kubernetes.io/component={role}"
    ));
    let items = list["items"].as_array().unwrap().clone();
    items
        .iter()
        .filter(|pod| pod["metadata"].get("deletionTimestamp").is_none())
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

/// For the one who has to find out what went wrong.
pub(crate) fn show_everything() {
    for words in [
        "get pods,svc,tdc -A -o wide".to_owned(),
        format!("get events -n {NAMESPACE} --sort-by=.lastTimestamp"),
    ] {
        let words: Vec<&str> = words.split_whitespace().collect();
        println!(
            "$ kubectl {}\n{}",
            words.join(" "),
            text(&attempt("kubectl", &words, "").stdout)
        );
    }
    for role in ["ingress", "policy", "worker", "operator"] {
        let words = format!("logs -n {NAMESPACE} -l app.kubernetes.io/component={role} --tail=25 --prefix");
        let words: Vec<&str> = words.split_whitespace().collect();
        println!(
            "$ kubectl {}\n{}",
            words.join(" "),
            text(&attempt("kubectl", &words, "").stdout)
        );
    }
}
