//! The custom resources of a Kubernetes cluster, watched: one index that the policy service and the operator share.
//!
//! It exists so that both see a cluster in the same way and say the same of every object: the index is fed by three
//! watches and compiled with the one function of `tdc-api`.
//!
//! What always holds:
//! - A watch that breaks, an API server that is away, or an object that cannot be read never takes anything away:
//!   the index keeps what it knows until a full list says otherwise. A watch is opened again for ever, with a pause
//!   that grows to a few seconds; a connection that is silently dead is noticed after about a minute.
//! - Nothing is published before all three kinds were listed once: a table without its intakes would turn mail away.
//! - A burst of changes is one compilation, [`DEBOUNCE`] after the first of them; a change of a status is none.
//! - Nothing is written to the cluster from here.
//!
//! | room | holds |
//! |---|---|
//! | [`connect`] | the client: kubeconfig or service account |
//! | [`index`] | what is known: pure, driven by watch events |
//! | [`Cluster`] | the watches, and what follows from a change |

mod client;
pub mod index;
mod watch;

pub use client::{ConnectError, Connection, connect};
pub use index::{Index, Key, Known, Scope};
pub use watch::{Cluster, DEBOUNCE};

pub use kube::Client;
