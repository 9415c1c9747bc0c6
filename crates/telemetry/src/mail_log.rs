//! The writer of mail-log events.
//!
//! It shares standard output, and its bounds, with the program's own log: see [`Output`]. `emit` never waits.

use std::fmt::Write as _;

use tdc_core::maillog::{MailEvent, Value};

use crate::format::{LogFormat, ctime, timestamp, trace_ids};
use crate::output::Output;

/// Writes mail-log events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MailLog {
    format: LogFormat,
    output: Option<Output>,
}

impl MailLog {
    /// A mail log on `output`; that of [`crate::init`] comes from [`crate::Guard::mail_log`].
    pub fn new(format: LogFormat, output: Output) -> Self {
        Self {
            format,
            output: Some(output),
        }
    }

    /// A mail log that keeps nothing, for tests and commands.
    pub fn disabled() -> Self {
        Self {
            format: LogFormat::Json,
            output: None,
        }
    }

    /// Writes one event, with the time and the current span's ids; never waits. A line for which there is no room is
    /// dropped and counted, see [`crate::OutputStats::dropped`].
    pub fn emit(&self, event: &MailEvent) {
        let Some(output) = &self.output else { return };
        match self.format {
            LogFormat::Json => output.line(json(event)),
            LogFormat::Asyncos => {
                let time = ctime();
                // The original writes all of them at this level, bounces included.
                each_line(output, event, |line, text| write!(line, "{time} Info: {text}"));
            }
            LogFormat::Text => {
                let time = timestamp();
                let level = severity(event);
                each_line(output, event, |line, text| {
                    write!(line, "{time} {level:>5} mail: {text}")
                });
            }
        }
    }
}

/// The level as the program's own log calls it.
fn severity(event: &MailEvent) -> &'static str {
    if event.level() == "Info" { "INFO" } else { "WARN" }
}

/// An event may be several lines of AsyncOS.
fn each_line(
    output: &Output,
    event: &MailEvent,
    mut write: impl FnMut(&mut String, &str) -> std::fmt::Result,
) {
    for text in event.asyncos().lines() {
        let mut line = String::with_capacity(text.len() + 40);
        // Writing to a String cannot fail.
        let _ = write(&mut line, text);
        output.line(line);
    }
}

fn json(event: &MailEvent) -> String {
    let mut line = String::with_capacity(320);
    line.push_str("{\"timestamp\":");
    quoted(&mut line, &timestamp());
    line.push_str(",\"level\":");
    quoted(&mut line, severity(event));
    line.push_str(",\"target\":\"mail\",\"event\":");
    quoted(&mut line, event.name());
    for (name, value) in event.fields() {
        line.push(',');
        quoted(&mut line, name);
        line.push(':');
        match value {
            // Writing to a String cannot fail.
            Value::Number(number) => drop(write!(line, "{number}")),
            Value::Text(text) => quoted(&mut line, &text),
        }
    }
    if let Some((trace, span)) = trace_ids() {
        for (name, id) in [("trace_id", trace), ("span_id", span)] {
            line.push(',');
            quoted(&mut line, name);
            line.push(':');
            quoted(&mut line, &id);
        }
    }
    line.push('}');
    line
}

/// Appends a text as a JSON string (RFC 8259 section 7). Written here, without a tree of values, because several lines
/// are written for each message.
fn quoted(line: &mut String, text: &str) {
    line.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_control() || matches!(c, '"' | '\\')) {
        let (plain, special) = rest.split_at(at);
        line.push_str(plain);
        let mut characters = special.chars();
        match characters.next() {
            Some(c @ ('"' | '\\')) => line.extend(['\\', c]),
            Some('\n') => line.push_str("\\n"),
            Some('\r') => line.push_str("\\r"),
            Some('\t') => line.push_str("\\t"),
            // Writing to a String cannot fail.
            Some(c) => drop(write!(line, "\\u{:04x}", u32::from(c))),
            None => {}
        }
        rest = characters.as_str();
    }
    line.push_str(rest);
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::MailLog;
    use crate::format::LogFormat;
    use crate::output::Output;
    use crate::output::tests::Captured;
    use std::time::Duration;
    use tdc_core::maillog::MailEvent;

    fn log(format: LogFormat, events: &[MailEvent]) -> String {
        let captured = Captured::default();
        let output = Output::start(captured.clone(), |_| String::new()).unwrap();
        let mail_log = MailLog::new(format, output.clone());
        for event in events {
            mail_log.emit(event);
        }
        assert!(output.flush(Duration::from_secs(10)));
        captured.text()
    }

    fn forged() -> MailEvent {
        let message_id = "<a@b>\r\nTue Jan  6 15:03:18 2004 Info: MID 2 queued for delivery".into();
        MailEvent::MessageId { mid: 1, message_id }
    }

    fn bounced() -> MailEvent {
        MailEvent::NotJournaled {
            mid: 7,
            reason: "no queue".into(),
        }
    }

    #[test]
    fn json_has_the_fields_of_the_event() {
        let text = log(
            LogFormat::Json,
            &[MailEvent::Closed { icid: 5 }, bounced(), forged()],
        );
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 3, "one event is one line: {text}");
        for (line, event, level, field, value) in [
            (&lines[0], "closed", "INFO", "icid", serde_json::json!(5)),
            (&lines[1], "not_journaled", "WARN", "reason", "no queue".into()),
            (&lines[2], "message_id", "INFO", "mid", 1.into()),
        ] {
            assert_eq!(
                (&line["event"], &line["level"], &line["target"]),
                (&event.into(), &level.into(), &"mail".into())
            );
            assert_eq!(line[field], value, "{event}");
            assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{event}");
        }
    }

    #[test]
    fn the_text_forms_frame_each_line() {
        let text = log(
            LogFormat::Asyncos,
            &[MailEvent::Closed { icid: 5 }, bounced(), forged()],
        );
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "nobody writes a line of his own: {text}");
        for (line, rest) in lines.iter().zip([
            "ICID 5 close",
            "TDC: MID 7 not journaled",
            "MID 1 Message-ID '<a@b>",
        ]) {
            // `Tue Jan  6 15:03:18 2004` has 24 characters.
            let (time, text) = line.split_at(24);
            assert!(
                time.ends_with(|c: char| c.is_ascii_digit()) && time.as_bytes()[13] == b':',
                "{line}"
            );
            assert!(text.starts_with(&format!(" Info: {rest}")), "{line}");
        }
        let text = log(LogFormat::Text, &[MailEvent::Closed { icid: 5 }, bounced()]);
        let ends: Vec<_> = text
            .lines()
            .map(|line| line.split_once("Z ").unwrap().1)
            .collect();
        assert_eq!(ends[0], " INFO mail: ICID 5 close");
        assert!(
            ends[1].starts_with(" WARN mail: TDC: MID 7 not journaled"),
            "{text}"
        );
    }

    #[test]
    fn any_text_is_one_json_string() {
        let every: String = (0..0x300).filter_map(char::from_u32).collect();
        for text in [
            "",
            "plain",
            "\"\\",
            "a\tb\r\nc\u{0}\u{1f}\u{7f}\u{85}\u{2028}é𝄞",
            &every,
        ] {
            let mut line = String::new();
            super::quoted(&mut line, text);
            assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text, "{line}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }

    #[test]
    fn a_disabled_log_takes_events() {
        MailLog::disabled().emit(&bounced());
    }
}
