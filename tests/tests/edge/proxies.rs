//! Who the client is: PROXY headers, XCLIENT, XFORWARD.

use std::net::SocketAddr;

use serde_json::Value;
use tdc_tests::process::wait_for;
use tdc_tests::stage::Arrived;

use crate::client::Client;
use crate::rig::Rig;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
    [V2, &[0x20 | command, family], &length, addresses].concat()
}

fn proxied(rig: &Rig) -> SocketAddr {
    rig.edge.address("Accepting mail behind PROXY headers.")
}

fn xforward<'a>(message: &'a Arrived, name: &str) -> &'a str {
    let pairs = message.record["xforward"].as_array().unwrap();
    let pair = pairs.iter().rev().find(|pair| pair[0] == name);
    pair.map_or("", |pair| pair[1].as_str().unwrap())
}

fn sender_ip(copy: &Arrived) -> String {
    let text = String::from_utf8_lossy(&copy.bytes).into_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("X-IronPort-RemoteIP: "));
    line.unwrap_or_else(|| panic!("no sender's address in {text}"))
        .to_owned()
}

/// Connections that the log tells of, by the client's address.
fn connected(rig: &Rig) -> Vec<String> {
    let log = rig.edge.log();
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let events = events.filter(|event| event["event"] == "connected");
    events
        .map(|event| event["peer"].as_str().unwrap().to_owned())
        .collect()
}

/// The connection of that number came from that client; the log is written a moment later.
fn logged(rig: &Rig, number: usize, ip: &str) {
    wait_for(&format!("connection {number} from {ip} in the log"), || {
        connected(rig)
            .get(number)
            .filter(|peer| peer.contains(ip))
            .map(drop)
    });
}

#[test]
fn the_address_in_the_header_is_the_client_everywhere() {
    let flags = [
        "--listen-proxy",
        "127.0.0.1:0",
        "--proxy-from",
        "127.0.0.1/32",
        "--allow-from",
        "192.0.2.0/24,2001:db8::/32",
    ];
    let rig = Rig::new(&flags);
    let address = proxied(&rig);
    let v4 = [192, 0, 2, 2, 198, 51, 100, 2, 0x30, 0x39, 0, 25];
    let v6 = [
        &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3][..],
        &[1; 16],
        &[0, 80, 0, 25],
    ]
    .concat();
    let cases: [(Vec<u8>, &str, &str, &str); 3] = [
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 25\r\n".to_vec(),
            "192.0.2.1",
            "4711",
            "192.0.2.1",
        ),
        (v2(1, 0x11, &v4), "192.0.2.2", "12345", "192.0.2.2"),
        (v2(1, 0x21, &v6), "IPV6:2001:db8::3", "80", "2001:db8::3"),
    ];
    for (number, (header, addr, port, ip)) in cases.iter().enumerate() {
        let mut client = Client::connect(address);
        // One octet of the header by itself, so that it comes in more than one read.
        client.send(&header[..1]);
        std::thread::sleep(std::time::Duration::from_millis(5));
        client.send(&header[1..]);
        assert_eq!(
            (client.code(), client.says("EHLO c.example"), client.message()),
            (220, 250, 250),
            "{ip}"
        );
        let message = &rig.mailbox()[number];
        assert_eq!(
            (xforward(message, "ADDR"), xforward(message, "PORT")),
            (*addr, *port),
            "the next hop hears of it"
        );
        assert_eq!(
            sender_ip(&rig.intake(number + 1)[number]),
            *ip,
            "the copy tells of it"
        );
        logged(&rig, number, ip);
    }
    let mut client = Client::connect(address);
    client.send("PROXY TCP4 203.0.113.9 198.51.100.2 4711 25\r\n");
    assert_eq!(client.code(), 554, "--allow-from looks at it");
    // The balancer for itself (a health check), and one that does not know: the connection's own address counts.
    for header in [v2(0, 0, &[]), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut client = Client::connect(address);
        client.send(header);
        assert_eq!(client.code(), 554, "127.0.0.1 may not send here");
        wait_for("the balancer's own address in the log", || {
            connected(&rig)
                .last()
                .filter(|last| last.starts_with("127.0.0.1"))
                .map(drop)
        });
    }
}

#[test]
fn limits_look_at_the_client_and_not_at_the_balancer() {
    let flags = [
        "--listen-proxy",
        "127.0.0.1:0",
        "--proxy-from",
        "127.0.0.1/32",
        "--max-connections-per-network",
        "1",
    ];
    let rig = Rig::new(&flags);
    let open = |source: &str| {
        let mut client = Client::connect(proxied(&rig));
        client.send(format!("PROXY TCP4 {source} 198.51.100.2 4711 25\r\n"));
        let code = client.code();
        if code == 220 {
            client.says("EHLO c");
            client.begin();
        }
        (code, client)
    };
    let (first, _busy) = open("192.0.2.1");
    let (again, _) = open("192.0.2.1");
    let (other, _busy_too) = open("192.0.2.2");
    assert_eq!((first, again, other), (220, 421, 220));
}

