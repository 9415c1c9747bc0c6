//! Clients that are slow, idle, broken or hostile: they end in bounded time, and cost others and the process little.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use tdc_tests::process::{PATIENCE, wait_for};

use crate::certificates::{secured, tls};
use crate::client::Client;
use crate::rig::Rig;

/// How much slower the median of other clients may be while there are bad ones, and by how much in any case: the
/// machine is shared with other tests.
const SLOWER: f64 = 10.0;
const SLACK: Duration = Duration::from_millis(200);

/// Connects from another address of loopback.
pub(crate) fn connect_from(to: SocketAddr, source: &str) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::new(source.parse().unwrap(), 0).into())
        .unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// The median time of a whole session with one small message.
fn median(rig: &Rig) -> Duration {
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            let begun = Instant::now();
            let mut client = rig.greeted();
            assert_eq!((client.message(), client.says("QUIT")), (250, 221));
            begun.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn memory(rig: &Rig) -> u64 {
    rig.metric("process_resident_memory_bytes") as u64
}

/// Runs the bad clients beside good ones; gives the process's growth in octets.
fn beside(rig: &Rig, why: &str, bad: impl FnOnce() -> Vec<TcpStream>) -> u64 {
    let (alone, before) = (median(rig), memory(rig));
    let kept = bad();
    let together = median(rig);
    println!("{why}: median {alone:?} alone, {together:?} beside them");
    assert!(
        together < alone.mul_f64(SLOWER) + SLACK,
        "{why}: {alone:?} became {together:?}"
    );
    let grown = memory(rig).saturating_sub(before);
    println!("{why}: {grown} octets more");
    drop(kept);
    grown
}

#[test]
fn one_octet_now_and_then_ends_in_every_state() {
    let (rig, _, _) = secured(&[
        "--client-timeout",
        "1500ms",
        "--min-data-rate",
        "500",
        "--listen-tls",
        "127.0.0.1:0",
        "--tls-handshake-timeout",
        "1500ms",
        "--listen-proxy",
        "127.0.0.1:0",
        "--proxy-from",
        "127.0.0.1/32",
        "--proxy-timeout",
        "1500ms",
    ]);
    let implicit = rig.edge.address("Accepting mail over TLS.");
    let proxied = rig.edge.address("Accepting mail behind PROXY headers.");
    let states: [(&str, SocketAddr, &[&str], &[u8]); 9] = [
        ("before EHLO", rig.smtp, &[], b"E"),
        ("in a command", rig.smtp, &["EHLO c"], b"x"),
        ("in a line that is too long", rig.smtp, &["EHLO c", "LONG"], b"x"),
        ("in MAIL", rig.smtp, &["EHLO c", "MAIL FROM:<a@x.example>"], b"R"),
        (
            "in DATA",
            rig.smtp,
            &[
                "EHLO c",
                "MAIL FROM:<a@x.example>",
                "RCPT TO:<b@y.example>",
                "DATA",
            ],
            b"x",
        ),
        (
            "in BDAT",
            rig.smtp,
            &[
                "EHLO c",
                "MAIL FROM:<a@x.example>",
                "RCPT TO:<b@y.example>",
                "CHUNK",
            ],
            b"x",
        ),
        ("behind STARTTLS", rig.smtp, &["EHLO c", "STARTTLS"], b"\x16"),
        ("in a TLS handshake", implicit, &[], b"\x16"),
        ("in a PROXY header", proxied, &[], b"P"),
    ];
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for (why, address, commands, octet) in states {
            scope.spawn(move || {
                let mut client = Client::connect(address);
                if !commands.is_empty() {
                    assert_eq!(client.code(), 220);
                }
                for command in commands {
                    match *command {
                        "LONG" => client.send("x".repeat(5000)),
                        "CHUNK" => client.send("BDAT 100000\r\n"),
                        command => assert!(client.says(command) < 400, "{why}: {command}"),
                    }
                }
                // A tenth of the limit: each octet by itself comes in time, all of them together do not.
                client
                    .tcp
                    .set_read_timeout(Some(Duration::from_millis(150)))
                    .unwrap();
                let since = Instant::now();
                loop {
                    client.send(octet);
                    let mut read = [0; 512];
                    match std::io::Read::read(&mut client.tcp, &mut read) {
                        Ok(0) => return,
                        Ok(_) => {}
                        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {}
                        Err(_) => return,
                    }
                    assert!(since.elapsed() < PATIENCE, "{why}: still open");
                }
            });
        }
    });
    assert!(
        begun.elapsed() >= Duration::from_millis(1400),
        "none ended before its time"
    );
    rig.reaches("tdc_ingress_sessions_closed_total{reason=\"timeout\"}", 6.0);
    assert_eq!(rig.greeted().message(), 250);
    assert!(rig.mailbox().len() == 1, "none of it became a message");
}

