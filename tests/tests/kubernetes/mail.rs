//! Mail through a real ingress whose policies come from the cluster: how soon a policy decides, what happens when the
//! policy service is away, and what becomes of the copies of an intake that is removed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tdc_tests::process::{Process, free_port, tdc, wait_for};

use crate::namespace::Namespace;
use crate::operator::intake_at;
use crate::roles::{Operator, PolicyService, connector, http, metric, policy, role};
use crate::server;

/// Everything but policies: mailbox, intake, Redis, policy service, operator, ingress, worker.
pub(crate) struct Site<'a> {
    pub(crate) namespace: Namespace<'a>,
    pub(crate) policy: Option<PolicyService>,
    pub(crate) policy_address: String,
    hosts: Option<PathBuf>,
    pub(crate) operator: Operator,
    ingress: Process,
    pub(crate) smtp: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) worker: Option<Process>,
    redis_url: String,
    pub(crate) intake: String,
    _held: [Process; 3],
}

impl<'a> Site<'a> {
    pub(crate) fn build(namespace: Namespace<'a>, operator: &[&str], ingress: &[&str]) -> Self {
        let policy = PolicyService::start(&namespace);
        Self::around(namespace, policy, None, operator, ingress)
    }

    /// With that policy service; with a hosts file its name is `policy.test`.
    pub(crate) fn around(
        namespace: Namespace<'a>,
        policy: PolicyService,
        hosts: Option<PathBuf>,
        operator: &[&str],
        ingress: &[&str],
    ) -> Self {
        let dir = namespace.dir.clone();
        let redis_port = free_port();
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &redis_port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]);
        let redis = Process::start(&dir, "redis", command.arg(&dir));
        redis.says("Ready to accept connections");
        let redis_url = format!("redis://127.0.0.1:{redis_port}/0");
        let mailbox = Process::start(&dir, "mailbox", Command::new(tdc()).args(["simulate", "mailbox"]));
        let mut command = Command::new(tdc());
        command
            .args(["simulate", "intake", "--tls-dir"])
            .arg(dir.join("tls"));
        let intake = Process::start(&dir, "intake", command.arg("--store").arg(dir.join("copies")));
        let port = intake.address("listening on").port();
        let ca = std::fs::read_to_string(dir.join("tls/ca.pem")).unwrap();
        let policy_address = match hosts {
            Some(_) => format!("policy.test:{}", policy.address.port()),
            None => policy.address.to_string(),
        };
        let mut all = vec!["--redis", &redis_url];
        all.extend(operator);
        let operator = Operator::with(&namespace, role(hosts.as_deref()), &policy_address, &all);
        let mut command = role(hosts.as_deref());
        command
            .args([
                "ingress",
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .args(["--next-hop", &mailbox.address("listening on").to_string()])
            .args(["--redis", &redis_url, "--policy", &policy_address])
            .args(ingress);
        let ingress = Process::start(&dir, "ingress", &mut command);
        let admin = ingress.address("Serving health and metrics.");
        let smtp = ingress.address("Accepting mail.");
        let mut site = Self {
            policy: Some(policy),
            policy_address,
            hosts,
            operator,
            ingress,
            smtp,
            admin,
            worker: None,
            redis_url,
            intake: intake_at("eu", port, &ca),
            _held: [redis, mailbox, intake],
            namespace,
        };
        site.start_worker();
        site.namespace
            .apply(&(connector("default", "{ defaultIntake: eu }") + &site.intake))
            .unwrap();
        site.namespace
            .shows("intake", "eu", "Programmed", "True", "Programmed");
        // One that has no table yet is not waited for by Programmed: it is not ready.
        wait_for("ingress to be ready", || {
            http(site.admin, "/readyz")
                .starts_with("HTTP/1.1 200")
                .then_some(())
        });
        site
    }

    pub(crate) fn start_worker(&mut self) {
        let mut command = role(self.hosts.as_deref());
        command.args([
            "worker",
            "--redis",
            &self.redis_url,
            "--policy",
            &self.policy_address,
        ]);
        let worker = Process::start(&self.namespace.dir, "worker", &mut command);
        worker.says("Applied a policy snapshot");
        self.worker = Some(worker);
    }

    pub(crate) fn start_policy(&mut self) {
        let kubeconfig = self.namespace.kubeconfig("tdc-policy");
        self.policy = Some(PolicyService::with(
            &self.namespace,
            &kubeconfig,
            &self.policy_address,
            &[],
        ));
    }

    pub(crate) fn stop_policy(&mut self) {
        self.policy.take().unwrap().process.kill();
    }

    /// The copies that arrived, whole.
    pub(crate) fn copies(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.namespace.dir.join("copies")) else {
            return Vec::new();
        };
        let eml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "eml");
        let paths = entries.flatten().map(|entry| entry.path()).filter(eml);
        paths.filter_map(|path| read(&path)).collect()
    }

    /// Waits for the copy of the message with that subject.
    pub(crate) fn copy_of(&self, subject: &str) {
        let line = format!("Subject: {subject}\r\n");
        wait_for(&format!("the copy of {subject}"), || {
            self.copies()
                .iter()
                .any(|copy| copy.contains(&line))
                .then_some(())
        });
    }
}

