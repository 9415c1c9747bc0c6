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

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tdc_core::headers::{HeaderScanner, Headers};
use tdc_core::maillog::MailEvent;
use tdc_core::{Envelope, Mailbox, ReversePath};
use tdc_queue::Series;
use tdc_smtp::{BodyEnd, MailFrom, RcptTo, Reply};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use self::opening::open;
use self::replies::{lost, pass, unavailable};
use crate::copies::Copies;
use crate::evaluate::Evaluated;
use crate::listener::Shared;
use crate::nexthop::NextHopError;
use crate::nexthop::connection::Connection;

/// Who sends; the same for all messages of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) icid: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) helo: String,
    pub(crate) esmtp: bool,
}

/// A message on its way.
pub(crate) struct Transaction {
    shared: Arc<Shared>,
    client: Client,
    mid: u64,
    mail: MailFrom,
    envelope: Envelope,
    hop: Option<Connection>,
    body: Option<BodyState>,
    span: tracing::Span,
}

struct BodyState {
    scanner: HeaderScanner,
    headers: Option<Headers>,
    evaluation: Option<JoinHandle<Option<Evaluated>>>,
    evaluated: Option<Evaluated>,
    copies: Copies,
    /// The connection to the next hop broke; the client hears of it at the end of its body.
    broken: Option<NextHopError>,
}

impl Transaction {
    /// Passes MAIL on. The reply of the next hop, and the transaction when it said yes.
    pub(crate) async fn begin(shared: &Arc<Shared>, client: Client, mail: MailFrom) -> (Reply, Option<Self>) {
        let (hop, reply) = match open(shared, &client, &mail).await {
            Ok(opened) => opened,
            Err(error) => return (unavailable(shared, &error), None),
        };
        if !reply.is_positive() {
            shared.pool.put_unless_closing(hop, &reply);
            return (pass(reply, 2), None);
        }
        let mid = shared.deps.ids.next(Series::Mid);
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
        let shared = shared.clone();
        let transaction = Self {
            shared,
            client,
            mid,
            mail,
            envelope,
            hop: Some(hop),
            body: None,
            span,
        };
        (reply, Some(transaction))
    }

    /// Passes RCPT on.
    pub(crate) async fn rcpt(&mut self, rcpt: RcptTo) -> Reply {
        let Some(hop) = &mut self.hop else { return lost() };
        let reply = match hop.rcpt(&rcpt.address, &rcpt.params).await {
            Ok(reply) => pass(reply, 2),
            Err(error) => {
                self.hop = None;
                return unavailable(&self.shared, &error);
            }
        };
        let (mid, icid, recipient) = (self.mid, self.client.icid, rcpt.address);
        if reply.is_positive() {
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

    /// Passes DATA on; asks for the decision while the body arrives.
    pub(crate) async fn data(&mut self) -> Reply {
        let Some(hop) = &mut self.hop else { return lost() };
        let reply = match hop.data().await {
            Ok(reply) => pass(reply, 3),
            Err(error) => {
                self.hop = None;
                return unavailable(&self.shared, &error);
            }
        };
        if reply.is_intermediate() {
            let evaluation = self.shared.deps.evaluation.clone();
            let envelope = self.envelope.clone();
            let question = async move { evaluation.evaluate(envelope).await };
            self.body = Some(BodyState {
                scanner: HeaderScanner::default(),
                headers: None,
                evaluation: Some(tokio::spawn(question.instrument(self.span.clone()))),
                evaluated: None,
                copies: Copies::new(self.shared.deps.queue.clone()),
                broken: None,
            });
            return Reply::new(354, "End data with <CR><LF>.<CR><LF>");
        }
        reply
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
        let in_body = self.body.is_some();
        if let Some(mut hop) = self.hop.take()
            && !in_body
            && let Ok(reply) = hop.reset().await
            && reply.is_positive()
        {
            self.shared.pool.put(hop);
        }
    }
}