#[test]
fn a_session_has_a_lifetime() {
    let rig = Rig::new(&["--session-lifetime", "1500ms", "--max-junk", "100000"]);
    let (mut busy, mut idle, mut in_data) = (rig.greeted(), rig.greeted(), rig.greeted());
    in_data.begin();
    let begun = Instant::now();
    let last = loop {
        let code = busy.says("NOOP");
        if code != 250 {
            break code;
        }
        assert!(begun.elapsed() < PATIENCE);
    };
    assert_eq!((last, idle.code()), (421, 421));
    in_data.send("A: b\r\n\r\n.\r\n");
    assert_eq!(in_data.code(), 250, "a message that has begun is not cut off");
    assert_eq!(in_data.code(), 421, "but the session is over behind it");
    let mut endless = rig.greeted();
    endless.begin();
    let code = loop {
        // Fast enough for the data rate.
        endless.send("x".repeat(1000) + "\r\n");
        std::thread::sleep(Duration::from_millis(50));
        endless.tcp.set_nonblocking(true).unwrap();
        let mut peek = [0; 1];
        let waiting = endless.tcp.peek(&mut peek).is_ok();
        endless.tcp.set_nonblocking(false).unwrap();
        if waiting {
            break endless.code();
        }
        assert!(begun.elapsed() < PATIENCE);
    };
    assert_eq!(code, 421, "an endless one is");
    rig.reaches("tdc_ingress_sessions_closed_total{reason=\"lifetime\"}", 4.0);
}

#[test]
fn ten_thousand_idle_connections() {
    // As many as this test process may open, at most 10,000: one descriptor each.
    let files = Command::new("sh").args(["-c", "ulimit -n"]).output().unwrap();
    let may: usize = String::from_utf8_lossy(&files.stdout)
        .trim()
        .parse()
        .unwrap_or(1_000_000);
    let count = may.saturating_sub(200).min(10_000);
    let rig = Rig::new(&[]);
    let grown = beside(&rig, &format!("{count} idle connections"), || {
        // From a few networks, so that both limits are met; most are refused or make room for others.
        (0..count)
            .map(|n| connect_from(rig.smtp, &format!("127.0.0.{}", 1 + n % 8)))
            .collect()
    });
    // Those that made room take a moment to close.
    wait_for("no more connections to be open than may be", || {
        (rig.metric("tdc_ingress_connections_open") <= 2100.0).then_some(())
    });
    // 2,000 sessions may be open; each has some buffers.
    assert!(grown < 200 * 1024 * 1024, "{grown} octets more");
    let evicted = rig.metric("tdc_ingress_sessions_closed_total{reason=\"evicted\"}");
    let refused = rig.metric("tdc_ingress_connections_refused_total{reason=\"connections\"}");
    println!("{evicted} evicted, {refused} refused");
    wait_for("idle connections to go with their clients", || {
        (rig.metric("tdc_ingress_connections_open") < 50.0).then_some(())
    });
}

