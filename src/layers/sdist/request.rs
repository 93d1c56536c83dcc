//! All that a build depends on, and the digest over it.

use std::collections::{BTreeMap, BTreeSet};

use pep440_rs::Version;
use pep508_rs::PackageName;

use super::{DRIVER, Toolchain};
use crate::oci::Digest;
use crate::store;

/// Changes when the same inputs would be built differently.
const FORMAT: &str = "sdist 2";
/// The first moment a zip can hold: 1980-01-01.
const SOURCE_DATE_EPOCH: &str = "315532800";

/// A file that lies in the store, verified against the lock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredFile {
    /// As the package index names it.
    pub file_name: String,
    /// Of its bytes.
    pub digest: Digest,
}

/// Everything a build depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildRequest {
    /// The project.
    pub name: PackageName,
    /// Its version.
    pub version: Version,
    /// The sdist.
    pub sdist: StoredFile,
    /// The locked build requirements with all they require; wheels.
    pub build_requirements: Vec<StoredFile>,
    /// With a compiler: what they are where the same build runs on another machine. The key is over them
    /// too, so that it is one on all machines.
    pub alternatives: Vec<StoredFile>,
    /// Major and minor version of the base's Python, which runs the build.
    pub python: (u64, u64),
    /// What the base is: [`crate::base::rootfs::key`].
    pub rootfs_key: Digest,
    /// What compiles C and C++; without it the project has to do without.
    pub toolchain: Option<Toolchain>,
    /// Environment variables besides ours, which they win over.
    pub env: BTreeMap<String, String>,
}

impl BuildRequest {
    /// What the result is found by: a digest over all that goes in. With a compiler, nothing of it is of
    /// the machine that runs the build: see [`super::toolchain`].
    pub fn key(&self) -> Digest {
        let requirements: BTreeSet<_> =
            self.build_requirements.iter().chain(&self.alternatives).collect();
        let rootfs_key = self.toolchain.as_ref().map_or(&self.rootfs_key, |own| &own.rootfs_key);
        let python = format!("{}.{}", self.python.0, self.python.1);
        let env = self.environment();
        let mut parts = vec![
            FORMAT.as_bytes(),
            DRIVER.as_bytes(),
            self.name.as_ref().as_bytes(),
            python.as_bytes(),
            self.sdist.digest.as_bytes(),
            self.sdist.file_name.as_bytes(),
            rootfs_key.as_bytes(),
        ];
        let version = self.version.to_string();
        parts.push(version.as_bytes());
        let counts = [env.len().to_le_bytes(), requirements.len().to_le_bytes()];
        parts.extend(counts.iter().map(|count| &count[..]));
        for (name, value) in &env {
            parts.extend([name.as_bytes(), value.as_bytes()]);
        }
        for file in &requirements {
            parts.extend([&file.digest.as_bytes()[..], file.file_name.as_bytes()]);
        }
        if let Some(toolchain) = &self.toolchain {
            parts.extend(toolchain.parts());
        }
        store::key(&parts)
    }

