//! Dead letters: a stream for each intake, its bodies beside the living ones.
//!
//! A dead letter and its body change together, in one script. Many at a time go in pipelines of short scripts, so that
//! Redis answers others in between.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::Value;

use super::script::{self, body, call, key};
use super::{RedisQueue, read};
use crate::entry::{DeadLetter, EntryKey, Replayed};
use crate::{DeadLetters, QueueError};

/// Letters that one script changes: a millisecond of Redis's time.
const BATCH: usize = 100;

#[async_trait]
impl DeadLetters for RedisQueue {
    async fn dead_letters(
        &self,
        intake: &str,
        before: Option<&str>,
        max: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        let mut cmd = redis::cmd("XREVRANGE");
        cmd.arg(key(intake, "dead"));
        match before {
            Some(place) => cmd.arg(format!("({place}")),
            None => cmd.arg("+"),
        };
        cmd.arg("-").arg("COUNT").arg(max);
        let rows: Vec<(String, HashMap<String, Bytes>)> = read(self.control.one(cmd).await?)?;
        rows.into_iter()
            .map(|(sid, fields)| dead_letter(intake, &sid, &fields))
            .collect()
    }

    async fn dead_body(&self, entry: &EntryKey) -> Result<Vec<Bytes>, QueueError> {
        let stored = body(&entry.intake, &entry.id);
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(&stored).arg("st").arg("n");
        let (state, chunks): (Option<String>, Option<u32>) = read(self.control.one(cmd).await?)?;
        let gone = || QueueError::Unknown(format!("{}: its body was not retained, or not so long", entry.id));
        let (Some("d"), Some(chunks)) = (state.as_deref(), chunks) else {
            return Err(gone());
        };
        if chunks == 0 {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for index in 0..chunks {
            pipe.cmd("HGET").arg(&stored).arg(index);
        }
        let replies = self.bodies.run(&mut pipe).await?;
        read(Value::Array(replies)).map_err(|_| gone())
    }

    async fn replay(&self, letters: &[DeadLetter]) -> Result<Vec<Replayed>, QueueError> {
        let mut all = Vec::with_capacity(letters.len());
        for replies in self.each_batch(&script::REPLAY, letters).await? {
            for reply in read::<Vec<i64>>(replies)? {
                all.push(match reply {
                    0 | 1 => Replayed::Done,
                    -1 => Replayed::NoBody,
                    _ => Replayed::Gone,
                });
            }
        }
        Ok(all)
    }

    async fn purge(&self, letters: &[DeadLetter]) -> Result<u64, QueueError> {
        let replies = self.each_batch(&script::PURGE, letters).await?;
        replies.into_iter().map(read::<u64>).sum()
    }
}

impl RedisQueue {
    /// Passes letters to a script, those of one intake together, in their order.
    async fn each_batch(
        &self,
        script: &script::Script,
        letters: &[DeadLetter],
    ) -> Result<Vec<Value>, QueueError> {
        if letters.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for same in letters.chunk_by(|a, b| a.key.intake == b.key.intake) {
            for batch in same.chunks(BATCH) {
                let mut cmd = call(script, &batch[0].key.intake, &self.options);
                for letter in batch {
                    cmd.arg(&*letter.place).arg(&*letter.key.id);
                }
                pipe.add_command(cmd);
            }
        }
        self.control.run(&mut pipe).await
    }
}

/// Reads one entry of the dead-letter stream.
fn dead_letter(intake: &str, sid: &str, fields: &HashMap<String, Bytes>) -> Result<DeadLetter, QueueError> {
    let text = |name: &str| {
        let bytes = fields.get(name).map(|bytes| bytes.as_ref()).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let number = |name: &str| {
        let value = text(name);
        value
            .parse::<u64>()
            .map_err(|_| QueueError::Corrupt(format!("dead letter {sid}: {name} is {value:?}")))
    };
    let ended_ms = sid.split('-').next().and_then(|ms| ms.parse().ok());
    let retain = number("retain")?;
    Ok(DeadLetter {
        key: EntryKey {
            intake: intake.into(),
            id: text("id").into(),
        },
        place: sid.into(),
        end: text("end"),
        class: text("class"),
        detail: text("detail"),
        attempts: u32::try_from(number("attempts")?).unwrap_or(u32::MAX),
        size: number("size")?,
        ended_ms: ended_ms.ok_or_else(|| QueueError::Corrupt(format!("dead letter {sid}: its id")))?,
        retain: (retain > 0).then(|| Duration::from_millis(retain)),
        meta: fields.get("m").and_then(|json| serde_json::from_slice(json).ok()),
    })
}
