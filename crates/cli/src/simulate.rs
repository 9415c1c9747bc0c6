//! `tdc simulate`

use tdc_simulate::config::{all_extensions, set_keyword};
use tdc_simulate::refuse::RejectAt;
use tdc_simulate::{Common, IntakeConfig, MailboxConfig, Rejection, Script, TlsSource};

use crate::args::{SimulateArgs, SimulateCommonArgs, SimulateWhat};
use crate::error::CliError;
use crate::say;

pub(crate) async fn run(args: SimulateArgs) -> Result<(), CliError> {
    let (_, shutdown) =
        tdc_telemetry::signals().map_err(|error| CliError::new("cannot take signals", error))?;
    let (name, server) = match args.what {
        SimulateWhat::Mailbox(args) => {
            let config = MailboxConfig {
                common: common(&args.common, "mailbox")?,
                extensions: extensions(&args.common)?,
                tls: args.common.tls_dir.is_some().then(|| tls(&args.common)),
            };
            ("mailbox", tdc_simulate::bind(config).await)
        }
        SimulateWhat::Intake(args) => {
            let config = IntakeConfig {
                common: common(&args.common, "intake")?,
                extensions: extensions(&args.common)?,
                tls: tls(&args.common),
                require_tls: !args.allow_plaintext,
            };
            ("intake", tdc_simulate::bind(config).await)
        }
    };
    let server = server.map_err(|error| CliError::text(error.to_string()))?;
    say(format_args!("{name} listening on {}", server.local_addr()));
    let report = server.run(async move { shutdown.started().await }).await;
    say(report.map_err(|error| CliError::text(error.to_string()))?);
    Ok(())
}

fn common(args: &SimulateCommonArgs, name: &str) -> Result<Common, CliError> {
    let rules = |at, flag: &str, rules: &[String]| {
        let parse = |rule: &String| Rejection::parse(at, rule).map_err(|error| CliError::new(flag, error));
        rules.iter().map(parse).collect::<Result<Vec<_>, _>>()
    };
    let mut rejections = rules(RejectAt::Rcpt, "--reject-rcpt", &args.reject_rcpt)?;
    rejections.extend(rules(
        RejectAt::BodyEnd,
        "--reject-message",
        &args.reject_message,
    )?);
    let script = args.script.as_deref().map(Script::load).transpose();
    let script = script.map_err(|errors| CliError::text(errors.to_string()))?;
    Ok(Common {
        listen: args.listen,
        hostname: format!("{name}.localhost"),
        store: args.store.clone(),
        report: args.report.clone(),
        latency: args.latency,
        rejections,
        script,
        ..Common::default()
    })
}

fn extensions(args: &SimulateCommonArgs) -> Result<tdc_smtp::Extensions, CliError> {
    let mut extensions = all_extensions();
    for keyword in &args.without {
        set_keyword(&mut extensions, keyword, false).map_err(|error| CliError::new("--without", error))?;
    }
    Ok(extensions)
}

fn tls(args: &SimulateCommonArgs) -> TlsSource {
    TlsSource {
        dir: args.tls_dir.clone(),
        names: args.tls_name.clone(),
    }
}
