//! `entry_points.txt`: which commands a distribution brings (entry points specification).
//!
//! ```text
//! [console_scripts]
//! flask = flask.main:main
//! ```

use std::collections::BTreeMap;

/// The commands, by name. Other groups are for the program at run time and are not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryPoints {
    /// Group `console_scripts`.
    pub console_scripts: BTreeMap<String, ObjectReference>,
    /// Group `gui_scripts`; the same as the other one anywhere but on Windows.
    pub gui_scripts: BTreeMap<String, ObjectReference>,
}

/// `module:attribute [extra]`: what a command calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectReference {
    /// `flask.main`
    pub module: String,
    /// `main` or `Main.run`
    pub attribute: String,
    /// Whether the command is only meant for those who asked for an extra. Installers make it
    /// nevertheless (entry points specification, *Data model*).
    pub has_extras: bool,
}

/// Why a line of `entry_points.txt` makes no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}: `{text}`")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: &'static str,
    /// The line.
    pub text: String,
}

impl EntryPoints {
    /// Reads the file as Python's `configparser` would with `delimiters=("=",)` and names that keep
    /// their case.
    ///
    /// # Errors
    /// A command that cannot be made: no module, no function, a name that is no file name, or
    /// two commands of one name in a group. Other groups may hold anything.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut entry_points = Self::default();
        let mut group = None;
        // How far the last option was indented: a line further in continues its value.
        let mut option_indent = None;
        for (position, raw) in text.lines().enumerate() {
            let line = raw.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let error = |problem| ParseError { line: position + 1, problem, text: line.to_owned() };
            let indent = raw.len() - raw.trim_start().len();
            let continues = option_indent.is_some_and(|option| indent > option);
            if !continues && line.starts_with('[') && line.ends_with(']') {
                group = Some(line[1..line.len() - 1].to_owned());
                option_indent = None;
                continue;
            }
            let scripts = match group.as_deref() {
                Some("console_scripts") => &mut entry_points.console_scripts,
                Some("gui_scripts") => &mut entry_points.gui_scripts,
                Some(_) => {
                    if !continues {
                        option_indent = Some(indent);
                    }
                    continue;
                }
                None => return Err(error("stands before any [group]")),
            };
            if continues {
                return Err(error("a command's value may not go on over several lines"));
            }
            option_indent = Some(indent);
            let (name, reference) = line.split_once('=').ok_or_else(|| error("no `=`"))?;
            let name = name.trim_end();
            if !is_command_name(name) {
                return Err(error("the command's name is no plain file name"));
            }
            let reference = ObjectReference::parse(reference)
                .ok_or_else(|| error("the command is not `module:function`"))?;
            if scripts.insert(name.to_owned(), reference).is_some() {
                return Err(error("the command is defined twice"));
            }
        }
        Ok(entry_points)
    }

    /// All commands, in byte order of their names. Where both groups have one, it is the console's.
    pub fn scripts(&self) -> BTreeMap<&str, &ObjectReference> {
        self.gui_scripts
            .iter()
            .chain(&self.console_scripts)
            .map(|(name, reference)| (name.as_str(), reference))
            .collect()
    }
}

impl ObjectReference {
    /// Only dotted identifiers pass: they are written into a program.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (reference, has_extras) = match text.split_once('[') {
            Some((reference, extras)) => {
                let _names = extras.trim_end().strip_suffix(']')?;
                (reference.trim_end(), true)
            }
            None => (text, false),
        };
        let (module, attribute) = reference.split_once(':')?;
        let (module, attribute) = (module.trim(), attribute.trim());
        (is_dotted_name(module) && is_dotted_name(attribute)).then(|| Self {
            module: module.to_owned(),
            attribute: attribute.to_owned(),
            has_extras,
        })
    }

    /// The name that has to be imported from the module: `Main` of `Main.run`.
    pub fn import_name(&self) -> &str {
        self.attribute.split_once('.').map_or(&self.attribute, |(first, _)| first)
    }
}

fn is_dotted_name(text: &str) -> bool {
    text.split('.').all(|part| {
        !part.is_empty()
            && !part.starts_with(|c: char| c.is_numeric())
            && part.chars().all(|c| c == '_' || c.is_alphanumeric())
    })
}

fn is_command_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && !name.contains(|c: char| c == '/' || c == '\\' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(module: &str, attribute: &str, has_extras: bool) -> ObjectReference {
        ObjectReference { module: module.into(), attribute: attribute.into(), has_extras }
    }

    #[test]
    fn reads_commands_and_nothing_else() {
        let parsed = EntryPoints::parse(
            "# comment\n[console_scripts]\nflask=flask.main:main\n ; note\nf2.py = numpy.f2py.f2py2e : Main.run [cli, x]\n\n\
             [pytest11]\nanything at all\n  that = goes on\n[gui_scripts]\n  idle = idlelib:main\n  Idle = idlelib:main\n",
        )
        .unwrap();
        assert_eq!(
            parsed.console_scripts,
            BTreeMap::from([
                ("f2.py".into(), reference("numpy.f2py.f2py2e", "Main.run", true)),
                ("flask".into(), reference("flask.main", "main", false)),
            ])
        );
        assert_eq!(
            parsed.scripts().into_keys().collect::<Vec<_>>(),
            ["Idle", "f2.py", "flask", "idle"]
        );
        assert_eq!(parsed.console_scripts["f2.py"].import_name(), "Main");
        assert_eq!(EntryPoints::parse("").unwrap(), EntryPoints::default());
    }

    #[test]
    fn refuses_commands_that_cannot_be_made() {
        for (line, problem) in [
            ("a = b", "the command is not `module:function`"),
            ("a = b:", "the command is not `module:function`"),
            ("a = b:c [x", "the command is not `module:function`"),
            ("a = os; evil():c", "the command is not `module:function`"),
            ("a = 1b:c", "the command is not `module:function`"),
            ("../a = b:c", "the command's name is no plain file name"),
            (".. = b:c", "the command's name is no plain file name"),
            ("a", "no `=`"),
            ("a = b:c\n a = b:c", "a command's value may not go on over several lines"),
            ("a = b:c\na = b:c", "the command is defined twice"),
        ] {
            let error = EntryPoints::parse(&format!("[console_scripts]\n{line}\n")).unwrap_err();
            assert_eq!(error.problem, problem, "{line}");
        }
        assert_eq!(
            EntryPoints::parse("a = b:c").unwrap_err().to_string(),
            "line 1: stands before any [group]: `a = b:c`"
        );
    }
}
