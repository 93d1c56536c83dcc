//! The end of everything a job started.

use fs_err as fs;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

/// How often descendants are looked for: each round kills all there are at that moment.
const ROUNDS: u32 = 1000;

/// Kills and reaps all descendants. Killing a parent makes its children ours, so it goes in rounds.
pub(super) fn kill_descendants() {
    for _ in 0..ROUNDS {
        for child in children(getpid()) {
            let _ended_by_itself = kill(child, Signal::SIGKILL);
        }
        loop {
            match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) => {}
                // No child is left.
                Err(_) => return,
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// The processes whose parent is `parent`, by the fourth field of `/proc/<pid>/stat`.
fn children(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let pid: i32 = name.to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The second field is a name in parentheses and may hold anything.
            let fields = stat.rsplit_once(')')?.1;
            let its_parent: i32 = fields.split_whitespace().nth(1)?.parse().ok()?;
            (its_parent == parent.as_raw()).then(|| Pid::from_raw(pid))
        })
        .collect()
}
