//! The writer of mail-log events.
//!
//! It shares standard output, and its bounds, with the program's own log: see [`Output`]. `emit` never waits.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json};
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
                each_line(output, event, |line, text| {
                    write!(line, "{time} {}: {text}", event.level())
                });
            }
            LogFormat::Text => {
                let time = timestamp();
                let level = if event.level() == "Info" { "INFO" } else { "WARN" };
                each_line(output, event, |line, text| {
                    write!(line, "{time} {level:>5} mail: {text}")
                });
            }
        }
    }
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
    let mut line = Map::new();
    line.insert("timestamp".into(), timestamp().into());
    line.insert(
        "level".into(),
        if event.level() == "Info" { "INFO" } else { "WARN" }.into(),
    );
    line.insert("target".into(), "mail".into());
    line.insert("event".into(), event.name().into());
    for (name, value) in event.fields() {
        let value = match value {
            Value::Number(number) => number.into(),
            Value::Text(text) => Json::String(text.into_owned()),
        };
        line.insert(name.into(), value);
    }
    if let Some((trace, span)) = trace_ids() {
        line.insert("trace_id".into(), trace.into());
        line.insert("span_id".into(), span.into());
    }
    Json::Object(line).to_string()
}
