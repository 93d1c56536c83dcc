//! What a build said (pure).

/// Lines of the log that an error shows.
const TAIL: usize = 30;

/// Whether a build's log says that there is no compiler, in the words of those who look for one.
pub(super) fn shows_no_compiler(log: &[u8]) -> bool {
    const NAMES: [&str; 6] = ["gcc", "cc", "g++", "c++", "clang", "x86_64-linux-musl-gcc"];
    let text = String::from_utf8_lossy(log);
    text.lines().any(|line| {
        let is_absent = line.contains("No such file or directory")
            || line.contains("unable to execute")
            || line.contains("not found");
        let names = || line.split(|c: char| c.is_whitespace() || "'\"`:,;()/".contains(c));
        (is_absent && names().any(|word| NAMES.contains(&word)))
            || line.contains("no acceptable C compiler")
            || line.contains("Unknown compiler(s)")
            || line.contains("No CMAKE_C_COMPILER could be found")
            || line.contains("No CMAKE_CXX_COMPILER could be found")
    })
}

/// The last lines of a log, fit to be shown: no control characters.
pub(super) fn tail(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..]
        .iter()
        .map(|line| line.chars().filter(|c| !c.is_control() || *c == '\t').collect::<String>())
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_that_show_no_compiler() {
        for (log, expected) in [
            ("error: [Errno 2] No such file or directory: 'gcc'", true),
            ("unable to execute 'gcc': No such file or directory", true),
            ("error: command 'g++' failed: No such file or directory", true),
            ("/bin/sh: cc: not found", true),
            ("configure: error: no acceptable C compiler found in $PATH", true),
            ("meson.build:1:0: ERROR: Unknown compiler(s): [['cc'], ['gcc']]", true),
            ("zmq.h: No such file or directory", false),
            ("src/gcc.h: error: x was not declared", false),
            ("", false),
        ] {
            assert_eq!(shows_no_compiler(log.as_bytes()), expected, "{log}");
        }
    }

    #[test]
    fn the_tail_is_short_and_clean() {
        let log: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
        let tail = tail(log.join("\n").as_bytes());
        assert_eq!(tail.lines().count(), TAIL);
        assert!(tail.ends_with("line 99"));
        assert_eq!(super::tail(b"\x1b[31mred\x1b[0m\n\xff\tx"), "[31mred[0m\n\u{fffd}\tx");
    }
}
