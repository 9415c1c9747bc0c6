//! `tdc dlq`: what became of copies that ended undelivered, and how they come back.
//!
//! Everything is read from Redis, so that any machine that reaches it can ask. A replay or a purge is one atomic step for
//! each dead letter: cut off on the way it has done some of them, and can be repeated.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tdc_core::maillog::rfc3339;
use tdc_queue::{DeadLetter, DeadLetters, EntryMeta, JournalQueue, QueueError, RedisQueue, Replayed};

use crate::args::{RedisArgs, duration};
use crate::error::CliError;
use crate::{process, say, say_bytes};

/// Dead letters read at a time.
const PAGE: usize = 500;
/// What the detail is cut to in a table, in characters.
const DETAIL: usize = 80;

#[derive(Debug, Args)]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lists dead letters, the newest first
    List(ListArgs),
    /// Shows one dead letter, or its body
    Show(ShowArgs),
    /// Puts dead letters back into the queue, under the same delivery id
    Replay(ReplayArgs),
    /// Removes dead letters and what is retained of them
    Purge(PurgeArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, Args)]
struct SourceArgs {
    #[command(flatten)]
    redis: RedisArgs,
    /// Only those of this intake
    #[arg(long, value_name = "NAME")]
    intake: Option<String>,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// How many at most, of each intake
    #[arg(long, default_value_t = 100, value_name = "N")]
    max: usize,
    /// A table, or one JSON array
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: Output,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Its delivery id
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    source: SourceArgs,
    /// Writes the original message, octet for octet, and nothing else
    #[arg(long, conflicts_with = "output")]
    body: bool,
    /// Lines, or one JSON object
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: Output,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true))]
struct ReplayArgs {
    /// Delivery ids
    #[arg(group = "which", value_name = "ID")]
    ids: Vec<String>,
    /// All whose body is retained
    #[arg(long, group = "which")]
    all: bool,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true))]
struct PurgeArgs {
    /// Delivery ids
    #[arg(group = "which", value_name = "ID")]
    ids: Vec<String>,
    /// All of them
    #[arg(long, group = "which")]
    all: bool,
    /// Of all, only those that ended longer ago than this
    #[arg(long, requires = "all", value_parser = duration, value_name = "TIME")]
    older_than: Option<Duration>,
    #[command(flatten)]
    source: SourceArgs,
}

pub(crate) async fn run(args: DlqArgs) -> Result<(), CliError> {
    match args.what {
        What::List(args) => list(args).await,
        What::Show(args) => show(args).await,
        What::Replay(args) => replay(args).await,
        What::Purge(args) => purge(args).await,
    }
}

/// The queue, and the intakes that were asked for.
struct Source {
    queue: RedisQueue,
    intakes: Vec<String>,
}

impl Source {
    async fn open(args: &SourceArgs) -> Result<Self, CliError> {
        let queue = process::redis_queue(&args.redis.redis).await?;
        let mut intakes = queue.intakes().await.map_err(failed)?;
        if let Some(wanted) = &args.intake {
            if !intakes.contains(wanted) {
                return Err(CliError::text(format!(
                    "the queue has no intake {wanted:?} (--intake); it has: {}",
                    if intakes.is_empty() {
                        "none yet".to_owned()
                    } else {
                        intakes.join(", ")
                    }
                )));
            }
            intakes.retain(|name| name == wanted);
        }
        Ok(Self { queue, intakes })
    }

    /// One page of an intake's dead letters, older than the last of the page before.
    async fn page(&self, intake: &str, before: &mut Option<Arc<str>>) -> Result<Vec<DeadLetter>, CliError> {
        let page = self
            .queue
            .dead_letters(intake, before.as_deref(), PAGE)
            .await
            .map_err(failed)?;
        if let Some(last) = page.last() {
            *before = Some(last.place.clone());
        }
        Ok(page)
    }

