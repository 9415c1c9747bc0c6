//! BDAT from the client, and what the next hop gets.

use crate::rig::{Client, Rig, Setup};
use crate::server::{Act, At, Options, Server};

fn chunking() -> Options {
    Options {
        offers: vec!["PIPELINING", "CHUNKING"],
        ..Options::default()
    }
}

/// One message in these chunks; the replies to each.
async fn send(client: &mut Client, chunks: &[&[u8]]) -> Vec<String> {
    client.command("MAIL FROM:<a@x.example>").await;
    client.command("RCPT TO:<b@y.example>").await;
    let mut replies = Vec::new();
    for (at, chunk) in chunks.iter().enumerate() {
        let last = if at + 1 == chunks.len() { " LAST" } else { "" };
        client
            .write(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes())
            .await;
        client.write(chunk).await;
        replies.push(client.reply().await);
    }
    replies
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_go_on_as_chunks_where_they_are_taken() {
    let long = b"a line that begins with no dot\r\n.a line that does\r\n".repeat(10_000);
    let cases: [(&[&[u8]], &[u8], &str); 6] = [
        (
            &[b"a\r\n.\r\nb\r\n"],
            b"a\r\n.\r\nb\r\n",
            "an end of data is only octets",
        ),
        (
            &[b"a\r", b"\n.b\r\n"],
            b"a\r\n.b\r\n",
            "a line end between two chunks",
        ),
        (&[b"a\r\n", b""], b"a\r\n", "an empty last chunk"),
        (&[b""], b"", "nothing at all"),
        (&[b"no line end"], b"no line end\r\n", "it gets one"),
        (
            &[&long, b"x\r\n", &long],
            &[&long[..], b"x\r\n", &long].concat(),
            "several of ours",
        ),
    ];
    for (chunks, expected, why) in cases {
        let server = Server::start(chunking()).await;
        let rig = Rig::start(Setup::new(&[server.address])).await;
        let mut client = rig.client().await;
        assert!(client.command("EHLO c.example").await.contains("CHUNKING"));
        let replies = send(&mut client, chunks).await;
        assert!(
            replies.iter().all(|reply| reply.starts_with("250")),
            "{why}: {replies:?}"
        );
        assert_eq!(server.seen(|seen| seen.accepted.clone()), [expected], "{why}");
        assert!(server.lines("DATA").is_empty(), "{why}");
        assert!(server.lines("BDAT").last().unwrap().ends_with(" LAST"), "{why}");
        // The copy holds the same octets.
        let claimed = rig.claim().await;
        assert_eq!(claimed, [expected], "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_go_on_as_data_where_they_are_not_taken() {
    let server = Server::start(Options::default()).await;
    let rig = Rig::start(Setup::new(&[server.address])).await;
    let mut client = rig.client().await;
    client.command("EHLO c.example").await;
    let replies = send(&mut client, &[b"a\r\n.\r\n", b".b"]).await;
    assert_eq!(replies[1], "250 2.0.0 message accepted");
    assert!(server.lines("BDAT").is_empty());
    assert_eq!(
        server.seen(|seen| seen.accepted.clone()),
        [b"a\r\n..\r\n..b\r\n"],
        "dots are doubled"
    );
    assert_eq!(rig.claim().await, [b"a\r\n.\r\n.b\r\n"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_goes_on_as_data() {
    let server = Server::start(chunking()).await;
    let rig = Rig::start(Setup::new(&[server.address])).await;
    let mut client = rig.client().await;
    client.command("EHLO c.example").await;
    assert_eq!(client.send(&["b@y.example"], b"a\r\n").await.0, "DOT");
    assert!(server.lines("BDAT").is_empty() && server.lines("DATA").len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_chunk_refuses_the_message() {
    let cases = [
        (At::Chunk, Act::Say("552 5.3.4 too much"), "552 5.3.4 too much"),
        (At::Chunk, Act::Close, "451 4.4.1"),
        (At::Chunk, Act::Say("354 what?"), "451 4.3.0"),
        (At::Dot, Act::Say("554 5.6.0 no"), "554 5.6.0 no"),
        (At::Dot, Act::Close, "451 4.4.1"),
    ];
    for (at, act, expected) in cases {
        let server = Server::start(Options {
            scripts: vec![vec![(at, act)]],
            ..chunking()
        })
        .await;
        let rig = Rig::start(Setup::new(&[server.address])).await;
        let mut client = rig.client().await;
        client.command("EHLO c.example").await;
        let large = b"0123456789\r\n".repeat(20_000);
        let replies = send(&mut client, &[&large, b"end\r\n"]).await;
        assert!(replies[1].starts_with(expected), "{at:?} {act:?}: {replies:?}");
        assert_eq!(rig.stats().await.committed, 0, "{at:?} {act:?}");
        assert_eq!(server.accepted(), 0, "{at:?} {act:?}");
        let replies = send(&mut client, &[b"next\r\n"]).await;
        assert!(replies[0].starts_with("250"), "{at:?} {act:?}: {replies:?}");
        assert_eq!(server.accepted(), 1, "{at:?} {act:?}: the next message");
    }
}
