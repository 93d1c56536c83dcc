//! `CPython` 3.7, which no package holds whole: put together from parts of packages.
//!
//! | part | what it is | package |
//! | --- | --- | --- |
//! | interpreter and modules in C | 3.7.17 for musl, as the builders of wheels have it | a wheel of a project that freezes programs: it puts them into what it makes |
//! | modules in Python | 3.7.10's | Debian's `PyPy` of that language |
//! | those that `PyPy` rewrote for itself | 3.6.8's | the wheel that holds that Python |
//! | the program | starts the interpreter | the C file beside this one |
//!
//! So what wheels for 3.7 are compiled against is the real thing. What it is not: one release as a whole.
//! It brings no headers either: nothing in C can be built for it.

use std::process::Command;

use bytes::Bytes;

use super::cpython::{self, Build};
use super::download::Client;
use super::rootfs::Rootfs;
use super::wheels::{self, Wheel};
use super::{Architecture, BaseSpec, Because as _, Error, Result, debian, libressl, python};

/// The version of the interpreter.
pub(crate) const VERSION: &str = "3.7.17";

/// What the interpreter's file is called: the name that it has where it is shared.
const INTERPRETER: &str = "libpython3.7m.so.1.0";

/// Debian's release with a `PyPy` that speaks 3.7.
const SUITE: &str = "bullseye";

/// What it calls the modules in Python.
const PYPY: &str = "pypy3-lib";

/// The wheels in the official image.
const WHEELS: [(&str, &str); 3] =
    [("pip", "23.0.1"), ("setuptools", "57.5.0"), ("wheel", "0.42.0")];

/// Modules and packages that `PyPy` rewrote such that they run on it only, or are about it.
const REWRITTEN: [&str; 11] = [
    "_weakrefset.py",
    "ctypes",
    "datetime.py",
    "distutils",
    "inspect.py",
    "json",
    "pickle.py",
    "rlcompleter.py",
    "site.py",
    "sysconfig.py",
    "weakref.py",
];

/// What the interpreter's modules load; it brings the graphical ones too.
const LIBRARIES: [&str; 11] = [
    "libbz2-",
    "libcrypto-",
    "libexpat-",
    "libffi-",
    "libintl-",
    "liblzma-",
    "libncursesw-",
    "libreadline-",
    "libsqlite3-",
    "libssl-",
    "libuuid-",
];

/// Whether that base's Python is made like this.
pub(crate) fn makes(spec: &BaseSpec) -> bool {
    spec.python == "3.7" && spec.architecture == Architecture::Amd64 && spec.debian().is_none()
}

/// What the layer is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The wheel with the interpreter.
    freezer: Bytes,
    /// Debian's package.
    pypy: Bytes,
    /// Python 3.6, whole.
    older: Rootfs,
    /// Wheels by file name, pip first.
    wheels: Vec<(String, Bytes)>,
}

/// Fetches everything.
pub(crate) async fn fetch(client: &Client, spec: &BaseSpec) -> Result<Parts> {
    let freezer =
        Wheel { project: "cx-freeze", version: "6.15.9", tags: "cp37-cp37m-musllinux_1_1_x86_64" };
    let older = BaseSpec { python: "3.6", ..*spec };
    let (freezer, mut packages, older_parts, wheels) = tokio::try_join!(
        wheels::fetch(client, freezer),
        debian::fetch(client, SUITE, spec.architecture, &[PYPY]),
        python::fetch_wheel(client, &older),
        cpython::fetch_wheels(client, &WHEELS)
    )?;
    let pypy = packages.remove(PYPY).unwrap_or_default();
    let older = python::unpacked(&older, older_parts.0, &older_parts.1)?;
    Ok(Parts { freezer, pypy, older, wheels })
}

/// The layer, for that lower one.
pub(crate) fn layer(spec: &BaseSpec, parts: &Parts, system: &Rootfs) -> Result<Rootfs> {
    let doing = || "put Python 3.7 together".to_owned();
    let place = "usr/local/lib/python3.7";
    let mut rootfs = Rootfs::default();

    let origin = "usr/lib/pypy3/lib-python/3/";
    for (path, bytes) in debian::members(&parts.pypy, |path| path.starts_with(origin))? {
        let path = path.trim_start_matches(origin);
        let top = path.split('/').next().unwrap_or_default();
        if !REWRITTEN.contains(&top) {
            rootfs.file(&format!("{place}/{path}"), bytes);
        }
    }
    let older = "usr/local/lib/python3.6";
    for name in REWRITTEN {
        rootfs.adopt(&parts.older, &format!("{older}/{name}"), &format!("{place}/{name}"));
    }
    // Where it lies and how it is linked: this is the same for both but for their names.
    let settings = "_sysconfigdata_m_linux_x86_64-linux-gnu.py";
    let text = parts.older.read(&format!("{older}/{settings}"));
    let text = text.ok_or_else(|| Error::new("Python 3.6 has no build settings"))?;
    let text = String::from_utf8_lossy(text).replace("3.6", "3.7").replace("36m", "37m");
    rootfs.file(&format!("{place}/{settings}"), text);

    let bases = "cx_Freeze/bases/";
    for (path, bytes) in wheels::members(&parts.freezer, |path| path.starts_with(bases))? {
        match path.trim_start_matches(bases).split_once('/') {
            None if path.contains("/console-cpython-37m-") => {
                rootfs.program(&format!("usr/local/lib/{INTERPRETER}"), bytes);
            }
            Some(("lib", name)) if LIBRARIES.iter().any(|library| name.starts_with(library)) => {
                rootfs.program(&format!("usr/local/lib/{name}"), bytes);
            }
            Some(("lib-dynload", name)) if !is_useless(name) => {
                rootfs.program(&format!("{place}/lib-dynload/{name}"), bytes);
            }
            _ => {}
        }
    }

    let folder = tempfile::TempDir::new().because(doing)?;
    let build = Build { folder: folder.path(), python: spec.python };
    system.unpack(&build.place("system"))?;
    build.file("python37.c", include_bytes!("python37.c"))?;
    let compile = |arguments: &[&str]| {
        let mut command = Command::new(libressl::COMPILER);
        command.current_dir(folder.path()).args(["-O2", "-s"]).args(arguments).arg("python37.c");
        cpython::run("compile what starts Python 3.7", &mut command)
    };
    let soname = format!("-Wl,-soname,{INTERPRETER}");
    compile(&["-DSTUB", "-shared", "-fPIC", &soname, "-o", "stub.so"])?;
    // As a program it copies what the C library exports, `stdout` say; as a library it would find its own
    // copies first if it stood before that one.
    compile(&["-o", "python3.7", "-Wl,--no-as-needed", "-lc", "stub.so"])?;
    let program = build.place("python3.7");
    rootfs.program("usr/local/bin/python3.7", fs_err::read(&program).because(doing)?);
    rootfs.link("usr/local/bin/python3", "python3.7");
    rootfs.unpack(&build.place("installed"))?;
    build.install_wheels(&parts.wheels)?;
    build.collect(spec, &build.place("source"))
}

/// Modules for graphical programs, rare databases and tests.
fn is_useless(module: &str) -> bool {
    let beginnings = ["_tkinter", "_gdbm", "_dbm", "_curses_panel", "_test", "_xxtest", "xx"];
    module.contains("_test") || beginnings.iter().any(|beginning| module.starts_with(beginning))
}
