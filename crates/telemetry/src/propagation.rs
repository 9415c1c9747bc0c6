//! W3C trace context (https://www.w3.org/TR/trace-context/) in and out of a process: through a gRPC call's metadata,
//! and through an entry of the queue.
//!
//! The context is that of the span that the calling task has entered. A span's parent must be set right after the
//! span was made and before it is entered: its ids are final from then on.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Bytes of a `tracestate` that are taken over; the specification asks for at least this much (section 3.3.1.5).
const MAX_TRACESTATE: usize = 512;

/// The `traceparent` and `tracestate` of the current span; both are empty outside of a trace and when tracing is off.
/// A trace that was not sampled has a `traceparent`, too: it says so, and whoever continues the trace keeps to it.
pub fn current_traceparent() -> (String, String) {
    let mut carrier = HashMap::new();
    inject(|key, value| {
        carrier.insert(key.to_owned(), value.to_owned());
    });
    let mut take = |key| carrier.remove(key).unwrap_or_default();
    (take(TRACEPARENT), take(TRACESTATE))
}

/// Hands the current span's context to `carrier`, header by header (lower-case name, value); says whether there was
/// one.
pub fn inject(carrier: impl FnMut(&str, &str)) -> bool {
    struct Carrier<F>(F, bool);
    impl<F: FnMut(&str, &str)> Injector for Carrier<F> {
        fn set(&mut self, key: &str, value: String) {
            // An empty tracestate says nothing.
            if !value.is_empty() {
                self.1 = true;
                (self.0)(key, &value);
            }
        }
    }
    let mut carrier = Carrier(carrier, false);
    TraceContextPropagator::new().inject_context(&Context::current(), &mut carrier);
    carrier.1
}

/// Makes `span` the child of the context that `carrier` finds under the names of the headers; says whether it did.
/// An unreadable context is the same as none: the span then starts a trace of its own.
pub fn extract<'c>(span: &Span, carrier: impl Fn(&str) -> Option<&'c str>) -> bool {
    let traceparent = carrier(TRACEPARENT).unwrap_or_default();
    set_parent(span, traceparent, carrier(TRACESTATE).unwrap_or_default())
}

/// Makes `span` the child of the given context; says whether it did. Empty or unreadable text is the same as none,
/// an unreadable or overlong `tracestate` is left out.
pub fn set_parent(span: &Span, traceparent: &str, tracestate: &str) -> bool {
    struct Headers<'a>(&'a str, &'a str);
    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            let value = match key {
                TRACEPARENT => self.0,
                TRACESTATE if self.1.len() <= MAX_TRACESTATE => self.1,
                _ => "",
            };
            (!value.is_empty()).then_some(value)
        }
        fn keys(&self) -> Vec<&str> {
            vec![TRACEPARENT, TRACESTATE]
        }
    }
    use opentelemetry::trace::TraceContextExt as _;
    let none = Context::new();
    let context =
        TraceContextPropagator::new().extract_with_context(&none, &Headers(traceparent, tracestate));
    let readable = context.span().span_context().is_valid();
    readable && span.set_parent(context).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{current_traceparent, extract, inject, set_parent};
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
    use tracing_subscriber::layer::SubscriberExt as _;

    fn traced<T>(sampler: Sampler, what: impl FnOnce() -> T) -> T {
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), what)
    }

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn outside_of_a_trace_there_is_nothing() {
        let nothing = (String::new(), String::new());
        assert_eq!(current_traceparent(), nothing);
        assert!(!inject(|_, _| panic!("nothing to inject")));
        traced(Sampler::AlwaysOn, || assert_eq!(current_traceparent(), nothing));
    }

    #[test]
    fn a_context_survives_the_way_through_text() {
        for flags in ["01", "00"] {
            traced(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)), || {
                let span = tracing::info_span!("child");
                assert!(set_parent(
                    &span,
                    &format!("00-{TRACE}-00f067aa0ba902b7-{flags}"),
                    "vendor=1"
                ));
                let (parent, state) = span.in_scope(current_traceparent);
                assert!(
                    parent.starts_with(&format!("00-{TRACE}-")),
                    "same trace: {parent}"
                );
                assert!(
                    !parent.contains("00f067aa0ba902b7"),
                    "a span of its own: {parent}"
                );
                assert!(
                    parent.ends_with(flags),
                    "the decision to sample is kept: {parent}"
                );
                assert_eq!(state, "vendor=1");

                let mut headers = Vec::new();
                span.in_scope(|| inject(|key, value| headers.push((key.to_owned(), value.to_owned()))));
                let next = tracing::info_span!("next");
                let find = |key: &str| {
                    headers
                        .iter()
                        .find(|(k, _)| k == key)
                        .map(|(_, value)| value.as_str())
                };
                assert!(extract(&next, find));
                assert!(next.in_scope(current_traceparent).0.contains(TRACE));
            });
        }
    }

    #[test]
    fn an_unreadable_context_starts_a_new_trace() {
        let good = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let long = format!("a={}", "x".repeat(600));
        let cases = [
            ("", "", false, "nothing"),
            ("00-0-0-01", "", false, "too short"),
            (
                "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                "",
                false,
                "the invalid trace id",
            ),
            (
                "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                "",
                false,
                "the invalid version",
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e473\u{e9}-00f067aa0ba902b7-01",
                "",
                false,
                "not ASCII",
            ),
            (good.as_str(), "\u{0}=,,", true, "an unreadable state"),
            (good.as_str(), long.as_str(), true, "too long a state"),
        ];
        for (parent, state, taken, why) in cases {
            traced(Sampler::AlwaysOn, || {
                let span = tracing::info_span!("child");
                assert_eq!(set_parent(&span, parent, state), taken, "{why}");
                let (current, kept) = span.in_scope(current_traceparent);
                assert_eq!(current.contains(TRACE), taken, "{why}");
                assert_eq!((current.len(), kept.as_str()), (55, ""), "{why}");
            });
        }
    }
}
