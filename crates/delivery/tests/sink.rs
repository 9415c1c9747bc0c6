//! Postfix's own test server as the intake: faults that somebody else thought of.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod rig;

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rig::{ORIGINAL, Rig, config, intake};

const PROGRAM: &str = "/usr/sbin/smtp-sink";

struct Sink {
    address: SocketAddr,
    child: Child,
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sink {
    async fn start(options: &[&str]) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(PROGRAM);
        let root =
            std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        if root {
            command.args(["-u", "nobody"]);
        }
        let child = command
            .args(options)
            .args([&address.to_string(), "100"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {PROGRAM}: {error}; `make test-tools` installs it"));
        let sink = Self { address, child };
        for _ in 0..1000 {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return sink;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("smtp-sink {options:?} does not listen");
    }
}

#[tokio::test]
async fn every_fault_of_smtp_sink() {
    // Options, then: delivered, hard bounced, possible delivery, soft bounced.
    let cases: [(&'static [&'static str], [u64; 4], &str); 25] = [
        (&[], [1, 0, 0, 0], "good"),
        (&["-p"], [1, 0, 0, 0], "without PIPELINING"),
        (&["-8"], [1, 0, 0, 0], "without 8BITMIME"),
        (&["-e"], [1, 0, 0, 0], "without ESMTP"),
        (&["-f", "connect"], [0, 1, 0, 0], "5xx for a greeting"),
        (&["-r", "connect"], [0, 1, 0, 1], "4xx for a greeting"),
        (&["-q", "connect"], [0, 1, 0, 1], "closes without a greeting"),
        (&["-Q", "connect"], [0, 1, 0, 1], "421 for a greeting"),
        (&["-f", "ehlo"], [1, 0, 0, 0], "HELO where EHLO is refused"),
        (&["-r", "ehlo"], [0, 1, 0, 1], "4xx to EHLO"),
        (&["-q", "ehlo"], [0, 1, 0, 1], "closes at EHLO"),
        (&["-f", "mail"], [0, 1, 0, 0], "5xx to MAIL"),
        (&["-r", "mail"], [0, 1, 0, 1], "4xx to MAIL"),
        (&["-Q", "mail"], [0, 1, 0, 1], "421 to MAIL"),
        (&["-f", "rcpt"], [0, 1, 0, 0], "5xx to RCPT"),
        (&["-r", "rcpt"], [0, 1, 0, 1], "4xx to RCPT"),
        (&["-q", "rcpt"], [0, 1, 0, 1], "closes at RCPT"),
        (&["-f", "data"], [0, 1, 0, 0], "5xx to DATA"),
        (&["-r", "data"], [0, 1, 0, 1], "4xx to DATA"),
        (&["-q", "data"], [0, 1, 0, 1], "closes at DATA"),
        (&["-f", "."], [0, 1, 0, 0], "5xx to the message"),
        (&["-r", "."], [0, 1, 0, 1], "4xx to the message"),
        (&["-q", "."], [0, 0, 1, 1], "closes behind the message"),
        (
            &["-W", ".:30"],
            [0, 0, 1, 1],
            "does not answer the message in time",
        ),
        (
            &["-q", "quit"],
            [1, 0, 0, 0],
            "closes at QUIT: what it took, it took",
        ),
    ];
    let mut running = tokio::task::JoinSet::new();
    for (options, expected, why) in cases {
        running.spawn(async move {
            let sink = Sink::start(options).await;
            let mut config = config();
            config.timeouts.final_dot = Duration::from_secs(3);
            let rig = Rig::start(config, intake(sink.address)).await;
            rig.put(ORIGINAL, Duration::from_secs(100)).await;
            let stats = rig.ended(1).await;
            let ends = [
                stats.delivered,
                stats.hard_bounced,
                stats.possible_delivery,
                stats.soft_bounced,
            ];
            assert_eq!(ends, expected, "{why}");
            rig.stop().await;
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}