    /// The dead letters with these ids, in their order; an error names those that are not there.
    async fn find(&self, ids: &[String]) -> Result<Vec<DeadLetter>, CliError> {
        let mut found: Vec<Option<DeadLetter>> = vec![None; ids.len()];
        for intake in &self.intakes {
            let mut before = None;
            while found.iter().any(Option::is_none) {
                let page = self.page(intake, &mut before).await?;
                if page.is_empty() {
                    break;
                }
                for letter in page {
                    if let Some(at) = ids.iter().position(|id| **id == *letter.key.id) {
                        found[at] = Some(letter);
                    }
                }
            }
        }
        let missing: Vec<&str> = ids
            .iter()
            .zip(&found)
            .filter_map(|(id, letter)| letter.is_none().then_some(id.as_str()))
            .collect();
        if missing.is_empty() {
            return Ok(found.into_iter().flatten().collect());
        }
        Err(CliError::text(format!(
            "no such dead letter: {}; `tdc dlq list` shows what there is, nothing was changed",
            missing.join(", ")
        )))
    }
}

fn failed(error: QueueError) -> CliError {
    CliError::new("the queue (--redis)", error)
}

async fn list(args: ListArgs) -> Result<(), CliError> {
    let source = Source::open(&args.source).await?;
    let mut letters = Vec::new();
    for intake in &source.intakes {
        letters.extend(
            source
                .queue
                .dead_letters(intake, None, args.max)
                .await
                .map_err(failed)?,
        );
    }
    letters.sort_by_key(|letter| std::cmp::Reverse(letter.ended_ms));
    match args.output {
        Output::Json => say(Value::Array(letters.iter().map(as_json).collect())),
        Output::Table if letters.is_empty() => say("no dead letters"),
        Output::Table => table(&letters),
    }
    Ok(())
}

async fn show(args: ShowArgs) -> Result<(), CliError> {
    let source = Source::open(&args.source).await?;
    let letters = source.find(std::slice::from_ref(&args.id)).await?;
    for letter in &letters {
        if args.body {
            let body = source.queue.dead_body(&letter.key).await.map_err(failed)?;
            body.iter().for_each(|chunk| say_bytes(chunk));
        } else if args.output == Output::Json {
            say(as_json(letter));
        } else {
            lines(letter);
        }
    }
    Ok(())
}

async fn replay(args: ReplayArgs) -> Result<(), CliError> {
    let source = Source::open(&args.source).await?;
    let mut count = Outcome::default();
    if args.all {
        for intake in &source.intakes {
            let mut before = None;
            loop {
                let page = source.page(intake, &mut before).await?;
                if page.is_empty() {
                    break;
                }
                let done = source.queue.replay(&page).await;
                count.add(&page, &done.map_err(|error| count.cut_off("replayed", error))?);
            }
        }
        say(format_args!("{} replayed", count.done));
        if !count.left.is_empty() {
            say(format_args!("{} have no body and stay", count.left.len()));
        }
        return Ok(());
    }
    let letters = source.find(&args.ids).await?;
    let done = source.queue.replay(&letters).await;
    count.add(&letters, &done.map_err(|error| count.cut_off("replayed", error))?);
    say(format_args!("{} replayed", count.done));
    if count.left.is_empty() {
        return Ok(());
    }
    Err(CliError::text(format!(
        "not replayed: {}: the body was not retained, or not so long (deadLetter.mode, deadLetter.retention)",
        count.left.join(", ")
    )))
}

async fn purge(args: PurgeArgs) -> Result<(), CliError> {
    let source = Source::open(&args.source).await?;
    let mut count = Outcome::default();
    if !args.all {
        let letters = source.find(&args.ids).await?;
        let purged = source.queue.purge(&letters).await;
        say(format_args!("{} purged", purged.map_err(failed)?));
        return Ok(());
    }
    let age = args.older_than.unwrap_or_default();
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let until = u64::try_from(since_epoch.saturating_sub(age).as_millis()).unwrap_or(u64::MAX);
    for intake in &source.intakes {
        let mut before = None;
        loop {
            let mut page = source.page(intake, &mut before).await?;
            if page.is_empty() {
                break;
            }
            if args.older_than.is_some() {
                page.retain(|letter| letter.ended_ms <= until);
            }
            let purged = source.queue.purge(&page).await;
            count.done += purged.map_err(|error| count.cut_off("purged", error))?;
        }
    }
    say(format_args!("{} purged", count.done));
    Ok(())
}

/// What a command has done so far.
#[derive(Default)]
struct Outcome {
    done: u64,
    left: Vec<String>,
}

