//! From flags to a cluster that is watched.

use std::path::PathBuf;

use clap::Args;
use tdc_cluster::{Connection, Scope};

use crate::error::CliError;

/// Which cluster, and which of its namespaces.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterArgs {
    /// The cluster's kubeconfig; the default is $KUBECONFIG, ~/.kube/config, or the pod's service account
    #[arg(long, env = "TDC_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The namespace of the resources; the default is that of the kubeconfig's context or of the pod
    #[arg(long, env = "TDC_NAMESPACE", value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// The resources of all namespaces in one table; --namespace is then the one whose connector speaks for whole
    /// messages
    #[arg(long, env = "TDC_ALL_NAMESPACES")]
    pub(crate) all_namespaces: bool,
}

impl ClusterArgs {
    /// The client, and what to look at. No call is made: the cluster may be away.
    pub(crate) async fn connect(&self) -> Result<(Connection, Scope), CliError> {
        let mut connection = tdc_cluster::connect(self.kubeconfig.as_deref())
            .await
            .map_err(|error| CliError::new("cannot use the Kubernetes API", error))?;
        if let Some(namespace) = &self.namespace {
            connection.namespace.clone_from(namespace);
        }
        let home = connection.namespace.clone();
        let scope = if self.all_namespaces {
            Scope::All { home }
        } else {
            Scope::Namespace(home)
        };
        Ok((connection, scope))
    }
}
