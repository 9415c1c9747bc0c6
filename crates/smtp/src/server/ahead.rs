//! A look at the recipients that wait behind the command that is being answered.
//!
//! A driver that passes recipients on may send them in one batch, as the client did, instead of one by one. What
//! always holds: what is seen here comes out as the next events of the session, in this order, unless the transaction
//! is refused before; nothing is consumed.

use bytes::BytesMut;
use memchr::memchr;

use super::ServerSession;
use crate::command::{self, Command, RcptTo};

/// Recipients in one look: a read buffer of commands holds about as many.
const MAX_AHEAD: usize = 500;

impl ServerSession {
    /// The RCPT commands that follow at once, as far as the session will ask for them.
    pub fn recipients_ahead(&self, input: &BytesMut) -> Vec<RcptTo> {
        let mut ahead = Vec::new();
        let Some(transaction) = self.transaction else {
            return ahead;
        };
        // The one that waits for its answer counts too, unless it is MAIL that waits; one less is no harm.
        let taken = transaction.asked + 1;
        let room = self.config.max_recipients.saturating_sub(taken).min(MAX_AHEAD);
        let mut rest = &input[..];
        while ahead.len() < room {
            let Some(end) = memchr(b'\n', rest) else { break };
            let Some(line) = rest[..end].strip_suffix(b"\r") else {
                break;
            };
            if end >= self.config.max_line || !line.first().is_some_and(u8::is_ascii_alphabetic) {
                break;
            }
            match command::parse(line, &self.offered) {
                Ok(Command::Rcpt(rcpt)) if rcpt.address.is_ascii() || transaction.smtputf8 => {
                    ahead.push(rcpt);
                }
                _ => break,
            }
            rest = &rest[end + 1..];
        }
        ahead
    }

    /// True while the answer to [`super::ServerEvent::Data`] is awaited and the message comes in chunks (BDAT).
    pub fn in_chunks(&self) -> bool {
        matches!(self.state, super::State::Waiting(super::Question::FirstChunk(..)))
    }
}
