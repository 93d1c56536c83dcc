//! No root, no engine, no Python, and not a single program on PATH.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use tempfile::TempDir;

use super::stage;
use crate::command::{CELL, PROGRAM, Recipe, TAG, run};
use crate::support::tool;
use crate::support::tools::succeed;

/// Nobody.
const UID: u32 = 65534;

#[test]
fn nobody_can_lock_and_assemble() {
    let Some(stage) = stage() else { return };
    let home = TempDir::new().unwrap();
    let work = home.path().join("work");
    let program = home.path().join("assemble");
    // Copied by another process: what this one writes cannot be started while a child of another
    // thread still holds it open.
    succeed(Command::new("cp").arg(PROGRAM).arg(&program));
    succeed(Command::new("cp").arg("-r").arg(Recipe::copy().path("")).arg(&work));
    let setpriv = if nix::unistd::geteuid().is_root() {
        let Some(setpriv) = tool("setpriv") else { return };
        fs_err::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
        succeed(Command::new("chown").args(["-R", &format!("{UID}:{UID}")]).arg(home.path()));
        Some(setpriv)
    } else {
        None
    };
    let assemble = |arguments: &[&str]| {
        let mut command = match &setpriv {
            None => Command::new(&program),
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command
                    .args([format!("--reuid={UID}"), format!("--regid={UID}")])
                    .args(["--clear-groups", "--no-new-privs"])
                    .arg(&program);
                command
            }
        };
        command
            .args(arguments)
            .args(["--mirror", &stage.mirror()])
            .current_dir(&work)
            .env("PATH", "")
            .env("HOME", home.path())
            .env_remove("ASSEMBLE_CACHE_DIR")
            .env_remove("XDG_CACHE_HOME");
        run(&mut command).success()
    };

    let path = work.join("matrix").join(CELL).join("lock.toml");
    let committed = fs_err::read_to_string(&path).unwrap();
    let limit = newest(&committed);
    fs_err::remove_file(&path).unwrap();
    assemble(&["lock", CELL, "--exclude-newer", &limit]);
    // An index may show a file long after the time that it says the file came: with the same limit it is not
    // the committed lock for ever, but what anybody gets now.
    let ours = Recipe::copy();
    let lock = format!("matrix/{CELL}/lock.toml");
    fs_err::remove_file(ours.path(&lock)).unwrap();
    run(&mut ours.command(&stage.cache, &["lock", CELL, "--exclude-newer", &limit])).success();
    assert_eq!(fs_err::read_to_string(&path).unwrap(), ours.read(&lock));

    fs_err::write(&path, committed).unwrap();
    let report = assemble(&[CELL, "--json"]).json();
    assert_eq!(report["images"][0]["digest"], stage.digest());
    assert!(work.join(format!("locust-{TAG}.tar")).is_file());
    assert!(home.path().join(".cache/assemble/blobs").is_dir());
    let built = &report["images"][0]["images"][0]["built"][0];
    assert!(built["from-cache"] == false, "{built}");
}

/// The newest upload time of a lock.
fn newest(lock: &str) -> String {
    let times = lock.lines().filter_map(|line| line.strip_prefix("upload-time = "));
    let times = times.map(|time| time.trim_matches('"').parse::<jiff::Timestamp>().unwrap());
    times.max().unwrap().to_string()
}
