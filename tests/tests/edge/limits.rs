//! Each limit: its reply, its counter, and a session that is still in step.

use std::time::Instant;

use crate::client::Client;
use crate::rig::Rig;

/// Flags, what the client says, the reply that the limit gives, the metric, and whether the session goes on.
type Case = (
    &'static [&'static str],
    fn(&mut Client) -> String,
    &'static str,
    &'static str,
    bool,
);

fn limit(name: &str) -> String {
    format!("tdc_ingress_limits_met_total{{limit=\"{name}\"}}")
}

fn closed(reason: &str) -> String {
    format!("tdc_ingress_sessions_closed_total{{reason=\"{reason}\"}}")
}

fn last(client: &mut Client, commands: &[&str]) -> String {
    commands
        .iter()
        .fold(String::new(), |_, command| client.asks(command))
}

fn body(client: &mut Client, message: &str) -> String {
    client.begin();
    client.send(message);
    client.send("\r\n.\r\n");
    client.reply().unwrap()
}

#[test]
fn each_limit_of_a_session() {
    let cases: [Case; 13] = [
        (
            &["--max-recipients", "2"],
            |c| {
                last(
                    c,
                    &["MAIL FROM:<>", "RCPT TO:<a@b>", "RCPT TO:<c@b>", "RCPT TO:<d@b>"],
                )
            },
            "452 4.5.3 ",
            "limit recipients",
            true,
        ),
        (
            &["--max-line", "600"],
            |c| c.asks(&format!("NOOP {}", "x".repeat(600))),
            "500 5.5.6 ",
            "limit line",
            true,
        ),
        (
            &[],
            |c| c.asks(&"x".repeat(64 * 1024)),
            "500 5.5.6 ",
            "limit line",
            true,
        ),
        (
            &[],
            |c| c.asks(&"x".repeat(2 * 1024 * 1024)),
            "421 4.5.6 ",
            "closed endless_line",
            false,
        ),
        (
            &["--max-size", "5000"],
            |c| c.asks("MAIL FROM:<> SIZE=5001"),
            "552 5.3.4 ",
            "limit declared_size",
            true,
        ),
        (
            &["--max-size", "5000"],
            |c| body(c, &format!("A: b\r\n\r\n{}", "..\r\n".repeat(1700))),
            "552 5.3.4 ",
            "limit size",
            true,
        ),
        (
            &["--max-header", "2000"],
            |c| body(c, &format!("{}\r\nbody", "A: 0123456789\r\n".repeat(140))),
            "552 5.3.4 ",
            "limit header",
            true,
        ),
        (
            &["--max-hops", "5"],
            |c| body(c, &format!("{}\r\nbody", "Received: from a by b\r\n".repeat(5))),
            "554 5.4.6 ",
            "limit hops",
            true,
        ),
        (
            &["--max-errors", "3"],
            |c| last(c, &["BLAH", "BLAH", "BLAH", "BLAH"]),
            "421 4.7.0 ",
            "closed too_many_errors",
            false,
        ),
        (
            &["--max-junk", "2", "--max-errors", "3"],
            |c| last(c, &["NOOP", "RSET", "VRFY a", "HELP", "NOOP", "RSET"]),
            "421 4.7.0 ",
            "limit junk",
            false,
        ),
        (
            &["--max-messages", "2"],
            |c| {
                assert_eq!((c.message(), c.message()), (250, 250));
                c.asks("MAIL FROM:<>")
            },
            "421 4.7.0 ",
            "closed too_many_messages",
            false,
        ),
        (
            &[],
            |c| {
                c.send("NOOP\r\nNOOP\r\n");
                c.reply().unwrap()
            },
            "554 5.5.0 ",
            "closed unauthorized_pipelining",
            false,
        ),
        (
            &["--max-junk", "3"],
            |c| {
                last(c, &["MAIL FROM:<>", "RCPT TO:<a@b>"]);
                let chunk = |c: &mut Client| {
                    c.send("BDAT 1\r\nx");
                    c.reply().unwrap()
                };
                (0..4).map(|_| chunk(c)).last().unwrap()
            },
            "421 4.7.0 ",
            "closed too_many_errors",
            false,
        ),
    ];
    for (flags, speak, reply, metric, goes_on) in cases {
        let rig = Rig::new(flags);
        let mut client = rig.greeted();
        let said = speak(&mut client);
        assert!(said.starts_with(reply), "{metric}: {said}");
        if goes_on {
            assert_eq!(client.says("RSET"), 250, "{metric}: in step");
            assert_eq!(client.message(), 250, "{metric}: and of use");
            assert_eq!(client.says("QUIT"), 221);
        } else {
            assert!(client.is_closed(), "{metric}");
            assert_eq!(rig.greeted().message(), 250, "{metric}: others are not concerned");
        }
        let (kind, name) = metric.split_once(' ').unwrap();
        let metric = if kind == "limit" {
            limit(name)
        } else {
            closed(name)
        };
        rig.reaches(&metric, 1.0);
    }
}

