//! The chart on a real cluster, with real mail through it.
//!
//! `make test-cluster` brings the cluster up, loads the images and runs this; it is no part of `cargo test`. One
//! installation serves all checks, in order, and each prints one line. The first that fails ends the run, with what
//! the pods say.
//!
//! What always holds: the tool looks at both ends, the mailbox server's and the intake's folders, and never asks the
//! product whether it did well. Each attempt to send has an id of its own, and the sender notes what it heard.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test ends with a panic, prints its results, and has no runtime to block"
)]

mod disruption;
mod ends;
mod installation;
mod kubectl;
mod load;
mod mail;
mod metrics;
mod readme;
mod removal;
mod schemas;
mod trace;

use std::time::Instant;

/// A check, its name, and what it measured.
type Check = (&'static str, fn() -> String);

const CHECKS: &[Check] = &[
    (
        "manifests are valid for this cluster",
        schemas::manifests_are_valid,
    ),
    ("both ends and Jaeger run", installation::both_ends),
    (
        "helm install, level restricted, no warning, no restart",
        installation::install,
    ),
    ("warnings are heard here", installation::warnings_are_heard),
    ("from a container's start to ready", installation::start_times),
    ("resources by kubectl become Programmed", installation::resources),
    ("helm test", installation::helm_test),
    ("swaks: original and copy, octet for octet", mail::one_message),
    ("the intake is found by MX", mail::found_by_mx),
    ("recipients and intakes by policy", mail::by_policy),
    ("smtp-source: 300 messages", mail::smtp_source),
    ("STARTTLS, and two listeners with PROXY", mail::listeners),
    ("implicit TLS", mail::implicit_tls),
    ("one trace over three pods in Jaeger", trace::one_trace),
    ("a policy changed by kubectl takes effect", mail::policy_change),
    ("alerts and dashboard", metrics::alerts_and_dashboard),
    ("ingress pods deleted under load", disruption::ingress_deleted),
    ("worker pods deleted under load", disruption::workers_deleted),
    ("rolling helm upgrade under load", disruption::upgrade),
    (
        "from a container's start to ready, where the others run",
        installation::start_times,
    ),
    ("workers scaled 1, 4, 1 under load", disruption::scaling),
    (
        "operator and policy deleted under load",
        disruption::control_deleted,
    ),
    ("Redis killed under load", disruption::redis_killed),
    ("no process died by itself", installation::no_restarts),
    ("helm uninstall leaves the definitions only", removal::uninstall),
    (
        "resources as values: installed, upgraded, removed",
        removal::values_as_resources,
    ),
    ("the commands of README and notes, literally", readme::install),
];

fn main() {
    // For the one who looks for a fault, on an installation that is there: the check to begin with.
    let first = std::env::args().nth(1).unwrap_or_default();
    let begun = Instant::now();
    let mut passed = 0;
    for (name, check) in CHECKS.iter().skip_while(|(name, _)| !name.contains(&first)) {
        let at = Instant::now();
        match std::panic::catch_unwind(check) {
            Ok(measured) => {
                println!("ok   {:>5.1} s  {name}: {measured}", at.elapsed().as_secs_f32());
                passed += 1;
            }
            Err(_) => {
                println!("FAIL {:>5.1} s  {name}", at.elapsed().as_secs_f32());
                kubectl::show_everything();
                println!("{passed} passed, 1 failed");
                std::process::exit(1);
            }
        }
    }
    println!("All checks passed in {:.0} s.", begun.elapsed().as_secs_f32());
    println!("{passed} passed, 0 failed");
}
