//! The Python version, libc and platform that everything is decided for; nothing here is the host's.

use pep440_rs::Version;
use pep508_rs::{MarkerEnvironment, MarkerEnvironmentBuilder};

use super::releases;
use super::tags::Tags;
use crate::error::{Failure, Kind};
use crate::oci::Platform;

/// Which C library a target has, with its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Libc {
    /// musl 1.2 allows `musllinux_1_2` and `musllinux_1_1` wheels (PEP 656).
    Musl {
        /// 1
        major: u16,
        /// 1 or 2
        minor: u16,
    },
    /// glibc 2.36 allows `manylinux_2_36` and older (PEP 600).
    Glibc {
        /// 2
        major: u16,
        /// 36
        minor: u16,
    },
}

/// What wheels and markers are chosen for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Major, minor and patch version of CPython.
    pub python: (u8, u8, u8),
    /// The base's C library.
    pub libc: Libc,
    /// os/architecture/variant of the image.
    pub platform: Platform,
}

/// Why there is no such target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not `3.13` or `3.13.5`.
    #[error("python is not a version like `3.13` or `3.13.5`: `{0}`")]
    Python(String),
    /// The patch version is not known here and was not given.
    #[error("the patch version of python `{0}` is not known")]
    Patch(String),
    /// Its C library is not known.
    #[error("the C library of os `{0}` is not known")]
    Os(String),
    /// Python's name of its machine is not known.
    #[error("python has no known name for platform `{0}`")]
    Platform(Platform),
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Python(_) => None,
            Self::Patch(python) => Some(format!("give it in full, as in `{python}.0`")),
            Self::Os(_) => {
                let names: Vec<&str> = DEBIAN.iter().map(|(name, _)| *name).collect();
                Some(format!(
                    "known are `alpine3.N` from 3.3 on, and with or without `slim-`: `{}`",
                    names.join("`, `")
                ))
            }
            Self::Platform(_) => {
                let names: Vec<&str> = MACHINES.iter().map(|(name, ..)| *name).collect();
                Some(format!("known are `linux/{}`", names.join("`, `linux/")))
            }
        }
    }
}

/// Debian's releases and their glibc's minor version.
const DEBIAN: [(&str, u16); 6] = [
    ("jessie", 19),
    ("stretch", 24),
    ("buster", 28),
    ("bullseye", 31),
    ("bookworm", 36),
    ("trixie", 41),
];

/// Go's architecture and variant, and what `platform.machine()` says there.
const MACHINES: [(&str, Option<&str>, &str); 8] = [
    ("amd64", None, "x86_64"),
    ("arm64", None, "aarch64"),
    ("386", None, "i686"),
    ("arm", Some("v6"), "armv6l"),
    ("arm", None, "armv7l"),
    ("ppc64le", None, "ppc64le"),
    ("riscv64", None, "riscv64"),
    ("s390x", None, "s390x"),
];

impl Target {
    /// The target of a base: `python` is `3.13` or `3.13.5`, `os` the base's OS version as in its tag
    /// (`alpine3.24`, `slim-bookworm`). Without a patch version it is the last one that the official
    /// image is known to have on that OS: see [`releases::last_patch`].
    ///
    /// # Errors
    /// Something of it is not known.
    pub fn new(python: &str, os: &str, platform: &Platform) -> Result<Self, Error> {
        let target = Self {
            python: python_version(python, os)?,
            libc: libc(os).ok_or_else(|| Error::Os(os.to_owned()))?,
            platform: platform.clone(),
        };
        machine(platform).ok_or_else(|| Error::Platform(platform.clone()))?;
        Ok(target)
    }

    /// Major, minor and patch, for `Requires-Python`.
    pub fn version(&self) -> Version {
        let (major, minor, patch) = self.python;
        Version::new([u64::from(major), u64::from(minor), u64::from(patch)])
    }

    /// Python's name of the machine: `x86_64`. It is also the end of its platform tags.
    pub fn machine(&self) -> &'static str {
        // `new` refuses the others; a `Target` made by hand gets no wheel but `any`.
        machine(&self.platform).unwrap_or("unknown")
    }

    /// The values of the environment markers (PEP 508). The kernel's release and version are empty:
    /// nobody knows where an image will run.
    pub fn markers(&self) -> MarkerEnvironment {
        let (major, minor, patch) = self.python;
        let full = format!("{major}.{minor}.{patch}");
        let builder = MarkerEnvironmentBuilder {
            implementation_name: "cpython",
            implementation_version: &full,
            os_name: "posix",
            platform_machine: self.machine(),
            platform_python_implementation: "CPython",
            platform_release: "",
            platform_system: "Linux",
            platform_version: "",
            python_full_version: &full,
            python_version: &format!("{major}.{minor}"),
            sys_platform: "linux",
        };
        #[expect(
            clippy::expect_used,
            clippy::missing_panics_doc,
            reason = "three numbers with dots between are a PEP 440 version"
        )]
        MarkerEnvironment::try_from(builder).expect("numbers make a version")
    }

    /// The wheel tags it accepts, in the order of preference.
    pub fn tags(&self) -> Tags {
        Tags::new(self)
    }
}

