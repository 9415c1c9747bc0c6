//! What the client hears when the next hop gave no reply that could be passed on.

use tdc_smtp::Reply;

use crate::listener::Shared;
use crate::nexthop::NextHopError;

/// The next hop's reply as it is; one that is no answer to the command is replaced (as Postfix's proxy does).
pub(super) fn pass(reply: Reply, expected: u16) -> Reply {
    if matches!(reply.code() / 100, 4 | 5) || reply.code() / 100 == expected {
        return reply;
    }
    tracing::error!(
        code = reply.code(),
        "The next hop gave a reply that makes no sense here."
    );
    Reply::new(451, "4.3.0 Error: the mail server gave an unexpected reply")
}

/// A generic reply: a stranger need not know what is wrong inside.
pub(super) fn unavailable(shared: &Shared, error: &NextHopError) -> Reply {
    shared.deps.metrics.next_hop_failed();
    tracing::warn!(%error, "The next hop failed.");
    lost()
}

pub(super) fn lost() -> Reply {
    Reply::new(
        451,
        "4.4.1 Error: the mail server is not available, try again later",
    )
}
