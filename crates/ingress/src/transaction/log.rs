//! What a message writes into the mail log.

use tdc_core::maillog::MailEvent;
use tdc_queue::EntryKey;

use super::Transaction;
use crate::evaluate::Evaluated;

impl Transaction {
    pub(super) fn log(&self, event: &MailEvent) {
        self.shared.deps.mail_log.emit(event);
    }

    pub(super) fn log_message_id(&self) {
        let (mid, message_id) = (self.mid, self.message_id());
        if !message_id.is_empty() {
            self.log(&MailEvent::MessageId { mid, message_id });
        }
    }

    pub(super) fn log_matches(&self) {
        let mid = self.mid;
        let Some(Ok(evaluated)) = self.body.as_ref().map(|body| &body.evaluated) else {
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

    pub(super) fn log_enqueued(&self, keys: &[EntryKey], evaluated: &Evaluated) {
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
