//! One message: from MAIL to the reply to its final dot.
//!
//! The order of the steps, and what a death of this process there means:
//!
//! | step | dying after it |
//! |---|---|
//! | MAIL, RCPT, DATA passed on, body streamed | the next hop sees the connection close before the dot: no message |
//! | PREPARE answered | as before; the entry is in doubt and is delivered, marked so: a copy too many |
//! | final dot sent | the next hop may have the message; the client has no 250 and sends again |
//! | next hop said 2xx | as before; the copy is delivered, marked in doubt |
//! | COMMIT answered | the client has no 250 and sends again; message and copy arrive twice |
//! | 250 sent | nothing is lost |
//!
//! What always holds: the final dot is not sent before the queue has answered PREPARE for every copy that is due;
//! the client hears the next hop's own reply; an entry is committed only after a 2xx, and forgotten after any other
//! answer.

mod end;
mod journal;
mod log;
mod opening;
mod replies;

use std::sync::Arc;

use bytes::Bytes;
use tdc_core::headers::{HeaderScanner, Headers};
use tdc_core::maillog::MailEvent;
use tdc_core::{Envelope, Mailbox, ReversePath};
use tdc_queue::Series;
use tdc_smtp::{Ahead, BodyEnd, MailFrom, RcptTo, Reply};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use self::opening::{Opened, SentAhead, open, send_ahead};
use self::replies::{lost, pass, unavailable};
use crate::client::Client;
use crate::copies::Copies;
use crate::evaluate::{Evaluated, Undecided};
use crate::listener::Shared;
use crate::nexthop::NextHopError;
use crate::nexthop::connection::Connection;

/// A message on its way.
pub(crate) struct Transaction {
    shared: Arc<Shared>,
    client: Client,
    mid: u64,
    mail: MailFrom,
    envelope: Envelope,
    hop: Option<Connection>,
    sent: SentAhead,
    body: Option<BodyState>,
    span: tracing::Span,
}

struct BodyState {
    scanner: HeaderScanner,
    headers: Option<Headers>,
    evaluation: Option<JoinHandle<Result<Evaluated, Undecided>>>,
    evaluated: Result<Evaluated, Undecided>,
    /// No copy is made although one may be due: it is our own, or the message is not clean.
    skipped: bool,
    copies: Copies,
    /// The connection to the next hop broke; the client hears of it at the end of its body.
    broken: Option<NextHopError>,
}

impl Transaction {
    /// Passes MAIL on. The reply of the next hop, and the transaction when it said yes. `ahead` are the recipients
    /// that the client has named behind MAIL already: each must come to [`Self::rcpt`], in their order.
    pub(crate) async fn begin(
        shared: &Arc<Shared>,
        client: Client,
        mail: MailFrom,
        ahead: &Ahead,
    ) -> (Reply, Option<Self>) {
        let mid = shared.deps.ids.next(Series::Mid);
        let Opened { hop, reply, sent } = match open(shared, &client, mid, &mail, ahead).await {
            Ok(opened) => opened,
            Err(error) => return (unavailable(shared, error), None),
        };
        let mut hop = Some(hop);
        let reply = pass(&mut hop, reply, 2);
        if !reply.is_positive() {
            put_back(shared, hop, &reply, !sent.is_empty());
            return (reply, None);
        }
        tdc_failpoint::hit("ingress.mail");
        let span = tracing::info_span!(
            "smtp.transaction",
            otel.kind = "server",
            mid,
            outcome = tracing::field::Empty
        );
        let envelope = Envelope {
            sender: ReversePath::new(&mail.address),
            recipients: Vec::new(),
        };
        shared.deps.mail_log.emit(&MailEvent::Started {
            mid,
            icid: client.icid,
            sender: mail.address.clone(),
        });
        let transaction = Self {
            shared: shared.clone(),
            client,
            mid,
            mail,
            envelope,
            hop,
            sent,
            body: None,
            span,
        };
        (reply, Some(transaction))
    }

    /// Sender and accepted recipients so far.
    pub(crate) fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// True when [`Self::rcpt`] would like to know which recipients follow.
    pub(crate) fn wants_ahead(&self) -> bool {
        self.sent.is_empty()
    }

    /// Passes RCPT on; `ahead` as in [`Self::begin`].
    pub(crate) async fn rcpt(&mut self, rcpt: RcptTo, ahead: &Ahead) -> Reply {
        let reply = match self.pass_rcpt(&rcpt, ahead).await {
            Ok(reply) => pass(&mut self.hop, reply, 2),
            Err(error) => {
                self.hop = None;
                return unavailable(&self.shared, error);
            }
        };
        let (mid, icid, recipient) = (self.mid, self.client.icid, rcpt.address);
        if reply.is_positive() {
            tdc_failpoint::hit("ingress.rcpt");
            let rid = self.envelope.recipients.len();
            self.envelope.recipients.push(Mailbox::new(recipient.as_str()));
            self.log(&MailEvent::Recipient {
                mid,
                icid,
                rid,
                recipient,
            });
        } else {
            self.log(&MailEvent::RecipientRefused {
                mid,
                icid,
                recipient,
                reply: reply.to_string(),
            });
        }
        reply
    }

