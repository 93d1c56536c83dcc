//! Many cells at once: side by side, reported in the matrix's order.

use std::collections::BTreeMap;
use std::panic::resume_unwind;

use serde::Serialize;
use tokio::task::JoinSet;

use super::error::Error;
use super::progress::Terminal;
use super::report;
use crate::error::{Doing, Kind, Result};

/// What became of some cells.
pub(super) struct Outcomes<T> {
    /// In the matrix's order.
    pub done: Vec<T>,
    /// In the matrix's order: the cell and why.
    pub failed: Vec<(String, crate::Error)>,
    /// How many were meant.
    of: usize,
}

/// A failed cell, as `--json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Failed {
    /// The cell's path.
    pub cell: String,
    /// The exit code it would have had alone.
    pub exit_code: u8,
    /// What was being done, why it failed, and what to do next.
    pub error: String,
}

/// Does `work` for every cell, at most `parallel` at once, each as a task of its own if there are
/// several.
///
/// Without `keep_going` no further cell is begun after a failure and those behind it are given up;
/// those before it are finished, so that the failure that is reported does not depend on who was
/// faster.
pub(super) async fn each<I, T, F>(
    cells: Vec<(String, I)>,
    parallel: usize,
    keep_going: bool,
    work: impl Fn(I) -> F,
) -> Outcomes<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let of = cells.len();
    let mut cells = cells;
    // One alone stays on this thread, and so does its memory: what a thread frees others do not get.
    if of == 1
        && let Some((name, item)) = cells.pop()
    {
        return match Box::pin(work(item)).await {
            Ok(result) => Outcomes { done: vec![result], failed: Vec::new(), of },
            Err(error) => Outcomes { done: Vec::new(), failed: vec![(name, error)], of },
        };
    }
    let names: Vec<String> = cells.iter().map(|(name, _)| name.clone()).collect();
    let mut waiting = cells.into_iter().map(|(_, item)| item).enumerate();
    let mut tasks = JoinSet::new();
    let mut running = BTreeMap::new();
    let mut ended = BTreeMap::new();
    let mut stopped_at = None;
    loop {
        while tasks.len() < parallel.max(1)
            && stopped_at.is_none()
            && let Some((position, item)) = waiting.next()
        {
            let future = work(item);
            running.insert(position, tasks.spawn(async move { (position, future.await) }));
        }
        let (position, outcome) = match tasks.join_next().await {
            None => break,
            Some(Ok(ended)) => ended,
            Some(Err(failed)) => match failed.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_given_up) => continue,
            },
        };
        running.remove(&position);
        if outcome.is_err() && !keep_going {
            stopped_at = Some(stopped_at.map_or(position, |first: usize| first.min(position)));
            running.range(position..).for_each(|(_, task)| task.abort());
        }
        ended.insert(position, outcome);
    }
    let mut outcomes = Outcomes { done: Vec::new(), failed: Vec::new(), of };
    for (position, outcome) in ended {
        match outcome {
            Ok(result) => outcomes.done.push(result),
            Err(error) => outcomes.failed.push((names[position].clone(), error)),
        }
    }
    outcomes
}

impl<T> Outcomes<T> {
    /// The failures as `--json` prints them.
    pub(super) fn failures(&self) -> Vec<Failed> {
        let failed = self.failed.iter().map(|(cell, error)| Failed {
            cell: cell.clone(),
            exit_code: error.kind().exit_code(),
            error: report::error(error),
        });
        failed.collect()
    }

    /// Shows every failure and returns the one that says how bad it was: of one cell its own, of
    /// several a count with the kind of the worst.
    pub(super) fn verdict(mut self, doing: &'static str, terminal: &Terminal) -> Result<()> {
        let Some(worst) = self.failed.iter().map(|(_, error)| error.kind()).max() else {
            return Ok(());
        };
        if self.of == 1
            && let Some((_, error)) = self.failed.pop()
        {
            return Err(error);
        }
        for (cell, error) in &self.failed {
            terminal.error(&format!("{cell}: {}", report::error(error)));
        }
        let failed = self.failed.len();
        let not_begun = self.of - failed - self.done.len();
        Err(Error::Cells { failed, of: self.of, worst, not_begun }).doing(|| doing.to_owned())
    }
}

/// The kinds in [`Outcomes::failed`], for tables: `failed (4)`.
pub(super) fn failed_word(kind: Kind) -> String {
    format!("failed ({})", kind.exit_code())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::Kind;

    fn failing(kind: Kind) -> crate::Error {
        crate::Error::new("x", Error::Cells { failed: 0, of: 0, worst: kind, not_begun: 0 })
    }

    /// Each cell sleeps, then ends as it is told; the ends, how many ran at once, how many began.
    async fn run(
        cells: &[(u64, Option<Kind>)],
        parallel: usize,
        keep_going: bool,
    ) -> (Outcomes<u64>, usize, usize) {
        let (now, most, begun) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicUsize::new(0)),
        );
        let named: Vec<_> =
            cells.iter().enumerate().map(|(n, cell)| (format!("cell {n}"), *cell)).collect();
        let outcomes = each(named, parallel, keep_going, |(sleep, kind)| {
            let (now, most, begun) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&begun));
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(sleep)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                kind.map_or(Ok(sleep), |kind| Err(failing(kind)))
            }
        })
        .await;
        (outcomes, most.load(Ordering::SeqCst), begun.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn order_is_the_matrixs_and_few_run_at_once() {
        let cells = [(30, None), (10, None), (20, None), (1, None), (5, None)];
        let (outcomes, most, begun) = run(&cells, 2, false).await;
        assert_eq!(outcomes.done, [30, 10, 20, 1, 5]);
        assert_eq!((most, begun), (2, 5));
        assert!(outcomes.verdict("x", &Terminal::new(true)).is_ok());
    }

    #[tokio::test]
    async fn the_first_failure_in_order_stops_the_rest() {
        // The second fails late, the third at once: the second is what is reported first.
        let cells = [
            (50, None),
            (40, Some(Kind::Remote)),
            (10, Some(Kind::Usage)),
            (60_000, None),
            (1, None),
        ];
        let (outcomes, _, begun) = run(&cells, 4, false).await;
        let failed: Vec<_> = outcomes.failed.iter().map(|(cell, _)| cell.as_str()).collect();
        assert_eq!(failed, ["cell 1", "cell 2"]);
        assert_eq!((outcomes.done.as_slice(), begun), ([50].as_slice(), 4));
        let error = outcomes.verdict("x", &Terminal::new(true)).unwrap_err();
        assert_eq!(error.kind(), Kind::Remote);
        assert!(error.hint().unwrap().contains("--keep-going"));
    }

    #[tokio::test]
    async fn whoever_keeps_going_does_all_and_reports_the_worst() {
        let cells = [(1, Some(Kind::Remote)), (9, None), (5, Some(Kind::Integrity)), (2, None)];
        let (outcomes, _, begun) = run(&cells, 1, true).await;
        assert_eq!(outcomes.done, [9, 2]);
        assert_eq!(begun, 4);
        let exits: Vec<u8> = outcomes.failures().iter().map(|failed| failed.exit_code).collect();
        assert_eq!(exits, [4, 5]);
        let error = outcomes.verdict("x", &Terminal::new(true)).unwrap_err();
        assert_eq!((error.kind(), error.hint()), (Kind::Integrity, None));
    }
}
