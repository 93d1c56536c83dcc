//! Where an interpreter looks for what is installed: the scheme paths of the target (pure).

use super::path::ContainerPath;

/// The paths of one installation scheme (`sysconfig.get_paths()` of the target, not of the host).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Pure Python modules.
    pub purelib: ContainerPath,
    /// Modules with compiled parts; the same folder in every base that is known.
    pub platlib: ContainerPath,
    /// Commands.
    pub scripts: ContainerPath,
    /// What `.data/data` is unpacked to: the prefix.
    pub data: ContainerPath,
    /// C headers; each distribution has a folder of its own name below.
    pub headers: ContainerPath,
    /// What the first line of commands names.
    pub interpreter: ContainerPath,
}

impl Scheme {
    /// The scheme of the `docker-library/python` images, below `/usr/local`, for a Python of that
    /// major and minor version. Headers go where pip puts them: the folder carries the ABI flag `m`
    /// up to Python 3.7 (`include/python3.7m`).
    pub fn for_base((major, minor): (u8, u8)) -> Self {
        let abi_flags = if (major, minor) < (3, 8) { "m" } else { "" };
        let site_packages =
            ContainerPath::literal(format!("usr/local/lib/python{major}.{minor}/site-packages"));
        Self {
            purelib: site_packages.clone(),
            platlib: site_packages,
            scripts: ContainerPath::literal("usr/local/bin"),
            data: ContainerPath::literal("usr/local"),
            headers: ContainerPath::literal(format!(
                "usr/local/include/python{major}.{minor}{abi_flags}"
            )),
            interpreter: ContainerPath::literal(format!("usr/local/bin/python{major}.{minor}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bases_own_scheme() {
        let scheme = Scheme::for_base((3, 13));
        assert_eq!(scheme.platlib.to_string(), "/usr/local/lib/python3.13/site-packages");
        assert_eq!(scheme.data.to_string(), "/usr/local");
        assert_eq!(scheme.interpreter.to_string(), "/usr/local/bin/python3.13");
        for (python, headers) in [
            ((3, 13), "/usr/local/include/python3.13"),
            ((3, 8), "/usr/local/include/python3.8"),
            ((3, 7), "/usr/local/include/python3.7m"),
            ((3, 6), "/usr/local/include/python3.6m"),
        ] {
            assert_eq!(Scheme::for_base(python).headers.to_string(), headers);
        }
    }
}
