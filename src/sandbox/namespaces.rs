//! Tier 1: user, mount, pid, network, ipc and uts namespaces of the job's own.
//!
//! Two user namespaces are nested. In the first we are root and mount; in the second the job is an
//! ordinary user that owns its files and has no capability in the first, so that it can undo no mount.
//! That matters most where we are root on the host: the job's user is then the owner of `/proc/sys`,
//! which is why `/proc` is read-only as well.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use fs_err as fs;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, getegid, geteuid, pivot_root, sethostname};

use super::fence::DEVICES;
use super::stage::{Refusal, Spec, Step};

/// Where the job sees its work folder.
pub(super) const WORK: &str = "/build";
/// The job's user and group in its own namespace: any number but root's.
const USER: u32 = 1000;
/// Names at the top of the base that the job's root has of its own.
const OWN: [&str; 5] = ["build", "dev", "proc", "sys", "tmp"];

const NONE: Option<&str> = None;

/// The middle stage's part: its children are in namespaces of their own.
pub(super) fn leave_the_host() -> Result<(), Refusal> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let own = open_self()?;
    unshare(
        CloneFlags::CLONE_NEWUSER
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )
    .map_err(|error| match error {
        // No disk is meant.
        Errno::ENOSPC | Errno::EUSERS => {
            io::Error::other("no more user namespaces are allowed (user.max_user_namespaces)")
        }
        other => other.into(),
    })
    .step("unshare")?;
    map(&own, 0, uid, gid)
}

/// The inner stage's part: builds the job's root, moves into it, and gives all power away.
pub(super) fn enter(spec: &Spec) -> Result<(), Refusal> {
    let own = open_self()?;
    build_root(spec)?;
    pivot_root(".", ".").step("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).step("umount the host")?;
    chdir("/").step("chdir /")?;
    sethostname("sandbox").step("sethostname")?;
    forbid_namespaces()?;
    unshare(CloneFlags::CLONE_NEWUSER).step("unshare again")?;
    map(&own, USER, 0, 0)
}

/// `/proc/self`, opened: its files can be reached after the host is gone.
fn open_self() -> Result<OwnedFd, Refusal> {
    open("/proc/self", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).step("open /proc/self")
}

/// Maps one user and one group of the namespace to ours outside: all that is allowed without root.
fn map(own: &OwnedFd, inside: u32, uid: u32, gid: u32) -> Result<(), Refusal> {
    for (name, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{inside} {uid} 1")),
        ("gid_map", format!("{inside} {gid} 1")),
    ] {
        let file = openat(own, name, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
            .step(&format!("open {name}"))?;
        File::from(file).write_all(text.as_bytes()).step(&format!("write {name}"))?;
    }
    Ok(())
}

/// Mounts the job's root over the base's folder and leaves the working directory there.
///
/// The root is a tmpfs with the base's top-level entries bound into it, so that mount points can be
/// made without touching the cached base. Relative paths still mean the base, since the working
/// directory is below the new mount until the end.
fn build_root(spec: &Spec) -> Result<(), Refusal> {
    let root = &spec.rootfs;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).step("make / private")?;
    // Bound before the root covers it, should it lie below: then nothing would be found.
    let folder = |path: &Path| {
        open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
    };
    let work = folder(&spec.work).step("open the work folder")?;
    let lent: Vec<OwnedFd> = spec
        .lent
        .iter()
        .map(|lent| folder(&lent.folder))
        .collect::<Result<_, _>>()
        .step("open a lent folder")?;
    chdir(root).step("chdir to the base")?;
    tmpfs(root, "mode=0755,size=1m")?;

    let mut names = fs::read_dir(".")
        .and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
        })
        .step("list the base")?;
    names.sort();
    for name in &names {
        if !OWN.iter().any(|own| name == own) && !spec.lent.iter().any(|lent| *name == *lent.name) {
            bind_top(root, name)?;
        }
    }
    for name in OWN {
        fs::create_dir(root.join(name)).step("make a mount point")?;
    }
    for (lent, folder) in spec.lent.iter().zip(&lent) {
        let target = root.join(&lent.name);
        fs::create_dir(&target).step("make a mount point")?;
        bind(&descriptor_path(folder), &target, MsFlags::MS_RDONLY)?;
    }
    tmpfs(&root.join("tmp"), "mode=1777,size=1g")?;
    build_dev(&root.join("dev"))?;
    let program = spec
        .lent
        .iter()
        .find_map(|lent| Some(Path::new("/").join(&lent.name).join(lent.program.as_ref()?)));
    mount_proc(&root.join("proc"), program.as_deref())?;
    let build = root.join(WORK.trim_start_matches('/'));
    bind(&descriptor_path(&work), &build, MsFlags::empty())?;
    // The root itself, not what is mounted on it.
    remount(root, MsFlags::MS_RDONLY)?;
    chdir(root).step("chdir to the root")
}