#[test]
fn without_a_header_or_from_elsewhere_nobody_gets_in() {
    let flags = [
        "--listen-proxy",
        "127.0.0.1:0",
        "--proxy-from",
        "127.0.0.1/32",
        "--proxy-timeout",
        "500ms",
    ];
    let rig = Rig::new(&flags);
    let cases = [
        (
            "EHLO c.example\r\n",
            "proxy_header",
            "does not begin with a PROXY header",
        ),
        ("PROXY TCP4 nonsense\r\n", "proxy_header", "cannot be used"),
        ("PROXY TCP4 192.0", "proxy_timeout", "no complete PROXY header"),
    ];
    for (number, (wire, reason, line)) in cases.iter().enumerate() {
        let mut client = Client::connect(proxied(&rig));
        client.send(wire);
        assert_eq!(client.code(), 421, "{wire:?}");
        assert!(client.is_closed());
        rig.reaches(
            &format!("tdc_ingress_connections_refused_total{{reason=\"{reason}\"}}"),
            1.0,
        );
        rig.edge.says(line);
        assert_eq!(rig.lines(line), 1, "one clear line: {line}");
        assert_eq!(rig.lines("\"WARN\""), number + 1, "and no other");
    }
    let mut stranger = Client::over(crate::bad_clients::connect_from(proxied(&rig), "127.0.0.2"));
    stranger.send("PROXY TCP4 192.0.2.1 198.51.100.2 4711 25\r\n");
    assert_eq!(stranger.code(), 421);
    rig.edge.says("not in --proxy-from");
    assert_eq!(rig.lines("not in --proxy-from"), 1);
    assert!(connected(&rig).is_empty(), "none of them was let in");
    // And a header where none is taken.
    for wire in [
        b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 25\r\nEHLO c\r\n".to_vec(),
        v2(1, 0x11, &[1; 12]),
    ] {
        let mut client = rig.client();
        client.send(wire);
        assert_eq!((client.code(), client.code()), (220, 421));
        assert!(client.is_closed());
    }
    wait_for("a line for each", || {
        (rig.lines("sent a PROXY header to a listener that takes none") == 2).then_some(())
    });
}

#[test]
fn a_trusted_proxy_names_the_client() {
    let rig = Rig::new(&[
        "--xclient-from",
        "127.0.0.1/32",
        "--allow-from",
        "127.0.0.1/32,192.0.2.0/24",
    ]);
    let mut client = rig.client();
    client.code();
    let offer = client.asks("EHLO proxy.example");
    assert!(
        offer.contains("XCLIENT NAME ADDR PORT PROTO HELO LOGIN\r\n") && offer.contains("XFORWARD NAME "),
        "{offer}"
    );
    for bad in [
        "XCLIENT",
        "XCLIENT ADDR",
        "XCLIENT FOO=bar",
        "XCLIENT ADDR=nonsense",
        "XCLIENT PORT=99999",
        "XCLIENT NAME=+ZZ",
    ] {
        assert_eq!(client.says(bad), 501, "{bad}");
    }
    assert_eq!(client.says("MAIL FROM:<a@x.example>"), 250);
    assert_eq!(client.says("XCLIENT ADDR=192.0.2.1"), 503, "not in a transaction");
    assert_eq!(client.says("XFORWARD ADDR=192.0.2.1"), 503);
    client.says("RSET");
    let command = "XCLIENT NAME=spike.example ADDR=192.0.2.7 PORT=4711 PROTO=ESMTP HELO=dsl.example LOGIN=ann+40x.example";
    assert_eq!(
        client.asks(command),
        "220 edge.example ESMTP\r\n",
        "the session begins anew"
    );
    assert_eq!(
        client.message(),
        250,
        "the name in HELO counts without another one"
    );
    let message = &rig.mailbox()[0];
    let values: Vec<&str> = ["NAME", "ADDR", "PORT", "HELO"]
        .iter()
        .map(|name| xforward(message, name))
        .collect();
    assert_eq!(values, ["spike.example", "192.0.2.7", "4711", "dsl.example"]);
    assert_eq!(sender_ip(&rig.intake(1)[0]), "192.0.2.7");
    logged(&rig, 1, "192.0.2.7");
    rig.edge.says("\"login\":\"ann@x.example\"");
    assert_eq!(
        client.says("XCLIENT ADDR=IPV6:2001:db8::1"),
        421,
        "that one may not send here"
    );
    assert!(client.is_closed());

    let mut client = rig.greeted();
    assert_eq!(
        client.says("XFORWARD NAME=far.example ADDR=203.0.113.5 PROTO=SMTP"),
        250
    );
    assert_eq!(client.message(), 250);
    assert_eq!(client.message(), 250);
    let (told, not_told) = (&rig.mailbox()[1], &rig.mailbox()[2]);
    assert_eq!(
        (xforward(told, "ADDR"), xforward(told, "PROTO")),
        ("203.0.113.5", "SMTP")
    );
    assert_eq!(
        xforward(not_told, "ADDR"),
        "127.0.0.1",
        "it holds for one message"
    );
    let copies = rig.intake(3);
    assert_eq!(
        (sender_ip(&copies[1]), sender_ip(&copies[2])),
        ("203.0.113.5".into(), "127.0.0.1".into())
    );
}

#[test]
fn nobody_else_names_a_client() {
    let rig = Rig::new(&["--xclient-from", "10.0.0.0/8"]);
    let mut client = rig.client();
    client.code();
    let offer = client.asks("EHLO c.example");
    assert!(
        !offer.contains("XCLIENT") && !offer.contains("XFORWARD"),
        "{offer}"
    );
    assert_eq!(
        (
            client.says("XCLIENT ADDR=192.0.2.1"),
            client.says("XFORWARD ADDR=192.0.2.1")
        ),
        (500, 500)
    );
    assert_eq!(client.message(), 250);
    assert_eq!(xforward(&rig.mailbox()[0], "ADDR"), "127.0.0.1");
}
