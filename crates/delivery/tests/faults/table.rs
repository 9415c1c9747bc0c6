//! The table: design section 6 of the project, row by row, at every stage where it can happen.

use crate::stage::End::{self, Delivered, Hard, Possible};

/// How often the fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strikes {
    /// The first time; after that all goes well.
    Once,
    /// Every time.
    Always,
}

use Strikes::{Always, Once};

/// One row, for each of its stages.
pub(crate) struct Row {
    /// `do`, and `keep` where it matters.
    pub(crate) fault: &'static str,
    pub(crate) at: &'static [&'static str],
    pub(crate) strikes: Strikes,
    pub(crate) end: End,
    pub(crate) soft: u64,
    pub(crate) connections: u64,
    pub(crate) copies: u64,
    pub(crate) why: &'static str,
}

/// A stage's name in scripts, and the condition that makes it this one.
pub(crate) fn place(at: &'static str) -> (&'static str, &'static str) {
    match at {
        "ehlo" => ("ehlo", ", when: {tls: false}"),
        "ehlo in TLS" => ("ehlo", ", when: {tls: true}"),
        at => (at, ""),
    }
}

/// Where an SMTP reply means what it says.
const REPLIES: &[&str] = &["greeting", "ehlo", "ehlo in TLS", "mail", "rcpt", "data", "dot"];
/// Where a connection may break before the final dot.
const BEFORE_DOT: &[&str] = &[
    "connect",
    "greeting",
    "ehlo",
    "ehlo in TLS",
    "starttls",
    "handshake",
    "mail",
    "rcpt",
    "data",
];
/// Where the server speaks SMTP before the final dot.
const LINES: &[&str] = &[
    "greeting",
    "ehlo",
    "ehlo in TLS",
    "starttls",
    "mail",
    "rcpt",
    "data",
];
const DOT: &[&str] = &["dot"];
const QUIT: &[&str] = &["quit"];
const HANDSHAKE: &[&str] = &["handshake"];
const STARTTLS: &[&str] = &["starttls"];
const EHLO: &[&str] = &["ehlo"];
const EHLO_IN_TLS: &[&str] = &["ehlo in TLS"];

const fn row(
    fault: &'static str,
    at: &'static [&'static str],
    strikes: Strikes,
    end: End,
    (soft, connections, copies): (u64, u64, u64),
    why: &'static str,
) -> Row {
    Row {
        fault,
        at,
        strikes,
        end,
        soft,
        connections,
        copies,
        why,
    }
}

