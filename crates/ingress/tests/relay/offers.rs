//! What is offered, what is passed on, and each recipient's own reply.

use std::sync::Arc;

use tdc_ingress::NextHopTls;
use tokio_rustls::TlsAcceptor;

use crate::rig::{Rig, Setup};
use crate::server::{Act, At, Options, Server};

const MESSAGE: &[u8] = b"Subject: a\r\n\r\nhello\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_next_hops_offer() {
    let cases: [(&[&[&'static str]], &[&str], &[&str], &str); 4] = [
        (
            &[&["SMTPUTF8", "DSN", "8BITMIME", "ENHANCEDSTATUSCODES", "REQUIRETLS"]],
            &[
                "SMTPUTF8",
                "DSN",
                "8BITMIME",
                "ENHANCEDSTATUSCODES",
                "PIPELINING",
                "CHUNKING",
            ],
            &["REQUIRETLS", "XFORWARD", "STARTTLS"],
            "one that offers much",
        ),
        (
            &[&["SIZE 1000"]],
            &["PIPELINING", "CHUNKING", "SIZE 1000"],
            &["SMTPUTF8", "DSN", "8BITMIME"],
            "one that offers little",
        ),
        (
            &[&["SMTPUTF8", "DSN"], &["8BITMIME", "DSN"]],
            &["DSN"],
            &["SMTPUTF8", "8BITMIME"],
            "two: what both offer",
        ),
        (
            &[],
            &["PIPELINING", "SIZE"],
            &["SMTPUTF8", "DSN", "8BITMIME"],
            "none is there",
        ),
    ];
    for (hosts, offered, not_offered, why) in cases {
        let mut servers = Vec::new();
        for offers in hosts {
            let options = Options {
                offers: offers.to_vec(),
                ..Options::default()
            };
            servers.push(Server::start(options).await);
        }
        let mut addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        if addresses.is_empty() {
            addresses.push("127.0.0.1:1".parse().unwrap());
        }
        let rig = Rig::start(Setup::new(&addresses)).await;
        let mut ehlo = String::new();
        // The second host's offers may come a moment after the first's.
        for _ in 0..100 {
            ehlo = rig.client().await.command("EHLO c.example").await;
            if not_offered.iter().all(|keyword| !ehlo.contains(keyword)) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        for keyword in offered {
            assert!(ehlo.contains(keyword), "{why}: {keyword} in {ehlo}");
        }
        for keyword in not_offered {
            assert!(!ehlo.contains(keyword), "{why}: {keyword} in {ehlo}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_passed_on_where_they_are_offered() {
    let cases: [(&[&'static str], &str, &str, &str); 4] = [
        (
            &["DSN", "SMTPUTF8", "SIZE 1000", "8BITMIME"],
            "MAIL FROM:<ü@x.example> SIZE=100 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=e1",
            "MAIL FROM:<ü@x.example> SIZE=100 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=e1",
            "all",
        ),
        (
            &["8BITMIME"],
            "MAIL FROM:<a@x.example> SIZE=100 BODY=8BITMIME",
            "MAIL FROM:<a@x.example> BODY=8BITMIME",
            "no SIZE",
        ),
        (
            &["DSN"],
            "MAIL FROM:<a@x.example> SIZE=100",
            "MAIL FROM:<a@x.example>",
            "no SIZE",
        ),
        (
            &["DSN"],
            "MAIL FROM:<> SIZE=100 RET=FULL",
            "MAIL FROM:<> RET=FULL",
            "the null sender",
        ),
    ];
    for (offers, mail, expected, why) in cases {
        let server = Server::start(Options {
            offers: offers.to_vec(),
            ..Options::default()
        })
        .await;
        let rig = Rig::start(Setup::new(&[server.address])).await;
        let mut client = rig.client().await;
        client.command("EHLO c.example").await;
        assert_eq!(client.command(mail).await, "250 2.1.0 sender ok", "{why}");
        assert_eq!(server.lines("MAIL"), [expected], "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_is_taken_back() {
    let server = Server::start(Options {
        offers: vec!["PIPELINING", "SMTPUTF8"],
        last_offer_until: 1,
        ..Options::default()
    })
    .await;
    let setup = Setup::new(&[server.address]);
    let rig = Rig::start(setup.with(|config| config.next_hop.keep = 0)).await;
    let mut client = rig.client().await;
    assert!(client.command("EHLO c.example").await.contains("SMTPUTF8"));
    let reply = client.command("MAIL FROM:<ü@x.example> SMTPUTF8").await;
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
    assert!(server.lines("MAIL").is_empty());
    let mut client = rig.client().await;
    assert!(
        !client.command("EHLO c.example").await.contains("SMTPUTF8"),
        "it was learnt"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_goes_on_as_a_batch_and_each_recipient_has_its_own_reply() {
    let refusals = vec![
        ("full@y.example", "452 4.2.2 mailbox full"),
        ("nobody@y.example", "550-5.1.1 there is\r\n550 5.1.1 nobody"),
    ];
    for pipelining in [true, false] {
        let server = Server::start(Options {
            offers: if pipelining {
                vec!["PIPELINING"]
            } else {
                vec!["8BITMIME"]
            },
            rcpt: refusals.clone(),
            ..Options::default()
        })
        .await;
        let rig = Rig::start(Setup::new(&[server.address])).await;
        let mut client = rig.client().await;
        client.command("EHLO c.example").await;
        client
            .write(
                b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nRCPT TO:<full@y.example>\r\n\
                  RCPT TO:<nobody@y.example>\r\nRCPT TO:<c@y.example>\r\nDATA\r\n",
            )
            .await;
        let expected = [
            "250 2.1.0 sender ok",
            "250 2.1.5 recipient ok",
            "452 4.2.2 mailbox full",
            "550-5.1.1 there is|550 5.1.1 nobody",
            "250 2.1.5 recipient ok",
            "354 End data with <CR><LF>.<CR><LF>",
        ];
        for reply in expected {
            assert_eq!(client.reply().await, reply, "pipelining: {pipelining}");
        }
        client.write(&[MESSAGE, b".\r\n"].concat()).await;
        assert_eq!(client.reply().await, "250 2.0.0 message accepted");
        let batches = server.seen(|seen| {
            let batch = |read: &&String| {
                read.starts_with("MAIL") && read.matches("RCPT TO").count() == 4 && read.ends_with("DATA\r\n")
            };
            seen.reads.iter().filter(batch).count()
        });
        assert_eq!(
            batches,
            usize::from(pipelining),
            "one write for MAIL and its recipients"
        );
        let copies = rig.recipients().await;
        assert_eq!(
            copies,
            [["b@y.example", "c@y.example"]],
            "only accepted recipients"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_behind_a_refused_sender_leaves_nothing_behind() {
    let server = Server::start(Options {
        scripts: vec![vec![(At::Mail, Act::Say("550 5.7.1 not you"))]],
        ..Options::default()
    })
    .await;
    let rig = Rig::start(Setup::new(&[server.address])).await;
    let mut client = rig.client().await;
    client.command("EHLO c.example").await;
    client
        .write(b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nRCPT TO:<c@y.example>\r\nDATA\r\n")
        .await;
    assert_eq!(client.reply().await, "550 5.7.1 not you");
    for _ in 0..3 {
        assert!(client.reply().await.starts_with("503"));
    }
    let (stage, reply) = client.send(&["d@y.example"], MESSAGE).await;
    assert_eq!((stage, &reply[..3]), ("DOT", "250"));
    assert_eq!(rig.recipients().await, [["d@y.example"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_without_a_recipient_that_is_taken_sends_nothing() {
    // A server that answers DATA with 354 all the same (RFC 2920 section 3.1), and one that does not.
    for data in ["354 go on then", "554 5.5.1 no valid recipients"] {
        let server = Server::start(Options {
            rcpt: vec![
                ("nobody", "550 5.1.1 nobody"),
                ("fine@y.example", "250 2.1.5 fine"),
            ],
            without_recipients: data,
            ..Options::default()
        })
        .await;
        let rig = Rig::start(Setup::new(&[server.address])).await;
        let mut client = rig.client().await;
        client.command("EHLO c.example").await;
        client
            .write(b"MAIL FROM:<a@x.example>\r\nRCPT TO:<nobody@y.example>\r\nDATA\r\n")
            .await;
        for code in ["250", "550", "554"] {
            assert_eq!(&client.reply().await[..3], code, "{data}");
        }
        assert!(client.command("RSET").await.starts_with("250"));
        let (stage, reply) = client.send(&["fine@y.example"], MESSAGE).await;
        assert_eq!((stage, &reply[..3]), ("DOT", "250"), "{data}");
        assert_eq!(server.accepted(), 1, "{data}: only the second message");
        assert_eq!(rig.recipients().await, [["fine@y.example"]], "{data}");
        let resets = server.lines("RSET").len();
        assert_eq!(
            resets,
            usize::from(data.starts_with('5')),
            "{data}: kept, or given up"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recipients_in_a_batch_beyond_the_limit() {
    let server = Server::start(Options::default()).await;
    let setup = Setup::new(&[server.address]);
    let rig = Rig::start(setup.with(|config| config.limits.recipients = 3)).await;
    let mut client = rig.client().await;
    client.command("EHLO c.example").await;
    let batch: String = (0..6).map(|n| format!("RCPT TO:<r{n}@y.example>\r\n")).collect();
    client
        .write(format!("MAIL FROM:<a@x.example>\r\n{batch}").as_bytes())
        .await;
    let mut codes = Vec::new();
    for _ in 0..7 {
        codes.push(client.reply().await[..3].to_owned());
    }
    assert_eq!(codes, ["250", "250", "250", "250", "452", "452", "452"]);
    assert_eq!(server.lines("RCPT").len(), 3, "the next hop hears of no other");
    assert!(client.command("DATA").await.starts_with("354"));
    client.write(&[MESSAGE, b".\r\n"].concat()).await;
    assert!(client.reply().await.starts_with("250"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_hop_hears_who_the_client_is() {
    let server = Server::start(Options {
        offers: vec!["XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE", "PIPELINING"],
        ..Options::default()
    })
    .await;
    let rig = Rig::start(Setup::new(&[server.address])).await;
    let mut client = rig.client().await;
    let port = client.stream.get_ref().local_addr().unwrap().port();
    client.command("EHLO c=lient.example").await;
    let (stage, reply) = client.send(&["b@y.example"], MESSAGE).await;
    assert_eq!((stage, &reply[..3]), ("DOT", "250"));
    let lines = server.lines("XFORWARD");
    assert_eq!(
        lines[0],
        format!("XFORWARD NAME=[UNAVAILABLE] ADDR=127.0.0.1 PORT={port}")
    );
    assert!(
        lines[1].starts_with("XFORWARD PROTO=ESMTP HELO=c+3Dlient.example IDENT=")
            && lines[1].ends_with(" SOURCE=REMOTE"),
        "{lines:?}"
    );
    // A refusal of it is no refusal of the message.
    let server = Server::start(Options {
        offers: vec!["XFORWARD ADDR"],
        scripts: vec![vec![(At::Xforward, Act::Say("501 5.5.4 no"))]],
        ..Options::default()
    })
    .await;
    let rig = Rig::start(Setup::new(&[server.address])).await;
    let mut client = rig.client().await;
    client.command("EHLO c.example").await;
    assert_eq!(client.send(&["b@y.example"], MESSAGE).await.0, "DOT");
    assert_eq!(server.accepted(), 1);
}

/// A certificate authority in PEM, and an acceptor with a certificate of it for `localhost`.
fn authority() -> (String, TlsAcceptor) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["mx.example".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .unwrap();
    (ca.pem(), TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_to_the_next_hop() {
    let (ca, acceptor) = authority();
    let (other_ca, _) = authority();
    let verify = |ca: &str, name: &str| NextHopTls::verify(Some(ca.as_bytes()), Some(name)).unwrap();
    let opportunistic = || NextHopTls::opportunistic().unwrap();
    let broken = vec![vec![(At::Handshake, Act::Close)]; 20];
    let refused = vec![vec![(At::StartTls, Act::Say("454 4.7.0 not now"))]; 20];
    // (TLS of the gateway, offered, scripts, accepted, in TLS, why)
    let cases = [
        (NextHopTls::Off, true, vec![], true, false, "off"),
        (opportunistic(), true, vec![], true, true, "any certificate"),
        (opportunistic(), false, vec![], true, false, "not offered"),
        (opportunistic(), true, refused.clone(), true, false, "refused"),
        (
            opportunistic(),
            true,
            broken.clone(),
            true,
            false,
            "no handshake: in the clear",
        ),
        (verify(&ca, "mx.example"), true, vec![], true, true, "valid"),
        (
            verify(&ca, "other.example"),
            true,
            vec![],
            false,
            false,
            "another name",
        ),
        (
            verify(&other_ca, "mx.example"),
            true,
            vec![],
            false,
            false,
            "another authority",
        ),
        (
            verify(&ca, "mx.example"),
            false,
            vec![],
            false,
            false,
            "required, not offered",
        ),
        (
            verify(&ca, "mx.example"),
            true,
            refused,
            false,
            false,
            "required, refused",
        ),
        (
            verify(&ca, "mx.example"),
            true,
            broken,
            false,
            false,
            "required, no handshake",
        ),
    ];
    for (tls, offered, scripts, accepted, secure, why) in cases {
        let server = Server::start(Options {
            tls: offered.then(|| acceptor.clone()),
            scripts,
            ..Options::default()
        })
        .await;
        let setup = Setup::new(&[server.address]);
        let rig = Rig::start(setup.with(move |config| config.next_hop.tls = tls)).await;
        let mut client = rig.client().await;
        client.command("EHLO c.example").await;
        for _ in 0..2 {
            let (stage, reply) = client.send(&["b@y.example"], MESSAGE).await;
            let expected = if accepted { ("DOT", "250") } else { ("MAIL", "451") };
            assert_eq!((stage, &reply[..3]), expected, "{why}: {reply}");
        }
        let ehlos = server.lines("EHLO").len();
        let connections = server.seen(|seen| seen.connections);
        assert_eq!(server.accepted(), if accepted { 2 } else { 0 }, "{why}");
        if accepted && secure {
            assert!(ehlos >= 2 * connections, "{why}: EHLO again in TLS");
            assert!(connections <= 2, "{why}: a TLS connection is kept and used again");
        }
    }
    assert!(NextHopTls::verify(Some(b"no PEM"), None).is_err());
    assert!(NextHopTls::verify(Some(ca.as_bytes()), Some("no name at all")).is_err());
}
