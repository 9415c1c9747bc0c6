//! Makes the copy of an entry: the journal format around the queued body, the same at every attempt.
//!
//! Nothing in it depends on when or how often it is tried, so that an intake that gets two can see that they are one.

use tdc_core::headers::HeaderScanner;
use tdc_core::journal::{CopyMeta, Wrapped, rfc5322_date, wrap};
use tdc_core::policy::Intake;
use tdc_queue::Claimed;

/// Wraps an entry for its intake; `host` names the maker of the copy.
pub(crate) fn make(entry: &Claimed, intake: &Intake, host: &str) -> Wrapped {
    let mut scanner = HeaderScanner::default();
    for chunk in &entry.body {
        if scanner.is_done() {
            break;
        }
        scanner.feed(chunk);
    }
    let headers = scanner.finish();
    let subject = headers.first("Subject").unwrap_or_default().into_owned();
    let meta = &entry.meta;
    let copy = CopyMeta {
        delivery_id: entry.claim.key.id.to_string(),
        intake_address: intake.address.as_str().to_owned(),
        host: host.to_owned(),
        sender: meta.sender.clone(),
        recipients: meta.recipients.clone(),
        subject,
        message_id: meta.message_id.clone(),
        client_ip: meta.client_ip.clone(),
        sender_ip_header: meta.sender_ip_header.clone(),
        date: rfc5322_date(meta.received_ms / 1000),
        in_doubt: entry.in_doubt,
        smtputf8: meta.smtputf8,
    };
    wrap(intake.format, &copy, &entry.body)
}
