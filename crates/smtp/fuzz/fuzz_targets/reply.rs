//! Reading replies: no cut changes them, what is read can be written and read again, and what waits is bounded.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tdc_smtp::reply::{MAX_REPLY_LINE, MAX_REPLY_LINES};
use tdc_smtp::{Extensions, Reply, ReplyError, parse_reply};
use tdc_smtp_fuzz::{Reads, header};

fuzz_target!(|data: &[u8]| {
    let Some(([a, b, c, d], wire)) = header(data) else {
        return;
    };
    let whole = read(Reads::whole(wire));
    assert_eq!(read(Reads::cut(wire, [a, b])), whole, "cuts make no difference");
    for reply in &whole.0 {
        check(reply);
    }
    // A reply of our own, of any text and any number.
    let text = String::from_utf8_lossy(wire.get(..400).unwrap_or(wire));
    check(&Reply::new(u16::from_le_bytes([c, d]), text));
});

/// All replies, and the error at which reading ended.
fn read(reads: Reads<'_>) -> (Vec<Reply>, Option<ReplyError>) {
    let mut input = BytesMut::new();
    let mut all = Vec::new();
    for piece in reads {
        input.extend_from_slice(piece);
        loop {
            let before = input.len();
            match parse_reply(&mut input) {
                Ok(Some(reply)) => all.push(reply),
                Ok(None) => {
                    assert_eq!(input.len(), before, "half a reply is not consumed");
                    assert!(
                        before <= MAX_REPLY_LINE * (MAX_REPLY_LINES + 1),
                        "more waits than a reply may have"
                    );
                    break;
                }
                Err(error) => return (all, Some(error)),
            }
        }
    }
    (all, None)
}

fn check(reply: &Reply) {
    assert!((200..=599).contains(&reply.code()) && !reply.lines().is_empty());
    assert!(
        !reply
            .lines()
            .iter()
            .any(|line| line.chars().any(char::is_control)),
        "a line stays a line"
    );
    if let Some(enhanced) = reply.enhanced() {
        assert!(reply.lines()[0].starts_with(enhanced));
        assert_eq!(enhanced.split('.').count(), 3);
    }
    let mut wire = BytesMut::new();
    reply.write_to(&mut wire);
    // Lines of our own making may be longer than those we read; they still must be one reply.
    if reply.lines().len() <= MAX_REPLY_LINES
        && reply.lines().iter().all(|line| line.len() + 6 <= MAX_REPLY_LINE)
    {
        assert_eq!(parse_reply(&mut wire), Ok(Some(reply.clone())));
        assert!(wire.is_empty());
    }
    let offered = Extensions::from_reply(reply);
    assert_eq!(Extensions::from_reply(&offered.to_reply("host")), offered);
}
