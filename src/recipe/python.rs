//! A layer of kind `python`: what is installed, and every way in which it is not what its projects
//! published. Each such way has a reason, and a `when` if it is not for every cell.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cell::{Override, Reasoned};
use super::columns::Columns;

/// Column → specifiers; all must hold. Empty holds always.
pub type When = BTreeMap<String, String>;

/// A layer of kind `python`, as its file says it, or what is left of it for one cell:
/// [`Python::of_cell`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Python {
    /// What is to be installed.
    pub requirements: Vec<ConditionalRequirement>,
    /// Where it is installed.
    pub scheme: Scheme,
    /// Bounds on projects nobody asks for directly.
    pub constraints: Vec<Reasoned>,
    /// What replaces every requirement on a project.
    pub overrides: Vec<Override>,
    /// What is left out.
    pub prune: Vec<Prune>,
    /// Commands that do something before they call their entry point.
    pub launchers: Vec<Launcher>,
    /// Text that is replaced in installed files.
    pub replacements: Vec<Replacement>,
    /// Whether shared objects lose what only a debugger or a linker reads.
    pub strip: Option<Strip>,
    /// Whether files with the same content become one.
    pub duplicates: Option<Duplicates>,
    /// Whether modules are compiled in advance.
    pub bytecode: Option<Bytecode>,
    /// What compiles the C and C++ in sdists.
    pub compiler: Option<Compiler>,
}

/// Where distributions are installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Into the base interpreter's own scheme, below `/usr/local`.
    #[default]
    Base,
}

/// A direct requirement, maybe only for some cells.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionalRequirement {
    /// PEP 508, with `{columns}`.
    pub requirement: String,
    /// For which cells.
    #[serde(default)]
    pub when: When,
    /// Why, where it is not what the layer is about.
    pub reason: Option<String>,
}

/// Installed files that are left out of the layer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// Globs over paths below site-packages.
    pub paths: Vec<String>,
    /// For which cells.
    #[serde(default, skip_serializing)]
    pub when: When,
    /// Why they are not needed.
    pub reason: String,
}

/// A command whose program does something between importing its entry point's module and calling it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Launcher {
    /// The command's name, among some distribution's entry points.
    pub script: String,
    /// Lines of Python, at the top level.
    pub before: Vec<String>,
    /// For which cells.
    #[serde(default, skip_serializing)]
    pub when: When,
    /// Why.
    pub reason: String,
}

/// Text that stands in an installed file, and what stands there instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Replacement {
    /// The file, below site-packages.
    pub path: String,
    /// The text, exactly.
    pub from: String,
    /// What it becomes.
    pub to: String,
    /// How often it stands there.
    pub count: usize,
    /// For which cells.
    #[serde(default, skip_serializing)]
    pub when: When,
    /// Why.
    pub reason: String,
}

/// Shared objects lose their debug sections and symbol tables.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Strip {
    /// Why.
    pub reason: String,
}

/// Of several files with the same bytes, mode and owner, all but the first become hard links.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Duplicates {
    /// Files with fewer bytes stay as they are.
    pub smallest: u64,
    /// Why.
    pub reason: String,
}

/// Modules are compiled in advance, to `__pycache__`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Bytecode {
    /// How Python finds out whether it is stale.
    pub invalidation: Invalidation,
    /// Globs over the modules' paths below site-packages; all if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Why.
    pub reason: String,
}

/// How Python finds out whether bytecode is stale (PEP 552).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invalidation {
    /// It does not: an image's modules do not change. Holds no time. Python 3.7 and later.
    UncheckedHash,
}

/// What compiles the C and C++ in sdists; without it they are built as far as Python alone can.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Compiler {
    /// Which.
    #[serde(rename = "use")]
    pub uses: Toolchain,
    /// For which cells.
    #[serde(default, skip_serializing)]
    pub when: When,
    /// Why.
    pub reason: String,
}

/// The compilers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Toolchain {
    /// No compiler.
    #[default]
    None,
    /// `zig cc`, from its package: for every machine and C library, on every machine.
    Zig,
}

impl Toolchain {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl std::fmt::Display for Toolchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Zig => "zig",
        })
    }
}

