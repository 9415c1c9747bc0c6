//! A look at the recipients that wait behind the command that is being answered.
//!
//! A driver that passes recipients on may send them in one batch, as the client did, instead of one by one. What
//! always holds: what is seen here comes out as the next events of the session, in this order, unless the transaction
//! is refused before (DATA is, when no recipient was taken); nothing is consumed.

use bytes::BytesMut;
use memchr::memchr;

use super::ServerSession;
use crate::command::{self, Command, RcptTo};

/// Recipients in one look: a read buffer of commands holds about as many.
const MAX_AHEAD: usize = 500;

/// What follows at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// The recipients, as far as the session will ask for them.
    pub recipients: Vec<RcptTo>,
    /// DATA comes right behind them.
    pub data: bool,
}

impl ServerSession {
    /// The RCPT commands that follow the one that is being answered, and DATA behind them.
    pub fn ahead(&self, input: &BytesMut) -> Ahead {
        let mut ahead = Ahead::default();
        let Some(transaction) = self.transaction else {
            return ahead;
        };
        // The one that waits for its answer counts too, unless it is MAIL that waits; one less is no harm.
        let taken = transaction.asked + 1;
        let room = self.config.max_recipients.saturating_sub(taken).min(MAX_AHEAD);
        let mut rest = &input[..];
        while let Some(end) = memchr(b'\n', rest) {
            let Some(line) = rest[..end].strip_suffix(b"\r") else {
                break;
            };
            if end >= self.config.max_line || !line.first().is_some_and(u8::is_ascii_alphabetic) {
                break;
            }
            match command::parse(line, &self.offered) {
                Ok(Command::Rcpt(rcpt))
                    if ahead.recipients.len() < room && (rcpt.address.is_ascii() || transaction.smtputf8) =>
                {
                    ahead.recipients.push(rcpt);
                }
                Ok(Command::Data) => {
                    ahead.data = true;
                    break;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::capabilities::Extensions;
    use crate::reply::Reply;
    use crate::server::{ServerConfig, ServerEvent};

    use super::*;

    /// A session that has just asked about MAIL, with this behind it.
    fn after_mail(rest: &str) -> (ServerSession, BytesMut) {
        let config = ServerConfig {
            extensions: Extensions {
                chunking: true,
                ..Extensions::default()
            },
            max_recipients: 4,
            ..ServerConfig::default()
        };
        let mut session = ServerSession::new(Arc::new(config));
        let mut input = BytesMut::from(format!("EHLO c\r\nMAIL FROM:<a@b>\r\n{rest}").as_bytes());
        assert_eq!(session.poll(&mut input), ServerEvent::Greeted);
        assert!(matches!(session.poll(&mut input), ServerEvent::Mail(_)));
        (session, input)
    }

    #[test]
    fn what_is_seen_is_what_comes() {
        let cases = [
            ("", 0, false, "nothing has come"),
            (
                "RCPT TO:<r1@b>\r\nRCPT TO:<r2@b>\r\nDATA\r\n",
                2,
                true,
                "a whole envelope",
            ),
            ("rcpt to:<r1@b>\r\ndata\r\n", 1, true, "any case"),
            ("RCPT TO:<r1@b>\r\nRCPT TO:<r2", 1, false, "half a command"),
            (
                "RCPT TO:<r1@b>\r\nRCPT FROM:<r2@b>\r\nDATA\r\n",
                1,
                false,
                "an error between",
            ),
            (
                "RCPT TO:<r1@b>\r\nNOOP\r\nRCPT TO:<r2@b>\r\n",
                1,
                false,
                "another command between",
            ),
            ("RCPT TO:<ü@b>\r\n", 0, false, "one that will be refused here"),
            (
                "RCPT TO:<r1@b>\r\nBDAT 0 LAST\r\n",
                1,
                false,
                "chunks are no DATA",
            ),
            (
                "RCPT TO:<r1@b>\nRCPT TO:<r2@b>\r\n",
                0,
                false,
                "a bare LF is the session's affair",
            ),
            (
                "RCPT TO:<1@b>\r\nRCPT TO:<2@b>\r\nRCPT TO:<3@b>\r\nRCPT TO:<4@b>\r\nRCPT TO:<5@b>\r\nDATA\r\n",
                3,
                false,
                "no more than surely have room",
            ),
        ];
        for (rest, recipients, data, why) in cases {
            let (mut session, mut input) = after_mail(rest);
            let before = input.clone();
            let ahead = session.ahead(&input);
            assert_eq!((ahead.recipients.len(), ahead.data), (recipients, data), "{why}");
            assert_eq!(input, before, "{why}: nothing is consumed");
            session.answer(Reply::new(250, "ok"));
            for rcpt in ahead.recipients {
                assert_eq!(session.poll(&mut input), ServerEvent::Rcpt(rcpt), "{why}");
                session.answer(Reply::new(250, "ok"));
            }
            if data {
                assert_eq!(session.poll(&mut input), ServerEvent::Data, "{why}");
            }
        }
    }
}
