//! The compiler of a build: zig, unpacked once from its wheel, and wrappers that make it look like the
//! compiler the base's Python was built with.
//!
//! Seen by the job, besides its own folder:
//!
//! ```text
//! /toolchain       zig, read-only            /build/tools/      cc, c++, ar, ld, … (wrappers)
//! /target          the target's base,        /build/zig-cache/  zig's cache
//!                  read-only                 /build/target/     the target's sysconfig data
//! ```
//!
//! Every build is told that it is for another machine, also where it is not: then it is told the same on
//! all machines, and compiled by the same program. So the wheel is the same, wherever it is made, and one
//! key stands for it: that of the target and of the compiler's version, not of the machine at hand.
//!
//! zig compiles its own runtime (a C library's start files, libc++) at first use and keeps it in its
//! cache. That is done once for a target, in a job that runs nothing foreign; every build gets a copy
//! of its own, so no build can leave anything to another.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;

use super::{Error, OUTPUT_LIMIT, StoredFile, unpack};
use crate::oci::Digest;
use crate::python::target::{Libc, Target};
use crate::sandbox::{Job, Lent, Sandbox};
use crate::store::{self, Store};
use crate::world::on_thread;

/// Changes when the same compiler would be used differently.
const FORMAT: &str = "toolchain 1";
const CC: &str = include_str!("tools/cc.sh");
const BINUTIL: &str = include_str!("tools/binutil.sh");
const WARM: &str = include_str!("tools/warm.sh");
/// Which wrapper stands for what.
const WRAPPERS: [(&str, &str); 9] = [
    ("cc", CC),
    ("gcc", CC),
    ("c++", CC),
    ("g++", CC),
    ("ar", BINUTIL),
    ("ranlib", BINUTIL),
    ("ld", BINUTIL),
    ("objcopy", BINUTIL),
    ("strip", BINUTIL),
];
/// libc++ takes a minute of two processors; this is a hang.
const TIME_LIMIT: Duration = Duration::from_mins(20);
/// In the wheel: the folder that holds `zig` and `lib`.
const FOLDER: &str = "ziglang";
/// Headers and sources for other systems, half of the wheel's files: of `lib/libc` and
/// `lib/libc/include`.
const OTHER_SYSTEMS: [&str; 8] =
    ["darwin", "freebsd", "mingw", "netbsd", "openbsd", "wasi", "windows", "docs"];
/// Of zig's cache: sources of its own as it has parsed them. They are big, and nothing that is made
/// already needs them.
const PARSED: [&str; 2] = ["tmp", "z"];

/// What compiles a build's C and C++, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler's wheel for this machine.
    pub wheel: StoredFile,
    /// Of the compiler's wheels for all machines, in the lock's order.
    pub wheels: Vec<Digest>,
    /// What the code is for, in zig's words: `aarch64-linux-musl`, `x86_64-linux-gnu.2.36`.
    pub target: String,
    /// What the target's base is: [`crate::base::rootfs::key`]. Its headers, libraries and sysconfig
    /// data are used.
    pub rootfs_key: Digest,
    /// The target, as Python says it: `linux-aarch64`.
    pub platform: String,
}

/// A toolchain as a job gets it.
#[derive(Debug)]
pub(super) struct Ready {
    /// What the job is lent.
    pub(super) lent: Vec<Lent>,
    /// zig's cache, to be copied.
    cache: PathBuf,
}

/// zig's words for a target; `None` if its machine is not one that bases are made for.
pub fn target_triple(target: &Target) -> Option<String> {
    let machine = match target.machine() {
        machine @ ("x86_64" | "aarch64" | "riscv64" | "s390x") => machine,
        "ppc64le" => "powerpc64le",
        _ => return None,
    };
    Some(match target.libc {
        Libc::Musl { .. } => format!("{machine}-linux-musl"),
        Libc::Glibc { major, minor } => format!("{machine}-linux-gnu.{major}.{minor}"),
    })
}

impl Toolchain {
    /// What the result of a build depends on, for its key, besides the target's base.
    pub(super) fn parts(&self) -> Vec<&[u8]> {
        let own = [
            FORMAT.as_bytes(),
            CC.as_bytes(),
            BINUTIL.as_bytes(),
            self.target.as_bytes(),
            self.platform.as_bytes(),
        ];
        own.into_iter().chain(self.wheels.iter().map(|wheel| &wheel.as_bytes()[..])).collect()
    }