impl Python {
    /// What holds for a cell: items whose `when` does not hold are gone.
    ///
    /// # Errors
    /// A `when` does not fit the cell's columns.
    pub fn of_cell(&self, columns: &Columns) -> Result<Self, String> {
        fn keep<T: Clone>(
            items: &[T],
            when: impl Fn(&T) -> &When,
            columns: &Columns,
        ) -> Result<Vec<T>, String> {
            let mut kept = Vec::new();
            for item in items {
                if columns.hold(when(item))? {
                    kept.push(item.clone());
                }
            }
            Ok(kept)
        }
        Ok(Self {
            requirements: keep(&self.requirements, |item| &item.when, columns)?,
            constraints: keep(&self.constraints, |item| &item.when, columns)?,
            overrides: keep(&self.overrides, |item| &item.when, columns)?,
            prune: keep(&self.prune, |item| &item.when, columns)?,
            launchers: keep(&self.launchers, |item| &item.when, columns)?,
            replacements: keep(&self.replacements, |item| &item.when, columns)?,
            compiler: keep(self.compiler.as_slice(), |item| &item.when, columns)?.pop(),
            ..self.clone()
        })
    }

    /// The direct requirements of a cell, sorted, as PEP 508 text.
    ///
    /// # Errors
    /// A template or condition that does not fit the cell's columns.
    pub fn requirements_of(&self, columns: &Columns) -> Result<Vec<String>, String> {
        let mut requirements = self
            .of_cell(columns)?
            .requirements
            .iter()
            .map(|item| columns.expand(&item.requirement).map_err(|e| e.to_string()))
            .collect::<Result<Vec<_>, _>>()?;
        if requirements.is_empty() {
            return Err("no requirement's `when` holds for this cell".to_owned());
        }
        requirements.sort();
        Ok(requirements)
    }

