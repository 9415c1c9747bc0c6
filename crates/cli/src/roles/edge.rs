//! From flags to an ingress.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tdc_core::policy::FailurePolicy;
use tdc_ingress::{Deps, Ingress, IngressConfig};
use tdc_smtp::BareLf;

use crate::args::{BareLfArg, EdgeArgs, FailurePolicyArg};
use crate::error::CliError;

/// Added to the next hop's time for the final dot before an entry counts as in doubt.
const IN_DOUBT_MARGIN: Duration = Duration::from_secs(20);

/// The configuration that the flags say.
pub(crate) fn config(args: &EdgeArgs, hostname: &str) -> Result<IngressConfig, CliError> {
    let next_hop = args.next_hop.config(hostname)?;
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(tls(cert, key)?),
        _ => None,
    };
    Ok(IngressConfig {
        hostname: hostname.to_owned(),
        max_size: args.max_size,
        max_recipients: args.max_recipients,
        max_connections: args.max_connections,
        bare_lf: match args.bare_lf {
            BareLfArg::Normalize => BareLf::Normalize,
            BareLfArg::Reject => BareLf::Reject,
        },
        allow_from: args.allow_from.clone(),
        client_timeout: args.client_timeout,
        in_doubt_after: next_hop.deadlines.block + next_hop.deadlines.dot + IN_DOUBT_MARGIN,
        next_hop,
        tls,
        tls_required: args.tls_required,
        failure_policy: match args.failure_policy {
            FailurePolicyArg::Fail => FailurePolicy::Fail,
            FailurePolicyArg::Ignore => FailurePolicy::Ignore,
        },
        queue_timeout: args.queue_timeout,
        drain_delay: args.drain_delay,
        grace: args.grace,
    })
}

/// Listens, and says where.
pub(crate) async fn bind(args: &EdgeArgs, hostname: &str, deps: Deps) -> Result<Ingress, CliError> {
    let config = config(args, hostname)?;
    let failed = |error| CliError::new(format!("cannot listen on {} (--listen)", args.listen), error);
    let ingress = Ingress::bind(args.listen, config, deps).await.map_err(failed)?;
    let address = ingress.local_addr().map_err(failed)?;
    tracing::info!(%address, next_hop = args.next_hop.names(), "Accepting mail.");
    Ok(ingress)
}

fn tls(cert: &Path, key: &Path) -> Result<Arc<rustls::ServerConfig>, CliError> {
    let bad_cert =
        |error: &dyn std::fmt::Display| CliError::new(format!("--tls-cert {}", cert.display()), error);
    let bad_key =
        |error: &dyn std::fmt::Display| CliError::new(format!("--tls-key {}", key.display()), error);
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad_cert(&error))?;
    if chain.is_empty() {
        return Err(bad_cert(&"holds no certificate in PEM"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_key(&error))?;
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| bad_key(&error))?;
    Ok(Arc::new(config))
}
