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

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tdc_core::evaluator::CopyPlan;
use tdc_core::headers::{DELIVERY_ID, HeaderScanner, Headers};
use tdc_core::maillog::MailEvent;
use tdc_core::policy::{DeadLetterMode, FailurePolicy};
use tdc_core::{Envelope, Mailbox, ReversePath};
use tdc_queue::{EntryKey, EntryMeta, Series};
use tdc_smtp::{BodyEnd, BodyFault, BodyType, MailFrom, RcptTo, Reply};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use crate::config::MAX_HOPS;
use crate::copies::{Copies, Lifetimes};
use crate::evaluate::Evaluated;
use crate::listener::Shared;
use crate::metrics::Skip;
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

/// What was found out about the copies before the final dot.
enum Journal {
    /// These are prepared (perhaps none).
    Prepared(Vec<EntryKey>),
    /// The message must not go on.
    Refuse(Reply, &'static str),
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

    async fn end(&mut self, end: BodyEnd) -> (Reply, &'static str) {
        if let Some((reply, outcome)) = self.refusal(end) {
            // Without its dot the next hop has no message; a connection in the middle of one is of no more use.
            self.hop = None;
            return self.abort(reply, outcome, None).await;
        }
        self.log(&MailEvent::Ready {
            mid: self.mid,
            size: end.size,
            sender: self.mail.address.clone(),
        });
        let keys = match self.journal().await {
            Journal::Prepared(keys) => keys,
            Journal::Refuse(reply, outcome) => {
                self.hop = None;
                return self.abort(reply, outcome, None).await;
            }
        };
        let Some(mut hop) = self.hop.take() else {
            return self.abort(lost(), "next_hop_lost", Some(keys)).await;
        };
        let span = tracing::info_span!("relay", otel.kind = "client", code = tracing::field::Empty);
        let relayed = hop.finish().instrument(span.clone()).await;
        let reply = match relayed {
            Ok(reply) => reply,
            Err(error) => {
                let reply = unavailable(&self.shared, &error);
                return self.abort(reply, "next_hop_lost", Some(keys)).await;
            }
        };
        span.record("code", reply.code());
        self.shared.pool.put_unless_closing(hop, &reply);
        if !reply.is_positive() {
            return self.abort(pass(reply, 2), "refused", Some(keys)).await;
        }
        self.commit(&keys).await;
        self.log(&MailEvent::Relayed {
            mid: self.mid,
            reply: reply.to_string(),
        });
        (reply, "relayed")
    }

    /// What forbids the message, whatever its policies.
    fn refusal(&mut self, end: BodyEnd) -> Option<(Reply, &'static str)> {
        match end.fault {
            Some(BodyFault::TooBig) => {
                let limit = self.shared.config.max_size;
                let text = format!("5.3.4 The message is larger than the limit of {limit} octets");
                return Some((Reply::new(552, text), "too_big"));
            }
            Some(BodyFault::BareLf) => {
                return Some((Reply::new(550, "5.5.2 Error: bare <LF> received"), "bare_lf"));
            }
            None => {}
        }
        let body = self.body.as_mut()?;
        let headers = body
            .headers
            .get_or_insert_with(|| std::mem::take(&mut body.scanner).finish());
        if headers.count("Received") > MAX_HOPS {
            return Some((Reply::new(554, "5.4.6 Error: too many hops"), "too_many_hops"));
        }
        if let Some(error) = body.broken.take() {
            return Some((unavailable(&self.shared, &error), "next_hop_lost"));
        }
        None
    }

    /// Waits for the decision, and tells the copies.
    async fn decide(&mut self) {
        let Some(body) = &mut self.body else { return };
        let Some(evaluation) = body.evaluation.take() else {
            return;
        };
        body.evaluated = evaluation.await.unwrap_or_default();
        let headers = body
            .headers
            .get_or_insert_with(|| std::mem::take(&mut body.scanner).finish());
        let Some(evaluated) = &body.evaluated else {
            body.copies.forget();
            return;
        };
        self.shared.deps.metrics.evaluated(evaluated.source);
        let skip = if evaluated.decision.copies.is_empty() {
            None
        } else if headers.count(DELIVERY_ID) > 0 {
            Some((Skip::Loop, "it is a copy that was made here".to_owned()))
        } else {
            let rule = evaluated.snapshot.not_clean(headers);
            rule.map(|rule| (Skip::NotClean, format!("not clean by its header {}", rule.name)))
        };
        if let Some((skip, reason)) = skip {
            body.copies.forget();
            let copies = evaluated.decision.copies.len();
            self.shared.deps.metrics.skipped(skip, copies as u64);
            self.log(&MailEvent::NotJournaled {
                mid: self.mid,
                reason,
            });
            return;
        }
        body.copies
            .decide(evaluated.decision.copies.iter().map(|copy| copy.intake.clone()));
    }

    /// Makes every copy durable that is due, or says what becomes of a message whose copy cannot be.
    async fn journal(&mut self) -> Journal {
        self.decide().await;
        self.log_message();
        let Some(body) = &mut self.body else {
            return Journal::Prepared(Vec::new());
        };
        let Some(evaluated) = body.evaluated.clone() else {
            return self.without_copy(
                self.shared.config.failure_policy,
                Skip::NoPolicy,
                "there is no policy snapshot",
            );
        };
        let connector = &evaluated.snapshot.table.connector;
        let unresolved = evaluated
            .decision
            .unresolved()
            .next()
            .map(|(_, why)| why.to_string());
        if let Some(why) = unresolved
            && let refuse @ Journal::Refuse(..) =
                self.without_copy(connector.failure_policy, Skip::Unresolved, &why)
        {
            return refuse;
        }
        let metas: Vec<EntryMeta> = evaluated
            .decision
            .copies
            .iter()
            .map(|copy| self.meta(copy, &evaluated))
            .collect();
        let lifetimes = Lifetimes {
            lifetime: connector.queue_lifetime,
            in_doubt_after: self.shared.config.in_doubt_after,
            retain: (connector.dead_letter.mode == DeadLetterMode::Retain)
                .then_some(connector.dead_letter.retention),
        };
        let Some(body) = &mut self.body else {
            return Journal::Prepared(Vec::new());
        };
        let span = tracing::info_span!("queue.prepare", otel.kind = "producer", copies = metas.len());
        let due = !body.copies.keys().is_empty();
        let prepared = if due {
            body.copies.prepare(metas, &lifetimes).instrument(span).await
        } else {
            Ok(Vec::new())
        };
        match prepared {
            Ok(keys) => {
                self.log_enqueued(&keys, &evaluated);
                Journal::Prepared(keys)
            }
            Err(error) => {
                tracing::warn!(%error, "A copy cannot be queued.");
                self.without_copy(
                    connector.failure_policy,
                    Skip::Queue,
                    "the queue is not available",
                )
            }
        }
    }

    fn without_copy(&self, policy: FailurePolicy, skip: Skip, why: &str) -> Journal {
        match policy {
            FailurePolicy::Fail => {
                tracing::warn!(
                    reason = why,
                    "A message is refused because its copy cannot be made."
                );
                Journal::Refuse(
                    Reply::new(
                        451,
                        "4.3.0 Error: the message cannot be processed now, try again later",
                    ),
                    "journal_failed",
                )
            }
            FailurePolicy::Ignore => {
                self.shared.deps.metrics.skipped(skip, 1);
                self.log(&MailEvent::NotJournaled {
                    mid: self.mid,
                    reason: why.to_owned(),
                });
                Journal::Prepared(Vec::new())
            }
        }
    }

    async fn commit(&self, keys: &[EntryKey]) {
        if keys.is_empty() {
            return;
        }
        let span = tracing::info_span!("queue.commit", otel.kind = "producer", copies = keys.len());
        match self.shared.deps.queue.commit(keys).instrument(span).await {
            Ok(()) => self.shared.deps.metrics.queued(keys.len() as u64),
            Err(error) => {
                // The message is accepted, and its entries are durable: the sweeper commits them, marked in doubt.
                self.shared.deps.metrics.in_doubt(keys.len() as u64);
                tracing::warn!(%error, mid = self.mid, "A copy could not be committed; it will be delivered as in doubt.");
            }
        }
    }

    async fn abort(
        &mut self,
        reply: Reply,
        outcome: &'static str,
        keys: Option<Vec<EntryKey>>,
    ) -> (Reply, &'static str) {
        self.log(&MailEvent::Aborted {
            mid: self.mid,
            reason: reply.to_string(),
        });
        let keys = keys
            .or_else(|| self.body.as_ref().map(|body| body.copies.keys()))
            .unwrap_or_default();
        self.forget(&keys).await;
        (reply, outcome)
    }

    /// Takes entries back. If that fails, chunks expire by themselves, and a prepared entry is delivered in doubt.
    async fn forget(&self, keys: &[EntryKey]) {
        if !keys.is_empty()
            && let Err(error) = self.shared.deps.queue.abort(keys).await
        {
            tracing::warn!(%error, mid = self.mid, "A copy could not be taken back; it may be delivered as in doubt.");
        }
    }

    fn meta(&self, copy: &CopyPlan, evaluated: &Evaluated) -> EntryMeta {
        let (traceparent, tracestate) = tdc_telemetry::current_traceparent();
        EntryMeta {
            mid: self.mid,
            sender: self.mail.address.clone(),
            recipients: copy
                .recipients
                .iter()
                .map(|at| self.envelope.recipients[*at].to_string())
                .collect(),
            policies: copy.policies.iter().map(ToString::to_string).collect(),
            message_id: self.message_id(),
            client_ip: self.client.peer.ip().to_canonical().to_string(),
            eight_bit: self.mail.body == Some(BodyType::EightBitMime),
            smtputf8: self.mail.smtputf8,
            sender_ip_header: evaluated.snapshot.table.connector.sender_ip_header.to_string(),
            traceparent,
            tracestate,
            received_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| now.as_millis() as u64),
        }
    }

