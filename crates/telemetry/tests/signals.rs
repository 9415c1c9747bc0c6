//! The first signal starts the drain, the second ends the process: seen from outside, in a process of its own.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests: one that cannot go on has failed"
)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The process under test: says when it is ready and when it drains, and then drains for ever.
#[test]
#[ignore = "the other test runs it in a process of its own"]
fn child() {
    if std::env::var_os("TDC_TEST_SIGNALS").is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (_trigger, shutdown) = tdc_telemetry::signals().unwrap();
        println!("\nready={}", !shutdown.is_started());
        shutdown.started().await;
        println!("\ndraining={}", shutdown.is_started());
        std::future::pending::<()>().await;
    });
}

/// Ends the process when the test does, however that is.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn send(&self, signal: &str) {
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {}", self.0.id())])
            .status();
        assert!(status.unwrap().success());
    }
}

#[test]
fn the_first_signal_drains_the_second_ends() {
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM"), ("TERM", "INT")] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env("TDC_TEST_SIGNALS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut process = Process(child.unwrap());
        let mut lines = BufReader::new(process.0.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let mut wait_for =
            |text: &str| assert!(lines.any(|line| line == text), "{first}, {second}: no {text}");

        wait_for("ready=true");
        process.send(first);
        wait_for("draining=true");
        assert_eq!(process.0.try_wait().unwrap(), None, "it drains after the first");
        // A repeat that comes at once is taken for the same signal.
        std::thread::sleep(Duration::from_millis(400));
        process.send(second);
        assert_eq!(
            process.0.wait().unwrap().code(),
            Some(1),
            "it ends with the second"
        );
        let mut said = String::new();
        process
            .0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(said.contains(&format!("second signal (SIG{second})")), "{said:?}");
    }
}
