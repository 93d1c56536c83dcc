//! What is seen while a run works: bars on a terminal, plain lines elsewhere, nothing with `-q`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::world::{Progress, Work};

/// Prints to standard error.
#[derive(Debug)]
pub(super) struct Terminal {
    bars: MultiProgress,
    state: Mutex<State>,
    fancy: bool,
    quiet: bool,
}

#[derive(Debug, Default)]
struct State {
    transfers: BTreeMap<String, ProgressBar>,
    spinner: Option<ProgressBar>,
    spent: BTreeMap<Work, Duration>,
}

impl Terminal {
    pub(super) fn new(quiet: bool) -> Self {
        Self {
            bars: MultiProgress::new(),
            state: Mutex::default(),
            fancy: !quiet && std::io::stderr().is_terminal(),
            quiet,
        }
    }

    /// Takes every bar off the screen.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.spinner.take().iter().for_each(ProgressBar::finish_and_clear);
        std::mem::take(&mut state.transfers).values().for_each(ProgressBar::finish_and_clear);
    }

    /// Where the time went, a line each, and what the whole run took. What happened at the same time
    /// is in several lines.
    pub(super) fn timings(&self, whole: Duration) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = state.spent.iter().map(|(work, time)| (work.name(), *time));
        let mut text = String::new();
        for (name, time) in lines.chain([("all", whole)]) {
            // `writeln!` to a String cannot fail.
            let _never = writeln!(text, "{name:10} {:>10.1} ms", time.as_secs_f64() * 1000.0);
        }
        text
    }

    /// Shows an error, however quiet it is to be.
    pub(super) fn error(&self, message: &str) {
        self.write(message);
    }

    fn line(&self, message: &str) {
        if !self.quiet {
            self.write(message);
        }
    }

    fn write(&self, message: &str) {
        self.bars.suspend(|| {
            // A closed standard error is nobody's failure.
            let _closed = writeln!(std::io::stderr(), "{message}");
        });
    }
}

impl Progress for Terminal {
    fn step(&self, message: &str) {
        if !self.fancy {
            return self.line(message);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let spinner = state.spinner.get_or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new_spinner());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        spinner.set_message(message.to_owned());
    }

    fn notice(&self, message: &str) {
        self.line(&format!("note: {message}"));
    }

    fn spent(&self, on: Work, time: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state.spent.entry(on).or_default() += time;
    }

    fn bytes(&self, what: &str, done: u64, total: u64) {
        // Below a megabyte a bar is gone before it is read.
        if !self.fancy || total < 1 << 20 {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if done >= total {
            state.transfers.remove(what).iter().for_each(ProgressBar::finish_and_clear);
            return;
        }
        let bar = state.transfers.entry(what.to_owned()).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(total));
            if let Ok(style) = ProgressStyle::with_template(
                "{msg:40!} {bar:24} {binary_bytes:>10}/{binary_total_bytes:10} {binary_bytes_per_sec}",
            ) {
                bar.set_style(style);
            }
            bar.set_message(what.to_owned());
            bar
        });
        bar.set_position(done);
    }
}
