//! The three forms of a log line.
//!
//! What always holds: one event is one line. Text from outside cannot start a second one, because control characters
//! are escaped (JSON) or replaced (the text forms).

use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::TraceContextExt as _;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime as Rfc3339};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use tdc_core::maillog::asyncos_time;

/// How the lines on standard output look: the mail log and the program's own log share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One JSON object a line; times in UTC (RFC 3339). A line of the mail log has the member `event`.
    #[default]
    Json,
    /// The lines of AsyncOS `mail_logs`: `Tue Jan  6 15:03:18 2004 Info: …`; times in UTC.
    Asyncos,
    /// For reading along: RFC 3339 time in UTC, level, text, then the fields.
    Text,
}

/// The text of a format, or of a level, is none of the known ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown log format {0:?}: use json, asyncos or text")]
pub struct UnknownLogFormat(String);

impl std::str::FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "asyncos" => Ok(Self::Asyncos),
            "text" => Ok(Self::Text),
            other => Err(UnknownLogFormat(other.to_owned())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Asyncos => "asyncos",
            Self::Text => "text",
        })
    }
}

/// The time in the form of RFC 3339, in UTC with microseconds.
pub(crate) fn timestamp() -> String {
    let mut time = String::with_capacity(27);
    // Writing to a String cannot fail.
    let _ = Rfc3339.format_time(&mut Writer::new(&mut time));
    time
}

/// The time in the form of `ctime`, in UTC.
pub(crate) fn ctime() -> String {
    asyncos_time(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    )
}

/// The trace and span id of the current span, in hexadecimal; `None` outside of a trace.
pub(crate) fn trace_ids() -> Option<(String, String)> {
    let context = opentelemetry::Context::current();
    let span = context.span();
    let span = span.span_context();
    span.is_valid()
        .then(|| (span.trace_id().to_string(), span.span_id().to_string()))
}

/// The line that says that lines are missing.
pub(crate) fn missing_line(format: LogFormat, count: u64) -> String {
    let text = "log lines were dropped because standard output was not read in time";
    match format {
        LogFormat::Json => serde_json::json!({
            "timestamp": timestamp(),
            "level": "ERROR",
            "target": "tdc_telemetry",
            "dropped": count,
            "message": text,
        })
        .to_string(),
        LogFormat::Asyncos => format!("{} Critical: {count} {text}", ctime()),
        LogFormat::Text => format!("{} ERROR {count} {text}", timestamp()),
    }
}

/// Formats the events of `tracing`.
pub(crate) struct Lines(pub(crate) LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        if self.0 == LogFormat::Json {
            let mut fields = JsonFields::default();
            event.record(&mut fields);
            return writeln!(writer, "{}", fields.line(level, target));
        }
        let mut text = TextFields::default();
        event.record(&mut text);
        let line = text.line();
        match self.0 {
            LogFormat::Asyncos => writeln!(writer, "{} {}: {line}", ctime(), asyncos_level(level)),
            _ => writeln!(writer, "{} {level:>5} {target}: {line}", timestamp()),
        }
    }
}

fn asyncos_level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "Critical",
        Level::WARN => "Warning",
        Level::INFO => "Info",
        Level::DEBUG => "Debug",
        Level::TRACE => "Trace",
    }
}

/// Bytes of one text among the fields of an event; what is longer is cut, so that a line of JSON stays whole.
const MAX_FIELD: usize = 2048;

fn bounded(mut text: String) -> String {
    if text.len() > MAX_FIELD {
        text.truncate(text.floor_char_boundary(MAX_FIELD));
        text.push('…');
    }
    text
}

#[derive(Default)]
struct JsonFields(serde_json::Map<String, serde_json::Value>);

impl JsonFields {
    /// The members that every line has come last and win over a field of the same name.
    fn line(self, level: Level, target: &str) -> String {
        let mut line = self.0;
        line.insert("timestamp".into(), timestamp().into());
        line.insert("level".into(), level.as_str().into());
        line.insert("target".into(), target.into());
        if let Some((trace, span)) = trace_ids() {
            line.insert("trace_id".into(), trace.into());
            line.insert("span_id".into(), span.into());
        }
        serde_json::Value::Object(line).to_string()
    }

