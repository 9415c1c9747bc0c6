//! One table of byte sequences, each at every split, in a whole session: as DATA and as BDAT, normalised and rejected.
//!
//! What always holds: the message that comes out is the one that the rules say, one and no more, whatever the splits;
//! the session is in step behind it.

use super::tests::{config, drive_pieces};
use super::{BodyFault, CloseReason, ServerConfig};
use crate::data::BareLf;

const ENVELOPE: &str = "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

/// What is sent between `a` and the exact end of data; what it means as DATA and as BDAT; whether it has a bare LF as
/// DATA, which BDAT counts too.
const SEQUENCES: [(&str, &str, &str, bool); 30] = [
    ("\r\n", "a\r\n", "a\r\n", false),
    ("\n", "a\r\n", "a\r\n", true),
    ("\r", "a \r\n", "a \r\n", false),
    ("\0", "a \r\n", "a \r\n", false),
    ("\r\r\n", "a \r\n", "a \r\n", false),
    ("\n\r\n", "a\r\n\r\n", "a\r\n\r\n", true),
    ("\n.\n", "a\r\n", "a\r\n.\r\n", true),
    ("\n.\r\n", "a\r\n", "a\r\n.\r\n", true),
    ("\r\n.\n", "a\r\n", "a\r\n.\r\n", true),
    ("\r.\r", "a . \r\n", "a . \r\n", false),
    ("\r.\r\n", "a .\r\n", "a .\r\n", false),
    ("\r\n.\r", "a\r\n \r\n", "a\r\n. \r\n", false),
    ("\r.\n", "a .\r\n", "a .\r\n", true),
    ("\n.\r", "a\r\n \r\n", "a\r\n. \r\n", true),
    ("\r\n.\r\r\n", "a\r\n \r\n", "a\r\n. \r\n", false),
    ("\r\r\n.\r\r\n", "a \r\n \r\n", "a \r\n. \r\n", false),
    ("\r\n\r.\r\n", "a\r\n .\r\n", "a\r\n .\r\n", false),
    ("\r\n.\0\r\n", "a\r\n \r\n", "a\r\n. \r\n", false),
    ("\r\n\0.\r\n", "a\r\n .\r\n", "a\r\n .\r\n", false),
    ("\0.\r\n", "a .\r\n", "a .\r\n", false),
    ("\n\n.\r\n", "a\r\n\r\n", "a\r\n\r\n.\r\n", true),
    ("\n.\n\r\n", "a\r\n\r\n", "a\r\n.\r\n\r\n", true),
    ("\n.\n.\r\n", "a\r\n", "a\r\n.\r\n.\r\n", true),
    ("\r\n..\r\n", "a\r\n.\r\n", "a\r\n..\r\n", false),
    ("\r\n.b\r\n", "a\r\nb\r\n", "a\r\n.b\r\n", false),
    ("\r\n...\r\n", "a\r\n..\r\n", "a\r\n...\r\n", false),
    ("\r\n. \r\n", "a\r\n \r\n", "a\r\n. \r\n", false),
    ("\n..\n", "a\r\n.\r\n", "a\r\n..\r\n", true),
    ("\r\n.\t\r\n", "a\r\n\t\r\n", "a\r\n.\t\r\n", false),
    (
        "\u{85}\u{2028}.\r\n",
        "a\u{85}\u{2028}.\r\n",
        "a\u{85}\u{2028}.\r\n",
        false,
    ),
];

/// Commands that a server would run which takes the sequence for the end of data.
const HIDDEN: &str = "MAIL FROM:<evil@x>\r\nRCPT TO:<c@d>\r\nDATA\r\nhidden\r\n";

fn every_split(wire: &[u8], from: usize, to: usize, mut check: impl FnMut([&[u8]; 3], [usize; 2])) {
    for first in from..=to {
        // The second cut at once behind the first, where it could hurt, and far from it.
        for second in [first + 1, first + 2, to].map(|at| at.clamp(first, wire.len())) {
            check(
                [&wire[..first], &wire[first..second], &wire[second..]],
                [first, second],
            );
        }
    }
}

/// What comes out of a session in which the message is `body`, and what must.
fn check(
    config: &ServerConfig,
    wire: &str,
    begin: usize,
    end: usize,
    expected: &[u8],
    fault: Option<BodyFault>,
    why: &str,
) {
    every_split(wire.as_bytes(), begin, end, |pieces, at| {
        let run = drive_pieces(config.clone(), pieces);
        let [(message, found)] = &run.messages[..] else {
            panic!("{why}: {} messages at {at:?}", run.messages.len());
        };
        assert_eq!(*found, fault, "{why} at {at:?}");
        assert_eq!(
            message.escape_ascii().to_string(),
            expected.escape_ascii().to_string(),
            "{why} at {at:?}"
        );
        assert_eq!(run.closed, Some(CloseReason::Quit), "{why} at {at:?}: in step");
    });
}

fn reject() -> ServerConfig {
    ServerConfig {
        bare_lf: BareLf::Reject,
        ..config()
    }
}

#[test]
fn as_data() {
    for (sequence, meaning, _, bare_lf) in SEQUENCES {
        // With an end of line in front of the exact end where the sequence has none, and with commands in between.
        let line_end = if sequence.ends_with("\r\n") || sequence.ends_with('\n') {
            ""
        } else {
            "\r\n"
        };
        // Behind a bare LF the dot would not count.
        let quiet = if sequence.ends_with('\n') && !sequence.ends_with("\r\n") {
            "b\r\n"
        } else {
            ""
        };
        for hidden in ["", HIDDEN] {
            let tail = if hidden.is_empty() { quiet } else { hidden };
            let wire = format!("{ENVELOPE}DATA\r\na{sequence}{line_end}{tail}.\r\nQUIT\r\n");
            let begin = ENVELOPE.len() + 6;
            let expected = format!("{meaning}{tail}");
            let why = format!("{sequence:?}, {} hidden", hidden.len());
            check(
                &config(),
                &wire,
                begin,
                wire.len() - 6,
                expected.as_bytes(),
                None,
                &why,
            );
            let fault = bare_lf.then_some(BodyFault::BareLf);
            check(
                &reject(),
                &wire,
                begin,
                wire.len() - 6,
                expected.as_bytes(),
                fault,
                &format!("reject {why}"),
            );
        }
    }
}

#[test]
fn as_chunks() {
    for (sequence, _, meaning, bare_lf) in SEQUENCES {
        // Cut by the client at each octet, and by the network at each one too.
        let body = format!("a{sequence}");
        for cut in 0..=body.len() {
            let (first, second) = body.as_bytes().split_at(cut);
            let mut wire = ENVELOPE.as_bytes().to_vec();
            wire.extend_from_slice(format!("BDAT {}\r\n", first.len()).as_bytes());
            wire.extend_from_slice(first);
            wire.extend_from_slice(format!("BDAT {} LAST\r\n", second.len()).as_bytes());
            wire.extend_from_slice(second);
            wire.extend_from_slice(b"QUIT\r\n");
            for (config, fault) in [(config(), None), (reject(), bare_lf.then_some(BodyFault::BareLf))] {
                every_split(&wire, ENVELOPE.len(), wire.len(), |pieces, at| {
                    let run = drive_pieces(config.clone(), pieces);
                    let why = format!("{sequence:?} cut at {cut}, read at {at:?}");
                    assert_eq!(run.messages, [(meaning.as_bytes().to_vec(), fault)], "{why}");
                    assert_eq!(run.closed, Some(CloseReason::Quit), "{why}");
                });
            }
        }
    }
}