    /// The build's whole environment.
    pub(super) fn environment(&self) -> BTreeMap<String, String> {
        let mut env: BTreeMap<String, String> = [
            ("PATH", "/build/env/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/build"),
            ("TMPDIR", "/build/tmp"),
            ("LANG", "C.UTF-8"),
            ("TZ", "UTC"),
            ("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH),
            ("PYTHONHASHSEED", "0"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("PYTHONNOUSERSITE", "1"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        if let Some(toolchain) = &self.toolchain {
            for (name, value) in toolchain.environment() {
                env.insert(name.to_owned(), value);
            }
            // Nothing that a build requirement brings is taken for the compiler.
            env.entry("PATH".to_owned()).and_modify(|path| path.insert_str(0, "/build/tools:"));
        }
        env.extend(self.env.clone());
        env
    }

    /// Name and version, for messages.
    pub(super) fn project(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> BuildRequest {
        let file = |file_name: &str| StoredFile {
            file_name: file_name.into(),
            digest: Digest::of(file_name.as_bytes()),
        };
        BuildRequest {
            name: "zope.interface".parse().unwrap(),
            version: "8.7".parse().unwrap(),
            sdist: file("zope_interface-8.7.tar.gz"),
            build_requirements: vec![file("a-1-py3-none-any.whl"), file("b-1-py3-none-any.whl")],
            alternatives: Vec::new(),
            python: (3, 13),
            rootfs_key: Digest::of(b"base"),
            toolchain: None,
            env: BTreeMap::new(),
        }
    }

    fn toolchain() -> Toolchain {
        Toolchain {
            wheel: StoredFile { file_name: "zig.whl".into(), digest: Digest::of(b"zig") },
            target: "x86_64-linux-musl".into(),
            wheels: vec![Digest::of(b"zig"), Digest::of(b"zig for others")],
            rootfs_key: Digest::of(b"base"),
            platform: "linux-x86_64".into(),
        }
    }

    #[test]
    fn the_key_is_over_all_that_goes_in_and_no_order() {
        let key = request().key();
        let mut same = request();
        same.build_requirements.reverse();
        assert_eq!(same.key(), key);
        let changes: [fn(&mut BuildRequest); 8] = [
            |r| r.name = "zope".parse().unwrap(),
            |r| r.version = "8.8".parse().unwrap(),
            |r| r.sdist.digest = Digest::of(b"another"),
            |r| drop(r.build_requirements.pop()),
            |r| r.python = (3, 14),
            |r| r.rootfs_key = Digest::of(b"another"),
            |r| drop(r.env.insert("CC".into(), "cc".into())),
            |r| r.toolchain = Some(toolchain()),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut other = request();
            change(&mut other);
            assert_ne!(other.key(), key, "change {number}");
        }
        let compiled = |change: fn(&mut Toolchain)| {
            let mut toolchain = toolchain();
            change(&mut toolchain);
            BuildRequest { toolchain: Some(toolchain), ..request() }.key()
        };
        let changes: [fn(&mut Toolchain); 5] = [
            |_| {},
            |t| t.wheels[1] = Digest::of(b"another"),
            |t| t.target = "aarch64-linux-musl".into(),
            |t| t.rootfs_key = Digest::of(b"another"),
            |t| t.platform = "linux-aarch64".into(),
        ];
        let keys: std::collections::BTreeSet<_> = changes.map(compiled).into_iter().collect();
        assert_eq!(keys.len(), changes.len());
    }

    #[test]
    fn with_a_compiler_the_key_is_the_same_on_all_machines() {
        let file = |file_name: &str| StoredFile {
            file_name: file_name.into(),
            digest: Digest::of(file_name.as_bytes()),
        };
        let on = |machine: &str, other: &str| {
            let mut toolchain = toolchain();
            toolchain.wheel = file(machine);
            let mut request = BuildRequest { toolchain: Some(toolchain), ..request() };
            request.rootfs_key = Digest::of(machine.as_bytes());
            request.build_requirements.push(file(machine));
            request.alternatives = vec![file("a-1-py3-none-any.whl"), file(other)];
            request
        };
        let (amd64, arm64) = (on("amd64", "arm64"), on("arm64", "amd64"));
        assert_eq!(amd64.key(), arm64.key());
        // What is not compiled for the target is the machine's own.
        let plain = |request: &BuildRequest| BuildRequest { toolchain: None, ..request.clone() };
        assert_ne!(plain(&amd64).key(), plain(&arm64).key());
    }

    #[test]
    fn the_compiler_comes_first() {
        let with = BuildRequest { toolchain: Some(toolchain()), ..request() };
        let path = |request: &BuildRequest| request.environment()["PATH"].clone();
        assert_eq!(path(&with), format!("/build/tools:{}", path(&request())));
        assert!(!request().environment().keys().any(|name| name.contains("ZIG")));
    }
}
