//! Health and metrics over HTTP, on a port of their own.
//!
//! | path | answers |
//! |---|---|
//! | `/livez` | 200 as long as the runtime serves requests at all |
//! | `/readyz` | 200 when every check holds and no shutdown has started, else 503; either way JSON that names each check |
//! | `/metrics` | [`Metrics::encode`] |
//!
//! Readiness ends at once when a shutdown starts, while the process still serves: that is how a load balancer learns
//! to send new connections elsewhere.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header::CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// The reason of a check that was never set.
const STARTING: &str = "starting";

#[derive(Clone, Debug, Serialize)]
struct Status {
    name: &'static str,
    ok: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

/// The checks of one process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct HealthState {
    checks: Arc<Mutex<Vec<Status>>>,
}

/// One named condition of readiness. Cheap to clone.
#[derive(Clone, Debug)]
#[must_use = "a check does not hold until it is set"]
pub struct Check {
    state: HealthState,
    index: usize,
}

impl HealthState {
    /// Without a check the process is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, which does not hold until [`Check::ok`] is called. `name` is unique within the process, as
    /// `ingress/queue`.
    pub fn check(&self, name: &'static str) -> Check {
        let mut checks = self.lock();
        checks.push(Status {
            name,
            ok: false,
            reason: STARTING.into(),
        });
        Check {
            state: self.clone(),
            index: checks.len() - 1,
        }
    }

    /// Whether every check holds.
    pub fn is_ready(&self) -> bool {
        self.lock().iter().all(|check| check.ok)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Status>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Check {
    /// The condition holds.
    pub fn ok(&self) {
        self.set(true, "");
    }

    /// The condition does not hold; `reason` is for the operator: what is wrong, without addresses.
    pub fn fail(&self, reason: impl AsRef<str>) {
        self.set(false, reason.as_ref());
    }

    fn set(&self, ok: bool, reason: &str) {
        let changed = {
            let mut checks = self.state.lock();
            let check = &mut checks[self.index];
            let known = check.ok || check.reason != STARTING;
            let before = check.ok;
            (check.ok, check.reason) = (ok, reason.to_owned());
            (before != ok || !known).then_some(check.name)
        };
        match (changed, ok) {
            (Some(check), true) => tracing::info!(check, "The check holds."),
            (Some(check), false) => tracing::warn!(check, reason, "The check does not hold."),
            (None, _) => {}
        }
    }
}

#[derive(Clone)]
struct App {
    health: HealthState,
    metrics: Metrics,
    shutdown: Shutdown,
}

/// Serves `/livez`, `/readyz` and `/metrics` on `listener` until it is dropped. It goes on while `shutdown` is under
/// way, so that the drain can be watched: spawn it, and abort it last.
///
/// # Errors
/// When the listener breaks for good.
pub async fn serve(
    listener: TcpListener,
    health: HealthState,
    metrics: Metrics,
    shutdown: Shutdown,
) -> io::Result<()> {
    let app = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(App {
            health,
            metrics,
            shutdown,
        });
    axum::serve(listener, app).await
}

async fn readyz(State(app): State<App>) -> impl IntoResponse {
    let mut checks = app.health.lock().clone();
    let draining = app.shutdown.is_started();
    let reason = if draining {
        "the process is shutting down".into()
    } else {
        String::new()
    };
    checks.push(Status {
        name: "shutdown",
        ok: !draining,
        reason,
    });
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::json!({ "ready": ready, "checks": checks }).to_string() + "\n";
    (status, [(CONTENT_TYPE, "application/json")], body)
}

async fn metrics_text(State(app): State<App>) -> impl IntoResponse {
    ([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], app.metrics.encode())
}

#[cfg(test)]
mod tests {
    use super::{HealthState, serve};
    use crate::{Metrics, Trigger};
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    async fn get(address: SocketAddr, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    }

    #[tokio::test]
    async fn readiness_follows_the_checks_and_ends_with_the_shutdown() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = HealthState::new();
        let (policy, queue) = (health.check("policy"), health.check("queue"));
        let (trigger, shutdown) = Trigger::new();
        let metrics = Metrics::new("test");
        metrics.scope("test").counter("things", "Things").inc();
        let server = tokio::spawn(serve(listener, health.clone(), metrics, shutdown));

        let ready = async |why: &str, expected: bool, part: &str| {
            let (head, body) = get(address, "/readyz").await;
            let status = if expected { "http/1.1 200" } else { "http/1.1 503" };
            assert!(head.starts_with(status), "{why}: {head}");
            assert!(head.contains("content-type: application/json"), "{why}: {head}");
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(json["ready"], expected, "{why}");
            assert!(body.contains(part), "{why}: {body}");
        };
        ready("nothing is set", false, r#""reason":"starting""#).await;
        policy.ok();
        ready("one is set", false, r#"{"name":"policy","ok":true}"#).await;
        queue.ok();
        ready("all are set", true, r#"{"name":"queue","ok":true}"#).await;
        assert!(health.is_ready());
        queue.fail("redis refuses connections");
        ready(
            "one failed",
            false,
            r#"{"name":"queue","ok":false,"reason":"redis refuses connections"}"#,
        )
        .await;
        queue.ok();
        trigger.start();
        ready("shutdown", false, r#"{"name":"shutdown","ok":false"#).await;

        let (head, body) = get(address, "/livez").await;
        assert!(head.starts_with("http/1.1 200"), "alive while it drains: {head}");
        assert_eq!(body, "ok\n");
        let (head, body) = get(address, "/metrics").await;
        assert!(
            head.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{head}"
        );
        assert!(body.contains("tdc_test_things_total 1\n"));
        assert!(get(address, "/").await.0.starts_with("http/1.1 404"));
        server.abort();
    }
}
