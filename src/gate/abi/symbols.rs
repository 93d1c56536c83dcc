//! Whether the symbols that a file needs are anywhere (pure). musl's libraries carry no versions, so
//! this is what tells there that a library is too old; it holds for glibc as well.

use std::collections::BTreeSet;

use super::Look;
use crate::gate::elf::Elf;
use crate::gate::names::Names;

/// Named of those that are missing.
const MOST_NAMED: usize = 3;

/// Files that bring symbols, with all that they load; `None` if not all of them can be looked into.
pub(super) type Scope<'a> = Option<Vec<&'a Names>>;

impl<'a> Look<'a> {
    /// What is in the process that imports modules, before it does: the base's Python with its
    /// libraries. `None` if there is none here, or none that can be looked into.
    pub(super) fn interpreter(&self) -> Scope<'a> {
        let (major, minor, _) = self.target.python;
        let (path, program) = self.elf(&format!("/usr/local/bin/python{major}.{minor}"))?;
        self.scope(&path, program)
    }

    /// The needed symbols that neither the interpreter, the file's own libraries nor its
    /// distribution's other files have, which may have been loaded before; `None` if none is missing,
    /// or if not everything is known.
    pub(super) fn missing_symbols(
        &self,
        path: &str,
        elf: &'a Elf,
        interpreter: &Scope<'a>,
    ) -> Option<String> {
        let mut scope = self.scope(path, elf)?;
        scope.extend(interpreter.as_ref()?);
        let without = |names: Vec<&'a str>, scope: &[&Names]| -> Vec<&'a str> {
            let is_missing = |name: &&str| !scope.iter().any(|exports| exports.contains(name));
            names.into_iter().filter(is_missing).collect()
        };
        let missing = without(elf.undefined.iter().collect(), &scope);
        if missing.is_empty() {
            return None;
        }
        let of_distribution = self.stack.owners.siblings(path);
        let siblings: Vec<&Names> = of_distribution
            .filter_map(|path| self.stack.all.file(path)?.elf.as_ref()?.exports.as_ref())
            .collect();
        let missing = without(missing, &siblings);
        if missing.is_empty() {
            return None;
        }
        let named = &missing[..missing.len().min(MOST_NAMED)];
        let (word, more) = match missing.len() {
            1 => ("symbol", String::new()),
            many if many <= MOST_NAMED => ("symbols", String::new()),
            many => ("symbols", format!(" and {} more", many - MOST_NAMED)),
        };
        Some(format!(
            "needs the {word} `{}`{more}, which neither its libraries nor the base's python have",
            named.join("`, `")
        ))
    }

    /// What the file at `path` has and what all libraries have that are loaded with it.
    fn scope(&self, path: &str, elf: &'a Elf) -> Scope<'a> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::from([path.to_owned()]);
        let mut todo = vec![(path.to_owned(), elf)];
        while let Some((path, elf)) = todo.pop() {
            // A file that needs libraries and has no table of symbols cannot be looked into.
            found.push(elf.exports.as_ref()?);
            for library in &elf.needed {
                let loaded = self.library(&path, elf, library).or_else(|| self.libc(library))?;
                if seen.insert(loaded.0.clone()) {
                    todo.push(loaded);
                }
            }
        }
        Some(found)
    }
}
