//! The whole product while the API server is away: first nothing comes back from it, then it refuses.
//!
//! `TDC_TEST_AWAY_SECONDS=180 cargo test -p tdc-tests --test kubernetes -- --nocapture mail_goes_on` for minutes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tdc_tests::process::wait_for;

use crate::mail::{Site, send};
use crate::namespace::Namespace;
use crate::proxy::{Proxy, Way};
use crate::roles::{Operator, PolicyService, http, metric, policy};
use crate::server;

/// How long the API server is away.
pub(crate) fn seconds() -> u64 {
    let text = std::env::var("TDC_TEST_AWAY_SECONDS").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// Sends a message every half second, each of which must be accepted; `look` is asked after each.
fn mail_for(site: &Site<'_>, time: Duration, sent: &mut u32, mut look: impl FnMut()) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        let said = send(site.smtp, "b@company.example", &format!("m{sent}."));
        assert!(said.starts_with("250"), "{said}");
        *sent += 1;
        look();
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// How many copies there are of each message.
fn copies(site: &Site<'_>) -> BTreeMap<u32, u32> {
    let mut copies = BTreeMap::new();
    for copy in site.copies() {
        let number = copy
            .split("Subject: m")
            .nth(1)
            .and_then(|rest| rest.split('.').next());
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            *copies.entry(number).or_default() += 1;
        }
    }
    copies
}

#[test]
fn mail_goes_on_while_the_api_server_is_away() {
    let Some(server) = server::shared() else { return };
    let proxy = Proxy::to(server.port);
    let namespace = Namespace {
        port: proxy.port,
        ..Namespace::new(server, "absent")
    };
    let kubeconfig = namespace.kubeconfig("tdc-policy");
    let mut site = Site::build(namespace, &[], &[]);
    let all = policy("staff", 10, "@company.example", "{ mode: Global }")
        + &policy("hr", 5, "@hr.example", "{ mode: Disabled }");
    site.namespace.apply(&all).unwrap();
    site.namespace
        .shows("mpol", "staff", "Programmed", "True", "Programmed");
    let half = Duration::from_secs(seconds()) / 2;
    let mut sent = 0;
    let ready = |admin| http(admin, "/readyz").starts_with("HTTP/1.1 200");
    let policy_admin = site.policy.as_ref().unwrap().admin;

    // Nothing comes back. Changes are made meanwhile, by somebody who reaches it.
    proxy.set(Way::Silent);
    let gone = Instant::now();
    let changed = policy("staff", 10, "@company.example", "{ mode: Global }")
        .replace("order: 10", "order: 11")
        + &policy("later", 1, "@later.example", "{ mode: Disabled }");
    site.namespace.apply(&changed).unwrap();
    site.namespace.must(&["delete", "mailpolicy", "hr"]);
    // Who may not say any more that he leads ends; the one that is started in his place waits.
    let status = site.operator.process.ended();
    println!(
        "the operator ended {:?} after the API server fell silent",
        gone.elapsed()
    );
    assert_eq!(status.code(), Some(1));
    assert!(site.operator.process.log().contains("could not be renewed"));
    site.operator = Operator::start(&site.namespace, site.policy.as_ref().unwrap().address, &[]);
    // A worker that starts now gets the table from the policy service.
    site.worker.take().unwrap().kill();
    site.start_worker();
    let mut noticed = None;
    mail_for(&site, half, &mut sent, || {
        assert!(ready(site.admin) && ready(policy_admin));
        if noticed.is_none() && metric(policy_admin, "tdc_policy_watch_broken") == Some(1.0) {
            noticed = Some(gone.elapsed());
        }
    });
    println!(
        "silent for {:?}; seen by the policy service after {noticed:?}",
        gone.elapsed()
    );

    // Now it refuses.
    proxy.set(Way::Closed);
    wait_for("the policy service to see it", || {
        (metric(policy_admin, "tdc_policy_watch_broken") == Some(1.0)).then_some(())
    });
    mail_for(&site, half, &mut sent, || {
        assert!(ready(site.admin) && ready(policy_admin));
        assert!(!ready(site.operator.admin), "it has never seen the resources");
    });
    assert!(http(site.operator.admin, "/livez").starts_with("HTTP/1.1 200"));
    assert_eq!(metric(site.operator.admin, "tdc_operator_leader"), Some(0.0));

    // Even a policy service that is replaced meanwhile and knows nothing stops no mail.
    let address = site.policy_address.clone();
    site.stop_policy();
    let service = PolicyService::with(&site.namespace, &kubeconfig, &address, &[]);
    mail_for(&site, Duration::from_secs(3), &mut sent, || {
        assert!(!ready(service.admin) && ready(site.admin));
    });

    // It is back: what changed is in use, and the statuses say so.
    proxy.set(Way::Open);
    let back = Instant::now();
    service.decides("a@x.example", "b@later.example", "policy later, row 0");
    let decided = back.elapsed();
    service.decides("a@x.example", "b@hr.example", "no policy");
    site.namespace
        .shows("mpol", "later", "Programmed", "True", "Programmed");
    wait_for("the second generation of staff to be in use", || {
        (site.namespace.get("mpol", "staff")["status"]["observedGeneration"] == 2).then_some(())
    });
    println!(
        "away for {:?} with {sent} messages; back, a new policy decides after {decided:?} and is Programmed after {:?}",
        back - gone,
        back.elapsed()
    );
    wait_for("the metric to recover", || {
        (metric(service.admin, "tdc_policy_watch_broken") == Some(0.0)).then_some(())
    });
    wait_for("every copy", || {
        (copies(&site).len() == sent as usize).then_some(())
    });
    let twice = copies(&site).into_values().filter(|count| *count > 1).count();
    // The worker that was killed may have delivered one without having noted it.
    assert!(twice <= 1, "{twice} copies came twice");
    service.process.terminate();
}
