//! A transfer's signs of life.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When something last moved. A streamed body holds a clone and says [`Self::moved`] with every piece
/// it gives, so that an upload may take an hour but not stand still.
#[derive(Clone, Debug)]
pub struct Watch {
    last: Arc<Mutex<Instant>>,
}

impl Default for Watch {
    /// Something moved just now.
    fn default() -> Self {
        Self { last: Arc::new(Mutex::new(Instant::now())) }
    }
}

impl Watch {
    /// Something moved.
    pub fn moved(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns once nothing has moved for `timeout`.
    pub async fn stalled(&self, timeout: Duration) {
        loop {
            let still = self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            match timeout.checked_sub(still) {
                None | Some(Duration::ZERO) => return,
                Some(left) => tokio::time::sleep(left).await,
            }
        }
    }
}
