//! What a file is, by its name and first bytes (pure).

use serde::Serialize;

/// Kinds of files that are worth telling apart when an image is to be smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// ELF files: extension modules and the libraries they bring.
    Native,
    /// Python, as source or bytecode, and its stubs.
    Python,
    /// What browsers show.
    Web,
    /// `.dist-info`: what installers and licences want.
    Metadata,
    /// Anything else.
    Other,
    /// A layer of the base: nobody looks into it.
    Base,
}

/// File name endings of what browsers show.
const WEB: [&str; 19] = [
    "css", "eot", "gif", "htm", "html", "ico", "jpeg", "jpg", "js", "less", "map", "mjs", "png",
    "scss", "svg", "ttf", "webp", "woff", "woff2",
];

impl Kind {
    /// All kinds, in the order of the page's legend.
    pub const ALL: [Self; 6] =
        [Self::Native, Self::Python, Self::Web, Self::Metadata, Self::Other, Self::Base];

    /// The kind of the file at `path`.
    pub fn of(path: &str, is_elf: bool) -> Self {
        if is_elf {
            return Self::Native;
        }
        if path.contains(".dist-info/") || path.contains(".egg-info/") {
            return Self::Metadata;
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        match name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).as_deref() {
            Some("py" | "pyc" | "pyi" | "pyx" | "pxd" | "pth") => Self::Python,
            Some(ending) if WEB.contains(&ending) => Self::Web,
            _ if name == "py.typed" => Self::Python,
            _ => Self::Other,
        }
    }

    /// As the legend says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Native => "native code",
            Self::Python => "Python",
            Self::Web => "web pages and pictures",
            Self::Metadata => "metadata and licences",
            Self::Other => "other",
            Self::Base => "base image",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_first_bytes_decide() {
        for (path, is_elf, kind) in [
            ("a/_greenlet.cpython-313-x86_64-linux-musl.so", true, Kind::Native),
            ("a/libstdc++.so.6", true, Kind::Native),
            ("a/b.py", false, Kind::Python),
            ("a/__pycache__/b.cpython-313.pyc", false, Kind::Python),
            ("a/py.typed", false, Kind::Python),
            ("a/index.HTML", false, Kind::Web),
            ("a-1.dist-info/licenses/LICENSE.py", false, Kind::Metadata),
            ("usr/local/bin/x", false, Kind::Other),
            (".profile", false, Kind::Other),
        ] {
            assert_eq!(Kind::of(path, is_elf), kind, "{path}");
        }
        assert!(WEB.is_sorted());
    }
}
