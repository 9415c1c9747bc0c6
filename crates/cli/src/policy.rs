//! `tdc policy`: the service, and a look at what the policies do.

use tdc_api::ConfigWatcher;
use tdc_core::evaluator::{Decision, Snapshot};
use tdc_core::policy::{Journaling, SnapshotVersion};
use tdc_core::{Envelope, Mailbox, ReversePath};
use tdc_policy::{Feed, PolicyMetrics, PolicyServer, Store};
use tdc_proto::v1::policy_service_client::PolicyServiceClient;
use tdc_proto::{channel, v1};

use crate::args::{GrpcTlsArgs, PolicyArgs, PolicyLook, PolicySourceArgs, PolicyTestArgs};
use crate::error::CliError;
use crate::process::Process;
use crate::roles::standalone::POLL;
use crate::say;

pub(crate) async fn run(args: PolicyArgs) -> Result<(), CliError> {
    match args.look {
        Some(PolicyLook::Test(test)) => self::test(test).await,
        Some(PolicyLook::Show(source)) => show(&source),
        None => serve(args).await,
    }
}

async fn serve(args: PolicyArgs) -> Result<(), CliError> {
    let dir = args
        .config
        .clone()
        .ok_or_else(|| CliError::text("--config DIR is missing"))?;
    let process = Process::start("policy", &args.common).await?;
    let files = ConfigWatcher::start(&dir, POLL)
        .await
        .map_err(|errors| CliError::new(format!("--config {}", dir.display()), format!("\n{errors}")))?;
    let metrics = PolicyMetrics::new(&process.metrics);
    let snapshots =
        Feed::new(&process.instance, metrics.clone()).follow(files.subscribe(), |loaded| &loaded.compiled);
    let failed = |error: &dyn std::fmt::Display| {
        CliError::new(format!("cannot serve on {} (--listen)", args.listen), error)
    };
    let server = PolicyServer::bind(args.listen, Store::default(), metrics)
        .await
        .map_err(|error| failed(&error))?
        .with_tls(args.tls.server().await?);
    let address = server.local_addr().map_err(|error| failed(&error))?;
    tracing::info!(%address, "Serving policy decisions.");
    let known = snapshots.clone();
    process.watch_check(process.health.check("policy/snapshot"), move || {
        let known = known.borrow().is_some();
        async move {
            if known {
                Ok(())
            } else {
                Err("the policy table cannot be used".to_owned())
            }
        }
    });
    server
        .run(snapshots, process.shutdown.clone())
        .await
        .map_err(|error| failed(&error))?;
    drop(files);
    process.end().await;
    Ok(())
}

async fn test(args: PolicyTestArgs) -> Result<(), CliError> {
    let from = args.from.trim().trim_start_matches('<').trim_end_matches('>');
    let envelope = Envelope {
        sender: ReversePath::new(from),
        recipients: args.to.iter().map(|to| Mailbox::new(to.trim())).collect(),
    };
    let decision = match (&args.server, &args.config) {
        (Some(server), _) => ask(server.clone(), &args.tls, &envelope).await?,
        (None, Some(dir)) => snapshot(dir)?.evaluate(&envelope),
        (None, None) => return Err(CliError::text("give --config DIR or --server HOST:PORT")),
    };
    report(&envelope, &decision);
    Ok(())
}

async fn ask(
    server: channel::PolicyAddress,
    tls: &GrpcTlsArgs,
    envelope: &Envelope,
) -> Result<Decision, CliError> {
    let shown = server.to_string();
    let failed = |why: &dyn std::fmt::Display| CliError::new(format!("the policy service at {shown}"), why);
    let tls = tls.client(&server).await?;
    let mut client = PolicyServiceClient::new(channel::connect(server, tls));
    let mut request = tonic::Request::new(v1::EvaluateRequest {
        envelopes: vec![envelope.into()],
    });
    let limit = std::time::Duration::from_secs(5);
    request.set_timeout(limit);
    let response = tokio::time::timeout(limit, client.evaluate(request))
        .await
        .map_err(|_| failed(&"does not answer within 5 s"))?
        .map_err(|status| failed(&status.message()))?;
    let decision = response
        .into_inner()
        .decisions
        .pop()
        .ok_or_else(|| failed(&"answered with no decision"))?;
    Decision::try_from(decision).map_err(|error| failed(&error))
}