/// One entry at the top of the base, read-only.
fn bind_top(root: &Path, name: &OsStr) -> Result<(), Refusal> {
    let source = Path::new(".").join(name);
    let target = root.join(name);
    let kind = fs::symlink_metadata(&source).step("look at the base")?.file_type();
    if kind.is_symlink() {
        let text = fs::read_link(&source).step("read a link of the base")?;
        return fs_err::os::unix::fs::symlink(text, &target).step("make a link");
    }
    if kind.is_dir() {
        fs::create_dir(&target).step("make a mount point")?;
    } else if kind.is_file() {
        fs::File::create(&target).step("make a mount point")?;
    } else {
        return Ok(());
    }
    bind(&source, &target, MsFlags::MS_RDONLY)
}

/// Binds with what is mounted below: the kernel refuses to tear such mounts apart.
fn bind(source: &Path, target: &Path, flags: MsFlags) -> Result<(), Refusal> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .step("bind a folder")?;
    remount(target, flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV)
}

/// Adds flags to those a mount has. What the host has locked must be named again, or it is refused.
fn remount(target: &Path, flags: MsFlags) -> Result<(), Refusal> {
    let present = statvfs(target).step("statvfs")?.flags();
    let kept = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
    ]
    .into_iter()
    .filter(|(flag, _)| present.contains(*flag))
    .fold(flags, |all, (_, flag)| all | flag);
    mount(NONE, target, NONE, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | kept, NONE).step("remount")
}

fn tmpfs(target: &Path, options: &str) -> Result<(), Refusal> {
    mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options),
    )
    .step("mount a tmpfs")
}

fn build_dev(dev: &Path) -> Result<(), Refusal> {
    tmpfs(dev, "mode=0755,size=64k")?;
    for name in DEVICES {
        let target = dev.join(name);
        fs::File::create(&target).step("make a mount point")?;
        mount(Some(&Path::new("/dev").join(name)), &target, NONE, MsFlags::MS_BIND, NONE)
            .step("bind a device")?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        fs_err::os::unix::fs::symlink(target, dev.join(name)).step("make a link")?;
    }
    let shared_memory = dev.join("shm");
    fs::create_dir(&shared_memory).step("make a mount point")?;
    tmpfs(&shared_memory, "mode=1777,size=64m")?;
    remount(dev, MsFlags::MS_RDONLY)
}

/// A `/proc` of the job's own pid namespace. Where part of the host's is hidden, as in a container,
/// the kernel refuses a new one; then there is none: the host's would show its processes.
///
/// What a lent program asks of it then is there as a link.
fn mount_proc(target: &Path, program: Option<&Path>) -> Result<(), Refusal> {
    let mounted = mount(
        Some("proc"),
        target,
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        NONE,
    );
    match program {
        Some(program) if mounted.is_err() => {
            let own = target.join("self");
            fs::create_dir(&own).step("make a folder")?;
            fs_err::os::unix::fs::symlink(program, own.join("exe")).step("make a link")
        }
        _ => Ok(()),
    }
}

/// Lets the job make no more user namespaces (where the kernel can be told so), and makes `/proc`
/// read-only.
fn forbid_namespaces() -> Result<(), Refusal> {
    let most = Path::new("/proc/sys/user/max_user_namespaces");
    if !most.exists() {
        return Ok(());
    }
    // One more: the one the job itself lives in. An old kernel may refuse; the rest holds anyway.
    let _hardening = fs::write(most, "1");
    remount(Path::new("/proc"), MsFlags::MS_RDONLY)
}

/// A path to what a descriptor was opened on, whatever has been mounted over it since.
fn descriptor_path(descriptor: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}