    fn message_id(&self) -> String {
        let headers = self.body.as_ref().and_then(|body| body.headers.as_ref());
        let id = headers
            .and_then(|headers| headers.first("Message-ID"))
            .unwrap_or_default();
        id.chars().take(998).collect()
    }

    fn log(&self, event: &MailEvent) {
        self.shared.deps.mail_log.emit(event);
    }

    fn log_message(&self) {
        let (mid, message_id) = (self.mid, self.message_id());
        if !message_id.is_empty() {
            self.log(&MailEvent::MessageId { mid, message_id });
        }
        let Some(evaluated) = self.body.as_ref().and_then(|body| body.evaluated.as_ref()) else {
            return;
        };
        let verdicts = &evaluated.decision.recipients;
        let mut policies: Vec<(&str, usize)> = Vec::new();
        for verdict in verdicts {
            let name = verdict.policy.as_deref().unwrap_or("DEFAULT");
            match policies.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => policies.push((name, 1)),
            }
        }
        for (policy, recipients) in policies {
            let all = recipients == verdicts.len();
            self.log(&MailEvent::Matched {
                mid,
                policy: policy.to_owned(),
                recipients,
                all,
            });
        }
    }

    fn log_enqueued(&self, keys: &[EntryKey], evaluated: &Evaluated) {
        for key in keys {
            let intake = evaluated.snapshot.table.intake(&key.intake);
            self.log(&MailEvent::Enqueued {
                mid: self.mid,
                message_id: self.message_id(),
                intake: intake.map_or_else(|| key.intake.to_string(), |intake| intake.address.to_string()),
                delivery_id: key.id.to_string(),
            });
        }
    }
}