    /// What a job's environment has besides.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ASSEMBLE_TARGET", self.target.clone()),
            ("ASSEMBLE_TARGET_ROOT", "/target".to_owned()),
            ("ASSEMBLE_TOOLCHAIN", "/toolchain".to_owned()),
            ("ASSEMBLE_WORK", "/build".to_owned()),
            ("ZIG_GLOBAL_CACHE_DIR", "/build/zig-cache".to_owned()),
            ("ZIG_LOCAL_CACHE_DIR", "/build/zig-cache".to_owned()),
            ("ZIG_LIB_DIR", "/toolchain/lib".to_owned()),
            ("_PYTHON_HOST_PLATFORM", self.platform.clone()),
            // What `./configure --host` would say; scripts read it by themselves.
            ("CONFIG_SITE", "/build/tools/config.site".to_owned()),
        ]
    }

    /// Writes the wrappers, and what tells autoconf's builds what they are for.
    fn write_tools(&self, work: &Path) -> Result<(), Error> {
        let disk = |source| Error::Disk { path: work.to_path_buf(), source };
        let tools = work.join("tools");
        fs::create_dir(&tools).map_err(disk)?;
        for (name, text) in WRAPPERS {
            let path = tools.join(name);
            fs::write(&path, text).map_err(disk)?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&path, mode).map_err(disk)?;
        }
        let machine = self.target.split('.').next().unwrap_or_default();
        let site = format!("cross_compiling=yes\nhost_alias={machine}\n");
        fs::write(tools.join("config.site"), site).map_err(disk)
    }

    /// Writes the wrappers, and what steers Python's and autoconf's builds.
    pub(super) fn write(
        &self,
        target: &Path,
        (major, minor): (u64, u64),
        work: &Path,
    ) -> Result<(), Error> {
        self.write_tools(work)?;
        let disk = |source| Error::Disk { path: work.to_path_buf(), source };
        let library = format!("usr/local/lib/python{major}.{minor}");
        let library =
            crate::sandbox::confine::resolve(target, Path::new(&library)).map_err(disk)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&library).map_err(disk)? {
            let name = entry.map_err(disk)?.file_name().to_string_lossy().into_owned();
            if name.starts_with("_sysconfigdata") && name.strip_suffix(".py").is_some() {
                found.push(name);
            }
        }
        // Other ways of building it have more letters in their names.
        let Some(name) = found.into_iter().min_by_key(|name| (name.len(), name.clone())) else {
            return Err(Error::NoSysconfig { folder: library });
        };
        let own = work.join("target");
        fs::create_dir(&own).map_err(disk)?;
        fs::copy(library.join(&name), own.join(name)).map_err(disk)?;
        Ok(())
    }

    /// The compiler, unpacked, and a cache with its runtime: made once.
    pub(super) async fn ready(
        &self,
        (rootfs, target): (&Path, &Path),
        has_cxx: bool,
        store: &Store,
        sandbox: &Sandbox,
    ) -> Result<Ready, Error> {
        let a_folder = |name: &str, folder: &Path, program: Option<&str>| Lent {
            name: name.to_owned(),
            folder: folder.to_path_buf(),
            program: program.map(str::to_owned),
        };
        let zig = self.unpacked(store).await?;
        let lent = vec![a_folder("toolchain", &zig, Some("zig")), a_folder("target", target, None)];
        let language = if has_cxx { "c++" } else { "c" };
        let key = store::key(&[
            FORMAT.as_bytes(),
            CC.as_bytes(),
            WARM.as_bytes(),
            self.wheel.digest.as_bytes(),
            self.target.as_bytes(),
            language.as_bytes(),
        ]);
        let _turn = store.turn("toolchain-cache", &key).await;
        if let Some(cache) = store.tree("toolchain-cache", &key)? {
            return Ok(Ready { lent, cache });
        }
        let work = store.temporary_directory()?;
        let disk = |source| Error::Disk { path: work.path().to_path_buf(), source };
        self.write_tools(work.path())?;
        fs::write(work.path().join("warm.sh"), WARM).map_err(disk)?;
        let mut env: std::collections::BTreeMap<String, String> =
            self.environment().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        env.insert("ASSEMBLE_BASE_PREFIX".to_owned(), "/usr/local".to_owned());
        env.insert("HOME".to_owned(), "/build".to_owned());
        env.insert("PATH".to_owned(), "/build/tools:/usr/bin:/bin".to_owned());
        // In place, the host's is refused.
        env.insert("TMPDIR".to_owned(), "/build".to_owned());
        let failed = |log: &[u8]| -> Result<Error, Error> {
            let log_digest = store.put(log)?;
            Ok(Error::Toolchain {
                compiler: self.wheel.file_name.clone(),
                target: self.target.clone(),
                tail: super::tail(log),
                log: store.blob_path(&log_digest),
            })
        };
        let ran = sandbox
            .run(&Job {
                rootfs: rootfs.to_path_buf(),
                work: work.path().to_path_buf(),
                lent: lent.clone(),
                argv: ["sh", "/build/warm.sh", language].map(str::to_owned).to_vec(),
                env,
                time_limit: TIME_LIMIT,
                output_limit: OUTPUT_LIMIT,
            })
            .await;
        match ran {
            Ok(outcome) if outcome.success => {}
            Ok(outcome) => return Err(failed(&outcome.log)?),
            Err(error) => match error.log() {
                Some(log) => return Err(failed(log)?),
                None => {
                    return Err(Error::Sandbox {
                        project: self.wheel.file_name.clone(),
                        source: Box::new(error),
                    });
                }
            },
        }
        let cache = on_thread({
            let store = store.clone();
            move || {
                let kept = store.temporary_directory()?;
                let disk = |source| Error::Disk { path: kept.path().to_path_buf(), source };
                let made = work.path().join("zig-cache");
                for name in PARSED {
                    match fs::remove_dir_all(made.join(name)) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(disk(error));
                        }
                        _ => {}
                    }
                }
                copy(&made, kept.path()).map_err(disk)?;
                Ok(store.put_tree("toolchain-cache", &key, kept)?)
            }
        })
        .await?;
        Ok(Ready { lent, cache })
    }

    /// The folder with `zig` and its `lib`, from the wheel.
    async fn unpacked(&self, store: &Store) -> Result<PathBuf, Error> {
        let key = store::key(&[FORMAT.as_bytes(), self.wheel.digest.as_bytes()]);
        let _turn = store.turn("toolchain", &key).await;
        if let Some(tree) = store.tree("toolchain", &key)? {
            return Ok(tree.join(FOLDER));
        }
        let (wheel, store) = (self.wheel.clone(), store.clone());
        let tree = on_thread(move || -> Result<PathBuf, Error> {
            let opened = store
                .open_verified(&wheel.digest)?
                .ok_or_else(|| Error::Absent { file_name: wheel.file_name.clone() })?;
            let folder = store.temporary_directory()?;
            unpack::wheel_without(&wheel.file_name, opened, folder.path(), |path| {
                is_foreign(path)
            })?;
            Ok(store.put_tree("toolchain", &key, folder)?)
        })
        .await?;
        Ok(tree.join(FOLDER))
    }
}

