//! What a failure says, and whose fault it is.
//!
//! Every room has an error enum of its own; each implements [`Failure`], so it can say its [`Kind`]
//! (the exit code) and give advice apart from its message. [`Error`] adds what was being done.

use std::fmt;

/// Whose fault a failure is. The README's table of exit codes is tested against this enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// 1: a full disk, a bug, anything nobody asked for.
    Unexpected,
    /// 2: a bad flag, or a bad file below `layers/` or `matrix/`.
    Usage,
    /// 3: no resolution, no wheel for the target, no such platform in the base.
    Unsatisfiable,
    /// 4: a registry or package index refused, or could not be reached after retries.
    Remote,
    /// 5: a digest, size, RECORD or lock mismatch; a hostile archive.
    Integrity,
    /// 6: the lock does not match what it was made from.
    Drift,
    /// 130: the user pressed Ctrl-C.
    Interrupted,
}

impl Kind {
    /// All kinds, in the order of their exit codes.
    pub const ALL: [Self; 7] = [
        Self::Unexpected,
        Self::Usage,
        Self::Unsatisfiable,
        Self::Remote,
        Self::Integrity,
        Self::Drift,
        Self::Interrupted,
    ];

    /// The process's exit code.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::Unsatisfiable => 3,
            Self::Remote => 4,
            Self::Integrity => 5,
            Self::Drift => 6,
            Self::Interrupted => 130,
        }
    }
}

/// An error that knows whose fault it is.
///
/// `Display` is lower case, has no full stop, never repeats its `source()`, and holds no secret.
/// Advice ("run `assemble lock …`") goes to [`Failure::hint`].
pub trait Failure: std::error::Error + Send + Sync + 'static {
    /// Whose fault it is.
    fn kind(&self) -> Kind;

    /// What the person can do next, one sentence or command per line; `None` if the message says it.
    fn hint(&self) -> Option<String> {
        None
    }

    /// Whether something on this disk was found damaged and is gone now, so that the same thing done
    /// again makes it anew.
    fn heals(&self) -> bool {
        false
    }
}

/// A failure and what was being done when it happened.
#[derive(Debug)]
pub struct Error {
    doing: String,
    failure: Box<dyn Failure>,
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error while `doing` something; `doing` reads as "could not …": `lock 2.47.0/python3.13/…`.
    pub fn new(doing: impl Into<String>, failure: impl Failure) -> Self {
        Self { doing: doing.into(), failure: Box::new(failure) }
    }

    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        self.failure.kind()
    }

    /// Whether doing it again heals it: see [`Failure::heals`].
    pub fn heals(&self) -> bool {
        self.failure.heals()
    }

    /// Advice, if there is any.
    pub fn hint(&self) -> Option<String> {
        self.failure.hint()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {}", self.doing)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.failure)
    }
}

/// Lets a fallible step say what it was for: `base::fetch(…).doing(|| "read the base".into())?`.
pub trait Doing<T> {
    /// Wraps the failure with what was being done.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, F: Failure> Doing<T> for Result<T, F> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|failure| Error::new(what(), failure))
    }
}
