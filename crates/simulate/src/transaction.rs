//! One transaction: its envelope, its body, and what becomes of it.
//!
//! What always holds: a message is counted exactly when it is answered 250; a delivery id counts as seen exactly when
//! its copy was kept. Rules are asked at every stage; their refusals, and ours, are counted.

use std::sync::Arc;

use bytes::Bytes;
use tdc_core::headers::{DELIVERY_ID, HeaderScanner};
use tdc_smtp::{BodyEnd, BodyFault, MailFrom, RcptTo, Reply};
use tokio::task::spawn_blocking;

use crate::body::{Body, Trouble};
use crate::connection::Client;
use crate::refuse::Stage;
use crate::report::ReportHandle;
use crate::script::{At, Faults};
use crate::server::Shared;
use crate::store::{RecipientRecord, Record};
use crate::{clock, inspect};

/// Octets of an id that tells messages apart.
const MAX_ID: usize = 128;

/// A transaction between MAIL and the end of data.
#[derive(Debug)]
pub(crate) struct Transaction {
    mail: MailFrom,
    recipients: Vec<RecipientRecord>,
    body: Option<Body>,
    head: HeaderScanner,
    /// Which message it is, and how often it has come; None until its header section is over.
    identity: Option<Identity>,
    /// Octets that had arrived when the script was asked last.
    asked: u64,
}

/// Which message a transaction brings.
#[derive(Debug)]
struct Identity {
    /// `X-TDC-Delivery-Id`, else `Message-ID`; None: it has neither.
    id: Option<String>,
    attempt: u64,
}

impl Transaction {
    /// `MAIL FROM`.
    pub(crate) fn begin(mail: MailFrom) -> Self {
        Self {
            mail,
            recipients: Vec::new(),
            body: None,
            head: HeaderScanner::default(),
            identity: None,
            asked: 0,
        }
    }

    /// The usual replies.
    pub(crate) fn ok_mail() -> Reply {
        Reply::new(250, "2.1.0 Ok")
    }

    pub(crate) fn ok_rcpt() -> Reply {
        Reply::new(250, "2.1.5 Ok")
    }

    pub(crate) fn go_on() -> Reply {
        Reply::new(354, "End data with <CR><LF>.<CR><LF>")
    }

    /// The reply to `MAIL FROM`.
    pub(crate) fn mail(&self, shared: &Shared) -> Reply {
        answer(shared, Stage::Mail(&self.mail.address), Self::ok_mail())
    }

    /// The reply to `RCPT TO`.
    pub(crate) fn rcpt(&self, shared: &Shared, rcpt: &RcptTo) -> Reply {
        answer(shared, Stage::Rcpt(&rcpt.address), Self::ok_rcpt())
    }

    /// This recipient was taken.
    pub(crate) fn add(&mut self, rcpt: RcptTo) {
        let RcptTo { address, params } = rcpt;
        self.recipients.push(RecipientRecord { address, params });
    }

    /// The reply to `DATA`, or the first `BDAT`.
    pub(crate) fn data(&self, shared: &Shared) -> Reply {
        answer(shared, Stage::Data(&self.addresses()), Self::go_on())
    }

    /// The body follows.
    pub(crate) fn begin_body(&mut self, shared: &Shared) {
        self.body = Some(shared.body());
    }

    /// A piece of the body.
    pub(crate) async fn piece(&mut self, piece: Bytes) {
        if let Some(body) = &mut self.body {
            self.head.feed(&piece);
            body.push(piece).await;
        }
    }

    /// True once the body has begun.
    pub(crate) fn in_body(&self) -> bool {
        self.body.is_some()
    }

    /// Tells which message it is as soon as that is known, at the latest at its end; true from then on.
    pub(crate) fn identify(&mut self, faults: &Faults, is_end: bool) -> bool {
        if self.identity.is_none() && (is_end || self.head.is_done()) {
            let headers = std::mem::take(&mut self.head).finish();
            let field = |name| headers.first(name).filter(|id| !id.is_empty());
            let id = field(DELIVERY_ID).or_else(|| field("Message-ID"));
            let id = id.map(|id| id.chars().take(MAX_ID).collect::<String>());
            let attempt = id.as_ref().map_or(1, |id| faults.attempt(At::Dot, id));
            self.identity = Some(Identity { id, attempt });
        }
        self.identity.is_some()
    }

    /// What tells this message from others, once it is known.
    pub(crate) fn id(&self) -> Option<&str> {
        self.identity.as_ref()?.id.as_deref()
    }

    /// How often this message has come, this time included.
    pub(crate) fn attempt(&self) -> Option<u64> {
        self.identity.as_ref().map(|identity| identity.attempt)
    }

    /// Octets that had arrived when the script was asked last, and now.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.asked, self.body.as_ref().map_or(0, Body::len))
    }

    /// The script was asked.
    pub(crate) fn asked(&mut self) {
        self.asked = self.progress().1;
    }

    pub(crate) fn sender(&self) -> &str {
        &self.mail.address
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
            Some(BodyFault::TooBig | BodyFault::HeaderTooBig) => Some(Trouble::TooBig.reply()),
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
                if let Some(id) = self.identity.and_then(|identity| identity.id) {
                    shared.counts.kept(&id);
                }
                Reply::new(250, format!("2.0.0 Ok: message {number}"))
            }
            Err(error) => {
                tracing::warn!(%error, "A message could not be kept.");
                shared.counts.refused();
                Trouble::Store(error).reply()
            }
        }
    }

    pub(crate) fn addresses(&self) -> Vec<&str> {
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
