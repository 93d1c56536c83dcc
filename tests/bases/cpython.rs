//! A `CPython` compiled from its sources: for the versions that no package holds for musl.
//!
//! Debian's archive has the sources as they were released. They are compiled for the lower layer as it
//! is: against its libraries, with the headers of Debian's packages; what runs on the way is started by
//! the layer's own loader. Quickly, not well: for tests, nothing that a figure is taken from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use assemble::oci::Digest;
use bytes::Bytes;

use super::download::Client;
use super::rootfs::Rootfs;
use super::wheels::{self, Wheel};
use super::{Architecture, BaseSpec, Because as _, Error, Result, debian, libressl, python};

/// What it is compiled with, of Debian's `musl-tools` and `make`.
pub(crate) const TOOLS: [&str; 2] = [libressl::COMPILER, "make"];

/// Debian's packages with the headers of the lower layer's libraries.
pub(crate) const HEADERS: [&str; 6] =
    ["libbz2-dev", "libffi-dev", "liblzma-dev", "libsqlite3-dev", "libssl-dev", "zlib1g-dev"];

/// When it was compiled, as it says itself: 2026-01-01 in seconds.
const TIME: &str = "1767225600";

/// Where the official image is built: build settings name the place.
const BUILT_IN: &str = "/usr/src/python";

/// One Python whose sources can be had.
#[derive(Debug)]
pub(crate) struct Sources {
    /// `3.14`
    python: &'static str,
    /// `3.14.7`
    version: &'static str,
    /// Of `python3.14_3.14.7.orig.tar.xz`.
    sha256: &'static str,
    /// The release to look into when the archive does not keep that file any longer.
    suite: &'static str,
    /// The wheels in the official image.
    wheels: &'static [(&'static str, &'static str)],
}

const SOURCES: [Sources; 2] = [
    Sources {
        python: "3.14",
        version: "3.14.7",
        sha256: "3b48dac8fb59f62eaa67ac83c1eb12bda1b7a08406dd286e252c11a66be27f81",
        suite: "forky",
        wheels: &[("pip", "26.2.1")],
    },
    Sources {
        python: "3.9",
        version: "3.9.2",
        sha256: "3c2034c54f811448f516668dce09d24008a0716c3a794dd8639b5388cbde247d",
        suite: "bullseye",
        wheels: &[("pip", "23.0.1"), ("setuptools", "58.1.0"), ("wheel", "0.45.1")],
    },
];

/// The sources of that base's Python, if that is how it is made. They are compiled on the machine that
/// they are for.
pub(crate) fn sources(spec: &BaseSpec) -> Option<&'static Sources> {
    let is_native = spec.architecture == Architecture::Amd64 && spec.debian().is_none();
    SOURCES.iter().find(|sources| is_native && sources.python == spec.python)
}

/// What the layer is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    /// `3.14.7`
    pub(crate) version: String,
    /// The sources, a `.tar.xz`.
    archive: Bytes,
    /// Wheels by file name, pip first.
    wheels: Vec<(String, Bytes)>,
}

/// Fetches everything.
pub(crate) async fn fetch(client: &Client, sources: &Sources) -> Result<Parts> {
    let digest = Digest::from_hex(sources.sha256).because(|| "read a digest".into())?;
    let name = format!("python{}", sources.python);
    let ((version, archive), wheels) = tokio::try_join!(
        debian::source(client, &name, (sources.version, digest), sources.suite),
        fetch_wheels(client, sources.wheels)
    )?;
    Ok(Parts { version, archive, wheels })
}

/// Wheels for any Python 3 by their file names.
pub(crate) async fn fetch_wheels(
    client: &Client,
    wheels: &[(&str, &str)],
) -> Result<Vec<(String, Bytes)>> {
    let wheels = wheels.iter().map(|&(project, version)| async move {
        let tags = "py3-none-any";
        let bytes = wheels::fetch(client, Wheel { project, version, tags }).await?;
        Ok::<_, Error>((format!("{project}-{version}-{tags}.whl"), bytes))
    });
    futures_util::future::try_join_all(wheels).await
}

