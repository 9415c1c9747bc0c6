//! A client of the API server.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use thiserror::Error;

/// How long a TCP connection to the API server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the API server may be silent within one call. Longer than a watch lasts ([`crate::watch`]), so that only
/// a dead connection is cut.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

/// A client, and the namespace that it speaks for.
#[derive(Clone)]
pub struct Connection {
    /// The client; cheap to clone.
    pub client: Client,
    /// The namespace of the kubeconfig's context or of the service account.
    pub namespace: String,
}

/// There is no way to an API server.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig {0} cannot be used: {1}")]
    File(String, #[source] kube::config::KubeconfigError),
    /// Neither a kubeconfig nor a service account.
    #[error(
        "there is no kubeconfig ($KUBECONFIG, ~/.kube/config) and no service account; give --kubeconfig FILE, or run \
         in a pod with a service account: {0}"
    )]
    Nowhere(#[source] Box<kube::config::InferConfigError>),
    /// The settings make no client.
    #[error("the Kubernetes client cannot be set up: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// Makes a client from a kubeconfig file, or as `kubectl` and pods do it. No call is made yet.
///
/// # Errors
/// When there are no settings, or they cannot be used.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Connection, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let failed = |error| ConnectError::File(path.display().to_string(), error);
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(failed)?
        }
        None => Config::infer()
            .await
            .map_err(|error| ConnectError::Nowhere(Box::new(error)))?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
    Ok(Connection { client, namespace })
}