fn python_version(python: &str, os: &str) -> Result<(u8, u8, u8), Error> {
    let malformed = || Error::Python(python.to_owned());
    let numbers: Vec<u8> = python
        .split('.')
        .map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        })
        .collect::<Option<_>>()
        .ok_or_else(malformed)?;
    match numbers[..] {
        [3, minor, patch] => Ok((3, minor, patch)),
        [3, minor] => releases::last_patch(minor, os)
            .map(|patch| (3, minor, patch))
            .ok_or_else(|| Error::Patch(python.to_owned())),
        _ => Err(malformed()),
    }
}

/// Alpine has musl 1.2 since 3.13 and had 1.1 before (1.1.20 in 3.9, 1.1.24 in 3.12). `musllinux_1_1`
/// wheels may use functions that came with 1.1.20; like pip we do not look at musl's third number.
fn libc(os: &str) -> Option<Libc> {
    if let Some(alpine) = os.strip_prefix("alpine3.") {
        let release: u16 = alpine.parse().ok()?;
        let minor = if release >= 13 { 2 } else { 1 };
        return (release >= 3).then_some(Libc::Musl { major: 1, minor });
    }
    let name = os.strip_prefix("slim-").unwrap_or(os);
    DEBIAN
        .iter()
        .find(|(known, _)| *known == name)
        .map(|&(_, minor)| Libc::Glibc { major: 2, minor })
}

fn machine(platform: &Platform) -> Option<&'static str> {
    if platform.os != "linux" {
        return None;
    }
    MACHINES
        .iter()
        .find(|(architecture, variant, _)| {
            *architecture == platform.architecture
                && (variant.is_none() || *variant == platform.variant.as_deref())
        })
        .map(|&(.., machine)| machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(python: &str, os: &str, platform: &str) -> Result<Target, Error> {
        Target::new(python, os, &platform.parse().unwrap())
    }

    #[test]
    fn new() {
        let musl = |minor| Libc::Musl { major: 1, minor };
        let glibc = |minor| Libc::Glibc { major: 2, minor };
        for (python, os, version, libc) in [
            ("3.13", "alpine3.24", (3, 13, 15), musl(2)),
            ("3.13.5", "alpine3.99", (3, 13, 5), musl(2)),
            ("3.9", "alpine3.13", (3, 9, 9), musl(2)),
            ("3.9", "alpine3.12", (3, 9, 5), musl(1)),
            ("3.6", "alpine3.9", (3, 6, 10), musl(1)),
            ("3.12", "slim-bookworm", (3, 12, 14), glibc(36)),
            ("3.8", "buster", (3, 8, 17), glibc(28)),
        ] {
            let found = target(python, os, "linux/amd64").unwrap();
            assert_eq!((found.python, found.libc), (version, libc), "{python} {os}");
        }
        for (python, os, platform, error) in [
            ("2.7", "alpine3.9", "linux/amd64", Error::Python("2.7".into())),
            ("3", "alpine3.9", "linux/amd64", Error::Python("3".into())),
            ("3.+9", "alpine3.9", "linux/amd64", Error::Python("3.+9".into())),
            ("3.9.1.2", "alpine3.9", "linux/amd64", Error::Python("3.9.1.2".into())),
            ("3.77", "alpine3.9", "linux/amd64", Error::Patch("3.77".into())),
            ("3.13", "slim", "linux/amd64", Error::Os("slim".into())),
            ("3.13", "alpine", "linux/amd64", Error::Os("alpine".into())),
            ("3.13", "ubuntu24.04", "linux/amd64", Error::Os("ubuntu24.04".into())),
        ] {
            assert_eq!(target(python, os, platform), Err(error), "{python} {os}");
        }
        assert!(matches!(target("3.13", "alpine3.24", "linux/mips64le"), Err(Error::Platform(_))));
        assert!(target("3.13", "alpine3.24", "windows/amd64").is_err());
    }

    #[test]
    fn machines() {
        for (platform, machine) in [
            ("linux/amd64", "x86_64"),
            ("linux/amd64/v3", "x86_64"),
            ("linux/arm64/v8", "aarch64"),
            ("linux/arm64", "aarch64"),
            ("linux/arm/v6", "armv6l"),
            ("linux/arm/v7", "armv7l"),
            ("linux/arm", "armv7l"),
            ("linux/386", "i686"),
        ] {
            let found = target("3.13", "alpine3.24", platform).unwrap();
            assert_eq!(found.machine(), machine, "{platform}");
        }
    }

    #[test]
    fn markers() {
        let target = target("3.13.5", "alpine3.24", "linux/arm64").unwrap();
        let markers = target.markers();
        for (requirement, applies) in [
            ("a; python_version >= '3.13'", true),
            ("a; python_full_version < '3.13.5'", false),
            ("a; platform_machine == 'aarch64' and sys_platform == 'linux'", true),
            ("a; implementation_name == 'pypy' or os_name == 'nt'", false),
            ("a; platform_system == 'Linux' and platform_python_implementation == 'CPython'", true),
            ("a; platform_release == ''", true),
        ] {
            let requirement: pep508_rs::Requirement = requirement.parse().unwrap();
            assert_eq!(requirement.evaluate_markers(&markers, &[]), applies, "{requirement}");
        }
        assert_eq!(target.version().to_string(), "3.13.5");
    }

    #[test]
    fn hints_name_what_is_known() {
        let hint = target("3.13", "slim", "linux/amd64").unwrap_err().hint();
        assert!(hint.unwrap().contains("`bookworm`"));
    }
}
