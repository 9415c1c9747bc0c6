//! Mail through the node ports, from the clients that operators use.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::ends::{copies, intake, mailbox};
use crate::installation::{SMTP, SMTP_PROXY, programmed};
use crate::kubectl::{NAMESPACE, attempt, feed, get, kubectl, run, run_id, text, wait_for};

/// A Message-ID of this run.
fn id(name: &str) -> String {
    format!("{name}-{}@sender.example", run_id())
}

/// swaks with these words, separated by spaces; whether it succeeded, and its transcript.
fn swaks(port: u16, id: &str, words: &str) -> (bool, String) {
    let server = format!("127.0.0.1:{port}");
    let header = format!("Message-Id: <{id}>");
    let mut all = vec![
        "--server",
        &server,
        "--header",
        &header,
        "--from",
        "a@sender.example",
    ];
    all.extend(["--helo", "sender.example", "--timeout", "60"]);
    all.extend(words.split_whitespace());
    let output = attempt("swaks", &all, "");
    (output.status.success(), text(&output.stdout))
}

fn sent(port: u16, id: &str, words: &str) {
    let (success, transcript) = swaks(port, id, words);
    assert!(success, "{transcript}");
}

/// The message as swaks says that it sent it: what stands between the answer to DATA and the final dot.
fn said(transcript: &str) -> String {
    transcript
        .lines()
        .skip_while(|line| !line.starts_with("<-  354"))
        .filter_map(|line| line.strip_prefix(" -> "))
        .take_while(|line| *line != ".")
        .map(|line| format!("{line}\r\n"))
        .collect()
}

pub(crate) fn one_message() -> String {
    let id = &id("one");
    let begun = Instant::now();
    let (success, transcript) = swaks(SMTP, id, "--to ann@company.example");
    assert!(success, "{transcript}");
    let copy = copies(id, 1).remove(0);
    let took = begun.elapsed().as_secs_f32();
    let originals = mailbox().remove(id).unwrap();
    assert_eq!(originals.len(), 1);
    assert_eq!(
        text(&originals[0].original),
        said(&transcript),
        "what the client sent"
    );
    assert!(
        !text(&originals[0].octets).contains("X-TDC"),
        "the original holds nothing of ours"
    );
    assert_eq!(originals[0].original, copy.original);
    assert_eq!(copy.record["copy"]["format"], "JournalReport");
    assert_eq!(copy.listed(), ["ann@company.example"]);
    assert_eq!(copy.record["mail_from"], "", "the null sender");
    assert!(!copy.in_doubt());
    format!(
        "{} octets, {took:.1} s from the client's start to the copy",
        copy.original.len()
    )
}

pub(crate) fn found_by_mx() -> String {
    let route = kubectl(&format!(
        "get intakeaddresses -n {NAMESPACE} -o jsonpath={{.items[*].spec.route}}"
    ));
    assert_eq!(route, "", "no intake says where its host is");
    let (_, mut all) = intake().into_iter().next().unwrap();
    let copy = all.remove(0);
    assert_eq!(
        copy.record["tls"]["server_name"], "mx.intake.test",
        "the name that was verified is the MX host's"
    );
    "mx.intake.test, by the cluster's DNS, certificate verified".to_owned()
}

pub(crate) fn by_policy() -> String {
    let id = &id("policies");
    let to =
        "ann@company.example,cfo@finance.company.example,intern@finance.company.example,x@hr.company.example";
    sent(SMTP, id, &format!("--to {to}"));
    let copies = copies(id, 2);
    let mut listed: Vec<(String, Vec<String>)> = copies
        .iter()
        .map(|copy| {
            let listed = copy.listed().into_iter().map(str::to_owned).collect();
            (copy.record["copy"]["format"].as_str().unwrap().to_owned(), listed)
        })
        .collect();
    listed.sort();
    let expected = [
        ("JournalReport", ["ann@company.example"]),
        ("Raw", ["cfo@finance.company.example"]),
    ];
    assert_eq!(listed.len(), 2, "one copy for each intake");
    for ((format, recipients), (expected_format, expected_recipients)) in listed.iter().zip(expected) {
        assert_eq!(
            (format.as_str(), &recipients[..]),
            (expected_format, &expected_recipients.map(str::to_owned)[..])
        );
    }
    assert_eq!(
        mailbox()[id.as_str()][0].to().len(),
        4,
        "the original goes to all"
    );
    "4 recipients, 2 intakes, the excluded and the disabled in no copy".to_owned()
}

