//! The end of a message: prepare, relay, commit, and the reply for the client.
//!
//! What always holds: the final dot goes out only when every copy that is due is prepared; whatever is not a 2xx
//! takes the copies back.

use tdc_core::maillog::MailEvent;
use tdc_queue::EntryKey;
use tdc_smtp::{BodyEnd, BodyFault, Reply};
use tracing::Instrument as _;

use super::journal::Journal;
use super::replies::{pass, unavailable};
use super::{Transaction, put_back};
use crate::nexthop::NextHopError;
use crate::nexthop::connection::Connection;

impl Transaction {
    pub(super) async fn end(&mut self, end: BodyEnd) -> (Reply, &'static str) {
        if let Some((reply, outcome)) = self.refusal(end) {
            // Without its dot the next hop has no message; a connection in the middle of one is of no more use.
            self.hop = None;
            return self.abort(reply, outcome, None).await;
        }
        self.log_message_id();
        self.log(&MailEvent::Ready {
            mid: self.mid,
            size: end.size,
            sender: self.mail.address.clone(),
        });
        let keys = match self.journal().await {
            Journal::Prepared(keys) => keys,
            Journal::Refuse((reply, outcome)) => {
                self.hop = None;
                return self.abort(reply, outcome, None).await;
            }
        };
        tdc_failpoint::hit("ingress.prepared");
        let relayed = match &mut self.hop {
            Some(hop) => {
                let span = tracing::info_span!("relay", otel.kind = "client", code = tracing::field::Empty);
                let relayed = hop.finish().instrument(span.clone()).await;
                if let Ok(reply) = &relayed {
                    span.record("code", reply.code());
                }
                relayed
            }
            None => Err(NextHopError::Closed),
        };
        let reply = match relayed {
            Ok(reply) => pass(&mut self.hop, reply, 2),
            Err(error) => {
                self.hop = None;
                let reply = unavailable(&self.shared, error);
                return self.abort(reply, "next_hop_lost", Some(keys)).await;
            }
        };
        let needs_reset = self.hop.as_ref().is_some_and(Connection::needs_reset);
        put_back(&self.shared, self.hop.take(), &reply, needs_reset);
        if !reply.is_positive() {
            return self.abort(reply, "refused", Some(keys)).await;
        }
        tdc_failpoint::hit("ingress.accepted");
        self.commit(&keys).await;
        tdc_failpoint::hit("ingress.committed");
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
                self.shared.deps.metrics.met("size", 1);
                let limit = self.shared.config.max_size;
                let text = format!("5.3.4 The message is larger than the limit of {limit} octets");
                return Some((Reply::new(552, text), "too_big"));
            }
            Some(BodyFault::HeaderTooBig) => {
                self.shared.deps.metrics.met("header", 1);
                let limit = self.shared.config.limits.header;
                let text = format!("5.3.4 The header section is larger than the limit of {limit} octets");
                return Some((Reply::new(552, text), "header_too_big"));
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
        if headers.count("Received") >= self.shared.config.limits.hops {
            self.shared.deps.metrics.met("hops", 1);
            return Some((Reply::new(554, "5.4.6 Error: too many hops"), "too_many_hops"));
        }
        if let Some(error) = body.broken.take() {
            return Some((unavailable(&self.shared, error), "next_hop_lost"));
        }
        None
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
        tdc_failpoint::hit("ingress.aborting");
        self.forget(&keys).await;
        tdc_failpoint::hit("ingress.aborted");
        (reply, outcome)
    }
}