fn snapshot(dir: &std::path::Path) -> Result<Snapshot, CliError> {
    let objects = tdc_api::load_dir(dir)
        .map_err(|errors| CliError::new(format!("--config {}", dir.display()), format!("\n{errors}")))?;
    let compiled = tdc_api::compile(&objects);
    Snapshot::new(SnapshotVersion::default(), compiled.table)
        .map_err(|error| CliError::text(error.to_string()))
}

fn report(envelope: &Envelope, decision: &Decision) {
    for (recipient, verdict) in envelope.recipients.iter().zip(&decision.recipients) {
        let by = match (&verdict.policy, verdict.row) {
            (Some(policy), Some(row)) => format!("policy {policy}, row {row}"),
            (Some(policy), None) => format!("policy {policy} (no rows: everyone)"),
            (None, _) => "no policy (defaultJournaling)".to_owned(),
        };
        say(format_args!(
            "{recipient}: {by}: {}",
            journaling(&verdict.journaling)
        ));
    }
    if decision.copies.is_empty() {
        say("no copy is due");
    }
    for copy in &decision.copies {
        let listed: Vec<&str> = copy
            .recipients
            .iter()
            .map(|at| envelope.recipients[*at].as_str())
            .collect();
        say(format_args!(
            "copy for intake {}: lists {}",
            copy.intake,
            listed.join(", ")
        ));
    }
}

fn journaling(journaling: &Journaling) -> String {
    match journaling {
        Journaling::Disabled => "not journaled".to_owned(),
        Journaling::Intake(name) => format!("journaled to intake {name}"),
        Journaling::Unresolved(why) => format!("cannot be journaled: {why}"),
    }
}

fn show(args: &PolicySourceArgs) -> Result<(), CliError> {
    let table = snapshot(&args.config)?.table;
    let connector = &table.connector;
    let state = if connector.enabled {
        "enabled"
    } else {
        "disabled: nothing is journaled"
    };
    say(format_args!(
        "connector {}: {state}",
        if connector.object.name.is_empty() {
            "(none)"
        } else {
            &connector.object.name
        }
    ));
    for intake in &table.intakes {
        say(format_args!("intake {}: {}", intake.name, intake.address));
    }
    for policy in &table.policies {
        say(format_args!(
            "{:>6}  {}: {}",
            policy.order,
            policy.object.name,
            journaling(&policy.journaling)
        ));
        for (number, row) in policy.rows.iter().enumerate() {
            say(format_args!("        row {number}: {}", row_text(row)));
        }
    }
    say(format_args!(
        "everyone else: {}",
        journaling(&connector.default_journaling)
    ));
    Ok(())
}

fn row_text(row: &tdc_core::policy::Row) -> String {
    let list = |name: &str, patterns: &[tdc_core::pattern::Pattern]| {
        let texts: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        (!texts.is_empty()).then(|| format!("{name} [{}]", texts.join(" ")))
    };
    let mut parts = Vec::new();
    if let Some(senders) = &row.senders {
        parts.extend(list("sender any of", &senders.any_of));
        parts.extend(list("sender none of", &senders.none_of));
    }
    if let Some(recipients) = &row.recipients {
        parts.extend(list("recipient any of", &recipients.any_of));
        parts.extend(list("all of", &recipients.all_of));
        parts.extend(list("none of", &recipients.none_of));
    }
    let joint = if row.combine == tdc_core::policy::Combine::Any {
        ", combined by any"
    } else {
        ""
    };
    format!("{}{joint}", parts.join(", "))
}
