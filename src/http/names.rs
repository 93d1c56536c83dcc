//! Host names → addresses, each looked up once in a run.
//!
//! A resolver that is asked for every connection of a parallel download answers some of them with
//! "try again"; and a run should not change over to another server half-way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

/// What is known of a host; being looked up until it is set.
type Known = Arc<OnceCell<Vec<SocketAddr>>>;

/// The names of a run. Failures are not kept.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: Mutex<BTreeMap<String, Known>>,
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let known = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(host.clone()).or_default())
        };
        Box::pin(async move {
            let look_up = || async {
                // The port is the connector's to set.
                let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
                Ok::<_, std::io::Error>(found.collect())
            };
            let addresses = known.get_or_try_init(look_up).await?;
            Ok(Box::new(addresses.clone().into_iter()) as Addrs)
        })
    }
}
