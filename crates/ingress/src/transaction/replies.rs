//! What the client hears of the next hop's replies, and when there is none.

use tdc_smtp::Reply;

use crate::listener::Shared;
use crate::nexthop::NextHopError;
use crate::nexthop::connection::Connection;

/// The next hop's reply as it is. One that is no answer to the command is replaced (as Postfix's proxy does), and its
/// connection given up: it is out of step.
pub(super) fn pass(hop: &mut Option<Connection>, reply: Reply, expected: u16) -> Reply {
    if matches!(reply.code() / 100, 4 | 5) || reply.code() / 100 == expected {
        return reply;
    }
    *hop = None;
    tracing::error!(
        code = reply.code(),
        "The next hop gave a reply that makes no sense here."
    );
    Reply::new(451, "4.3.0 Error: the mail server gave an unexpected reply")
}

/// A generic reply: a stranger need not know what is wrong inside. What the next hop itself said about the message is
/// passed on.
pub(super) fn unavailable(shared: &Shared, error: NextHopError) -> Reply {
    shared.deps.metrics.next_hop_failed();
    tracing::warn!(%error, "The next hop failed.");
    match error {
        NextHopError::BrokeOff(reply) => reply,
        _ => lost(),
    }
}

pub(super) fn lost() -> Reply {
    Reply::new(
        451,
        "4.4.1 Error: the mail server is not available, try again later",
    )
}
