//! What holds a job of tier 2: the rules that a process without any privilege can put on itself and on
//! all it starts. Landlock for the host's files, processes and sockets, a seccomp filter for the
//! network.
//!
//! Each promise is a Landlock layer of its own, so that each has an answer of its own: what this kernel
//! is too old for, or was told to leave out, is a [`Promise`] that is not kept, and said. In place means that the
//! job sees the host's tree; of it, it may open
//!
//! * its folder, to write; the base and what is lent, to read and run;
//! * `/bin/sh` with its libraries, to run: scripts and `system()` name it, and the base's cannot be put
//!   there;
//! * [`DEVICES`], and files in `/dev/shm` whose name it knows (semaphores of Python's `multiprocessing`);
//! * [`TABLES`], which hold nothing of anybody.
//!
//! Names, sizes and owners of other files can still be asked for, and modes and times of the user's own
//! be set: Landlock has no word for these.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use fs_err as fs;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
    path_beneath_rules,
};
use nix::libc;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::stage::{Refusal, Spec, Step};
use super::{Promise, elf};

/// The first that knows `truncate`, without which a file is not safe from being emptied.
const FILES: ABI = ABI::V3;
/// What the host lends of its `/dev`.
pub(super) const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Types of files, time zones and terminals. Python's `mimetypes`, `zoneinfo` and `readline` read them if
/// there are any: one that is not there is fine, and one that is refused is an error.
const TABLES: [&str; 6] = [
    "/etc/mime.types",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/etc/terminfo",
    "/lib/terminfo",
    "/usr/share/terminfo",
];
const SHELL: &str = "/bin/sh";
/// `__X32_SYSCALL_BIT`: the same calls by other numbers.
const X32: i64 = 0x4000_0000;

/// Puts the rules on this process, which has `no_new_privs` and one thread, and returns the promises
/// that the kernel does not keep.
pub(super) fn close(spec: &Spec) -> Result<Vec<Promise>, Refusal> {
    let mut left = Vec::new();
    let mut promised = |promise, is_kept: bool| {
        if !is_kept {
            left.push(promise);
        }
    };
    // An emulator is a program of the host, which may need any file of it.
    let is_emulated = !elf::runs_here(&spec.machine);
    let files = !is_emulated && is_whole(files(spec));
    promised(Promise::Files, files);
    promised(Promise::Processes, is_whole(processes()));
    promised(Promise::Sockets, is_whole(sockets(spec)));
    // Not the whole promise, but more than nothing where there is no filter.
    let _is_whole = tcp();
    // A program of 32 bits makes other calls, and each would be its end.
    let is_filtered = (is_emulated || spec.machine == std::env::consts::ARCH) && filter().is_ok();
    promised(Promise::Network, is_filtered);
    let nothing = CapabilitySet::empty();
    let nothing = CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing };
    set_capabilities(None, nothing).step("drop all capabilities")?;
    Ok(left)
}

/// Whether the kernel enforces all that was asked for.
fn is_whole(status: Result<RestrictionStatus, RulesetError>) -> bool {
    status.is_ok_and(|status| status.ruleset == RulesetStatus::FullyEnforced)
}

/// A layer's rules, to be added to. Every layer refuses moves from folder to folder unless it names them,
/// and without them nothing can be built: there is no layer where the kernel has no name for them (before
/// Linux 5.19).
fn layer() -> Result<Ruleset, RulesetError> {
    Ok(Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort))
}

/// Puts a layer on this process that is not about files and has no exceptions.
fn restrict(rules: Ruleset) -> Result<RestrictionStatus, RulesetError> {
    rules.create()?.add_rules(path_beneath_rules(["/"], AccessFs::Refer))?.restrict_self()
}

fn processes() -> Result<RestrictionStatus, RulesetError> {
    // `ptrace` is refused by any layer at all.
    restrict(layer()?.scope(Scope::Signal)?)
}

fn tcp() -> Result<RestrictionStatus, RulesetError> {
    restrict(layer()?.handle_access(AccessNet::from_all(ABI::V4))?)
}

fn files(spec: &Spec) -> Result<RestrictionStatus, RulesetError> {
    let all = AccessFs::from_all(FILES);
    let read = AccessFs::from_read(FILES);
    let in_place = spec.lent.iter().map(|lent| &lent.folder).chain([&spec.rootfs]);
    let devices = DEVICES.map(|name| format!("/dev/{name}"));
    // Not `ReadDir`: what others have there cannot be looked for.
    let shared_memory: BitFlags<AccessFs> =
        make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | MakeReg | RemoveFile});
    layer()?
        .handle_access(all)?
        .create()?
        .add_rules(path_beneath_rules([&spec.work], all))?
        .add_rules(path_beneath_rules(in_place, read))?
        .add_rules(path_beneath_rules(shell(), read))?
        .add_rules(path_beneath_rules(TABLES, read))?
        .add_rules(path_beneath_rules(devices, AccessFs::ReadFile | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(["/dev/shm"], shared_memory))?
        .restrict_self()
}

/// Its own sockets it may use: those it has in its folder, and abstract ones.
fn sockets(spec: &Spec) -> Result<RestrictionStatus, RulesetError> {
    layer()?
        .handle_access(AccessFs::ResolveUnix)?
        .scope(Scope::AbstractUnixSocket)?
        .create()?
        .add_rules(path_beneath_rules(["/"], AccessFs::Refer))?
        .add_rules(path_beneath_rules([&spec.work], AccessFs::ResolveUnix))?
        .restrict_self()
}

/// The host's shell, and what the host's loader maps for it; nothing if there is none.
fn shell() -> Vec<PathBuf> {
    let header = fs::File::open(SHELL).and_then(|mut file| elf::read(&mut file));
    let Ok(Some(header)) = header else { return Vec::new() };
    let mut paths = vec![PathBuf::from(SHELL)];
    if let Some(loader) = header.interpreter {
        let listed = Command::new(&loader)
            .args(["--list", SHELL])
            .env_clear()
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let listed = listed.map(|output| output.stdout).unwrap_or_default();
        let listed = String::from_utf8_lossy(&listed);
        let found = listed.split_whitespace().filter(|word| word.starts_with('/'));
        paths.extend(found.map(PathBuf::from));
        paths.push(PathBuf::from(loader));
    }
    paths
}

/// Makes no socket but a local one. Where the network is not even a kind of socket, programs do
/// without it as they do on a machine without IPv6.
fn filter() -> Result<(), Box<dyn std::error::Error>> {
    let is_other = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Ne,
        u64::try_from(libc::AF_UNIX)?,
    )?;
    let others = vec![SeccompRule::new(vec![is_other])?];
    let sockets = [libc::SYS_socket, libc::SYS_socketpair].map(|call| (call, others.clone()));
    install(sockets.into(), libc::EAFNOSUPPORT)?;
    // Makes sockets without that call; programs do without it as on an older kernel.
    install([(libc::SYS_io_uring_setup, Vec::new())].into(), libc::ENOSYS)
}

/// Lets these calls fail, if a rule of theirs is met or they have none.
fn install(
    mut calls: BTreeMap<i64, Vec<SeccompRule>>,
    errno: i32,
) -> Result<(), Box<dyn std::error::Error>> {
    if cfg!(target_arch = "x86_64") {
        let other_numbers: Vec<_> =
            calls.iter().map(|(call, rules)| (call | X32, rules.clone())).collect();
        calls.extend(other_numbers);
    }
    let program: BpfProgram = SeccompFilter::new(
        calls,
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()?;
    Ok(seccompiler::apply_filter(&program).map_err(io::Error::other)?)
}
