//! Reading bodies and metadata back.
//!
//! The claim is made before the body is read. What cannot be read afterwards is given back or ended here, so that no
//! entry is left in the hands of a worker that never heard of it.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use tracing::warn;

use super::script::body;
use super::steps::Rows;
use super::{RedisQueue, read};
use crate::entry::{ClaimRef, Claimed, Claims, End, EntryKey, EntryMeta, Expired, short};
use crate::{JournalQueue, QueueError};

/// One row of the claim script's answer.
struct Handed {
    claim: ClaimRef,
    chunks: u32,
    attempts: u32,
    remaining: Duration,
    age: Duration,
    in_doubt: bool,
    possible_delivery: bool,
}

impl Handed {
    fn new(intake: &str, row: [Value; 9]) -> Result<Self, QueueError> {
        let [
            sid,
            id,
            deliveries,
            chunks,
            attempts,
            remaining,
            age,
            in_doubt,
            possible,
        ] = row;
        let (sid, id): (String, String) = (read(sid)?, read(id)?);
        let deliveries: u64 = read(deliveries)?;
        Ok(Self {
            claim: ClaimRef {
                key: EntryKey {
                    intake: intake.into(),
                    id: id.into(),
                },
                token: format!("{sid}#{deliveries}").into(),
            },
            chunks: read(chunks)?,
            attempts: read(attempts)?,
            remaining: Duration::from_millis(read(remaining)?),
            age: Duration::from_millis(read(age)?),
            in_doubt: read(in_doubt)?,
            possible_delivery: read(possible)?,
        })
    }

    fn into_expired(self, meta: Option<EntryMeta>) -> Expired {
        let meta = meta.unwrap_or_default();
        Expired {
            key: self.claim.key,
            mid: meta.mid,
            recipients: u32::try_from(meta.recipients.len()).unwrap_or(u32::MAX),
            attempts: self.attempts,
            traceparent: short(&meta.traceparent).to_owned(),
            in_doubt: self.in_doubt,
            possible_delivery: self.possible_delivery,
            age: self.age,
            detail: "its body was gone".to_owned(),
        }
    }

    fn into_claimed(self, meta: EntryMeta, body: Vec<Bytes>) -> Claimed {
        let Self {
            claim,
            chunks: _,
            attempts,
            remaining,
            age,
            in_doubt,
            possible_delivery,
        } = self;
        Claimed {
            claim,
            meta,
            body,
            attempts,
            remaining,
            age,
            in_doubt,
            possible_delivery,
        }
    }
}

impl RedisQueue {
    /// Reads what belongs to claimed entries, in one pipeline.
    pub(super) async fn fetch_claimed(
        &self,
        intake: &str,
        consumer: &str,
        rows: Rows,
    ) -> Result<Claims, QueueError> {
        let handed = rows
            .claimed
            .into_iter()
            .map(|row| Handed::new(intake, row))
            .collect::<Result<Vec<_>, QueueError>>()?;
        let expired = rows
            .expired
            .into_iter()
            .map(|row| expired(intake, row))
            .collect::<Result<Vec<_>, QueueError>>()?;
        let mut claims = Claims {
            entries: Vec::with_capacity(handed.len()),
            expired,
            more: rows.more,
        };
        if handed.is_empty() {
            return Ok(claims);
        }
        let mut pipe = redis::pipe();
        for entry in &handed {
            let stored = body(intake, &entry.claim.key.id);
            if entry.chunks == 1 {
                pipe.cmd("HMGET").arg(&stored).arg("m").arg(0);
                continue;
            }
            pipe.cmd("HGET").arg(&stored).arg("m");
            for index in 0..entry.chunks {
                pipe.cmd("HGET").arg(&stored).arg(index);
            }
        }
        let replies = match self.bodies.run(&mut pipe).await {
            Ok(replies) => replies,
            Err(error) => {
                let held: Vec<ClaimRef> = handed.into_iter().map(|entry| entry.claim).collect();
                // If this fails too, the claims pass on after the takeover time.
                let _ = self.release(consumer, &held).await;
                if claims.expired.is_empty() {
                    return Err(error);
                }
                // What was ended must be told; the error comes again with the next claim.
                claims.more = true;
                return Ok(claims);
            }
        };
        let mut replies = replies.into_iter();
        for entry in handed {
            let first = replies.next().unwrap_or(Value::Nil);
            let (meta, chunks): (Option<Bytes>, Option<Vec<Bytes>>) = if entry.chunks == 1 {
                let (meta, chunk): (Option<Bytes>, Option<Bytes>) = read(first)?;
                (meta, chunk.map(|chunk| vec![chunk]))
            } else {
                let chunks = replies.by_ref().take(entry.chunks as usize).collect();
                (read(first)?, read(Value::Array(chunks)).ok())
            };
            let meta = meta.as_deref().map(serde_json::from_slice::<EntryMeta>);
            match (meta, chunks) {
                (Some(Ok(meta)), Some(body)) => claims.entries.push(entry.into_claimed(meta, body)),
                (Some(Err(error)), Some(_)) => self.give_up(consumer, &entry.claim, &error.to_string()).await,
                // Its TTL ended it between the claim and now.
                (meta, _) => {
                    let ended = self.complete(consumer, &entry.claim, End::Expired).await;
                    if let Ok(true) = ended {
                        claims.expired.push(entry.into_expired(meta.and_then(Result::ok)));
                    }
                }
            }
        }
        Ok(claims)
    }

    /// Ends an entry that no version of this code could deliver.
    async fn give_up(&self, consumer: &str, claim: &ClaimRef, error: &str) {
        warn!(
            id = &*claim.key.id,
            intake = &*claim.key.intake,
            error,
            "An entry's metadata is unreadable; it ends."
        );
        let detail = format!("its metadata is unreadable: {error}");
        // If this fails, the claim passes on and the next consumer does the same.
        let _ = self
            .complete(
                consumer,
                claim,
                End::HardBounced {
                    class: "other",
                    detail,
                },
            )
            .await;
    }
}

/// Reads a row of the scripts' `expire`.
pub(super) fn expired(intake: &str, row: [Value; 9]) -> Result<Expired, QueueError> {
    let [
        id,
        mid,
        recipients,
        attempts,
        traceparent,
        in_doubt,
        possible,
        age,
        detail,
    ] = row;
    Ok(Expired {
        key: EntryKey {
            intake: intake.into(),
            id: read::<String>(id)?.into(),
        },
        mid: read(mid)?,
        recipients: read(recipients)?,
        attempts: read(attempts)?,
        traceparent: read(traceparent)?,
        in_doubt: read(in_doubt)?,
        possible_delivery: read(possible)?,
        age: Duration::from_millis(read(age)?),
        detail: read(detail)?,
    })
}