    /// What is wrong with it, apart from what a cell would show.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.requirements.is_empty() {
            return Err("`requirements` is empty".to_owned());
        }
        for (what, reason) in self.reasons() {
            if reason.trim().is_empty() {
                return Err(format!("{what} has no reason"));
            }
        }
        for item in &self.overrides {
            item.check()?;
        }
        for item in &self.launchers {
            // One line each, so that no statement hides behind another.
            let is_plain = |line: &String| {
                !line.trim().is_empty()
                    && !line.starts_with(char::is_whitespace)
                    && !line.contains(char::is_control)
            };
            if item.before.is_empty() || !item.before.iter().all(is_plain) {
                return Err(format!(
                    "launcher `{}`: `before` is a list of Python's lines, none of them indented",
                    item.script
                ));
            }
        }
        for item in &self.replacements {
            if item.from.is_empty() || item.from == item.to || item.count == 0 {
                return Err(format!(
                    "`{}`: nothing is replaced: `from` is empty or equals `to`, or `count` is 0",
                    item.path
                ));
            }
        }
        Ok(())
    }

    /// Each item that needs a reason, and its reason.
    fn reasons(&self) -> Vec<(String, &str)> {
        let mut reasons: Vec<(String, &str)> = Vec::new();
        reasons.extend(
            self.constraints.iter().map(|i| (format!("`{}`", i.requirement), i.reason.as_str())),
        );
        reasons.extend(self.overrides.iter().map(|i| (format!("`{}`", i.what()), &*i.reason)));
        reasons.extend(self.prune.iter().map(|i| (format!("pruning {:?}", i.paths), &*i.reason)));
        reasons.extend(
            self.launchers.iter().map(|i| (format!("launcher `{}`", i.script), &*i.reason)),
        );
        reasons.extend(
            self.replacements.iter().map(|i| (format!("replacing in `{}`", i.path), &*i.reason)),
        );
        reasons.extend(self.strip.iter().map(|i| ("`strip`".to_owned(), &*i.reason)));
        reasons.extend(self.duplicates.iter().map(|i| ("`duplicates`".to_owned(), &*i.reason)));
        reasons.extend(self.bytecode.iter().map(|i| ("`bytecode`".to_owned(), &*i.reason)));
        reasons.extend(self.compiler.iter().map(|i| ("`compiler`".to_owned(), &*i.reason)));
        reasons
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::recipe::lock::Inputs;
    use crate::recipe::{Brick, Layer, Lock, Recipe};

    fn python(text: &str) -> Result<Python, String> {
        let text =
            format!("kind = \"python\"\nrequirements = [{{ requirement = \"a=={{a}}\" }}]\n{text}");
        let layer = Layer::parse(&text, Path::new("layers/x"), "x").map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            source.unwrap_or_else(|| error.to_string())
        })?;
        let Brick::Python(python) = layer.brick else { panic!("kind") };
        Ok(*python)
    }

    #[test]
    fn items_hold_for_the_cells_they_name() {
        let layer = python(
            "[[prune]]\npaths = [\"x\"]\nwhen = { a = \">=2\" }\nreason = \"r\"\n\
             [[launcher]]\nscript = \"s\"\nbefore = [\"import b\"]\nwhen = { a = \"<2\" }\nreason = \"r\"\n\
             [[replace]]\npath = \"p.py\"\nfrom = \"1\"\nto = \"2\"\ncount = 1\nwhen = { a = \"==1.5\" }\nreason = \"r\"\n\
             [strip]\nreason = \"r\"\n[duplicates]\nsmallest = 1\nreason = \"r\"\n\
             [bytecode]\ninvalidation = \"unchecked-hash\"\nreason = \"r\"\n\
             [compiler]\nuse = \"zig\"\nwhen = { a = \"<2\" }\nreason = \"r\"\n",
        )
        .unwrap();
        for (version, counts) in [("1", [0, 1, 0]), ("1.5", [0, 1, 1]), ("2", [1, 0, 0])] {
            let columns = Columns(BTreeMap::from([("a".to_owned(), version.to_owned())]));
            let cell = layer.of_cell(&columns).unwrap();
            let found = [cell.prune.len(), cell.launchers.len(), cell.replacements.len()];
            assert_eq!(found, counts, "{version}");
            assert_eq!(cell.compiler.is_some(), version < "2", "{version}");
            assert!(cell.strip.is_some() && cell.duplicates.is_some() && cell.bytecode.is_some());
        }
        assert!(layer.of_cell(&Columns::default()).is_err());
    }

    #[test]
    fn every_item_has_a_reason_and_known_keys() {
        for (text, problem) in [
            ("[strip]\n", "missing field `reason`"),
            ("[strip]\nreason = \" \"\n", "`strip` has no reason"),
            ("[strip]\nreason = \"r\"\nhow = 1\n", "unknown field `how`"),
            ("[duplicates]\nreason = \"r\"\n", "missing field `smallest`"),
            ("[duplicates]\nsmallest = 1\nreason = \"\"\n", "`duplicates` has no reason"),
            ("[bytecode]\ninvalidation = \"time\"\nreason = \"r\"\n", "unknown variant `time`"),
            ("[compiler]\nuse = \"zig\"\n", "missing field `reason`"),
            ("[compiler]\nuse = \"zig\"\nreason = \"\"\n", "`compiler` has no reason"),
            ("[compiler]\nuse = \"gcc\"\nreason = \"r\"\n", "unknown variant `gcc`"),
            ("[[prune]]\npaths = []\nreason = \"\"\n", "pruning [] has no reason"),
            ("[[constraint]]\nrequirement = \"b\"\nreason = \"\"\n", "`b` has no reason"),
            ("[[override]]\ndrop = \"b\"\nreason = \"\"\n", "`!b` has no reason"),
            ("[[override]]\nreason = \"r\"\n", "either `requirement` or `drop`"),
            (
                "[[launcher]]\nscript = \"s\"\nbefore = [\" x\"]\nreason = \"r\"\n",
                "none of them indented",
            ),
            ("[[launcher]]\nscript = \"s\"\nbefore = []\nreason = \"r\"\n", "is a list of"),
            (
                "[[launcher]]\nscript = \"s\"\nbefore = [\"a\\nb\"]\nreason = \"r\"\n",
                "is a list of",
            ),
            (
                "[[replace]]\npath = \"p\"\nfrom = \"\"\nto = \"\"\ncount = 1\nreason = \"r\"\n",
                "nothing is replaced",
            ),
        ] {
            let error = python(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn the_locks_of_this_project_are_those_of_its_recipe() {
        let recipe = Recipe::open(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(recipe.matrix.cells.len() >= 10);
        for cell in &recipe.matrix.cells {
            let path = recipe.lock_path(cell);
            let text = fs_err::read_to_string(&path).unwrap();
            let lock = Lock::parse(&text, &path).unwrap();
            let now = Inputs::of(cell, &recipe.layers, cell.python().to_owned()).unwrap();
            assert_eq!(lock.inputs.differences(&now), Vec::<String>::new(), "{}", cell.path);
            assert_eq!(lock.to_toml().unwrap(), text, "{}", cell.path);
        }
    }
}
