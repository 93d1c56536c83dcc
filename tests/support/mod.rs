//! What the tests stand on: real local servers, and the names of what is missing.

pub(crate) mod package_index;
pub(crate) mod registry;
pub(crate) mod token_server;
pub(crate) mod tools;

use std::path::{Path, PathBuf};

/// The tool's path if it is on this machine; see [`skip`] for what happens if it is not.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let found = optional_tool(name);
    if found.is_none() {
        skip(&format!("{name} is missing"));
    }
    found
}

/// The tool's path if it is on this machine, for tests that can do without it.
#[expect(clippy::disallowed_methods, reason = "which tools there are is the machine's to say")]
pub(crate) fn optional_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

/// Says on stderr that the running test, or a part of it, cannot be done here, as
/// `SKIPPED <test>: <reason>`; with `ASSEMBLE_TEST_STRICT=1` it fails the test instead.
#[expect(clippy::disallowed_methods, reason = "how strict to be is the machine's to say")]
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    let skipped = format!("SKIPPED {}: {reason}", thread.name().unwrap_or("a test"));
    let strict = std::env::var_os("ASSEMBLE_TEST_STRICT").is_some_and(|value| value == "1");
    assert!(!strict, "{skipped}");
    // Past the harness's capture: a skipped test that nobody hears of is a silent pass.
    let _unheard =
        std::io::Write::write_all(&mut std::io::stderr(), format!("{skipped}\n").as_bytes());
}

/// Whether the tool is on this machine; see [`tool`].
pub(crate) fn require_tool(name: &str) -> bool {
    tool(name).is_some()
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(file)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