fn read(path: &Path) -> Option<String> {
    Some(String::from_utf8_lossy(&std::fs::read(path).ok()?).into_owned())
}

/// Sends one message; the reply to its final dot.
pub(crate) fn send(smtp: SocketAddr, to: &str, subject: &str) -> String {
    let mut stream = TcpStream::connect(smtp).unwrap();
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    let mut reply = || {
        let mut line = String::new();
        loop {
            line.clear();
            replies.read_line(&mut line).unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_owned();
            }
        }
    };
    reply();
    let to = format!("RCPT TO:<{to}>\r\n");
    for command in [
        "EHLO client.example\r\n",
        "MAIL FROM:<a@x.example>\r\n",
        &to,
        "DATA\r\n",
    ] {
        stream.write_all(command.as_bytes()).unwrap();
        let said = reply();
        if said.starts_with('4') || said.starts_with('5') {
            return said;
        }
    }
    let message = format!("From: a@x.example\r\nSubject: {subject}\r\n\r\nHello.\r\n.\r\n");
    stream.write_all(message.as_bytes()).unwrap();
    let said = reply();
    let _ = stream.write_all(b"QUIT\r\n");
    said
}

#[test]
fn a_policy_decides_soon_and_goes_on_without_its_service() {
    let Some(server) = server::shared() else { return };
    let namespace = Namespace::new(server, "mail");
    let mut site = Site::build(namespace, &[], &["--max-staleness", "20s"]);

    // From `kubectl apply` to the first message that the policy takes: mail is sent without a pause.
    let begun = Instant::now();
    site.namespace
        .apply(&policy("staff", 10, "@company.example", "{ mode: Global }"))
        .unwrap();
    let applied = begun.elapsed();
    let mut sent = Vec::new();
    let first = wait_for("a copy", || {
        let number = sent.len();
        sent.push(begun.elapsed());
        let said = send(site.smtp, "b@company.example", &format!("n{number}."));
        assert!(said.starts_with("250"), "{said}");
        let copies = site.copies();
        let number = |copy: &String| {
            copy.split("Subject: n")
                .nth(1)?
                .split('.')
                .next()?
                .parse::<usize>()
                .ok()
        };
        copies.iter().filter_map(number).min()
    });
    println!(
        "kubectl apply took {applied:?}; the first message that the policy took was sent {:?} after kubectl began",
        sent[first]
    );
    // 2 s on a machine that does nothing else; here only that it is no matter of minutes.
    assert!(sent[first] < Duration::from_secs(30));

    // An ingress that does not answer keeps Programmed from being claimed; it is named.
    site.ingress.signal("STOP");
    site.namespace
        .apply(&policy("staff", 11, "@company.example", "{ mode: Global }"))
        .unwrap();
    let told = site
        .namespace
        .shows("mpol", "staff", "Programmed", "False", "Pending");
    assert!(told.contains("ingress "), "{told}");
    site.ingress.signal("CONT");
    site.namespace
        .shows("mpol", "staff", "Programmed", "True", "Programmed");

    // The policy service is killed: the last good snapshot decides, and that shows.
    site.stop_policy();
    assert!(send(site.smtp, "b@company.example", "without").starts_with("250"));
    site.copy_of("without");
    wait_for("the staleness to show", || {
        (metric(site.admin, "tdc_ingress_policy_staleness_seconds")? > 0.0).then_some(())
    });
    assert!(
        http(site.admin, "/readyz").starts_with("HTTP/1.1 200"),
        "still fresh enough"
    );
    // For longer than --max-staleness: not ready, says why, and mail waits at its sender.
    wait_for("readiness to end", || {
        http(site.admin, "/readyz")
            .starts_with("HTTP/1.1 503")
            .then_some(())
    });
    assert!(http(site.admin, "/readyz").contains("out of reach"));
    assert!(send(site.smtp, "b@company.example", "too old").starts_with("451"));
    site.start_policy();
    wait_for("readiness to come back", || {
        http(site.admin, "/readyz")
            .starts_with("HTTP/1.1 200")
            .then_some(())
    });
    assert!(send(site.smtp, "b@company.example", "again").starts_with("250"));
    site.copy_of("again");
    wait_for("the staleness to end", || {
        (metric(site.admin, "tdc_ingress_policy_staleness_seconds") == Some(0.0)).then_some(())
    });
    assert_eq!(
        site.copies()
            .iter()
            .filter(|copy| copy.contains("too old"))
            .count(),
        0
    );
}

