//! Carries out on a connection what a rule of the script says.
//!
//! What always holds: what was said before the fault reaches the client first, so that a fault in the middle of a
//! pipelined batch is one of its own command; every wait ends when the client leaves or the server stops; a fault is
//! counted exactly when it happens.

mod stages;
mod wire;

use std::time::Duration;

use bytes::BytesMut;
use tdc_smtp::Reply;
use tokio::io::Interest;
use tokio::time::{Instant, sleep, timeout};

use crate::connection::{Connection, Lost, WRITE_TIMEOUT};
use crate::script::{At, Fault, Situation, Strike, Then};
use crate::transaction::Transaction;

/// While nothing is said, the client's presence is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The longest pause within a slow write: above it, octets go one by one.
const SLOW_STEP: Duration = Duration::from_millis(100);

/// Where the usual reply is when a fault strikes.
#[derive(Debug)]
pub(crate) enum Usual {
    /// The session waits for it.
    Asked(Reply),
    /// The session has said it: it is the last one in the output.
    Said,
    /// There is none: nobody asked.
    None,
}

impl Connection {
    /// Gives the usual reply, or does what the script says; true when the client was told what it hoped for.
    pub(crate) async fn meet(&mut self, at: At, usual: Usual) -> Result<bool, Lost> {
        match self.strike(at, None) {
            Some(strike) => self.inject(strike.fault, usual).await,
            None => Ok(self.usual(&usual)),
        }
    }

    /// What strikes here, counted unless it waits for silence first.
    pub(crate) fn strike(&mut self, at: At, recipient: Option<&str>) -> Option<Strike> {
        let faults = self.shared.script.faults()?;
        let transaction = self.transaction.as_ref();
        let recipients = match (recipient, transaction) {
            (Some(recipient), _) => vec![recipient],
            (None, Some(transaction)) => transaction.addresses(),
            (None, None) => Vec::new(),
        };
        let attempt = match recipient {
            Some(recipient) => Some(faults.attempt(At::Rcpt, recipient)),
            None => transaction.and_then(Transaction::attempt),
        };
        let situation = Situation {
            at,
            connection: self.client.connection,
            message: self.begun,
            tls: self.session.is_tls(),
            sender: transaction.map(Transaction::sender),
            recipients: &recipients,
            attempt,
            octets: transaction.map_or((0, 0), Transaction::progress),
        };
        let strike = faults.ask(&situation, &mut self.draws)?;
        if strike.idle.is_zero() {
            self.shared.counts.injected(&strike.rule);
        }
        Some(strike)
    }

    pub(crate) async fn inject(&mut self, fault: Fault, usual: Usual) -> Result<bool, Lost> {
        match fault {
            Fault::Reply { reply, slow, then } => {
                let hoped = reply.is_positive() || reply.is_intermediate();
                let before = self.session.output().len();
                self.say(&usual, reply.clone());
                // A refused BDAT is answered after its octets, which are not waited for when the connection ends here.
                let unsaid = matches!(usual, Usual::Asked(_)) && self.session.output().len() == before;
                if unsaid && then != Then::GoOn {
                    reply.write_to(self.session.output());
                }
                self.speak(slow).await?;
                self.then(then).await?;
                Ok(hoped)
            }
            Fault::Raw { octets, slow, then } => {
                self.withdraw(&usual);
                self.flush().await?;
                self.write_slowly(&octets, slow).await?;
                self.then(then).await?;
                Ok(false)
            }
            Fault::Slow(rate) => {
                let hoped = self.usual(&usual);
                self.speak(Some(rate)).await?;
                Ok(hoped)
            }
            Fault::Stall { time, then } => {
                let held = match &usual {
                    Usual::Said => take_last_reply(self.session.output()),
                    _ => BytesMut::new(),
                };
                self.flush().await?;
                self.stall(time).await?;
                if then == Then::GoOn {
                    self.session.output().unsplit(held);
                    return Ok(self.usual(&usual));
                }
                self.withdraw_unsaid(&usual);
                self.then(then).await?;
                Ok(false)
            }
            Fault::Close | Fault::Refuse(_) | Fault::Reset => {
                self.withdraw(&usual);
                self.flush().await?;
                Err(self.cut(!matches!(fault, Fault::Close)))
            }
            // The rest belongs to stages that carry it out themselves.
            Fault::Pass | Fault::Keywords { .. } | Fault::Tls(_) | Fault::Alert(_) | Fault::Garbage => {
                Ok(self.usual(&usual))
            }
        }
    }

    /// The usual reply; true when it is what the client hopes for.
    fn usual(&mut self, usual: &Usual) -> bool {
        match usual {
            Usual::Asked(reply) => {
                let hoped = reply.is_positive() || reply.is_intermediate();
                self.say(usual, reply.clone());
                hoped
            }
            Usual::Said | Usual::None => true,
        }
    }

    /// Puts a reply in the place of the usual one.
    fn say(&mut self, usual: &Usual, reply: Reply) {
        if let Some(id) = self.pending.take() {
            self.answers.push((id, reply.is_positive()));
        }
        match usual {
            Usual::Asked(_) => self.session.answer(reply),
            Usual::Said => {
                take_last_reply(self.session.output());
                reply.write_to(self.session.output());
            }
            Usual::None => reply.write_to(self.session.output()),
        }
    }

