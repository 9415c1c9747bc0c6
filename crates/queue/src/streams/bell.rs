//! Listens to `tdc:wake` on a connection of its own and rings the process's doorbell, once somebody waits for that.
//!
//! Whenever it has connected anew it also looks whether the server is still one to trust with copies: it may be another
//! one, or the same with other settings.
//!
//! A ring that is lost (the connection was down) costs a second at most: see [`Doorbell::wait`].

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use redis::{Client, RedisError, Value};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::trust::Trust;
use crate::doorbell::Doorbell;

/// Pause before connecting again.
const AGAIN: Duration = Duration::from_secs(1);
/// A quiet connection is asked whether it still lives.
const QUIET: Duration = Duration::from_secs(15);
/// Limit of each answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Listens until the task is aborted.
pub(super) async fn listen(client: Client, bell: Arc<Doorbell>, trust: Arc<Trust>) {
    loop {
        trust.renew(&client).await;
        match once(&client, &bell).await {
            Ok(()) => debug!("The queue's doorbell was disconnected; connecting again."),
            Err(error) => debug!(%error, "The queue's doorbell is not connected; trying again."),
        }
        sleep(AGAIN).await;
    }
}

async fn once(client: &Client, bell: &Doorbell) -> Result<(), RedisError> {
    let pubsub = limited(client.get_async_pubsub()).await?;
    let (mut sink, mut stream) = pubsub.split();
    let mut listens = false;
    loop {
        tokio::select! {
            () = bell.wanted(), if !listens => {
                limited(sink.subscribe("tdc:wake")).await?;
                listens = true;
                // What was rung while nobody listened.
                bell.ring();
            }
            heard = timeout(QUIET, stream.next()) => match heard {
                Ok(Some(_)) => bell.ring(),
                Ok(None) => return Ok(()),
                Err(_) => {
                    limited(sink.ping::<Value>()).await?;
                }
            }
        }
    }
}

async fn limited<T>(step: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
    timeout(LIMIT, step)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}
