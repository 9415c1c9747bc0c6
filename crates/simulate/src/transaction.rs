//! One transaction: its envelope, its body, and what becomes of it.
//!
//! What always holds: a message is counted exactly when it is answered 250; a delivery id counts as seen exactly when
//! its copy was kept. Rules are asked at every stage; their refusals, and ours, are counted.

use std::sync::Arc;

use bytes::Bytes;
use tdc_smtp::{BodyEnd, BodyFault, MailFrom, RcptTo, Reply};
use tokio::task::spawn_blocking;

use crate::body::{Body, Trouble};
use crate::connection::Client;
use crate::refuse::Stage;
use crate::report::ReportHandle;
use crate::server::Shared;
use crate::store::{RecipientRecord, Record};
use crate::{clock, inspect};

/// A transaction between MAIL and the end of data.
#[derive(Debug)]
pub(crate) struct Transaction {
    mail: MailFrom,
    recipients: Vec<RecipientRecord>,
    body: Option<Body>,
}

impl Transaction {
    /// `MAIL FROM`.
    pub(crate) fn begin(shared: &Shared, mail: MailFrom) -> (Self, Reply) {
        let reply = answer(shared, Stage::Mail(&mail.address), Reply::new(250, "2.1.0 Ok"));
        (
            Self {
                mail,
                recipients: Vec::new(),
                body: None,
            },
            reply,
        )
    }

    /// `RCPT TO`.
    pub(crate) fn recipient(&mut self, shared: &Shared, rcpt: RcptTo) -> Reply {
        let reply = answer(shared, Stage::Rcpt(&rcpt.address), Reply::new(250, "2.1.5 Ok"));
        if reply.is_positive() {
            let RcptTo { address, params } = rcpt;
            self.recipients.push(RecipientRecord { address, params });
        }
        reply
    }

    /// `DATA`, or the first `BDAT`.
    pub(crate) fn data(&mut self, shared: &Shared) -> Reply {
        let go_on = Reply::new(354, "End data with <CR><LF>.<CR><LF>");
        let reply = answer(shared, Stage::Data(&self.addresses()), go_on);
        if reply.is_intermediate() {
            self.body = Some(shared.body());
        }
        reply
    }

    /// A piece of the body.
    pub(crate) async fn piece(&mut self, piece: Bytes) {
        if let Some(body) = &mut self.body {
            body.push(piece).await;
        }
    }

    /// True once the body has begun.
    pub(crate) fn in_body(&self) -> bool {
        self.body.is_some()
    }

    /// The end of data: checks, keeps and counts the message.
    pub(crate) async fn end(
        mut self,
        shared: &Arc<Shared>,
        client: &mut Client,
        helo: String,
        esmtp: bool,
        end: BodyEnd,
    ) -> Reply {
        let received = clock::unix_millis();
        let refusal = match end.fault {
            Some(BodyFault::TooBig) => Some(Trouble::TooBig.reply()),
            Some(BodyFault::BareLf) => Some(Reply::new(550, "5.5.2 Error: bare <LF> received")),
            None => self
                .body
                .as_mut()
                .and_then(Body::take_trouble)
                .map(|trouble| trouble.reply()),
        };
        let refusal = refusal.or_else(|| shared.refusal(Stage::BodyEnd(&self.addresses())));
        let (None, Some(body)) = (&refusal, self.body) else {
            shared.counts.refused();
            return refusal.unwrap_or_else(|| Reply::new(451, "4.3.0 The message has no body"));
        };
        let record = Record {
            number: body.number(),
            received: clock::rfc3339(received),
            received_unix_ms: received,
            peer: client.peer.to_string(),
            connection: client.connection,
            nth_of_connection: client.accepted + 1,
            helo,
            esmtp,
            tls: client.tls.clone(),
            xforward: client.xforward.clone(),
            mail_from: self.mail.address,
            mail_params: self.mail.params,
            rcpt_to: self.recipients,
            size: body.len(),
            copy: None,
        };
        let number = record.number;
        match keep(shared, body, record).await {
            Ok(()) => {
                client.accepted += 1;
                Reply::new(250, format!("2.0.0 Ok: message {number}"))
            }
            Err(error) => {
                tracing::warn!(%error, "A message could not be kept.");
                shared.counts.refused();
                Trouble::Store(error).reply()
            }
        }
    }

    fn addresses(&self) -> Vec<&str> {
        self.recipients
            .iter()
            .map(|recipient| recipient.address.as_str())
            .collect()
    }
}

/// The first refusal of the rules, counted; or else this.
fn answer(shared: &Shared, stage: Stage<'_>, otherwise: Reply) -> Reply {
    match shared.refusal(stage) {
        Some(refusal) => {
            shared.counts.refused();
            refusal
        }
        None => otherwise,
    }
}

/// Checks a copy, publishes the message and counts it, off the runtime's threads.
async fn keep(shared: &Arc<Shared>, body: Body, record: Record) -> std::io::Result<()> {
    // Large messages are read back whole to be checked: only so many at a time.
    let permit = match shared.is_intake && body.is_spilled() {
        true => Some(
            shared
                .large_checks
                .acquire()
                .await
                .map_err(std::io::Error::other)?,
        ),
        false => None,
    };
    let (is_intake, counts) = (shared.is_intake, shared.counts.clone());
    let kept = spawn_blocking(move || keep_now(is_intake, &counts, body, record)).await;
    drop(permit);
    kept.map_err(std::io::Error::other)?
}

fn keep_now(
    is_intake: bool,
    counts: &ReportHandle,
    mut body: Body,
    mut record: Record,
) -> std::io::Result<()> {
    let number = record.number;
    let mut noted = None;
    if is_intake {
        let octets = body.octets()?;
        let rcpts = record.rcpt_to.len();
        let mut copy = inspect::inspect(&octets, &record.mail_from, rcpts, record.received_unix_ms);
        if !copy.delivery_id.is_empty() {
            copy.duplicate_of = counts.seen(&copy.delivery_id, number);
            noted = Some(copy.delivery_id.clone());
        }
        record.copy = Some(copy);
    }
    let published = body.publish(&record);
    match (&published, noted) {
        (Ok(()), _) => counts.message(&record),
        (Err(_), Some(delivery_id)) => counts.unseen(&delivery_id, number),
        (Err(_), None) => {}
    }
    published
}
