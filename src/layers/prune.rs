//! What is left out of installed distributions, and why (pure).

use std::sync::OnceLock;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use super::Error;

/// A rule of a layer's file: files that match are not installed, and RECORD does not list them.
#[derive(Clone, Debug)]
pub struct Prune {
    patterns: Vec<String>,
    reason: String,
    globs: Vec<Glob>,
    /// Compiled when it is first asked for: a layer that is known already asks for none.
    set: OnceLock<Result<GlobSet, globset::Error>>,
}

/// What one rule took from one distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pruned {
    /// Files.
    pub files: u64,
    /// Their unpacked bytes.
    pub bytes: u64,
}

impl Prune {
    /// A rule. Patterns are matched against paths as RECORD has them, so relative to site-packages:
    /// `gevent/tests/**`, `**/*.pyx`, `../../../share/man`. `*` and `?` stay within a folder, `**`
    /// does not, `[ab]` and `{a,b}` choose; what names a folder takes all that lies below.
    ///
    /// # Errors
    /// A pattern is malformed.
    pub fn new(
        patterns: impl IntoIterator<Item = impl Into<String>>,
        reason: impl Into<String>,
    ) -> Result<Self, Error> {
        let patterns: Vec<String> = patterns.into_iter().map(Into::into).collect();
        let mut globs = Vec::with_capacity(2 * patterns.len());
        for pattern in &patterns {
            let malformed = |source| Error::Pattern { pattern: pattern.clone(), source };
            for text in [pattern.clone(), format!("{pattern}/**")] {
                globs.push(
                    GlobBuilder::new(&text)
                        .literal_separator(true)
                        .backslash_escape(true)
                        .build()
                        .map_err(malformed)?,
                );
            }
        }
        Ok(Self { patterns, reason: reason.into(), globs, set: OnceLock::new() })
    }

    /// The patterns, as they were written.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Why these files are not needed.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What matches the paths in RECORD of the files that are left out.
    ///
    /// # Errors
    /// The patterns are too large together.
    pub fn matcher(&self) -> Result<&GlobSet, Error> {
        let compile = || {
            let mut set = GlobSetBuilder::new();
            for glob in &self.globs {
                set.add(glob.clone());
            }
            set.build()
        };
        let set = self.set.get_or_init(compile).as_ref();
        set.map_err(|source| Error::Pattern {
            pattern: self.patterns.join(" "),
            source: source.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stay_within_folders_unless_they_say_so() {
        for (pattern, path, expected) in [
            ("gevent/tests", "gevent/tests/a/b.py", true),
            ("gevent/tests", "gevent/tests.py", false),
            ("gevent/tests/**", "gevent/tests/a/b.py", true),
            ("**/*.pyx", "a.pyx", true),
            ("**/*.pyx", "a/b/c.pyx", true),
            ("*.pyx", "a/c.pyx", false),
            ("**/tests", "a/b/tests/c.py", true),
            ("**/tests", "a/b/contests/c.py", false),
            ("a/*/c", "a/b/x/c", false),
            ("**/*.{c,h}", "a/b.h", true),
            ("../../../share/man", "../../../share/man/man1/x.1", true),
        ] {
            let rule = Prune::new([pattern], "test").unwrap();
            assert_eq!(rule.matcher().unwrap().is_match(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_malformed_pattern_is_named() {
        assert_eq!(
            Prune::new(["ok", "a[b"], "").unwrap_err().to_string(),
            "`a[b` is no pattern of paths"
        );
    }
}
