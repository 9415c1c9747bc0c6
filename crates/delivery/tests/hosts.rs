//! Where the hosts of an intake are: MX, addresses, and what the name servers may say instead.

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a test that cannot go on stops; its tables are read, not passed on"
)]

mod rig;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;
use rig::dns::{Answer, Dns};
use rig::pki::Authority;
use rig::server::{Options, Server};
use rig::{ORIGINAL, Rig, config, intake};
use tdc_core::policy::TlsMode;

const LIFETIME: Duration = Duration::from_secs(60);

#[tokio::test]
async fn hosts_are_found_by_mx() {
    use Answer::{A, Cname, Empty, Large, Later, Mx, ServFail, Silence};
    let loopback = |last| A(Ipv4Addr::new(127, 0, 0, last));
    let hosts = || vec![(20, "mx2.x"), (10, "mx1.x")];
    let cases: Vec<(Vec<(&'static str, Answer)>, &str, (u64, u64), &str, &str)> = vec![
        (
            vec![("x", Mx(hosts())), ("mx1.x", loopback(2)), ("mx2.x", loopback(3))],
            "j@x",
            (1, 0),
            "2",
            "the best host",
        ),
        (
            vec![("x", Mx(hosts())), ("mx1.x", loopback(9)), ("mx2.x", loopback(3))],
            "j@x",
            (1, 0),
            "3",
            "the first is away",
        ),
        (
            vec![("x", Mx(hosts())), ("mx1.x", ServFail), ("mx2.x", loopback(3))],
            "j@x",
            (1, 0),
            "3",
            "the first is unknown",
        ),
        (
            vec![("x", Mx(hosts())), ("mx2.x", loopback(3))],
            "j@x",
            (1, 0),
            "3",
            "the first does not exist",
        ),
        (
            vec![("x", loopback(2))],
            "j@x",
            (1, 0),
            "2",
            "no MX: the domain itself",
        ),
        (vec![("x", Mx(vec![(0, ".")]))], "j@x", (0, 0), "", "null MX"),
        (vec![], "j@x", (0, 0), "", "NXDOMAIN"),
        (vec![("x", Empty)], "j@x", (0, 0), "", "no MX and no address"),
        (
            vec![("x", ServFail)],
            "j@x",
            (0, 1),
            "",
            "SERVFAIL is tried again",
        ),
        (
            vec![
                ("x", Later(hosts())),
                ("mx1.x", loopback(2)),
                ("mx2.x", loopback(3)),
            ],
            "j@x",
            (1, 1),
            "2",
            "SERVFAIL, then an answer",
        ),
        (
            vec![("x", Mx(hosts())), ("mx1.x", ServFail)],
            "j@x",
            (0, 1),
            "",
            "one host may come back: tried again",
        ),
        (
            vec![
                ("x", Cname("y")),
                ("y", Mx(vec![(10, "mx1.x")])),
                ("mx1.x", loopback(2)),
            ],
            "j@x",
            (1, 0),
            "2",
            "the domain is an alias",
        ),
        (
            vec![
                ("x", Mx(hosts())),
                ("mx1.x", Cname("real.x")),
                ("real.x", loopback(2)),
            ],
            "j@x",
            (1, 0),
            "2",
            "the host is an alias",
        ),
        (
            vec![("x", Large(hosts())), ("mx1.x", loopback(2))],
            "j@x",
            (1, 0),
            "2",
            "an answer that needs TCP",
        ),
        (
            vec![("x", Silence)],
            "j@x",
            (0, 1),
            "",
            "nobody answers: tried again",
        ),
        (
            vec![("x", Mx(hosts())), ("mx1.x", Silence), ("mx2.x", loopback(3))],
            "j@x",
            (1, 0),
            "3",
            "nobody knows the first host in time",
        ),
        (
            vec![("x", Mx(vec![(0, "."), (10, "mx1.x")])), ("mx1.x", loopback(2))],
            "j@x",
            (1, 0),
            "2",
            "the root beside another host is no null MX",
        ),
        (
            vec![],
            "j@[127.0.0.2]",
            (1, 0),
            "2",
            "an address literal needs no name server",
        ),
        (
            vec![("xn--bcher-kva.x", Mx(hosts())), ("mx1.x", loopback(2))],
            "j@b\u{fc}cher.x",
            (1, 0),
            "2",
            "an IDNA domain",
        ),
    ];
    let two = Server::listen("127.0.0.2:0".parse().unwrap(), Options::default()).await;
    let port = two.address.port();
    let three = Server::listen(format!("127.0.0.3:{port}").parse().unwrap(), Options::default()).await;
    let total = |server: &Server| server.seen.messages.lock().unwrap().len();
    for (table, address, (delivered, soft), host, why) in cases {
        let before = (total(&two), total(&three));
        let dns = Dns::start(table).await;
        let mut config = config();
        config.resolver = Some(dns.address);
        config.mx_port = port;
        config.timeouts.resolve = Duration::from_millis(1500);
        let mut intake = intake(two.address);
        intake.route = None;
        intake.address = tdc_core::address::Mailbox::new(address);
        let rig = Rig::start(config, intake).await;
        rig.put(ORIGINAL, LIFETIME).await;
        let stats = rig.ended(1).await;
        assert_eq!(
            (stats.delivered, stats.hard_bounced, stats.soft_bounced),
            (delivered, 1 - delivered, soft),
            "{why}"
        );
        let got = (total(&two) - before.0, total(&three) - before.1);
        assert_eq!(got, (usize::from(host == "2"), usize::from(host == "3")), "{why}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn the_certificate_is_checked_against_the_mx_host() {
    let authority = Authority::new();
    let tls = Some(authority.acceptor(&["mx1.x"], &rustls::version::TLS13));
    let server = Server::start(Options {
        tls,
        ..Options::default()
    })
    .await;
    let loopback = Answer::A(Ipv4Addr::LOCALHOST);
    let dns = Dns::start(vec![("x", Answer::Mx(vec![(10, "mx1.x")])), ("mx1.x", loopback)]).await;
    let mut config = config();
    config.resolver = Some(dns.address);
    config.mx_port = server.address.port();
    let mut intake = intake(server.address);
    intake.route = None;
    intake.address = tdc_core::address::Mailbox::new("j@x");
    intake.tls.mode = TlsMode::Verify;
    intake.tls.ca_bundle = authority.pem.as_str().into();
    let rig = Rig::start(config, intake).await;
    rig.put(ORIGINAL, LIFETIME).await;
    assert_eq!(rig.ended(1).await.delivered, 1);
    rig.stop().await;
}

/// Delivers `count` copies over as many connections.
async fn deliver(dns: &Dns, port: u16, count: u64) {
    let mut config = config();
    config.resolver = Some(dns.address);
    config.mx_port = port;
    let mut intake = intake("127.0.0.1:25".parse().unwrap());
    intake.route = None;
    intake.address = tdc_core::address::Mailbox::new("j@x");
    intake.connections.max = 1;
    intake.connections.messages_per_connection = 1;
    let rig = Rig::start(config, intake).await;
    for _ in 0..count {
        rig.put(ORIGINAL, LIFETIME).await;
    }
    assert_eq!(rig.ended(count).await.delivered, count);
    rig.stop().await;
}

#[tokio::test]
async fn equal_preferences_share_the_connections() {
    let one = Server::listen("127.0.0.2:0".parse().unwrap(), Options::default()).await;
    let port = one.address.port();
    let two = Server::listen(format!("127.0.0.3:{port}").parse().unwrap(), Options::default()).await;
    let dns = Dns::start(vec![
        ("x", Answer::Mx(vec![(10, "mx1.x"), (10, "mx2.x"), (20, "mx3.x")])),
        ("mx1.x", Answer::A(Ipv4Addr::new(127, 0, 0, 2))),
        ("mx2.x", Answer::A(Ipv4Addr::new(127, 0, 0, 3))),
        ("mx3.x", Answer::A(Ipv4Addr::new(127, 0, 0, 4))),
    ])
    .await;
    // All on one side: once in half a million runs.
    deliver(&dns, port, 20).await;
    let shares = [&one, &two].map(|server| server.seen.connections.load(Ordering::SeqCst));
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
}

#[tokio::test]
async fn answers_are_kept_for_their_time() {
    let server = Server::listen("127.0.0.2:0".parse().unwrap(), Options::default()).await;
    for (ttl, why) in [(3600, "for their TTL"), (0, "and a few seconds at least")] {
        let dns = Dns::start(vec![
            ("x", Answer::MxFor(ttl, vec![(10, "mx1.x")])),
            ("mx1.x", Answer::A(Ipv4Addr::new(127, 0, 0, 2))),
        ])
        .await;
        deliver(&dns, server.address.port(), 10).await;
        assert!(dns.asked("x", RecordType::MX) < 5, "{why}");
        assert!(dns.asked("mx1.x", RecordType::A) < 5, "{why}");
    }
}

#[tokio::test]
async fn a_host_that_has_only_an_ipv6_address() {
    let Ok(server) = std::net::TcpListener::bind("[::1]:0") else {
        // Nothing to show on a machine without IPv6.
        return;
    };
    let address = server.local_addr().unwrap();
    drop(server);
    let server = Server::listen(address, Options::default()).await;
    let dns = Dns::start(vec![
        ("x", Answer::Mx(vec![(10, "mx1.x")])),
        ("mx1.x", Answer::Aaaa(Ipv6Addr::LOCALHOST)),
    ])
    .await;
    deliver(&dns, address.port(), 1).await;
    assert_eq!(server.seen.connections.load(Ordering::SeqCst), 1);
}
