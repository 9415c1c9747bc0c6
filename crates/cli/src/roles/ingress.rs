//! `tdc ingress`

use std::sync::Arc;

use tdc_ingress::evaluate::Evaluation;
use tdc_ingress::{Deps, IngressMetrics};
use tdc_proto::v1::Node;
use tdc_proto::watch;
use tdc_queue::IdSource;

use crate::args::{EvaluationArg, IngressArgs};
use crate::error::CliError;
use crate::process::Process;
use crate::roles::edge;

pub(crate) async fn run(args: IngressArgs) -> Result<(), CliError> {
    let process = Process::start("ingress", &args.common).await?;
    let queue = process.redis("ingress/queue", &args.redis.redis).await?;
    let channel = args.policy.connect().await?;
    let node = Node {
        name: process.instance.clone(),
        role: "ingress".to_owned(),
    };
    let (snapshots, contact) = watch::watch_snapshots(channel.clone(), node);
    let evaluation = match args.evaluation {
        EvaluationArg::Remote => Evaluation::remote(channel, snapshots, contact, args.max_staleness),
        EvaluationArg::Local => Evaluation::local(snapshots, contact, args.max_staleness),
    };
    watch_policy(&process, evaluation.clone());
    let deps = Deps {
        ids: Arc::new(IdSource::start(queue.clone()).await),
        queue,
        evaluation,
        mail_log: process.guard.mail_log(),
        metrics: IngressMetrics::new(&process.metrics),
    };
    let ingress = edge::bind(&args.edge, &process.hostname, deps).await?;
    ingress.run(process.shutdown.clone()).await;
    process.end().await;
    Ok(())
}

/// Readiness depends on a snapshot that is fresh enough; its age shows in a metric all the time.
fn watch_policy(process: &Process, evaluation: Evaluation) {
    let age = process.metrics.scope("ingress").gauge(
        "policy_staleness_seconds",
        "How long the policy service has been out of reach; 0: the table is the newest",
    );
    process.watch_check(process.health.check("ingress/policy"), move || {
        let usable = evaluation.snapshot().is_some();
        let staleness = evaluation.staleness();
        // Rounded up: out of reach is never 0.
        age.set(staleness.as_secs() as i64 + i64::from(staleness.subsec_nanos() > 0));
        async move {
            if usable {
                return Ok(());
            }
            Err(format!(
                "there is no usable policy snapshot; the policy service is out of reach for {staleness:?}"
            ))
        }
    });
}