pub(crate) fn smtp_source() -> String {
    let sender = &*id("bulk");
    let server = format!("127.0.0.1:{SMTP}");
    let begun = Instant::now();
    run(
        "/usr/sbin/smtp-source",
        &[
            "-s",
            "5",
            "-m",
            "300",
            "-l",
            "8000",
            "-f",
            sender,
            "-t",
            "ann@company.example",
            &server,
        ],
    );
    let took = begun.elapsed().as_secs_f32();
    let by_sender = |field: &str, all: crate::ends::Messages| {
        let of = |record: &serde_json::Value| match field {
            "copy" => record["copy"]["sender"].clone(),
            _ => record["mail_from"].clone(),
        };
        all.into_values()
            .flatten()
            .filter(|message| of(&message.record) == sender)
            .count()
    };
    assert_eq!(by_sender("mail_from", mailbox()), 300);
    wait_for("300 copies", || {
        (by_sender("copy", intake()) >= 300).then_some(())
    });
    assert_eq!(by_sender("copy", intake()), 300);
    format!(
        "300 originals, 300 copies; {:.0} a second accepted on this machine",
        300.0 / took
    )
}

/// What a raw connection hears when it says these lines at once.
fn hears(port: u16, lines: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(lines.as_bytes()).unwrap();
    let mut heard = Vec::new();
    // The server may reset what it refuses.
    let _ = stream.read_to_end(&mut heard);
    text(&heard)
}

pub(crate) fn listeners() -> String {
    sent(SMTP, &id("tls"), "--to ann@company.example --tls");
    copies(&id("tls"), 1);
    let proxied = "--to ann@company.example --proxy-version 1 --proxy-family TCP4 --proxy-source 203.0.113.9 \
                   --proxy-source-port 4711 --proxy-dest 192.0.2.1 --proxy-dest-port 25";
    sent(SMTP_PROXY, &id("proxied"), proxied);
    let copy = copies(&id("proxied"), 1).remove(0);
    let header = "X-IronPort-RemoteIP: 203.0.113.9";
    assert!(
        text(&copy.octets).contains(header),
        "the copy names the client behind the load balancer"
    );
    let plain = hears(SMTP, "PROXY TCP4 203.0.113.9 192.0.2.1 4711 25\r\n");
    assert!(
        plain.contains("421 "),
        "a header on the plain listener: {plain:?}"
    );
    let bare = hears(SMTP_PROXY, "EHLO sender.example\r\n");
    assert!(!bare.contains("250"), "no header on the other: {bare:?}");
    "STARTTLS; PROXY v1 names the client; each listener refuses what is for the other".to_owned()
}

/// A real client on the port that begins with TLS; it verifies the chain up to the authority of the Secret.
pub(crate) fn implicit_tls() -> String {
    let secret = get(&format!("secret -n {NAMESPACE} smtp-tls"));
    let dir = tempfile::tempdir().unwrap();
    let authority = dir.path().join("ca.pem");
    let encoded = secret["data"]["ca.crt"].as_str().unwrap();
    let decoded = feed("base64", &["-d"], encoded).stdout;
    std::fs::write(&authority, decoded).unwrap();
    let service = get(&format!("service -n {NAMESPACE} tdc-ingress"));
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    let (id, header) = (id("implicit"), format!("Message-Id: <{}>", id("implicit")));
    let words = format!(
        "--server {address} --port 465 --tls-on-connect --tls-verify --tls-ca-path {} --helo sender.example \
         --from a@sender.example --to ann@company.example --timeout 60 --header",
        authority.display()
    );
    let words: Vec<&str> = words.split_whitespace().chain([header.as_str()]).collect();
    let transcript = text(&run("swaks", &words).stdout);
    let begun_with_tls = transcript.find("=== TLS started").unwrap() < transcript.find("220 ").unwrap();
    assert!(begun_with_tls, "{transcript}");
    let copy = copies(&id, 1).remove(0);
    assert_eq!(mailbox()[&id][0].original, copy.original);
    let server = format!("{address}:465");
    let other = [
        "--server",
        &server,
        "--from",
        "a@b.example",
        "--to",
        "ann@company.example",
        "--timeout",
        "2",
    ];
    assert!(
        !attempt("swaks", &other, "").status.success(),
        "nothing in the clear on this port"
    );
    "swaks on port 465, TLS before the greeting, certificate verified; nothing in the clear there".to_owned()
}

pub(crate) fn policy_change() -> String {
    let patch = |mode: &str| {
        let patch = format!("{{\"spec\":{{\"journaling\":{{\"mode\":\"{mode}\"}}}}}}");
        kubectl(&format!(
            "-n {NAMESPACE} patch mailpolicy staff --type=merge -p {patch}"
        ));
        let begun = Instant::now();
        programmed();
        begun.elapsed().as_secs_f32()
    };
    let off = patch("Disabled");
    sent(SMTP, &id("off"), "--to ann@company.example");
    let on = patch("Global");
    sent(SMTP, &id("on"), "--to ann@company.example");
    copies(&id("on"), 1);
    assert!(mailbox().contains_key(&id("off")));
    assert!(!intake().contains_key(&id("off")), "journaling was disabled");
    format!("Programmed after {off:.1} s and {on:.1} s, and obeyed")
}
