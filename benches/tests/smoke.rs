//! The end-to-end benchmark still works: a few messages of everything, with its checks of what arrives.
//!
//! Its figures mean nothing here, with programs that are not optimised. `make build` makes `target/debug/tdc`.

use std::path::PathBuf;
use std::process::Command;

fn tdc() -> PathBuf {
    let bench = PathBuf::from(env!("CARGO_BIN_EXE_tdc-bench"));
    let tdc = bench.with_file_name("tdc");
    assert!(tdc.is_file(), "{} is missing: run `make build`", tdc.display());
    tdc
}

fn run(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tdc-bench"))
        .args(arguments)
        .arg("--tdc")
        .arg(tdc())
        .output()
        .expect("it was built");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).expect("it prints text")
}

/// Only root can start Postfix; where the tests run as somebody else, it is left out.
fn compare(only: &str) -> String {
    let root = Command::new("id").arg("-u").output();
    let root = root.is_ok_and(|output| output.stdout == b"0\n");
    let mut arguments = vec!["compare", "--quick", "--only", only];
    if !root {
        arguments.push("--without-postfix");
    }
    run(&arguments)
}

#[test]
fn the_comparison_with_smtp_source_runs() {
    let text = compare("10 KB, 40 sessions, kept");
    for system in ["the wire", "TDC, everysec", "TDC, always"] {
        assert!(text.contains(&format!("| {system} |")), "{text}");
    }
}

#[test]
fn the_comparison_with_the_own_generator_runs() {
    let text = compare("own generator, 10 KB");
    assert!(
        text.contains("TLS at both ends") && text.contains("half of the load"),
        "{text}"
    );
    assert!(text.contains("added, message by message"), "{text}");
}

#[test]
fn growth_runs() {
    let text = run(&["growth", "--quick", "--only", "intakes"]);
    assert!(text.contains("| 10 |"), "{text}");
}