    fn put(&mut self, field: &Field, value: impl Into<serde_json::Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for JsonFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, bounded(value.to_owned()));
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, bounded(chain(value)));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, bounded(format!("{value:?}")));
    }
}

/// An error with its sources: "what: why: why".
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {source}");
        next = source.source();
    }
    text
}

#[derive(Default)]
struct TextFields {
    message: String,
    fields: String,
}

impl TextFields {
    fn line(self) -> String {
        let mut line = self.message + &self.fields;
        if line.contains(char::is_control) {
            line = line
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
        }
        line
    }
}

impl Visit for TextFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.record_debug(field, &value);
        }
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &chain(value));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::{Lines, LogFormat, asyncos_level, missing_line};
    use crate::output::Output;
    use crate::output::tests::Captured;
    use tracing_subscriber::layer::SubscriberExt as _;

    fn log(format: LogFormat, what: impl FnOnce()) -> String {
        let captured = Captured::default();
        let output = Output::start(captured.clone(), |_| String::new()).unwrap();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Lines(format))
            .with_writer(output.lines());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), what);
        assert!(output.flush(std::time::Duration::from_secs(10)));
        captured.text()
    }

    #[test]
    fn a_format_reads_as_it_is_shown() {
        for format in [LogFormat::Json, LogFormat::Asyncos, LogFormat::Text] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("JSON".parse::<LogFormat>().is_err());
    }

    #[test]
    fn json_lines_have_the_fields_and_cannot_be_forged() {
        let text = log(LogFormat::Json, || {
            tracing::warn!(
                count = 3u64,
                ratio = 0.5,
                level = "forged",
                text = "a\r\n{\"level\":\"x\"}",
                "It is so."
            );
        });
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (member, value) in [
            ("level", serde_json::json!("WARN")),
            ("message", "It is so.".into()),
            ("count", 3.into()),
            ("ratio", 0.5.into()),
            ("text", "a\r\n{\"level\":\"x\"}".into()),
            ("target", "tdc_telemetry::format::tests".into()),
        ] {
            assert_eq!(line[member], value, "{member}");
        }
        let time = line["timestamp"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
        assert!(line.get("trace_id").is_none(), "no trace, no id");
    }

    #[test]
    fn a_long_field_is_cut_and_the_line_stays_whole() {
        let long = "\"é".repeat(100_000);
        let text = log(LogFormat::Json, || {
            tracing::info!(shown = %long, debugged = ?long, text = long, end = true, "Long.");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["end"], true);
        for name in ["shown", "debugged", "text"] {
            assert!(line[name].as_str().unwrap().ends_with('…'), "{name}");
        }
    }

    #[test]
    fn text_lines_are_one_line_each() {
        let emit = || tracing::error!(peer = %"a\nb", why = "x\ny", "It\r\nbroke.");
        let text = log(LogFormat::Asyncos, emit);
        assert!(
            text.ends_with(" Critical: It  broke. peer=a b why=\"x\\ny\"\n"),
            "{text:?}"
        );
        let text = log(LogFormat::Text, emit);
        assert!(
            text.ends_with("Z ERROR tdc_telemetry::format::tests: It  broke. peer=a b why=\"x\\ny\"\n"),
            "{text:?}"
        );
    }

    #[test]
    fn an_error_is_shown_with_its_sources() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::fmt::Error);
        let error = Outer(std::fmt::Error);
        let text = log(LogFormat::Json, || {
            tracing::info!(error = &error as &(dyn std::error::Error + 'static), "Failed.");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["error"], format!("outer: {}", std::fmt::Error));
    }

    #[test]
    fn levels_are_those_of_the_original() {
        let words = [
            (tracing::Level::ERROR, "Critical"),
            (tracing::Level::WARN, "Warning"),
            (tracing::Level::INFO, "Info"),
            (tracing::Level::DEBUG, "Debug"),
            (tracing::Level::TRACE, "Trace"),
        ];
        for (level, word) in words {
            assert_eq!(asyncos_level(level), word);
        }
        for format in [LogFormat::Json, LogFormat::Asyncos, LogFormat::Text] {
            assert!(missing_line(format, 17).contains("17"));
        }
    }
}
