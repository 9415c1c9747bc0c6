//! What is cleared away: names of dead workers, and lanes of intakes that do not exist any more.

use async_trait::async_trait;
use std::time::Duration;

use super::options::millis;
use super::script::{self, call};
use super::{RedisQueue, read};
use crate::{Janitor, QueueError, Stats};

#[async_trait]
impl Janitor for RedisQueue {
    async fn intakes(&self) -> Result<Vec<String>, QueueError> {
        crate::JournalQueue::intakes(self).await
    }

    async fn stats(&self, intake: &str) -> Result<Stats, QueueError> {
        crate::JournalQueue::stats(self, intake).await
    }

    async fn remove_dead_consumers(&self, intake: &str, idle: Duration) -> Result<u64, QueueError> {
        let mut cmd = call(&script::CONSUMERS, intake, &self.options);
        cmd.arg(millis(idle));
        read(self.control.one(cmd).await?)
    }

    async fn forget(&self, intake: &str, empty_for: Duration) -> Result<bool, QueueError> {
        let mut cmd = call(&script::FORGET, intake, &self.options);
        cmd.arg(millis(empty_for));
        let gone: u64 = read(self.control.one(cmd).await?)?;
        Ok(gone > 0)
    }
}
