//! The base's programs, for a job that runs in place: they ask the kernel for a loader that is not
//! there. A folder of scripts takes their place on the `PATH`, which hand each to the base's own
//! loader; the shell that reads these is the host's, which every Linux has at the same path.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use tempfile::TempDir;

use super::loader::Translated;

/// A folder like the base's root, with what is on the `PATH`.
pub(super) struct Programs {
    folder: TempDir,
}

/// What stands for a program.
pub(super) enum StandIn {
    /// The kernel runs it as it is.
    Itself(PathBuf),
    /// It needs the loader.
    Script(Translated),
}

impl Programs {
    /// An empty one, beside the job's folder. It goes when it is dropped.
    pub(super) fn new(work: &Path) -> io::Result<Self> {
        Ok(Self { folder: TempDir::new_in(work.parent().unwrap_or(work))? })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a program at the path that it has in the base.
    pub(super) fn add(&self, inside: &Path, stand_in: &StandIn) -> io::Result<()> {
        let path = self.path().join(inside.strip_prefix("/").unwrap_or(inside));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match stand_in {
            StandIn::Itself(program) => fs_err::os::unix::fs::symlink(program, path),
            StandIn::Script(translated) => {
                let words: Vec<String> = translated.argv.iter().map(|word| quoted(word)).collect();
                fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))?;
                fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            }
        }
    }
}

/// One word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell() {
        for (word, expected) in [("a b", "'a b'"), ("it's", r"'it'\''s'"), ("$x", "'$x'")] {
            assert_eq!(quoted(word), expected);
        }
    }
}
