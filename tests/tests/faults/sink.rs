//! Postfix smtp-sink as the intake, with each of its faults: another implementation's idea of SMTP.

use std::path::Path;
use std::process::Command;

use tdc_tests::process::{Process, free_port};
use tdc_tests::stage::{Options, Stage, wait_for};
use tempfile::TempDir;

use crate::counters::{Ends, send};

/// Messages for each sink.
const MESSAGES: u32 = 6;
const N: u64 = MESSAGES as u64;

/// One sink: its options, how its copies end, and how often it saw the end of a message.
struct Row {
    options: &'static [&'static str],
    ends: Ends,
    dumped: u64,
    why: &'static str,
}

const fn row(
    options: &'static [&'static str],
    (delivered, hard, possible, soft): (u64, u64, u64, u64),
    dumped: u64,
    why: &'static str,
) -> Row {
    Row {
        options,
        ends: Ends {
            committed: N,
            delivered,
            hard,
            possible,
            expired: 0,
            soft,
        },
        dumped,
        why,
    }
}

/// (options, (delivered, hard, possible, soft), messages seen whole, why).
#[rustfmt::skip]
const ROWS: &[Row] = &[
    row(&[], (N, 0, 0, 0), N, "well"),
    row(&["-p"], (N, 0, 0, 0), N, "without PIPELINING"),
    row(&["-8"], (N, 0, 0, 0), N, "without 8BITMIME, which is not needed"),
    row(&["-E", "-N", "-a"], (N, 0, 0, 0), N, "without what nobody needs"),
    row(&["-m", "1"], (N, 0, 0, 0), N, "one connection at a time"),
    row(&["-f", "CONNECT"], (0, N, 0, 0), 0, "5xx as greeting"),
    row(&["-f", "MAIL"], (0, N, 0, 0), 0, "5xx to MAIL"),
    row(&["-f", "RCPT"], (0, N, 0, 0), 0, "5xx to RCPT"),
    row(&["-f", "DATA"], (0, N, 0, 0), 0, "5xx to DATA"),
    row(&["-f", "."], (0, N, 0, 0), N, "5xx to the final dot"),
    row(&["-r", "CONNECT"], (0, N, 0, N), 0, "4xx as greeting, twice"),
    row(&["-r", "EHLO"], (0, N, 0, N), 0, "4xx to EHLO, twice"),
    row(&["-r", "MAIL"], (0, N, 0, N), 0, "4xx to MAIL, twice"),
    row(&["-r", "RCPT"], (0, N, 0, N), 0, "4xx to RCPT, twice"),
    row(&["-r", "DATA"], (0, N, 0, N), 0, "4xx to DATA, twice"),
    row(&["-r", "."], (0, N, 0, N), 2 * N, "4xx to the final dot, twice"),
    row(&["-f", "RCPT", "-B", "552 5.2.2 full"], (0, N, 0, N), 0, "552 counts as 4xx"),
    row(&["-f", "MAIL", "-B", "503 5.5.1 sequence"], (0, N, 0, N), 0, "503 counts as 4xx"),
    row(&["-q", "CONNECT"], (0, N, 0, N), 0, "closed without a greeting, twice"),
    row(&["-q", "EHLO"], (0, N, 0, N), 0, "closed at EHLO, twice"),
    row(&["-q", "MAIL"], (0, N, 0, N), 0, "closed at MAIL, twice"),
    row(&["-q", "RCPT"], (0, N, 0, N), 0, "closed at RCPT, twice"),
    row(&["-q", "DATA"], (0, N, 0, N), 0, "closed at DATA, twice"),
    row(&["-q", "."], (0, 0, N, N), 2 * N, "closed after the final dot, twice"),
    row(&["-q", "QUIT"], (N, 0, 0, 0), N, "closed at QUIT"),
    row(&["-Q", "CONNECT"], (0, N, 0, N), 0, "421 as greeting, twice"),
    row(&["-Q", "MAIL"], (0, N, 0, N), 0, "421 to MAIL, twice"),
    row(&["-Q", "RCPT"], (0, N, 0, N), 0, "421 to RCPT, twice"),
    row(&["-Q", "DATA"], (0, N, 0, N), 0, "421 to DATA, twice"),
    row(&["-Q", "."], (0, N, 0, N), 2 * N, "421 to the final dot, twice: an answer"),
    row(&["-Q", "QUIT"], (N, 0, 0, 0), N, "421 to QUIT"),
    // With pipelined commands smtp-sink itself answers the later ones first, and they fail.
    row(&["-W", "MAIL:1", "-p"], (N, 0, 0, 0), N, "MAIL is answered late"),
    row(&["-W", ".:1:50"], (N, 0, 0, 0), N, "the final dot is answered late, by chance"),
    row(&["-w", "1"], (N, 0, 0, 0), N, "DATA is answered late"),
    row(&["-H", "1", "-T", "2000"], (N, 0, 0, 0), N, "the message is read late, through a small window"),
];

