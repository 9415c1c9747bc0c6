//! A connection for commands: every step is one pipeline with one time limit, whatever happens below.
//!
//! What always holds: `run` returns within the limit. A dropped connection is made anew in the background and the step
//! is sent once more, which is sound because every step may be repeated. Scripts that a restarted Redis has forgotten
//! are loaded again on the way.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::script;
use crate::QueueError;

/// First and longest pause between two attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// Attempts before a background reconnection rests until the next step: about a minute.
const RECONNECTS: usize = 240;
/// Limit of one attempt to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// Pause while Redis reads its data in.
const LOADING: Duration = Duration::from_millis(100);

/// A shared connection; clones use the same one.
#[derive(Clone, Debug)]
pub(super) struct Link {
    manager: ConnectionManager,
    limit: Duration,
}

impl Link {
    /// A link that connects when it is first used. `limit` bounds each step.
    pub(super) fn new(client: &Client, limit: Duration) -> Result<Self, QueueError> {
        let config = ConnectionManagerConfig::new()
            .set_min_delay(RECONNECT.0)
            .set_max_delay(RECONNECT.1)
            .set_number_of_retries(RECONNECTS)
            .set_connection_timeout(Some(CONNECT))
            // The library's own limit is half a second, and for each reply; ours is for the step.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1024);
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(failed)?;
        Ok(Self { manager, limit })
    }

    /// Sends one command; its reply.
    pub(super) async fn one(&self, cmd: Cmd) -> Result<Value, QueueError> {
        let mut pipe = redis::pipe();
        pipe.add_command(cmd);
        self.run(&mut pipe)
            .await?
            .pop()
            .ok_or_else(|| QueueError::Corrupt("no reply".to_owned()))
    }

    /// Sends a pipeline; all replies, or the first error.
    pub(super) async fn run(&self, pipe: &mut Pipeline) -> Result<Vec<Value>, QueueError> {
        pipe.ignore_errors();
        let deadline = Instant::now() + self.limit;
        let (mut load, mut resend) = (true, true);
        loop {
            let error = match self.send(pipe, deadline).await {
                Ok(replies) => match replies.into_iter().collect::<Result<Vec<Value>, RedisError>>() {
                    Ok(values) => return Ok(values),
                    Err(error) => error,
                },
                Err(Some(error)) => error,
                Err(None) => {
                    return Err(QueueError::Unavailable(format!(
                        "no answer within {:?}",
                        self.limit
                    )));
                }
            };
            match error.kind() {
                ErrorKind::Server(ServerErrorKind::BusyLoading) => {
                    sleep_until(deadline.min(Instant::now() + LOADING)).await;
                }
                ErrorKind::Server(ServerErrorKind::NoScript) if load => {
                    load = false;
                    self.load(deadline).await?;
                }
                ErrorKind::Io if resend => resend = false,
                _ => return Err(failed(error)),
            }
        }
    }

    /// Loads all scripts.
    async fn load(&self, deadline: Instant) -> Result<(), QueueError> {
        let mut pipe = redis::pipe();
        for script in script::ALL {
            pipe.cmd("SCRIPT").arg("LOAD").arg(script.code);
        }
        pipe.ignore_errors();
        match self.send(&pipe, deadline).await {
            Ok(replies) => replies
                .into_iter()
                .try_for_each(|reply| reply.map(drop).map_err(failed)),
            Err(Some(error)) => Err(failed(error)),
            Err(None) => Err(QueueError::Unavailable("no answer to SCRIPT LOAD".to_owned())),
        }
    }

    /// One attempt. `Err(None)`: the time was over.
    async fn send(
        &self,
        pipe: &Pipeline,
        deadline: Instant,
    ) -> Result<Vec<Result<Value, RedisError>>, Option<RedisError>> {
        let mut manager = self.manager.clone();
        match timeout_at(deadline, pipe.query_async(&mut manager)).await {
            Ok(result) => result.map_err(Some),
            Err(_) => Err(None),
        }
    }
}

/// Sorts an error into those that callers decide on.
#[allow(clippy::needless_pass_by_value, reason = "used with map_err")]
pub(super) fn failed(error: RedisError) -> QueueError {
    if error.code() == Some("OOM") {
        return QueueError::Full(
            "Redis is at its maxmemory; raise it, or let the workers catch up".to_owned(),
        );
    }
    match error.kind() {
        ErrorKind::UnexpectedReturnType => QueueError::Corrupt(error.to_string()),
        ErrorKind::InvalidClientConfig => {
            QueueError::Unsafe(format!("the Redis settings are unusable: {error}"))
        }
        ErrorKind::AuthenticationFailed => {
            QueueError::Unavailable(format!("Redis refuses the user or password of its URL: {error}"))
        }
        _ => QueueError::Unavailable(error.to_string()),
    }
}