    /// The usual reply is never given. To the session it is a refusal, so that it stays in step.
    fn withdraw(&mut self, usual: &Usual) {
        if let Usual::Said = usual {
            take_last_reply(self.session.output());
        }
        self.withdraw_unsaid(usual);
    }

    fn withdraw_unsaid(&mut self, usual: &Usual) {
        self.pending = None;
        if let Usual::Asked(_) = usual {
            let before = self.session.output().len();
            self.session.answer(Reply::new(451, "4.3.0 Never said"));
            // A refused BDAT is answered after its octets.
            self.session.output().truncate(before);
        }
    }

    /// Writes the output, the last reply in it slowly.
    async fn speak(&mut self, slow: Option<u32>) -> Result<(), Lost> {
        if slow.is_none() {
            return Ok(());
        }
        let last = take_last_reply(self.session.output());
        let answers = std::mem::take(&mut self.answers);
        self.flush().await?;
        self.answers = answers;
        self.write_slowly(&last, slow).await?;
        self.told();
        Ok(())
    }

    async fn write_slowly(&mut self, octets: &[u8], rate: Option<u32>) -> Result<(), Lost> {
        let (step, pause) = match rate {
            None => (octets.len().max(1), Duration::ZERO),
            Some(rate) if rate >= 10 => (rate as usize / 10, SLOW_STEP),
            Some(rate) => (1, Duration::from_secs(1) / rate.max(1)),
        };
        for piece in octets.chunks(step) {
            let stream = self.stream.as_mut().ok_or(Lost::HungUp)?;
            timeout(WRITE_TIMEOUT, stream.write(piece))
                .await
                .map_err(|_| Lost::TimedOut("reading a reply"))??;
            if !pause.is_zero() {
                self.stall(Some(pause)).await?;
            }
        }
        Ok(())
    }

    async fn then(&mut self, then: Then) -> Result<(), Lost> {
        match then {
            Then::GoOn => return Ok(()),
            Then::Close => {
                self.flush().await?;
                self.farewell(true).await;
                return Err(Lost::Injected);
            }
            Then::Reset => {
                self.flush().await?;
                return Err(self.cut(true));
            }
            Then::Stall => {}
        }
        self.flush().await?;
        self.stall(None).await?;
        Err(self.cut(false))
    }

    /// Ends the connection without a word of TLS or SMTP, or with a reset.
    fn cut(&mut self, reset: bool) -> Lost {
        if let Some(stream) = self.stream.take() {
            if reset {
                // Should it fail, the client sees a close instead.
                let _ = stream.tcp().set_zero_linger();
            } else {
                // What lies unread would make the system send a reset.
                let mut unread = [0; 16 * 1024];
                while stream.tcp().try_read(&mut unread).is_ok_and(|octets| octets > 0) {}
            }
        }
        Lost::Injected
    }

    /// Neither reads nor writes, until the time is over, the client leaves, or the server stops.
    async fn stall(&mut self, time: Option<Duration>) -> Result<(), Lost> {
        let until = time.map(|time| Instant::now() + time);
        loop {
            let stream = self.stream.as_ref().ok_or(Lost::HungUp)?;
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
            if *self.stop.borrow() {
                return Err(Lost::Injected);
            }
            let interest = Interest::READABLE | Interest::ERROR;
            if let Ok(ready) = timeout(Duration::ZERO, stream.tcp().ready(interest)).await {
                let ready = ready?;
                if ready.is_read_closed() || ready.is_error() {
                    return Err(Lost::HungUp);
                }
            }
            sleep(left.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)).await;
        }
    }
}

/// Takes the last reply off replies in wire form, all its lines.
fn take_last_reply(output: &mut BytesMut) -> BytesMut {
    let line_start = |end: usize| {
        let before = end.saturating_sub(2);
        memchr::memrchr(b'\n', &output[..before]).map_or(0, |at| at + 1)
    };
    let mut start = line_start(output.len());
    while start > 0 {
        let earlier = line_start(start);
        if output.get(earlier + 3) != Some(&b'-') {
            break;
        }
        start = earlier;
    }
    output.split_off(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reply_is_taken_with_all_its_lines() {
        let rows = [
            ("", "", ""),
            ("220 a\r\n", "", "220 a\r\n"),
            ("250 a\r\n250 b\r\n", "250 a\r\n", "250 b\r\n"),
            (
                "250 a\r\n250-b\r\n250-c\r\n250 d\r\n",
                "250 a\r\n",
                "250-b\r\n250-c\r\n250 d\r\n",
            ),
            ("250-b\r\n250 d\r\n", "", "250-b\r\n250 d\r\n"),
            (
                "250-b\r\n250 d\r\n354 x-y\r\n",
                "250-b\r\n250 d\r\n",
                "354 x-y\r\n",
            ),
        ];
        for (all, rest, last) in rows {
            let mut output = BytesMut::from(all);
            assert_eq!(take_last_reply(&mut output), last, "{all:?}");
            assert_eq!(output, rest, "{all:?}");
        }
    }
}