#[test]
fn an_intake_that_is_removed_loses_no_copy_and_leaves_nothing_behind() {
    let Some(server) = server::shared() else { return };
    let namespace = Namespace::new(server, "orphan");
    let housekeeping = [
        "--housekeeping-every",
        "1s",
        "--dead-after",
        "3s",
        "--forget-after",
        "4s",
    ];
    let mut site = Site::build(namespace, &housekeeping, &[]);
    site.namespace
        .apply(&policy("staff", 10, "@company.example", "{ mode: Global }"))
        .unwrap();
    site.namespace
        .shows("mpol", "staff", "Programmed", "True", "Programmed");
    assert!(send(site.smtp, "b@company.example", "before").starts_with("250"));
    site.copy_of("before");

    // Nobody delivers, a copy waits, its intake is removed.
    site.worker.take().unwrap().kill();
    assert!(send(site.smtp, "b@company.example", "waiting").starts_with("250"));
    site.namespace.must(&["delete", "intake", "eu"]);
    let operator = site.operator.admin;
    wait_for("the metric to show it", || {
        (metric(operator, "tdc_operator_orphaned_copies") == Some(1.0)).then_some(())
    });
    site.operator
        .process
        .says("was removed while 1 copies wait for it");
    wait_for("an event that says so", || {
        let events = site
            .namespace
            .must(&["get", "events.events.k8s.io", "-o", "json"]);
        let events: Value = serde_json::from_str(&events).unwrap();
        let mut events = events["items"].as_array().unwrap().iter();
        events
            .any(|event| event["regarding"]["name"] == "eu" && event["reason"] == "CopiesWaiting")
            .then_some(())
    });
    // Mail that the policy takes is not lost meanwhile: failurePolicy keeps it at its sender.
    site.namespace
        .shows("mpol", "staff", "ResolvedRefs", "False", "IntakeNotFound");
    wait_for("ingress to know", || {
        send(site.smtp, "b@company.example", "refused")
            .starts_with("451")
            .then_some(())
    });

    // It comes back within the lifetime of the copy: delivered. The dead worker's name goes.
    site.namespace.apply(&site.intake.clone()).unwrap();
    site.start_worker();
    site.copy_of("waiting");
    wait_for("the copies to be no orphans", || {
        (metric(operator, "tdc_operator_orphaned_copies") == Some(0.0)).then_some(())
    });
    wait_for("the dead worker's name to go", || {
        (metric(operator, "tdc_operator_consumers_removed_total")? >= 1.0).then_some(())
    });
    assert!(send(site.smtp, "b@company.example", "after").starts_with("250"));
    site.copy_of("after");

    // Removed for good, with an empty queue: nothing of it stays in Redis.
    site.namespace.must(&["delete", "intake", "eu"]);
    wait_for("its queue to be cleared away", || {
        (metric(operator, "tdc_operator_queues_removed_total")? >= 1.0).then_some(())
    });
    let port = site.redis_url.split([':', '/']).nth(4).unwrap().to_owned();
    let keys = Command::new("redis-cli")
        .args(["-p", &port, "--scan", "--pattern", "tdc:{eu}:*"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&keys.stdout), "");
}
