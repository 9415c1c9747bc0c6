//! gRPC between the roles is mutual TLS when certificates are given, and certificates are renewed without a restart.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::stage::{Options, Stage, run, tdc, wait_for};

/// An authority, and one certificate for both sides of a connection to this machine.
pub(crate) fn write_certificates(dir: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &authority).unwrap();
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("ca.crt"), authority.pem()).unwrap();
    std::fs::write(dir.join("tls.crt"), leaf.pem()).unwrap();
    std::fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
}

fn variables(dir: &Path) -> Vec<(&'static str, String)> {
    [
        ("TDC_GRPC_TLS_CERT", "tls.crt"),
        ("TDC_GRPC_TLS_KEY", "tls.key"),
        ("TDC_GRPC_TLS_CA", "ca.crt"),
    ]
    .map(|(variable, file)| (variable, dir.join(file).to_str().unwrap().to_owned()))
    .to_vec()
}

/// `tdc policy test` against the service: whether it was answered, and all it said.
fn ask(server: SocketAddr, certificates: Option<&Path>) -> (bool, String) {
    let mut command = Command::new(tdc());
    command.args(["policy", "test", "--from", "a@x.example"]);
    command.args(["--to", "ann@company.example", "--server", &server.to_string()]);
    command.envs(certificates.map(variables).unwrap_or_default());
    let output = run(&mut command);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn metric(admin: SocketAddr, line_begins: &str) -> f64 {
    let mut stream = TcpStream::connect(admin).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(line_begins));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

#[test]
fn roles_prove_who_they_are_and_renew_their_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let (own, foreign, first) = (
        dir.path().join("own"),
        dir.path().join("foreign"),
        dir.path().join("first"),
    );
    write_certificates(&own);
    write_certificates(&foreign);
    std::fs::create_dir(&first).unwrap();
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        std::fs::copy(own.join(file), first.join(file)).unwrap();
    }
    let mut env = variables(&own);
    env.push(("TDC_ADMIN_LISTEN", "127.0.0.1:0".to_owned()));
    let stage = Stage::build(Options {
        env,
        ..Options::default()
    });
    let policy = stage.policy.as_ref().unwrap();
    let policy_admin = policy.address("Serving health and metrics.");
    let ingress_admin = stage.ingress.address("Serving health and metrics.");
    let remote = || metric(ingress_admin, "tdc_ingress_evaluations_total{source=\"remote\"}");

    assert!(stage.swaks("a@x.example", "ann@company.example", None).0);
    stage.intake(1);
    assert_eq!(remote(), 1.0, "the decision came over TLS");

    let cases = [
        (Some(own.as_path()), true, "a certificate of the same authority"),
        (None, false, "no TLS at all"),
        (Some(foreign.as_path()), false, "another authority"),
    ];
    for (certificates, answered, why) in cases {
        let (success, said) = ask(stage.policy_address, certificates);
        assert_eq!(success, answered, "{why}: {said}");
    }
    assert!(metric(policy_admin, "tdc_policy_tls_handshakes_failed_total") >= 1.0);

    // One file of three is new: both sides go on with what they have, and say so.
    std::fs::copy(foreign.join("tls.key"), own.join("tls.key")).unwrap();
    for role in [policy, &stage.ingress] {
        wait_for("the half renewal to be noticed", || {
            role.log().contains("cannot be used; going on").then_some(())
        });
    }
    let (success, said) = ask(stage.policy_address, Some(&first));
    assert!(success, "{said}");

    write_certificates(&own);
    for role in [policy, &stage.ingress] {
        wait_for("the renewal", || {
            role.log()
                .contains("certificate for gRPC was renewed")
                .then_some(())
        });
    }
    let (success, said) = ask(stage.policy_address, Some(&own));
    assert!(success, "the renewed certificate: {said}");
    assert!(!ask(stage.policy_address, Some(&first)).0, "the old authority");
    let before = remote();
    for number in 0..3 {
        assert!(stage.swaks("a@x.example", "ann@company.example", None).0);
        stage.intake(2 + number);
    }
    assert_eq!(remote(), before + 3.0, "decisions come over the new connections");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = "127.0.0.1:9".parse().unwrap();
    let cases: [(&str, Option<&str>, &str); 4] = [
        ("tls.crt", None, "tls.crt: No such file"),
        (
            "tls.crt",
            Some("nothing"),
            "tls.crt: it holds no certificate in PEM",
        ),
        ("tls.key", Some("nothing"), "tls.key: "),
        ("ca.crt", Some(""), "ca.crt: it holds no certificate in PEM"),
    ];
    for (file, content, expected) in cases {
        write_certificates(dir.path());
        match content {
            Some(content) => std::fs::write(dir.path().join(file), content).unwrap(),
            None => std::fs::remove_file(dir.path().join(file)).unwrap(),
        }
        let (success, said) = ask(nowhere, Some(dir.path()));
        assert!(!success && said.contains(expected), "{file} {content:?}: {said}");
    }
}
