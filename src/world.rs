//! The handles to the world that a run holds: no decisions here.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::oci::Platform;
use crate::{package_index, registry, sandbox, store::Store, wheel_cache};

/// Everything outside the process, opened once by the command line and passed on.
#[derive(Clone, Debug)]
pub struct World {
    /// The content-addressed cache.
    pub store: Store,
    /// Container registries.
    pub registry: registry::Client,
    /// Package indexes and local wheel folders.
    pub package_index: package_index::Client,
    /// Where wheels that others built are looked for, if anywhere.
    pub wheel_cache: Option<wheel_cache::Cache>,
    /// How foreign code is run.
    pub sandbox: sandbox::Sandbox,
    /// Where notices and progress go.
    pub progress: Arc<dyn Progress>,
    /// How many blobs, wheels or cells are worked on at once, at least 1. Never changes a digest.
    pub parallel: usize,
    /// The project's root: the folder that holds `matrix/` and `layers/`.
    pub root: PathBuf,
}

/// What runs on this machine without help.
pub fn host_platform() -> Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", None),
        "aarch64" => ("arm64", None),
        "x86" => ("386", None),
        "arm" => ("arm", Some("v7".to_owned())),
        "powerpc64" => ("ppc64le", None),
        other => (other, None),
    };
    Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant }
}

/// Runs work that keeps a processor or a disk busy, away from the threads that wait for servers, and
/// returns what it returns. A panic of it goes on in the caller.
pub async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Nobody gives such work up, so that is all that can have happened.
        Err(failed) => resume_unwind(failed.into_panic()),
    }
}

/// Does `work` for each number below `count`, on at most `parallel` threads; returns the results in
/// their order.
pub fn side_by_side<T: Send>(
    count: usize,
    parallel: usize,
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return done;
            }
            done.push((number, work(number)));
        }
    };
    let mut done = thread::scope(|scope| {
        // This thread is one of them.
        let others: Vec<_> = (1..parallel.min(count)).map(|_| scope.spawn(run)).collect();
        let mut done = run();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// What a run tells the person while it works. Only `cli` prints; rooms report.
pub trait Progress: Send + Sync + std::fmt::Debug {
    /// A step begins or ends: `fetching gevent-26.9.0-….whl`.
    fn step(&self, message: &str);
    /// Something worth knowing that is no error: `zope.interface was built pure: no compiler`.
    fn notice(&self, message: &str);
    /// `done` of `total` bytes of the transfer called `what` have flowed; `done == total` ends it.
    fn bytes(&self, what: &str, done: u64, total: u64);
    /// A part of the work took that long. Nobody has to care.
    fn spent(&self, _on: Work, _time: Duration) {}
}

/// What a run's time goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Versions are chosen.
    Resolve,
    /// Documents, layers, wheels and sdists come from servers, or are found to be here.
    Fetch,
    /// Sdists become wheels, or are found to have become them.
    Build,
    /// Wheels are installed and compressed, and the layer is written meanwhile.
    Compress,
    /// A layer gets its end, its digest and its name.
    Hash,
    /// The layers are compared with the base, and started.
    Check,
    /// Archives and layouts are written.
    Write,
    /// Registries are asked and get what they lack.
    Push,
}

impl Work {
    /// `resolve`, `fetch`, …
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Fetch => "fetch",
            Self::Build => "build",
            Self::Compress => "compress",
            Self::Hash => "hash",
            Self::Check => "check",
            Self::Write => "write",
            Self::Push => "push",
        }
    }

    /// Times what `doing` does. The time goes to `progress` and nowhere else.
    pub fn time<T>(
        self,
        progress: &dyn Progress,
        doing: impl Future<Output = T>,
    ) -> impl Future<Output = T> {
        // Boxed: it would be in the caller's future twice.
        let doing = Box::pin(doing);
        async move {
            let begin = Instant::now();
            let done = doing.await;
            progress.spent(self, begin.elapsed());
            done
        }
    }
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn step(&self, _: &str) {}
    fn notice(&self, _: &str) {}
    fn bytes(&self, _: &str, _: u64, _: u64) {}
}
