//! The inverse of wrapping: what an intake does with a copy. For the simulator, for tests, and for anyone who wants
//! to check a copy.

use std::ops::Range;

use memchr::memmem;
use thiserror::Error;

use super::{HEADERLESS, RAW_END};
use crate::headers::{DELIVERY_ID, HeaderScanner, Headers};
use crate::policy::Format;

/// What a copy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// `X-TDC-Delivery-Id`.
    pub delivery_id: String,
    /// The original's `MAIL FROM`; empty for the null sender.
    pub sender: String,
    /// The recipients that it lists.
    pub recipients: Vec<String>,
    /// The original's subject; empty in a raw copy.
    pub subject: String,
    /// The original's `Message-ID`; empty in a raw copy.
    pub message_id: String,
    /// Where the original stands in the copy.
    pub original: Range<usize>,
    /// The format.
    pub format: Format,
}

/// Why something is no copy of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnwrapError {
    /// No delivery id.
    #[error("has no X-TDC-Delivery-Id")]
    NoDeliveryId,
    /// Neither a journal report nor a raw copy.
    #[error("is neither a journal report (X-MS-Journal-Report) nor a raw copy (X-CSE-MsgDirection)")]
    UnknownFormat,
    /// The multipart structure is broken.
    #[error("is a journal report whose {0} is missing")]
    Broken(&'static str),
}

/// Reads a copy.
///
/// # Errors
/// When the octets are no copy that [`super::wrap`] could have made.
pub fn unwrap(copy: &[u8]) -> Result<Report, UnwrapError> {
    if copy.starts_with(DELIVERY_ID.as_bytes()) {
        raw(copy)
    } else {
        report(copy)
    }
}

fn raw(copy: &[u8]) -> Result<Report, UnwrapError> {
    let end = memmem::find(copy, format!("\r\n{RAW_END}").as_bytes()).ok_or(UnwrapError::UnknownFormat)?;
    let mut start = end + 2 + RAW_END.len();
    let headers = Headers::parse(copy[..start].to_vec());
    if headers.first(HEADERLESS).is_some() {
        start += 2;
        if copy.get(start - 2..start) != Some(b"\r\n") {
            return Err(UnwrapError::UnknownFormat);
        }
    }
    let value = |name: &str| {
        headers
            .first(name)
            .map(|value| value.into_owned())
            .unwrap_or_default()
    };
    let bare = |address: &str| {
        address
            .trim()
            .trim_start_matches('<')
            .trim_end_matches('>')
            .to_owned()
    };
    Ok(Report {
        delivery_id: value(DELIVERY_ID),
        sender: bare(&value("X-CSE-MailFrom")),
        recipients: value("X-CSE-RcptTo")
            .split(", ")
            .map(bare)
            .filter(|r| !r.is_empty())
            .collect(),
        subject: String::new(),
        message_id: String::new(),
        original: start..copy.len(),
        format: Format::Raw,
    })
}

fn report(copy: &[u8]) -> Result<Report, UnwrapError> {
    let mut scanner = HeaderScanner::default();
    scanner.feed(copy);
    let headers = scanner.finish();
    let delivery_id = headers
        .first(DELIVERY_ID)
        .ok_or(UnwrapError::NoDeliveryId)?
        .into_owned();
    headers
        .first("X-MS-Journal-Report")
        .ok_or(UnwrapError::UnknownFormat)?;
    let content_type = headers
        .first("Content-Type")
        .ok_or(UnwrapError::Broken("Content-Type"))?;
    let boundary = content_type
        .split_once("boundary=\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(boundary, _)| boundary)
        .ok_or(UnwrapError::Broken("boundary"))?;
    let open = format!("\r\n--{boundary}\r\n");
    let close = format!("\r\n--{boundary}--\r\n");
    let (_, summary_start) = part(copy, 0, &open, "first part")?;
    let (summary_end, original_start) = part(copy, summary_start, &open, "second part")?;
    let original_end = copy
        .len()
        .checked_sub(close.len())
        .filter(|end| copy[*end..] == *close.as_bytes());
    let original_end = original_end
        .filter(|end| *end >= original_start)
        .ok_or(UnwrapError::Broken("closing boundary"))?;
    let mut report = Report {
        delivery_id,
        sender: String::new(),
        recipients: Vec::new(),
        subject: String::new(),
        message_id: String::new(),
        original: original_start..original_end,
        format: Format::JournalReport,
    };
    for line in String::from_utf8_lossy(&copy[summary_start..summary_end]).lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim().to_owned();
        match name {
            "Sender" => report.sender = if value == "<>" { String::new() } else { value },
            "Subject" => report.subject = value,
            "Message-Id" => report.message_id = value,
            "Recipient" => report.recipients.push(value),
            _ => {}
        }
    }
    Ok(report)
}

/// Where the next boundary after `from` begins, and where the content of the part behind it does.
fn part(copy: &[u8], from: usize, open: &str, what: &'static str) -> Result<(usize, usize), UnwrapError> {
    let begins = from + memmem::find(&copy[from..], open.as_bytes()).ok_or(UnwrapError::Broken(what))?;
    let headers = begins + open.len();
    let blank = memmem::find(&copy[headers..], b"\r\n\r\n").ok_or(UnwrapError::Broken(what))?;
    Ok((begins, headers + blank + 4))
}
