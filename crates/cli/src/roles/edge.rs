//! From flags to an ingress.

use std::net::SocketAddr;

use rustix::process::{Resource, getrlimit, setrlimit};
use tdc_core::policy::FailurePolicy;
use tdc_ingress::{Deps, Ingress, IngressConfig, Limits, ListenerConfig, TlsFiles};
use tdc_smtp::BareLf;

use crate::args::{BareLfArg, EdgeArgs, FailurePolicyArg};
use crate::error::CliError;

/// Open files beside connections: listeners, the queue, the policy service, the log.
const OTHER_FILES: u64 = 100;

/// The configuration that the flags say.
pub(crate) fn config(args: &EdgeArgs, hostname: &str) -> Result<IngressConfig, CliError> {
    let next_hop = args.next_hop.config(hostname)?;
    let tls = args.tls_cert.clone().zip(args.tls_key.clone());
    Ok(IngressConfig {
        listeners: listeners(args),
        max_size: args.max_size,
        limits: limits(args),
        bare_lf: match args.bare_lf {
            BareLfArg::Normalize => BareLf::Normalize,
            BareLfArg::Reject => BareLf::Reject,
        },
        forbid_unauth_pipelining: args.forbid_unauth_pipelining,
        allow_from: args.allow_from.clone(),
        proxy_from: args.proxy_from.clone(),
        xclient_from: args.xclient_from.clone(),
        tls: tls.map(|(cert, key)| TlsFiles { cert, key }),
        tls_required: args.tls_required,
        failure_policy: match args.failure_policy {
            FailurePolicyArg::Fail => FailurePolicy::Fail,
            FailurePolicyArg::Ignore => FailurePolicy::Ignore,
        },
        queue_timeout: args.queue_timeout,
        drain_delay: args.drain_delay,
        grace: args.grace,
        ..IngressConfig::new(hostname, next_hop)
    })
}

fn listeners(args: &EdgeArgs) -> Vec<ListenerConfig> {
    let kinds = [
        (&args.listen, false, false),
        (&args.listen_tls, false, true),
        (&args.listen_proxy, true, false),
        (&args.listen_proxy_tls, true, true),
    ];
    let of_kind = |(addresses, proxy, tls): (&Vec<SocketAddr>, bool, bool)| {
        let listener = move |address: &SocketAddr| ListenerConfig {
            address: *address,
            proxy,
            tls,
        };
        addresses.iter().map(listener).collect::<Vec<_>>()
    };
    kinds.into_iter().flat_map(of_kind).collect()
}

fn limits(args: &EdgeArgs) -> Limits {
    Limits {
        connections: args.max_connections,
        connections_per_network: args.max_connections_per_network,
        connection_rate: args.connection_rate,
        prefix_v4: args.network_prefix_v4,
        prefix_v6: args.network_prefix_v6,
        messages: args.max_messages,
        recipients: args.max_recipients,
        line: args.max_line as usize,
        header: args.max_header.into(),
        hops: args.max_hops as usize,
        soft_errors: args.soft_errors,
        error_delay: args.error_delay,
        errors: args.max_errors,
        junk: args.max_junk,
        memory: args.memory_budget,
        timeout: args.client_timeout,
        data_rate: args.min_data_rate,
        lifetime: args.session_lifetime,
        proxy_timeout: args.proxy_timeout,
        handshake_timeout: args.tls_handshake_timeout,
    }
}

/// Listens, and says where.
pub(crate) async fn bind(args: &EdgeArgs, hostname: &str, deps: Deps) -> Result<Ingress, CliError> {
    let config = config(args, hostname)?;
    descriptors(args.max_connections);
    let ingress = Ingress::bind(config, deps)
        .await
        .map_err(|error| CliError::text(error.to_string()))?;
    for listener in ingress.listeners() {
        let (address, next_hop) = (listener.address, args.next_hop.names());
        match (listener.proxy, listener.tls) {
            (false, false) => tracing::info!(%address, next_hop = %next_hop, "Accepting mail."),
            (false, true) => tracing::info!(%address, next_hop = %next_hop, "Accepting mail over TLS."),
            (true, false) => {
                tracing::info!(%address, next_hop = %next_hop, "Accepting mail behind PROXY headers.");
            }
            (true, true) => {
                tracing::info!(%address, next_hop = %next_hop, "Accepting mail over TLS behind PROXY headers.");
            }
        }
    }
    Ok(ingress)
}

/// Where it listens in the clear.
pub(crate) fn address(ingress: &Ingress) -> Result<SocketAddr, CliError> {
    let plain = ingress
        .listeners()
        .find(|listener| !listener.proxy && !listener.tls);
    plain
        .map(|listener| listener.address)
        .ok_or_else(|| CliError::text("there is no listener in the clear".to_owned()))
}

/// Raises the limit on open files as far as it goes, and says when it is too low for the connections: each may need one
/// to the client and one to the next hop.
fn descriptors(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum;
    if limit.current != hard {
        limit.current = hard;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "The limit on open files cannot be raised.");
        }
    }
    let needed = connections as u64 * 2 + OTHER_FILES;
    if let Some(current) = getrlimit(Resource::Nofile).current
        && current < needed
    {
        tracing::warn!(
            limit = current,
            needed,
            "Fewer files may be open than --max-connections may need; connections beyond it wait."
        );
    }
}
