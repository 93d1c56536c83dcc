//! Commands: launchers for entry points, and first lines of scripts (pure).

use crate::layers::path::ContainerPath;
use crate::python::entry_points::ObjectReference;

/// The program that calls an entry point, as uv writes it: like pip's, but without importing `re`
/// at each start, and for every Python 3.
///
/// The lines of `before` stand between the import of the entry point's module and the call.
pub(super) fn launcher(
    interpreter: &ContainerPath,
    target: &ObjectReference,
    before: &[String],
) -> String {
    let before: String = before.iter().flat_map(|line| [line, "\n"]).collect();
    format!(
        "#!{interpreter}\n\
         # -*- coding: utf-8 -*-\n\
         import sys\n\
         from {module} import {import_name}\n\
         {before}\
         if __name__ == \"__main__\":\n\
         {INDENT}if sys.argv[0].endswith(\"-script.pyw\"):\n\
         {INDENT}{INDENT}sys.argv[0] = sys.argv[0][:-11]\n\
         {INDENT}elif sys.argv[0].endswith(\".exe\"):\n\
         {INDENT}{INDENT}sys.argv[0] = sys.argv[0][:-4]\n\
         {INDENT}sys.exit({function}())\n",
        module = target.module,
        import_name = target.import_name(),
        function = target.attribute,
    )
}

const INDENT: &str = "    ";

/// What a script begins with whose first line changes.
pub(super) const PYTHON: &[u8] = b"#!python";

/// The script with the target's interpreter in its first line, if that begins with exactly
/// `#!python` (binary distribution format, *Recommended installer features*); `#!pythonw`, which
/// also begins so, means the same here. Arguments stay, a carriage return goes. `None` if the
/// script needs no change.
pub(super) fn rewritten(interpreter: &ContainerPath, script: &[u8]) -> Option<Vec<u8>> {
    if !script.starts_with(PYTHON) {
        return None;
    }
    let (line, rest) = match script.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&script[..end], &script[end + 1..]),
        None => (script, &[][..]),
    };
    let line = line.trim_ascii_end();
    let arguments =
        line.iter().position(u8::is_ascii_whitespace).map_or(&[][..], |end| &line[end..]);
    let mut bytes = format!("#!{interpreter}").into_bytes();
    bytes.extend_from_slice(arguments);
    bytes.push(b'\n');
    bytes.extend_from_slice(rest);
    Some(bytes)
}

/// The command that a file in `.data/scripts` is the launcher of, if it is one: old wheels carry
/// `x`, `x.exe` or `x-script.py` beside an entry point `x`, and the one made here takes its place.
pub(super) fn launched_command(file_name: &str) -> &str {
    let lower = file_name.to_ascii_lowercase();
    for suffix in [".exe", "-script.py", "-script.pyw"] {
        if lower.ends_with(suffix) {
            return &file_name[..file_name.len() - suffix.len()];
        }
    }
    file_name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::EntryPoints;

    fn interpreter() -> ContainerPath {
        ContainerPath::parse("/usr/local/bin/python3.13").unwrap()
    }

    #[test]
    fn a_launcher_calls_its_entry_point() {
        let points = EntryPoints::parse("[console_scripts]\nx = pkg.cli:Main.run\n").unwrap();
        assert_eq!(
            launcher(&interpreter(), &points.console_scripts["x"], &[]),
            r#"#!/usr/local/bin/python3.13
# -*- coding: utf-8 -*-
import sys
from pkg.cli import Main
if __name__ == "__main__":
    if sys.argv[0].endswith("-script.pyw"):
        sys.argv[0] = sys.argv[0][:-11]
    elif sys.argv[0].endswith(".exe"):
        sys.argv[0] = sys.argv[0][:-4]
    sys.exit(Main.run())
"#
        );
    }

    #[test]
    fn statements_stand_between_the_import_and_the_call() {
        let points = EntryPoints::parse("[console_scripts]\nx = pkg.cli:main\n").unwrap();
        let before = ["import a".to_owned(), "if not a.b: a.b = a.c".to_owned()];
        let text = launcher(&interpreter(), &points.console_scripts["x"], &before);
        let lines: Vec<_> = text.lines().skip(2).take(5).collect();
        assert_eq!(
            lines,
            [
                "import sys",
                "from pkg.cli import main",
                "import a",
                "if not a.b: a.b = a.c",
                "if __name__ == \"__main__\":"
            ]
        );
    }

    #[test]
    fn only_first_lines_that_say_python_change() {
        for (before, after) in [
            ("#!python\nx\n", Some("#!/usr/local/bin/python3.13\nx\n")),
            ("#!python", Some("#!/usr/local/bin/python3.13\n")),
            ("#!pythonw\r\nx", Some("#!/usr/local/bin/python3.13\nx")),
            ("#!python3\nx", Some("#!/usr/local/bin/python3.13\nx")),
            ("#!python -I -u\nx", Some("#!/usr/local/bin/python3.13 -I -u\nx")),
            ("#!/usr/bin/env python\n", None),
            ("#! python\n", None),
            ("", None),
        ] {
            let rewritten = rewritten(&interpreter(), before.as_bytes());
            assert_eq!(rewritten.as_deref(), after.map(str::as_bytes), "{before}");
        }
    }

    #[test]
    fn launchers_of_old_wheels_are_known() {
        for (file, command) in [("x", "x"), ("x.EXE", "x"), ("x-script.py", "x"), ("x.py", "x.py")]
        {
            assert_eq!(launched_command(file), command);
        }
    }
}
