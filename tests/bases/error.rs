//! One error for all of it: what could not be done, and why.

use std::fmt;

/// What could not be done, and why: for people, never matched on.
pub(crate) struct Error(String);

/// The result of making a base.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with that message.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Error {
    /// As it is displayed: this is what a failing test or example prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

/// Lets a failing step say what it was for.
pub(crate) trait Because<T> {
    /// `could not <what>: <cause>: <its cause>…`
    fn because(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::error::Error> Because<T> for std::result::Result<T, E> {
    fn because(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let mut message = format!("could not {}: {error}", what());
            let mut cause = error.source();
            while let Some(error) = cause {
                message = format!("{message}: {error}");
                cause = error.source();
            }
            Error(message)
        })
    }
}
