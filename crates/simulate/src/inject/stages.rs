//! The stages of a session at which a script has more to say than another reply.

use tdc_smtp::{BodyEnd, Extensions, Reply};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::{Usual, take_last_reply};
use crate::config::offer_keyword;
use crate::connection::{Connection, HANDSHAKE_TIMEOUT, Lost};
use crate::script::{At, Fault, OnlyVersion, Strike, Then, TlsFault};
use crate::transaction::Transaction;

impl Connection {
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