#[test]
fn half_open_tls_and_rubbish() {
    let (rig, _, _) = secured(&["--listen-tls", "127.0.0.1:0"]);
    let implicit = rig.edge.address("Accepting mail over TLS.");
    let grown = beside(&rig, "half-open TLS", || {
        let half = |n: usize| {
            let mut stream = TcpStream::connect(implicit).unwrap();
            let _ = std::io::Write::write_all(&mut stream, &[0x16, 3, 1, 2, 0, 1, 0][..n % 8]);
            stream
        };
        (0..500).map(half).collect()
    });
    assert!(grown < 100 * 1024 * 1024, "{grown} octets more");
    let mut client = Client::connect(implicit);
    client.start_tls(&tls(rustls::ALL_VERSIONS)).unwrap();
    assert_eq!(
        (client.code(), client.says("EHLO c"), client.message()),
        (220, 250, 250)
    );

    let rubbish: [(&str, Box<dyn Fn(u64) -> Vec<u8>>); 5] = [
        (
            "random octets",
            Box::new(|seed| {
                let mut random = fastrand::Rng::with_seed(seed);
                (0..20_000).map(|_| random.u8(..)).collect()
            }),
        ),
        (
            "HTTP",
            Box::new(|_| {
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nMAIL FROM:<a@x>\r\n".to_vec()
            }),
        ),
        (
            "commands of 64 KB",
            Box::new(|_| [vec![b'x'; 65_536], b"\r\n".to_vec()].concat().repeat(4)),
        ),
        ("NULs", Box::new(|_| vec![0; 100_000])),
        ("NULs in a command", Box::new(|_| b"EHLO \0\r\n".repeat(100))),
    ];
    for (why, wire) in rubbish {
        let grown = beside(&rig, why, || {
            (0..100)
                .map(|seed| {
                    let mut client = rig.client();
                    client.send(wire(seed));
                    client.tcp
                })
                .collect()
        });
        assert!(grown < 100 * 1024 * 1024, "{why}: {grown} octets more");
    }
    rig.reaches("tdc_ingress_sessions_closed_total{reason=\"not_smtp\"}", 200.0);
    let mut client = rig.client();
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(
        (client.code(), client.reply().unwrap()),
        (220, "221 2.7.0 This is an SMTP server\r\n".into())
    );
    assert!(client.is_closed());
}

/// Octets that arrive one by one must not keep a read buffer each.
#[test]
fn a_message_in_tiny_reads_costs_what_it_holds() {
    let rig = Rig::new(&[]);
    let before = memory(&rig);
    let mut clients: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = rig.greeted();
            client.begin();
            client.send("A: b\r\n\r\n");
            client
        })
        .collect();
    for _ in 0..1500 {
        for client in &mut clients {
            client.send("x");
        }
    }
    let grown = memory(&rig).saturating_sub(before);
    println!("20 times 1,500 octets, one at a time: {grown} octets more");
    // A buffer of 32 KB for each octet would be 960 MB.
    assert!(grown < 50 * 1024 * 1024, "{grown} octets more");
    for client in &mut clients {
        client.send("\r\n.\r\n");
        assert_eq!(client.code(), 250);
    }
}

#[test]
fn accept_survives_a_lack_of_descriptors() {
    let rig = Rig::in_dir(
        tempfile::TempDir::new().unwrap(),
        &["--max-connections", "1000"],
        Some(80),
    );
    rig.edge
        .says("Fewer files may be open than --max-connections may need");
    let crowd: Vec<TcpStream> = (0..150).map(|_| TcpStream::connect(rig.smtp).unwrap()).collect();
    rig.edge.says("Connections cannot be accepted now.");
    // With back-off: a second or two of it is a few lines, not thousands.
    std::thread::sleep(Duration::from_secs(2));
    let lines = rig.lines("Connections cannot be accepted now.");
    assert!(lines < 60, "{lines} lines");
    drop(crowd);
    let mut client = rig.greeted();
    assert_eq!((client.message(), client.says("QUIT")), (250, 221), "it goes on");
    assert!(rig.metric("tdc_ingress_accept_errors_total") >= 1.0);
}
