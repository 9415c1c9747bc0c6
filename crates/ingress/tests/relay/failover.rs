//! Several hosts: the first that works gets the mail.

use std::time::{Duration, Instant};

use crate::rig::{PATIENCE, Rig, Setup};
use crate::server::{Act, At, Options, Server};

const MESSAGE: &[u8] = b"Subject: a\r\n\r\nhello\r\n";

async fn accepts(rig: &Rig, why: &str) {
    let mut client = rig.client().await;
    client.command("EHLO c.example").await;
    let (stage, reply) = client.send(&["b@y.example"], MESSAGE).await;
    assert_eq!((stage, &reply[..3]), ("DOT", "250"), "{why}: {reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_host_takes_over() {
    let forever = |at, act| vec![vec![(at, act)]; 50];
    let cases = [
        ("refuses connections", None),
        (
            "says 421 at its greeting",
            Some(forever(At::Greeting, Act::SayAndClose("421 busy"))),
        ),
        (
            "says 554 at its greeting",
            Some(forever(At::Greeting, Act::SayAndClose("554 no"))),
        ),
        ("says nothing", Some(forever(At::Greeting, Act::Stall))),
        ("closes at EHLO", Some(forever(At::Ehlo, Act::Close))),
        ("closes at MAIL", Some(forever(At::Mail, Act::Close))),
        (
            "says 421 at MAIL",
            Some(forever(At::Mail, Act::SayAndClose("421 going down"))),
        ),
    ];
    for (why, scripts) in cases {
        let second = Server::start(Options::default()).await;
        let first = match scripts {
            Some(scripts) => {
                let options = Options {
                    scripts,
                    ..Options::default()
                };
                Some(Server::start(options).await)
            }
            None => None,
        };
        let dead = "127.0.0.1:1".parse().unwrap();
        let address = first.as_ref().map_or(dead, |server| server.address);
        let rig = Rig::start(Setup::new(&[address, second.address])).await;
        for _ in 0..3 {
            accepts(&rig, why).await;
        }
        assert_eq!(second.accepted(), 3, "{why}");
        assert_eq!(rig.stats().await.committed, 3, "{why}");
        let up = |address| rig.metric(&format!("tdc_ingress_next_hop_up{{host=\"{address}\"}}"));
        assert_eq!((up(address), up(second.address)), (0.0, 1.0), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_message_is_no_reason_to_ask_another_host() {
    let first = Server::start(Options {
        scripts: vec![vec![(At::Mail, Act::Say("550 5.7.1 not you"))]],
        ..Options::default()
    })
    .await;
    let second = Server::start(Options::default()).await;
    let rig = Rig::start(Setup::new(&[first.address, second.address])).await;
    let mut client = rig.client().await;
    client.command("EHLO c.example").await;
    let sent = client.send(&["b@y.example"], MESSAGE).await;
    assert_eq!(sent, ("MAIL", "550 5.7.1 not you".to_owned()));
    assert!(second.lines("MAIL").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_host_gets_its_place_back() {
    let second = Server::start(Options::default()).await;
    // A port on which nobody listens yet.
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let rig = Rig::start(Setup::new(&[address, second.address])).await;
    accepts(&rig, "the first host is down").await;
    assert_eq!(second.accepted(), 1);
    let first = Server::listen(address, Options::default()).await;
    let begun = Instant::now();
    while first.accepted() == 0 {
        assert!(begun.elapsed() < PATIENCE, "the first host is tried again");
        accepts(&rig, "one of them is there").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let others = second.accepted();
    accepts(&rig, "the first host is back").await;
    assert_eq!(second.accepted(), others);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_hosts_are_down() {
    let rig = Rig::start(Setup::new(&[
        "127.0.0.1:1".parse().unwrap(),
        "127.0.0.1:2".parse().unwrap(),
    ]))
    .await;
    let mut client = rig.client().await;
    client.command("EHLO c.example").await;
    for _ in 0..2 {
        let (stage, reply) = client.send(&["b@y.example"], MESSAGE).await;
        assert_eq!((stage, &reply[..9]), ("MAIL", "451 4.4.1"));
    }
    assert!(
        client.command("NOOP").await.starts_with("250"),
        "the session is in step"
    );
}