impl Outcome {
    fn add(&mut self, letters: &[DeadLetter], done: &[Replayed]) {
        for (letter, done) in letters.iter().zip(done) {
            match done {
                Replayed::Done => self.done += 1,
                Replayed::NoBody | Replayed::Gone => self.left.push(letter.key.id.to_string()),
            }
        }
    }

    fn cut_off(&self, verb: &str, error: QueueError) -> CliError {
        CliError::new(
            format_args!(
                "the queue (--redis), after {} {verb} (of the last {PAGE} some more may be; the command can be repeated)",
                self.done
            ),
            error,
        )
    }
}

/// Until when its body is there, Unix milliseconds.
fn kept_until(letter: &DeadLetter) -> Option<u64> {
    let keep = u64::try_from(letter.retain?.as_millis()).unwrap_or(u64::MAX);
    Some(letter.ended_ms.saturating_add(keep))
}

fn as_json(letter: &DeadLetter) -> Value {
    let meta = letter.meta.as_ref();
    json!({
        "id": &*letter.key.id,
        "intake": &*letter.key.intake,
        "end": letter.end,
        "class": letter.class,
        "detail": letter.detail,
        "retries": letter.attempts,
        "size": letter.size,
        "ended": rfc3339(letter.ended_ms),
        "retained_until": kept_until(letter).map(rfc3339),
        "mid": meta.map(|meta| meta.mid),
        "sender": meta.map(|meta| &meta.sender),
        "recipients": meta.map(|meta| &meta.recipients),
        "policies": meta.map(|meta| &meta.policies),
        "message_id": meta.map(|meta| &meta.message_id),
        "client_ip": meta.map(|meta| &meta.client_ip),
        "traceparent": meta.map(|meta| &meta.traceparent),
        "received": meta.map(|meta| rfc3339(meta.received_ms)),
    })
}

/// Text of strangers, without what would act on a terminal.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn table(letters: &[DeadLetter]) {
    let header = [
        "ENDED", "INTAKE", "ID", "END", "RETRIES", "SIZE", "BODY", "MID", "DETAIL",
    ];
    let rows: Vec<[String; 9]> = letters
        .iter()
        .map(|letter| {
            let end = match letter.class.as_str() {
                "" => letter.end.clone(),
                class => format!("{} ({class})", letter.end),
            };
            [
                rfc3339(letter.ended_ms),
                letter.key.intake.to_string(),
                letter.key.id.to_string(),
                end,
                letter.attempts.to_string(),
                letter.size.to_string(),
                if letter.retain.is_some() { "kept" } else { "-" }.to_owned(),
                letter
                    .meta
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |meta| meta.mid.to_string()),
                clean(&letter.detail).chars().take(DETAIL).collect(),
            ]
        })
        .collect();
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].chars().count()).max();
        longest.unwrap_or(0).max(header[column].len())
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    for row in std::iter::once(header.map(str::to_owned)).chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        say(cells.join("  ").trim_end());
    }
}

fn lines(letter: &DeadLetter) {
    let line = |name: &str, value: &str| say(format_args!("{name:<16}{}", clean(value)));
    line("Delivery id", &letter.key.id);
    line("Intake", &letter.key.intake);
    line("End", &letter.end);
    line(
        "Class",
        if letter.class.is_empty() {
            "-"
        } else {
            &letter.class
        },
    );
    line("Detail", &letter.detail);
    line("Retries", &letter.attempts.to_string());
    line("Size", &letter.size.to_string());
    line("Ended", &rfc3339(letter.ended_ms));
    let kept = kept_until(letter).map_or_else(
        || "not kept".to_owned(),
        |ms| format!("kept until {}", rfc3339(ms)),
    );
    line("Body", &kept);
    let Some(EntryMeta {
        mid,
        sender,
        recipients,
        policies,
        message_id,
        client_ip,
        traceparent,
        received_ms,
        ..
    }) = &letter.meta
    else {
        line("Message", "unknown: its metadata were gone when it ended");
        return;
    };
    line("MID", &mid.to_string());
    line("Message-ID", message_id);
    line("Sender", if sender.is_empty() { "<>" } else { sender });
    line("Recipients", &recipients.join(", "));
    line("Policies", &policies.join(", "));
    line("Client", client_ip);
    line("Received", &rfc3339(*received_ms));
    line("Trace", if traceparent.is_empty() { "-" } else { traceparent });
}