#[rustfmt::skip]
/// (fault, stages, how often, end, (soft bounces, connections, copies at the intake), why).
pub(crate) const ROWS: &[Row] = &[
    // All is well.
    row("do: pass", &["mail"], Always, Delivered, (0, 1, 1), "2xx"),
    row("do: {slow: 400}", REPLIES, Always, Delivered, (0, 1, 1), "slow is not broken"),
    row("do: {stall: 50ms}", BEFORE_DOT, Always, Delivered, (0, 1, 1), "a pause is not broken"),
    row("do: {reply: [250 2.0.0 a, b, c]}", &["mail", "rcpt", "dot"], Always, Delivered, (0, 1, 1), "several lines"),
    // 5xx except 503, 552: no retry.
    row("do: {reply: 550 5.1.1 no}", REPLIES, Always, Hard("5xx"), (0, 1, 0), "5xx: no retry"),
    row("do: {reply: 550 5.1.1 no}", REPLIES, Once, Hard("5xx"), (0, 1, 0), "5xx: no retry, though it would help"),
    row("do: {reply: [554 5.7.1 a, b]}", REPLIES, Always, Hard("5xx"), (0, 1, 0), "5xx of several lines"),
    // 4xx, and 503, 552: one retry on a fresh connection.
    row("do: {reply: 451 4.3.0 later}", REPLIES, Once, Delivered, (1, 2, 1), "4xx: one retry"),
    row("do: {reply: 451 4.3.0 later}", REPLIES, Always, Hard("other"), (1, 2, 0), "4xx twice: hard"),
    row("do: {reply: 503 5.5.1 sequence}", REPLIES, Once, Delivered, (1, 2, 1), "503 counts as 4xx"),
    row("do: {reply: 503 5.5.1 sequence}", REPLIES, Always, Hard("other"), (1, 2, 0), "503 twice: hard"),
    row("do: {reply: 552 5.2.2 full}", REPLIES, Once, Delivered, (1, 2, 1), "552 counts as 4xx"),
    row("do: {reply: 552 5.2.2 full}", REPLIES, Always, Hard("other"), (1, 2, 0), "552 twice: hard"),
    row("do: {reply: 421 4.3.2 bye}", REPLIES, Once, Delivered, (1, 2, 1), "421 and gone: one retry"),
    row("do: {reply: 421 4.3.2 bye}", REPLIES, Always, Hard("other"), (1, 2, 0), "421 twice: hard"),
    // TLS: no retry.
    row("do: {reply: 454 4.7.0 no}", STARTTLS, Once, Delivered, (1, 2, 1), "4xx to STARTTLS: it will pass (RFC 3207)"),
    row("do: {reply: 454 4.7.0 no}", STARTTLS, Always, Hard("other"), (1, 2, 0), "4xx twice: hard"),
    row("do: {reply: 421 4.3.2 bye}", STARTTLS, Once, Delivered, (1, 2, 1), "421 and gone: one retry"),
    row("do: {reply: 503 5.5.1 no}", STARTTLS, Always, Hard("tls"), (0, 1, 0), "STARTTLS refused: 5xx of any kind"),
    row("do: {reply: 554 5.7.0 no}", STARTTLS, Always, Hard("tls"), (0, 1, 0), "STARTTLS refused"),
    row("do: {without: [STARTTLS]}", EHLO, Always, Hard("tls"), (0, 1, 0), "STARTTLS not offered"),
    row("do: {without: [STARTTLS]}", EHLO, Once, Hard("tls"), (0, 1, 0), "no retry, though it would help"),
    row("do: {certificate: expired}", HANDSHAKE, Once, Hard("tls"), (0, 1, 0), "certificate over"),
    row("do: {certificate: not-yet-valid}", HANDSHAKE, Once, Hard("tls"), (0, 1, 0), "certificate not begun"),
    row("do: {certificate: wrong-name}", HANDSHAKE, Once, Hard("tls"), (0, 1, 0), "another's certificate"),
    row("do: {certificate: unknown-ca}", HANDSHAKE, Once, Hard("tls"), (0, 1, 0), "nobody vouches"),
    row("do: {certificate: expired, tls: \"1.2\"}", HANDSHAKE, Once, Hard("tls"), (0, 1, 0), "the same in TLS 1.2"),
    row("do: {tls: \"1.1\"}", HANDSHAKE, Once, Hard("tls"), (0, 1, 0), "version too old"),
    row("do: {tls: \"1.2\"}", HANDSHAKE, Always, Delivered, (0, 1, 1), "1.2 is new enough"),
    row("do: {tls: \"1.3\"}", HANDSHAKE, Always, Delivered, (0, 1, 1), "1.3 too"),
    row("do: {alert: handshake_failure}", HANDSHAKE, Once, Hard("tls"), (0, 1, 0), "the intake's own refusal"),
    row("do: {alert: internal_error}", HANDSHAKE, Once, Hard("tls"), (0, 1, 0), "the intake's own refusal"),
    row("do: garbage", HANDSHAKE, Once, Hard("tls"), (0, 1, 0), "what comes is not TLS"),
    // Refused, reset, timed out before the final dot: one retry.
    row("do: close", BEFORE_DOT, Once, Delivered, (1, 2, 1), "closed: one retry"),
    row("do: close", BEFORE_DOT, Always, Hard("network"), (1, 2, 0), "closed twice: hard"),
    row("do: reset", BEFORE_DOT, Once, Delivered, (1, 2, 1), "reset: one retry"),
    row("do: reset", BEFORE_DOT, Always, Hard("network"), (1, 2, 0), "reset twice: hard"),
    row("do: stall", BEFORE_DOT, Once, Delivered, (1, 2, 1), "timed out: one retry"),
    row("do: stall", BEFORE_DOT, Always, Hard("network"), (1, 2, 0), "timed out twice: hard"),
    row("do: {half: \"2\", then: close}", LINES, Once, Delivered, (1, 2, 1), "half a line, closed: one retry"),
    row("do: {half: \"2\"}", LINES, Once, Delivered, (1, 2, 1), "half a line: one retry"),
    row("do: {half: \"250-\", then: close}", LINES, Always, Hard("network"), (1, 2, 0), "half a line twice: hard"),
    row("do: {raw: \"is this SMTP?\\r\\n\"}", LINES, Once, Delivered, (1, 2, 1), "not SMTP: one retry"),
    row("do: {raw: \"is this SMTP?\\r\\n\"}", LINES, Always, Hard("network"), (1, 2, 0), "not SMTP twice: hard"),
    row("do: {refuse: 100s}", &["connect"], Once, Hard("network"), (1, 1, 0), "reset, then refused: hard"),
    row("do: {refuse: 1ms}", &["connect"], Once, Delivered, (1, 2, 1), "reset, then well: one retry"),
    // What the intake does not offer.
    row("do: {without: [SIZE, 8BITMIME, ENHANCEDSTATUSCODES]}", EHLO_IN_TLS, Always, Delivered, (0, 1, 1), "not needed"),
    row("do: {with: [SIZE 100]}", EHLO_IN_TLS, Always, Hard("other"), (0, 1, 0), "too small for this copy"),
    row("do: {with: [SIZE 100000]}", EHLO_IN_TLS, Always, Delivered, (0, 1, 1), "large enough"),
    // No answer to the final dot: one retry, then possible delivery.
    row("do: close", DOT, Once, Delivered, (1, 2, 1), "lost before its answer: one retry"),
    row("keep: true, do: close", DOT, Once, Delivered, (1, 2, 2), "the answer was lost: a second copy, with the same id"),
    row("do: close", DOT, Always, Possible, (1, 2, 0), "no answer twice"),
    row("keep: true, do: close", DOT, Always, Possible, (1, 2, 2), "no answer twice, and it has come"),
    row("do: reset", DOT, Once, Delivered, (1, 2, 1), "reset: one retry"),
    row("keep: true, do: reset", DOT, Always, Possible, (1, 2, 2), "reset twice"),
    row("do: stall", DOT, Once, Delivered, (1, 2, 1), "timed out: one retry"),
    row("keep: true, do: stall", DOT, Always, Possible, (1, 2, 2), "timed out twice"),
    row("do: {half: 250 2., then: close}", DOT, Once, Delivered, (1, 2, 1), "half an answer is none"),
    row("keep: true, do: {half: 250 2.}", DOT, Always, Possible, (1, 2, 2), "half an answer is none"),
    row("do: {raw: \"is this SMTP?\\r\\n\"}", DOT, Once, Delivered, (1, 2, 1), "not SMTP is no answer"),
    row("keep: true, do: {raw: \"is this SMTP?\\r\\n\"}", DOT, Always, Possible, (1, 2, 2), "not SMTP is no answer"),
    // An answer is an answer, whatever the connection does then.
    row("do: {reply: 250 2.0.0 taken, then: close}", DOT, Always, Delivered, (0, 1, 1), "answered, then closed"),
    row("do: {reply: 250 2.0.0 taken, then: reset}", DOT, Always, Delivered, (0, 1, 1), "answered, then reset"),
    row("do: {reply: 451 4.3.0 later, then: close}", DOT, Once, Delivered, (1, 2, 1), "4xx, then closed"),
    row("do: {reply: 554 5.6.0 no, then: reset}", &["mail", "rcpt", "data"], Always, Hard("5xx"), (0, 1, 0), "5xx, then gone"),
    // Nobody needs the answer to QUIT.
    row("do: {reply: 451 4.3.0 no}", QUIT, Always, Delivered, (0, 1, 1), "after the end"),
    row("do: close", QUIT, Always, Delivered, (0, 1, 1), "after the end"),
    row("do: reset", QUIT, Always, Delivered, (0, 1, 1), "after the end"),
    row("do: stall", QUIT, Always, Delivered, (0, 1, 1), "after the end"),
    row("do: {half: \"2\"}", QUIT, Always, Delivered, (0, 1, 1), "after the end"),
    row("do: {raw: \"is this SMTP?\\r\\n\"}", QUIT, Always, Delivered, (0, 1, 1), "after the end"),
];

