//! `tdc demo`: the main job from end to end in one process, on free loopback ports, with every byte checked.
//!
//! The expectations stand in `messages` and not in the evaluator, so that the demonstration can fail.

mod messages;
mod stage;

use std::time::{Duration, Instant};

use bytes::Bytes;
use tdc_simulate::Store;

use crate::args::DemoArgs;
use crate::client::{self, Mail};
use crate::error::CliError;
use crate::say;
use messages::{Sample, samples};
use stage::Stage;

/// How long a copy may take before the demonstration gives it up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of one message.
struct Row {
    name: &'static str,
    policy: &'static str,
    mailbox: String,
    intake: String,
    accepted: Duration,
    copied: Option<Duration>,
    good: bool,
}

pub(crate) async fn run(args: DemoArgs) -> Result<(), CliError> {
    let stage = Stage::build(&args.config).await?;
    say(format_args!("Sending sample mail to {} ...", stage.ingress));
    let mut rows = Vec::new();
    for sample in samples() {
        rows.push(show(&stage, &sample).await?);
    }
    table(&rows);
    let good = rows.iter().filter(|row| row.good).count();
    say(format_args!(
        "\n{good} of {} messages as they must be.",
        rows.len()
    ));
    if args.keep {
        stage.explain(&args.config);
        stage.wait_for_signal().await?;
    }
    let kept = stage.end(good < rows.len()).await;
    if good == rows.len() {
        return Ok(());
    }
    Err(CliError::text(format!(
        "the demonstration failed; what arrived is in {}",
        kept.display()
    )))
}

/// Sends one message, and looks at what arrived at both ends.
async fn show(stage: &Stage, sample: &Sample) -> Result<Row, CliError> {
    let (mailbox_before, intake_before) = (stage.mailbox_count()?, stage.intake_count()?);
    let begun = Instant::now();
    let mail = Mail {
        helo: "sender.partner.example",
        from: sample.from,
        to: sample.to,
        eight_bit: sample.eight_bit,
        bytes: Bytes::copy_from_slice(&sample.bytes),
    };
    client::send(&stage.ingress.into(), mail)
        .await
        .map_err(|error| CliError::new(sample.name, error))?;
    let accepted = begun.elapsed();
    let expected = sample.copies.len();
    while expected > 0 && stage.intake_count()? < intake_before + expected && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let copied = (expected > 0).then(|| begun.elapsed());
    let (mailbox, original_good) = original(stage, sample, mailbox_before)?;
    let (intake, copies_good) = copies(stage, sample, intake_before)?;
    let good = original_good && copies_good;
    Ok(Row {
        name: sample.name,
        policy: sample.policy,
        mailbox,
        intake,
        accepted,
        copied,
        good,
    })
}

fn read(dir: &std::path::Path) -> Result<Vec<(tdc_simulate::Record, Vec<u8>)>, CliError> {
    Store::read(dir).map_err(|error| CliError::new(dir.display(), error))
}

fn original(stage: &Stage, sample: &Sample, before: usize) -> Result<(String, bool), CliError> {
    let stored = read(&stage.mailbox_dir())?;
    let new = stored.get(before..).unwrap_or_default();
    let [(record, bytes)] = new else {
        return Ok((format!("{} messages", new.len()), false));
    };
    let to: Vec<&str> = record.rcpt_to.iter().map(|to| to.address.as_str()).collect();
    let same_envelope = record.mail_from == sample.from && to == sample.to;
    let text = match (*bytes == sample.bytes, same_envelope) {
        (true, true) => format!("identical, {}", size(bytes.len())),
        (false, _) => format!("CHANGED, {} of {}", size(bytes.len()), size(sample.bytes.len())),
        (true, false) => "another envelope".to_owned(),
    };
    Ok((text, *bytes == sample.bytes && same_envelope))
}

fn copies(stage: &Stage, sample: &Sample, before: usize) -> Result<(String, bool), CliError> {
    let stored = read(&stage.intake_dir())?;
    let new = stored.get(before..).unwrap_or_default();
    if sample.copies.is_empty() {
        return Ok((
            if new.is_empty() {
                "nothing".into()
            } else {
                format!("{} copies", new.len())
            },
            new.is_empty(),
        ));
    }
    let mut good = new.len() == sample.copies.len();
    let mut texts = Vec::new();
    for (intake, recipients) in sample.copies {
        let address = stage.intake_address(intake);
        let found = new
            .iter()
            .find(|(record, _)| record.rcpt_to.iter().any(|to| to.address == address));
        let Some((record, bytes)) = found else {
            texts.push(format!("{intake}: MISSING"));
            good = false;
            continue;
        };
        let text = match tdc_core::journal::unwrap(bytes) {
            Err(error) => format!("{intake}: {error}"),
            Ok(report) if bytes[report.original.clone()] != sample.bytes => format!("{intake}: CHANGED"),
            Ok(report) if report.recipients != *recipients => format!("{intake}: other recipients"),
            Ok(_) if !record.mail_from.is_empty() => format!("{intake}: not from <>"),
            Ok(_) if record.tls.is_none() => format!("{intake}: in the clear"),
            Ok(report) => {
                texts.push(format!(
                    "{intake}: identical, {} rcpt, {:?}",
                    recipients.len(),
                    report.format
                ));
                continue;
            }
        };
        good = false;
        texts.push(text);
    }
    Ok((texts.join("; "), good))
}

fn size(octets: usize) -> String {
    match octets {
        0..10_000 => format!("{octets} B"),
        10_000..10_000_000 => format!("{} KB", octets / 1000),
        _ => format!("{} MB", octets / 1_000_000),
    }
}

fn table(rows: &[Row]) {
    let width = |of: fn(&Row) -> &str, least: usize| {
        rows.iter()
            .map(|row| of(row).chars().count())
            .max()
            .unwrap_or(0)
            .max(least)
    };
    let (name, policy) = (width(|r| r.name, 7), width(|r| r.policy, 6));
    let (mailbox, intake) = (width(|r| &r.mailbox, 11), width(|r| &r.intake, 10));
    let head = ("MESSAGE", "POLICY", "MAILBOX GOT", "INTAKE GOT");
    say(format_args!(
        "\n     {:name$}  {:policy$}  {:mailbox$}  {:intake$}  250 AFTER  COPY AFTER",
        head.0, head.1, head.2, head.3
    ));
    for row in rows {
        let mark = if row.good { "ok  " } else { "FAIL" };
        let copied = row
            .copied
            .map_or("-".to_owned(), |time| format!("{} ms", time.as_millis()));
        say(format_args!(
            "{mark} {:name$}  {:policy$}  {:mailbox$}  {:intake$}  {:>6} ms  {copied:>10}",
            row.name,
            row.policy,
            row.mailbox,
            row.intake,
            row.accepted.as_millis()
        ));
    }
}
