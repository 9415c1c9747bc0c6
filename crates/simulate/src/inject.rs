//! Carries out on a connection what a rule of the script says.
//!
//! What always holds: what was said before the fault reaches the client first, so that a fault in the middle of a
//! pipelined batch is one of its own command; every wait ends when the client leaves or the server stops; a fault is
//! counted exactly when it happens.

use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use tdc_smtp::{BodyEnd, Extensions, Reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::config::offer_keyword;
use crate::connection::{Connection, HANDSHAKE_TIMEOUT, LINGER, Lost, Stream, WRITE_TIMEOUT};
use crate::script::{At, Fault, OnlyVersion, Situation, Strike, Then, TlsFault};
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

    /// EHLO was answered: other keywords for this session, or another fault.
    pub(crate) async fn greeted(&mut self) -> Result<(), Lost> {
        if self.shared.script.faults().is_none() {
            return Ok(());
        }
        let strike = self.strike(At::Ehlo, None);
        let mut offered = self.shared.session.extensions.clone();
        offered.starttls &= !self.session.is_tls();
        if let Some(Strike {
            fault: Fault::Keywords { without, with },
            ..
        }) = &strike
        {
            let mut change = |keywords: &[String], on| {
                for keyword in keywords {
                    // The script was read with the same function.
                    let _ = offer_keyword(&mut offered, keyword, on);
                }
            };
            change(without, false);
            change(with, true);
        }
        self.offer(offered);
        match strike {
            Some(strike) => self.inject(strike.fault, Usual::Said).await.map(drop),
            None => Ok(()),
        }
    }

    fn offer(&mut self, offered: Extensions) {
        if self.session.is_esmtp() {
            take_last_reply(self.session.output());
            offered
                .to_reply(&self.shared.session.hostname)
                .write_to(self.session.output());
        }
        self.session.offer(offered);
    }

    /// A piece of a message has come.
    pub(crate) async fn in_body(&mut self, is_end: bool) -> Result<(), Lost> {
        let Some(faults) = self.shared.script.faults() else {
            return Ok(());
        };
        let Some(transaction) = self
            .transaction
            .as_mut()
            .filter(|transaction| transaction.in_body())
        else {
            return Ok(());
        };
        if !transaction.identify(&faults, is_end) {
            return Ok(());
        }
        let strike = self.strike(At::Body, None);
        if let Some(transaction) = self.transaction.as_mut() {
            transaction.asked();
        }
        match strike {
            Some(Strike {
                fault: Fault::Slow(rate),
                ..
            }) => self.read_rate = Some(rate),
            Some(strike) => drop(self.inject(strike.fault, Usual::None).await?),
            None => {}
        }
        Ok(())
    }

    /// The end of data, with what the script has to say about its answer.
    pub(crate) async fn dot(&mut self, end: BodyEnd) -> Result<(), Lost> {
        self.in_body(true).await?;
        self.read_rate = None;
        self.between = true;
        let id = self
            .transaction
            .as_ref()
            .and_then(Transaction::id)
            .map(str::to_owned);
        if let Some(id) = &id {
            self.shared.counts.dot(id);
        }
        self.pending = id;
        let strike = self.strike(At::Dot, None);
        let Some(strike) = strike else {
            let usual = Usual::Asked(self.end(end).await);
            self.usual(&usual);
            return Ok(());
        };
        let mut fault = strike.fault;
        if let (
            Fault::Stall {
                time,
                then: Then::GoOn,
            },
            false,
        ) = (&fault, strike.keep)
        {
            self.flush().await?;
            self.stall(*time).await?;
            let usual = Usual::Asked(self.end(end).await);
            self.usual(&usual);
            return Ok(());
        }
        let promises = matches!(&fault, Fault::Reply { reply, .. } if reply.is_positive());
        let usual = if strike.keep || promises || matches!(fault, Fault::Slow(_) | Fault::Pass) {
            self.end(end).await
        } else {
            self.transaction = None;
            self.shared.counts.refused();
            Reply::new(451, "4.3.0 Not taken")
        };
        if let (true, false, Fault::Reply { reply, .. }) = (promises, usual.is_positive(), &mut fault) {
            // Nothing is promised that was not done.
            *reply = usual.clone();
        }
        self.inject(fault, Usual::Asked(usual)).await.map(drop)
    }

    /// Between two messages: the server may speak, or leave, although nobody asked.
    pub(crate) async fn between_messages(&mut self) -> Result<(), Lost> {
        let Some(strike) = self.strike(At::Between, None) else {
            return Ok(());
        };
        if !strike.idle.is_zero() {
            let stream = self.stream.as_ref().ok_or(Lost::HungUp)?;
            let mut stop = self.stop.clone();
            let silent = tokio::select! {
                _ = stream.tcp().readable() => false,
                _ = stop.wait_for(|stop| *stop) => false,
                () = sleep(strike.idle) => true,
            };
            if !silent {
                if let Some(faults) = self.shared.script.faults() {
                    faults.give_back(&strike);
                }
                return Ok(());
            }
            self.shared.counts.injected(&strike.rule);
        }
        self.inject(strike.fault, Usual::None).await.map(drop)
    }

    /// What the script says to a handshake; else the acceptor that is to perform it.
    pub(crate) async fn before_handshake(&mut self) -> Result<TlsAcceptor, Lost> {
        let good = self
            .shared
            .tls
            .as_ref()
            .map(|tls| tls.good.clone())
            .ok_or(Lost::HungUp)?;
        let Some(strike) = self.strike(At::Handshake, None) else {
            return Ok(good);
        };
        // The client begins: what breaks is a handshake, not a connection that had none.
        let stream = self.stream.as_ref().ok_or(Lost::HungUp)?;
        timeout(HANDSHAKE_TIMEOUT, stream.tcp().readable())
            .await
            .map_err(|_| Lost::TimedOut("the TLS handshake"))??;
        let wrong: Vec<u8> = match &strike.fault {
            Fault::Tls(TlsFault {
                version: Some(OnlyVersion::V1_1),
                ..
            }) => server_hello_1_1(),
            Fault::Tls(tls_fault) => {
                let tls = self.shared.tls.as_ref().ok_or(Lost::HungUp)?;
                return tls
                    .acceptor(*tls_fault)
                    .map_err(|error| Lost::Io(std::io::Error::other(error)));
            }
            Fault::Alert(code) => vec![21, 3, 3, 0, 2, if *code == 0 { 1 } else { 2 }, *code],
            Fault::Garbage => b"250 this is not TLS\r\n".to_vec(),
            Fault::Stall {
                time,
                then: Then::GoOn,
            } => {
                self.stall(*time).await?;
                return Ok(good);
            }
            _ => {
                self.inject(strike.fault, Usual::None).await?;
                return Ok(good);
            }
        };
        self.write_slowly(&wrong, None).await?;
        self.farewell(true).await;
        Err(Lost::Injected)
    }

    /// Ends the sending side; a client that is still sending must not have the last words overtaken by a reset: its
    /// side is read until it ends, for a moment.
    pub(crate) async fn farewell(&mut self, wait: bool) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        let farewell = async {
            stream.shutdown().await?;
            self.input.clear();
            while wait && stream.read(&mut self.input).await? > 0 {
                self.input.clear();
            }
            Ok::<(), std::io::Error>(())
        };
        // The conversation is over; how the farewell went changes nothing.
        let _ = timeout(LINGER, farewell).await;
    }
}

impl Stream {
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    async fn read(&mut self, input: &mut BytesMut) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(input).await,
            Self::Tls(stream) => stream.read_buf(input).await,
        }
    }

    /// Reads at most so many octets.
    pub(crate) async fn read_some(&mut self, input: &mut BytesMut, most: usize) -> std::io::Result<usize> {
        let mut input = input.limit(most);
        match self {
            Self::Plain(stream) => stream.read_buf(&mut input).await,
            Self::Tls(stream) => stream.read_buf(&mut input).await,
        }
    }

    pub(crate) async fn write(&mut self, output: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(output).await,
            Self::Tls(stream) => {
                stream.write_all(output).await?;
                stream.flush().await
            }
        }
    }

    async fn shutdown(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
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

/// What a server of TLS 1.1 says to any client (RFC 4346 section 7.4.1.3): its version, a suite of its time.
fn server_hello_1_1() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend_from_slice(&[0x5a; 32]);
    hello.extend_from_slice(&[0, 0x00, 0x2f, 0]);
    let mut record = vec![22, 3, 2, 0, hello.len() as u8 + 4, 2, 0, 0, hello.len() as u8];
    record.extend_from_slice(&hello);
    record
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