#[test]
fn connections_of_a_network_and_in_all() {
    let rig = Rig::new(&["--max-connections-per-network", "3", "--max-connections", "5"]);
    // All of them are in the middle of a message, so that none can make room.
    let busy: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = rig.greeted();
            client.begin();
            client
        })
        .collect();
    let refused = rig.client().reply().unwrap();
    assert!(
        refused.starts_with("421 4.7.0 ") && refused.contains("your network"),
        "{refused}"
    );
    rig.reaches(
        "tdc_ingress_connections_refused_total{reason=\"network_connections\"}",
        1.0,
    );
    let others: Vec<Client> = ["127.0.0.2", "127.0.0.3"]
        .iter()
        .map(|source| {
            let mut client = from(&rig, source);
            assert_eq!(
                (client.code(), client.says("EHLO x")),
                (220, 250),
                "another network"
            );
            client.begin();
            client
        })
        .collect();
    let refused = from(&rig, "127.0.0.4").reply().unwrap();
    assert!(
        refused.starts_with("421 4.7.0 Error: too many connections, try"),
        "{refused}"
    );
    rig.reaches(
        "tdc_ingress_connections_refused_total{reason=\"connections\"}",
        1.0,
    );
    for mut client in busy.into_iter().chain(others) {
        client.send("A: b\r\n\r\n.\r\n");
        assert_eq!(client.code(), 250, "each of them ends its message");
    }
    assert_eq!(rig.greeted().message(), 250, "and there is room again");
}

#[test]
fn connections_in_a_minute() {
    let rig = Rig::new(&["--connection-rate", "3", "--network-prefix-v4", "24"]);
    for source in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        assert_eq!(from(&rig, source).code(), 220);
    }
    let refused = from(&rig, "127.0.0.4").reply().unwrap();
    assert!(
        refused.starts_with("421 4.7.0 ") && refused.contains("too often"),
        "{refused}"
    );
    assert_eq!(from(&rig, "127.0.1.1").code(), 220, "another /24");
    rig.reaches(
        "tdc_ingress_connections_refused_total{reason=\"network_rate\"}",
        1.0,
    );
}

#[test]
fn errors_slow_a_client_down_before_they_end_its_session() {
    let rig = Rig::new(&[
        "--soft-errors",
        "2",
        "--max-errors",
        "4",
        "--error-delay",
        "700ms",
    ]);
    let mut client = rig.greeted();
    let mut timed = |command: &str| {
        let begun = Instant::now();
        (client.says(command), begun.elapsed().as_millis())
    };
    let (free, slow): (Vec<_>, Vec<_>) = (
        (0..2).map(|_| timed("BLAH")).collect(),
        (0..2).map(|_| timed("BLAH")).collect(),
    );
    for (code, millis) in &slow {
        assert_eq!(*code, 500);
        assert!(*millis >= 700, "delayed: {millis} ms; before: {free:?}");
    }
    assert_eq!(timed("BLAH").0, 421);
    rig.reaches(&limit("soft_errors"), 2.0);
}

#[test]
fn only_networks_that_may_send() {
    let rig = Rig::new(&["--allow-from", "127.0.0.2/32,10.0.0.0/8"]);
    let refused = rig.client().reply().unwrap();
    assert_eq!(refused, "554 5.7.1 Access denied\r\n");
    rig.reaches("tdc_ingress_connections_refused_total{reason=\"network\"}", 1.0);
    let mut client = from(&rig, "127.0.0.2");
    assert_eq!(
        (client.code(), client.says("EHLO x"), client.message()),
        (220, 250, 250)
    );
    // Nothing that a client can say names another destination.
    for command in [
        "RCPT TO:<@elsewhere.example:b@y.example>",
        "RCPT TO:<b%elsewhere.example@y.example>",
        "RCPT TO:<elsewhere.example!b@y.example>",
    ] {
        assert_eq!(client.says("MAIL FROM:<a@x.example>"), 250);
        assert_eq!(client.says(command), 250, "{command}");
        client.says("DATA");
        client.send("A: b\r\n\r\n.\r\n");
        assert_eq!(client.code(), 250);
    }
    assert_eq!(rig.mailbox().len(), 4, "all of it went to the next hop");
}

/// A client at another address of loopback.
pub(crate) fn from(rig: &Rig, source: &str) -> Client {
    Client::over(crate::bad_clients::connect_from(rig.smtp, source))
}