/// A connection on which the next hop has answered MAIL.
async fn open(
    shared: &Shared,
    client: &Client,
    mail: &MailFrom,
) -> Result<(Connection, Reply), NextHopError> {
    let hop = shared.pool.get().await?;
    let reused = hop.reused;
    match greet(hop, client, mail).await {
        // The server has closed an idle connection just now: that is not the message's affair.
        Err(error) if reused => {
            tracing::debug!(%error, "An idle connection to the next hop is gone; opening another.");
            greet(shared.pool.dial().await?, client, mail).await
        }
        Ok((_, reply)) if reused && reply.code() == 421 => {
            greet(shared.pool.dial().await?, client, mail).await
        }
        other => other,
    }
}

async fn greet(
    mut hop: Connection,
    client: &Client,
    mail: &MailFrom,
) -> Result<(Connection, Reply), NextHopError> {
    let offered = hop.extensions();
    let (address, port) = (address_literal(client), client.peer.port().to_string());
    let all = [
        ("NAME", "[UNAVAILABLE]"),
        ("ADDR", address.as_str()),
        ("PORT", port.as_str()),
        ("PROTO", if client.esmtp { "ESMTP" } else { "SMTP" }),
        ("HELO", client.helo.as_str()),
        ("SOURCE", "REMOTE"),
    ];
    let attributes: Vec<(&str, &str)> = all
        .into_iter()
        .filter(|(name, _)| offered.xforward.iter().any(|taken| taken == name))
        .collect();
    let takes = |param: &String| {
        let name = param.split('=').next().unwrap_or(param);
        (!name.eq_ignore_ascii_case("SIZE") || offered.size.is_some())
            && (!name.eq_ignore_ascii_case("BODY") || offered.eight_bit_mime)
    };
    let params: Vec<String> = mail.params.iter().filter(|param| takes(param)).cloned().collect();
    if !attributes.is_empty() {
        // A refusal costs the next hop's log the client's name, and the message nothing.
        hop.xforward(&attributes).await?;
    }
    let reply = hop.mail(&mail.address, &params).await?;
    Ok((hop, reply))
}

fn address_literal(client: &Client) -> String {
    match client.peer.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("IPV6:{ip}"),
    }
}

/// The next hop's reply as it is; one that is no answer to the command is replaced (as Postfix's proxy does).
fn pass(reply: Reply, expected: u16) -> Reply {
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
fn unavailable(shared: &Shared, error: &NextHopError) -> Reply {
    shared.deps.metrics.next_hop_failed();
    tracing::warn!(%error, "The next hop failed.");
    lost()
}

fn lost() -> Reply {
    Reply::new(
        451,
        "4.4.1 Error: the mail server is not available, try again later",
    )
}
