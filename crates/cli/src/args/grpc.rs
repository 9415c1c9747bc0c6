//! Flags of the roles that call each other by gRPC: where the policy service is, and who proves what to whom.

use std::path::PathBuf;

use clap::Args;
use tdc_proto::channel::{self, PolicyAddress};
use tdc_proto::tls::{ClientTls, ServerTls, TlsFiles};
use tonic::transport::Channel;

use crate::error::CliError;

/// Mutual TLS between the roles: all three or none.
#[derive(Debug, Clone, Args)]
pub(crate) struct GrpcTlsArgs {
    /// Certificate chain for gRPC in PEM; with it gRPC is mutual TLS. The three files are read again when they change
    #[arg(long, env = "TDC_GRPC_TLS_CERT", requires_all = ["grpc_tls_key", "grpc_tls_ca"], value_name = "FILE")]
    pub(crate) grpc_tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(
        long,
        env = "TDC_GRPC_TLS_KEY",
        requires = "grpc_tls_cert",
        value_name = "FILE"
    )]
    pub(crate) grpc_tls_key: Option<PathBuf>,
    /// The authorities that sign the other side's certificate, in PEM
    #[arg(
        long,
        env = "TDC_GRPC_TLS_CA",
        requires = "grpc_tls_cert",
        value_name = "FILE"
    )]
    pub(crate) grpc_tls_ca: Option<PathBuf>,
}

impl GrpcTlsArgs {
    /// The three files, when they are given.
    fn files(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            cert: self.grpc_tls_cert.clone()?,
            key: self.grpc_tls_key.clone()?,
            ca: self.grpc_tls_ca.clone()?,
        })
    }

    /// For the service's side.
    pub(crate) async fn server(&self) -> Result<Option<ServerTls>, CliError> {
        let Some(files) = self.files() else {
            return Ok(None);
        };
        let tls = ServerTls::follow(files).await;
        tls.map(Some)
            .map_err(|error| CliError::new("mutual TLS (--grpc-tls-*)", error))
    }

    /// For a client of the service at this address.
    pub(crate) async fn client(&self, address: &PolicyAddress) -> Result<Option<ClientTls>, CliError> {
        let Some(files) = self.files() else {
            return Ok(None);
        };
        let tls = ClientTls::follow(files, address.host()).await;
        tls.map(Some)
            .map_err(|error| CliError::new("mutual TLS (--grpc-tls-*)", error))
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PolicyClientArgs {
    /// The policy service; all addresses of the name are used
    #[arg(long, env = "TDC_POLICY", value_name = "HOST:PORT")]
    pub(crate) policy: PolicyAddress,
    #[command(flatten)]
    pub(crate) tls: GrpcTlsArgs,
}

impl PolicyClientArgs {
    /// A channel over all replicas of the service.
    pub(crate) async fn connect(&self) -> Result<Channel, CliError> {
        let tls = self.tls.client(&self.policy).await?;
        Ok(channel::connect(self.policy.clone(), tls))
    }
}