/// A sink with its dumps.
fn start(dir: &Path, number: usize, options: &[&str]) -> (Process, u16) {
    let port = free_port();
    let dumps = dir.join(format!("sink-{number}"));
    std::fs::create_dir(&dumps).unwrap();
    let mut command = Command::new("smtp-sink");
    command.args(options).arg("-d").arg(dumps.join("m."));
    // Started by root it wants to know as whom to go on.
    if std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
        command.args(["-u", "root"]);
    }
    command.args([&format!("127.0.0.1:{port}"), "64"]);
    let sink = Process::start(dir, &format!("sink-{number}"), &mut command);
    // A connection that is given up at once: it has no message, and changes no dump.
    wait_for("smtp-sink to listen", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    (sink, port)
}

/// An intake at that port without TLS, and the policy that sends `@sN.example` there.
fn policy(number: usize, port: u16) -> String {
    format!(
        "---\napiVersion: tdc.dev/v1alpha1\nkind: IntakeAddress\nmetadata: {{ name: sink-{number} }}\nspec:\n  \
         address: sink-{number}@intake.example\n  format: JournalReport\n  \
         route: {{ host: 127.0.0.1, port: {port} }}\n  tls: {{ mode: None }}\n\
         ---\napiVersion: tdc.dev/v1alpha1\nkind: MailPolicy\nmetadata: {{ name: sink-{number} }}\nspec:\n  \
         order: {}\n  users:\n  - recipients: {{ anyOf: [\"@s{number}.example\"] }}\n  \
         journaling: {{ mode: Custom, intake: sink-{number} }}\n",
        100 + number
    )
}

/// The delivery ids of the messages whose final dot came, sorted.
fn dumped(dir: &Path, number: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for file in std::fs::read_dir(dir.join(format!("sink-{number}"))).unwrap() {
        let text = String::from_utf8_lossy(&std::fs::read(file.unwrap().path()).unwrap()).into_owned();
        let id = text
            .lines()
            .find_map(|line| line.strip_prefix("X-TDC-Delivery-Id: "));
        ids.extend(id.map(str::to_owned));
    }
    ids.sort();
    ids
}

#[test]
fn each_fault_of_smtp_sink_ends_as_the_table_says() {
    let dir = TempDir::new().unwrap();
    let sinks: Vec<_> = ROWS
        .iter()
        .enumerate()
        .map(|(number, row)| start(dir.path(), number, row.options))
        .collect();
    let policies = sinks
        .iter()
        .enumerate()
        .map(|(number, (_, port))| policy(number, *port));
    let stage = Stage::build(Options {
        policies: policies.collect(),
        ..Options::default()
    });
    for number in 0..ROWS.len() {
        send(&stage, &format!("ann@s{number}.example"), MESSAGES, 3);
    }
    let mut wrong = Vec::new();
    for (number, row) in ROWS.iter().enumerate() {
        let ends = Ends::after(&stage, &format!("sink-{number}"), N);
        let mut ids = dumped(dir.path(), number);
        let whole = ids.len() as u64;
        ids.dedup();
        let once = row.dumped.min(N);
        if ends != row.ends || whole != row.dumped || ids.len() as u64 != once {
            wrong.push(format!(
                "smtp-sink {:?} ({}): wanted {:?} and {} messages of {once} ids, found {ends:?} and {whole} of {}",
                row.options,
                row.why,
                row.ends,
                row.dumped,
                ids.len()
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} sinks:\n{}",
        wrong.len(),
        ROWS.len(),
        wrong.join("\n")
    );
    drop(sinks);
}