#[rustfmt::skip]
/// (rules, end, soft bounces, connections, copies at the intake, why).
pub(crate) const SCRIPTS: &[(&str, End, u64, u64, u64, &str)] = &[
    ("{at: dot, times: 1, do: close}, {at: rcpt, when: {connection: 2}, do: {reply: 550 5.1.1 no}}", Possible, 1, 2, 0, "the first may have arrived, whatever the second says"),
    ("{at: dot, times: 1, keep: true, do: close}, {at: connect, when: {connection: 2}, do: close}", Possible, 1, 2, 1, "the first has arrived, and the second cannot ask"),
    ("{at: dot, times: 1, keep: true, do: close}, {at: handshake, when: {connection: 2}, do: {certificate: expired}}", Possible, 1, 2, 1, "the first has arrived; TLS ends it"),
    ("{at: rcpt, times: 1, do: {reply: 451 4.3.0 later}}, {at: dot, do: close}", Possible, 1, 2, 0, "the one retry was not answered"),
    ("{at: rcpt, times: 1, do: {reply: 451 4.3.0 later}}, {at: mail, when: {connection: 2}, do: close}", Hard("network"), 1, 2, 0, "one retry in all, not one for each kind"),
    ("{at: mail, times: 1, do: close}, {at: rcpt, do: {reply: 451 4.3.0 later}}", Hard("other"), 1, 2, 0, "one retry in all, not one for each kind"),
    ("{at: mail, times: 1, do: close}, {at: starttls, when: {connection: 2}, do: {reply: 554 5.7.0 no}}", Hard("tls"), 1, 2, 0, "the retry met TLS"),
    ("{at: quit, do: close}, {at: rcpt, times: 1, do: {reply: 550 5.1.1 no}}, {at: rset, do: close}", Hard("5xx"), 0, 1, 0, "what follows a refusal changes nothing"),
];