/// The layer, compiled for the lower one with these headers (by their paths in their packages).
pub(crate) fn layer(
    spec: &BaseSpec,
    parts: &Parts,
    system: &Rootfs,
    headers: &BTreeMap<String, Bytes>,
) -> Result<Rootfs> {
    let doing = || format!("compile Python {}", parts.version);
    let folder = tempfile::TempDir::new().because(doing)?;
    let build = Build { folder: folder.path(), python: spec.python };
    system.unpack(&build.place("system"))?;
    for (path, bytes) in headers {
        let path = path.trim_start_matches("usr/include/");
        let path = path.trim_start_matches(&format!("{}-linux-gnu/", spec.architecture.machine()));
        let mut bytes = bytes.to_vec();
        if path == "openssl/opensslconf.h" {
            // The lower layer's was built without, which its own headers would say.
            bytes.extend_from_slice(b"#define OPENSSL_NO_COMP\n");
        }
        build.file(&format!("system/usr/include/{path}"), &bytes)?;
    }
    build.name_libraries()?;
    build.write_compiler(spec.architecture.machine())?;
    let source = build.unpack(&parts.archive)?;
    build.compile(&source)?;
    build.install_wheels(&parts.wheels)?;
    build.collect(spec, &source)
}

/// The folder that it is made in: the lower layer in `system`, what there is of it in `installed`.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    pub(crate) folder: &'a Path,
    /// `3.14`
    pub(crate) python: &'a str,
}