impl Ready {
    /// The build's own copy of zig's cache.
    pub(super) fn copy_cache(&self, work: &Path) -> Result<(), Error> {
        let disk = |source| Error::Disk { path: work.to_path_buf(), source };
        let own = work.join("zig-cache");
        fs::create_dir(&own).map_err(disk)?;
        copy(&self.cache, &own).map_err(disk)
    }
}

/// Whether a file of the wheel is of use only for another system.
fn is_foreign(path: &[String]) -> bool {
    let is_other = |name: &String| name.split('-').any(|word| OTHER_SYSTEMS.contains(&word));
    match path {
        [_, lib, libc, include, name, ..] if libc == "libc" && include == "include" => {
            lib == "lib" && is_other(name)
        }
        [_, lib, libc, name, ..] if libc == "libc" => lib == "lib" && is_other(name),
        [_, lib, name, ..] => lib == "lib" && (is_other(name) || name == "libtsan"),
        _ => false,
    }
}

/// Copies regular files and folders into an existing folder.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_in_zig_s_words() {
        for (python, os, platform, expected) in [
            ("3.13", "alpine3.24", "linux/amd64", Some("x86_64-linux-musl")),
            ("3.6", "alpine3.9", "linux/arm64", Some("aarch64-linux-musl")),
            ("3.12", "slim-bookworm", "linux/arm64/v8", Some("aarch64-linux-gnu.2.36")),
            ("3.8", "buster", "linux/amd64", Some("x86_64-linux-gnu.2.28")),
            ("3.13", "alpine3.24", "linux/ppc64le", Some("powerpc64le-linux-musl")),
            ("3.13", "alpine3.24", "linux/arm/v7", None),
        ] {
            let target = Target::new(python, os, &platform.parse().unwrap()).unwrap();
            assert_eq!(target_triple(&target).as_deref(), expected, "{os} {platform}");
        }
    }

    #[test]
    fn other_systems_are_left_out() {
        for (path, is_left_out) in [
            ("ziglang/zig", false),
            ("ziglang/lib/libc/musl/src/x.c", false),
            ("ziglang/lib/libc/glibc/abilists", false),
            ("ziglang/lib/libc/mingw/x.c", true),
            ("ziglang/lib/libc/include/any-linux-any/linux/x.h", false),
            ("ziglang/lib/libc/include/x86_64-linux-musl/x.h", false),
            ("ziglang/lib/libc/include/x86_64-netbsd-none/x.h", true),
            ("ziglang/lib/libc/include/any-windows-any/x.h", true),
            ("ziglang/lib/libcxx/src/x.cpp", false),
            ("ziglang/lib/std/os/freebsd.zig", false),
            ("ziglang/lib/docs/main.js", true),
        ] {
            let parts: Vec<String> = path.split('/').map(str::to_owned).collect();
            assert_eq!(is_foreign(&parts), is_left_out, "{path}");
        }
    }

    /// What zig is told for these arguments, without what it is always told.
    fn told(target: &str, arguments: &[&str]) -> Vec<String> {
        let folder = tempfile::TempDir::new().unwrap();
        let place = |name: &str| folder.path().join(name);
        for (name, text) in [("cc", CC), ("zig", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n")] {
            fs::write(place(name), text).unwrap();
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(place("zig"), mode).unwrap();
        let output = std::process::Command::new("sh")
            .arg(place("cc"))
            .args(arguments)
            .env("ASSEMBLE_TARGET", target)
            .env("ASSEMBLE_TARGET_ROOT", "/target")
            .env("ASSEMBLE_TOOLCHAIN", folder.path())
            .env("ASSEMBLE_BASE_PREFIX", "/usr/local")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut words: Vec<_> = text.lines().map(str::to_owned).collect();
        let first = words.iter().rposition(|word| word.starts_with("-ffile-prefix-map=")).unwrap();
        words.drain(..=first);
        words
    }

    #[test]
    fn what_gcc_is_told_in_zig_s_words() {
        for (word, expected) in [
            ("-march=x86-64-v2", Some("-march=x86_64_v2")),
            ("-march=skylake-avx512", Some("-march=skylake_avx512")),
            ("-march=armv8-a", Some("-march=generic")),
            ("-march=armv8.2-a+crc", Some("-march=generic+v8_2a+crc")),
            ("-mcpu=cortex-a72+crypto", Some("-mcpu=cortex_a72+crypto")),
            ("-march=native", None),
            ("-mcpu=native", None),
            ("-mtune=generic", None),
            ("-flto=auto", Some("-flto")),
            ("-Wl,--exclude-libs,ALL", None),
            ("-I/usr/local/include/python3.13", Some("-I/target/usr/local/include/python3.13")),
            ("-msse4.2", Some("-msse4.2")),
        ] {
            let words = told("x86_64-linux-musl", &[word, "a.c"]);
            let mut expected: Vec<_> = expected.into_iter().collect();
            expected.push("a.c");
            assert_eq!(words[..expected.len()], expected, "{word}");
            assert!(!words.iter().any(|word| word.contains("-linux-")), "{words:?}");
        }
        let words = told("aarch64-linux-gnu.2.36", &["a.c"]);
        assert!(words.contains(&"-L/target/usr/lib/aarch64-linux-gnu".to_owned()), "{words:?}");
    }

    #[test]
    fn wrappers_and_what_steers_a_build() {
        let folder = tempfile::TempDir::new().unwrap();
        let (work, root) = (folder.path().join("work"), folder.path().join("root"));
        let library = root.join("usr/local/lib/python3.13");
        fs::create_dir_all(&library).unwrap();
        fs::create_dir(&work).unwrap();
        let digest = Digest::of(b"zig");
        let toolchain = Toolchain {
            wheel: StoredFile { file_name: "zig.whl".into(), digest },
            wheels: vec![digest],
            target: "aarch64-linux-gnu.2.36".into(),
            rootfs_key: digest,
            platform: "linux-aarch64".into(),
        };
        let error = toolchain.write(&root, (3, 13), &work).unwrap_err();
        assert!(matches!(error, Error::NoSysconfig { .. }), "{error}");
        for name in ["_sysconfigdata__x.py", "_sysconfigdata_d_x.py"] {
            fs::write(library.join(name), "x = 1").unwrap();
        }
        fs::remove_dir_all(work.join("tools")).unwrap();
        toolchain.write(&root, (3, 13), &work).unwrap();
        for (name, _) in WRAPPERS {
            assert!(work.join("tools").join(name).is_file(), "{name}");
        }
        assert!(work.join("target/_sysconfigdata__x.py").is_file());
        assert_eq!(fs::read_dir(work.join("target")).unwrap().count(), 1);
        let site = fs::read_to_string(work.join("tools/config.site")).unwrap();
        assert_eq!(site, "cross_compiling=yes\nhost_alias=aarch64-linux-gnu\n");
        let platform = ("_PYTHON_HOST_PLATFORM", "linux-aarch64".to_owned());
        assert!(toolchain.environment().contains(&platform));
    }
}