    async fn pass_rcpt(&mut self, rcpt: &RcptTo, ahead: &Ahead) -> Result<Reply, NextHopError> {
        let hop = self.hop.as_mut().ok_or(NextHopError::Closed)?;
        match self.sent.recipients.pop_front() {
            Some(sent) if sent == *rcpt => {}
            // The next hop would count a recipient that the client does not, or has begun to wait for the message.
            Some(_) => return Err(NextHopError::Closed),
            None if self.sent.data => return Err(NextHopError::Closed),
            None => {
                let offered = hop.extensions().clone();
                if !offered.dsn && !rcpt.params.is_empty() {
                    return Ok(Reply::new(
                        451,
                        "4.3.0 Error: the mail server changed, try again later",
                    ));
                }
                hop.rcpt(&rcpt.address, &rcpt.params)?;
                self.sent = send_ahead(hop, ahead, &offered)?;
            }
        }
        Ok(hop.reply().await?.1)
    }

    /// Passes DATA on, or in chunks what comes in chunks where the next hop takes that; asks for the decision while
    /// the body arrives.
    pub(crate) async fn data(&mut self, chunked: bool) -> Reply {
        if !self.sent.recipients.is_empty() {
            self.hop = None;
        }
        let Some(hop) = &mut self.hop else { return lost() };
        // Asked before DATA is answered: a decision takes about as long.
        let evaluation = self.shared.deps.evaluation.clone();
        let envelope = self.envelope.clone();
        let question = async move { evaluation.evaluate(envelope).await };
        let evaluation = tokio::spawn(question.instrument(self.span.clone()));
        if chunked && !self.sent.data && hop.extensions().chunking {
            hop.chunks();
        } else {
            if !std::mem::take(&mut self.sent.data) {
                hop.data();
            }
            let reply = match hop.reply().await {
                Ok((_, reply)) => pass(&mut self.hop, reply, 3),
                Err(error) => {
                    self.hop = None;
                    unavailable(&self.shared, error)
                }
            };
            if !reply.is_intermediate() {
                evaluation.abort();
                return reply;
            }
        }
        tdc_failpoint::hit("ingress.data");
        self.body = Some(BodyState {
            scanner: HeaderScanner::default(),
            headers: None,
            evaluation: Some(evaluation),
            evaluated: Err(Undecided::default()),
            skipped: false,
            copies: Copies::new(self.shared.deps.queue.clone(), self.shared.config.queue_timeout),
            broken: None,
        });
        Reply::new(354, "End data with <CR><LF>.<CR><LF>")
    }

    /// Passes a piece of the body on.
    pub(crate) async fn piece(&mut self, piece: &Bytes) {
        let Some(body) = &mut self.body else { return };
        if body.broken.is_some() {
            return;
        }
        if !body.scanner.is_done() {
            body.scanner.feed(piece);
        }
        let sent = match &mut self.hop {
            Some(hop) => hop.body(piece).await,
            None => Err(NextHopError::Closed),
        };
        tdc_failpoint::hit("ingress.body");
        if let Err(error) = sent {
            body.broken = Some(error);
            return;
        }
        if body.copies.push(piece) {
            if body.copies.is_undecided() {
                self.decide().await;
            }
            if let Some(body) = &mut self.body {
                body.copies.write_chunks().await;
            }
        }
    }

    /// The body is over: prepare, relay, commit. The reply for the client.
    pub(crate) async fn finish(mut self, end: BodyEnd) -> Reply {
        let span = self.span.clone();
        async move {
            let (reply, outcome) = self.end(end).await;
            tracing::Span::current().record("outcome", outcome);
            self.shared.deps.metrics.message(outcome, end.size);
            reply
        }
        .instrument(span)
        .await
    }

    /// The client gave the transaction up before its body.
    pub(crate) async fn cancel(mut self) {
        self.log(&MailEvent::Aborted {
            mid: self.mid,
            reason: "Receiving aborted by sender".into(),
        });
        let keys = self
            .body
            .as_mut()
            .map(|body| body.copies.forget())
            .unwrap_or_default();
        self.forget(&keys).await;
        if self.body.is_none()
            && let Some(hop) = self.hop.take()
        {
            reset(&self.shared, hop);
        }
    }
}

/// Ends a transaction at the next hop without a message, and puts the connection back; the client need not wait.
fn reset(shared: &Arc<Shared>, mut hop: Connection) {
    let pool = shared.pool.clone();
    tokio::spawn(async move {
        if hop.reset().await {
            pool.put(hop);
        }
    });
}

/// Puts a connection back after the reply that ended its transaction.
fn put_back(shared: &Arc<Shared>, hop: Option<Connection>, reply: &Reply, needs_reset: bool) {
    match hop {
        Some(hop) if reply.code() == 421 => drop(hop),
        Some(hop) if needs_reset => reset(shared, hop),
        Some(hop) => shared.pool.put(hop),
        None => {}
    }
}