impl Build<'_> {
    /// That path in it.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file to it.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.place(name);
        let parent = path.parent().unwrap_or(self.folder);
        fs_err::create_dir_all(parent)
            .and_then(|()| fs_err::write(&path, bytes))
            .because(|| format!("write {name}"))
    }

    /// Gives the libraries the names that linkers look for.
    fn name_libraries(&self) -> Result<()> {
        for name in names(&self.place("system/usr/lib"))? {
            // Those with a hash in their names have a link too.
            if let Some((library, _)) = name.split_once(".so.").filter(|(l, _)| !l.contains('-')) {
                let link = self.place(&format!("system/usr/lib/{library}.so"));
                fs_err::os::unix::fs::symlink(&name, link).because(|| "name a library".into())?;
            }
        }
        Ok(())
    }

    /// The compiler. Of Debian's triplet, which is not musl's, it says nothing; an old `setup.py` would
    /// ask others then. It is started with paths that are for musl's programs only.
    fn write_compiler(&self, machine: &str) -> Result<()> {
        let compiler = libressl::COMPILER;
        let source = self.place("source");
        let source = source.display();
        let script = format!(
            "#!/bin/sh\nunset LD_LIBRARY_PATH\ncase $* in\n\
             --print-multiarch) ;;\n\
             -print-multiarch) echo {machine}-linux-musl ;;\n\
             *) exec {compiler} \"$@\" -ffile-prefix-map={source}=/usr/src -s \
             -Wl,--allow-shlib-undefined ;;\nesac\n"
        );
        self.file("bin/cc", script.as_bytes())?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs_err::set_permissions(self.place("bin/cc"), mode).because(|| "write bin/cc".into())
    }

    /// Unpacks the sources; the folder they are in.
    fn unpack(&self, archive: &[u8]) -> Result<PathBuf> {
        let place = self.place("source");
        let reader = lzma_rust2::XzReader::new(archive, true);
        let doing = || "unpack the sources".to_owned();
        tar::Archive::new(reader).unpack(&place).because(doing)?;
        let top = names(&place)?;
        top.first().map(|name| place.join(name)).ok_or_else(|| Error::new("no sources"))
    }

    /// A command with nothing of this process's environment.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>, folder: &Path) -> Command {
        let mut command = Command::new(program);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.place("bin").display());
        command
            .current_dir(folder)
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.folder)
            .env("LC_ALL", "C")
            .env("SOURCE_DATE_EPOCH", TIME);
        command
    }

    /// `configure`, `make`, `make install`.
    fn compile(&self, source: &Path) -> Result<()> {
        let system = self.place("system");
        let system = system.display();
        let mut configure = self.command("./configure", source);
        configure.args([
            "--prefix=/usr/local",
            "--enable-shared",
            "--enable-loadable-sqlite-extensions",
            "--with-ensurepip=no",
            &format!("--with-openssl={system}/usr"),
            &format!("CPPFLAGS=-I{system}/usr/include"),
            &format!("LDFLAGS=-L{system}/usr/lib"),
            "CC=cc",
            "CPP=cc -E",
            "CXX=false",
            "OPT=-DNDEBUG -O1",
            // What this machine has besides is not the base's.
            "PKG_CONFIG=false",
            "py_cv_module__uuid=n/a",
        ]);
        if self.python == "3.14" {
            configure.arg("--disable-test-modules");
        }
        run("configure it", &mut configure)?;

        let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let libraries = format!("{}:{system}/usr/lib", source.display());
        let mut make = self.command("make", source);
        make.arg(format!("-j{jobs}"))
            .arg(format!("RUNSHARED=LD_LIBRARY_PATH={libraries}"))
            .arg(format!("PYTHON_FOR_BUILD={} ./python -E", self.loader().display()));
        run("make it", &mut make)?;

        // Nothing runs any more: that would only write the bytecode that the official image removes.
        let installed = format!("DESTDIR={}", self.place("installed").display());
        let mut install = self.command("make", source);
        run("install it", install.args(["install", &installed, "PYTHON_FOR_BUILD=true"]))?;
        // The old `setup.py`, which did not run, would have done this.
        let libraries = self.place(&format!("installed/usr/local/lib/python{}", self.python));
        let place = libraries.join("lib-dynload");
        fs_err::create_dir_all(&place).because(|| "install its modules".into())?;
        for folder in names(&source.join("build"))?.iter().filter(|name| name.starts_with("lib.")) {
            let folder = source.join("build").join(folder);
            for name in names(&folder)? {
                let module = folder.join(&name);
                if module.extension().is_some_and(|extension| extension == "so") {
                    fs_err::copy(module, place.join(name)).because(|| "install a module".into())?;
                }
            }
        }
        Ok(())
    }

    fn loader(&self) -> PathBuf {
        self.place(&format!("system/lib/ld-musl-{}.so.1", Architecture::Amd64.machine()))
    }

    /// Installs pip and others with that very pip.
    pub(crate) fn install_wheels(&self, wheels: &[(String, Bytes)]) -> Result<()> {
        for (name, bytes) in wheels {
            self.file(name, bytes)?;
        }
        let Some((pip, _)) = wheels.first() else { return Ok(()) };
        let installed = self.place("installed/usr/local");
        let libraries = [installed.join("lib"), self.place("system/usr/lib")];
        let libraries = libraries.each_ref().map(|path| path.display().to_string()).join(":");
        let mut command = self.command(self.loader(), self.folder);
        command
            .env("LD_LIBRARY_PATH", libraries)
            .arg(installed.join(format!("bin/python{}", self.python)))
            .arg(format!("{pip}/pip"))
            .args(["install", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"])
            .args(["--disable-pip-version-check", "--no-warn-script-location"])
            // By their names: what is installed from a path says so.
            .arg("--find-links=.")
            .args(wheels.iter().filter_map(|(name, _)| {
                let (project, rest) = name.split_once('-')?;
                Some(format!("{project}=={}", rest.split_once('-')?.0))
            }));
        run("install pip", &mut command)
    }

    /// The files of the official image.
    pub(crate) fn collect(&self, spec: &BaseSpec, source: &Path) -> Result<Rootfs> {
        let moved = [
            (self.place("installed").display().to_string(), ""),
            (self.place("system").display().to_string(), ""),
            (source.display().to_string(), BUILT_IN),
            (self.folder.display().to_string(), "/root"),
        ];
        let mut rootfs = Rootfs::default();
        let top = self.place("installed/usr/local");
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            for name in names(&top.join(&folder))? {
                let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                let doing = || format!("read {path}");
                let from = top.join(&path);
                let meta = fs_err::symlink_metadata(&from).because(doing)?;
                if meta.is_dir() {
                    folders.push(path);
                } else if !python::belongs(spec, &path) {
                } else if meta.is_symlink() {
                    let target = fs_err::read_link(&from).because(doing)?;
                    rootfs.link(&format!("usr/local/{path}"), &target.to_string_lossy());
                } else {
                    let bytes =
                        python::relocated(spec, fs_err::read(&from).because(doing)?, &moved);
                    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
                    let put = if mode & 0o111 == 0 { Rootfs::file } else { Rootfs::program };
                    put(&mut rootfs, &format!("usr/local/{path}"), bytes);
                }
            }
        }
        Ok(rootfs)
    }
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Result<Vec<String>> {
    let doing = || format!("list {}", folder.display());
    let entries: std::io::Result<Vec<_>> = fs_err::read_dir(folder).because(doing)?.collect();
    let entries = entries.because(doing)?;
    let mut names: Vec<_> =
        entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// Runs a command that must succeed.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    let output = command.output();
    let output = output.because(|| format!("{what}: run {}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    let [out, err] = [&output.stdout, &output.stderr].map(|said| {
        let said = String::from_utf8_lossy(said);
        let lines: Vec<_> = said.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    });
    Err(Error::new(format!("could not {what}: {}\n{out}\n{err}", output.status)))
}
