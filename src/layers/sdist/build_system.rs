//! How an sdist wants to be built: the `build-system` table of its `pyproject.toml` (pure).

use serde::{Deserialize, Serialize};

use super::Error;
use crate::sandbox::confine::EntryPath;

/// PEP 517: what builds an sdist that names no backend.
const LEGACY_BACKEND: &str = "setuptools.build_meta:__legacy__";

/// `build-system` of `pyproject.toml` (PEP 517 and 518), as far as a frontend needs it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct BuildSystem {
    /// `module[:object]`
    pub(super) backend: String,
    /// Folders of the sdist that the backend is imported from.
    pub(super) backend_path: Vec<String>,
}

/// Reads `pyproject.toml`, or takes its absence for setuptools'.
pub(super) fn read(file_name: &str, pyproject: Option<Vec<u8>>) -> Result<BuildSystem, Error> {
    #[derive(Deserialize)]
    struct Pyproject {
        #[serde(rename = "build-system")]
        build_system: Option<Table>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Table {
        build_backend: Option<String>,
        #[serde(default)]
        backend_path: Vec<String>,
    }
    let invalid = |reason: String| Error::BuildSystem { file_name: file_name.to_owned(), reason };
    let text = String::from_utf8(pyproject.unwrap_or_default())
        .map_err(|_not_text| invalid("pyproject.toml is not UTF-8".into()))?;
    let table = toml::from_str::<Pyproject>(&text)
        .map_err(|e| invalid(e.message().replace('\n', " ")))?
        .build_system
        .unwrap_or_default();
    let is_name = |part: &str| {
        part.split('.')
            .all(|word| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_'))
    };
    let backend = table.build_backend.unwrap_or_else(|| LEGACY_BACKEND.into());
    let (module, object) = backend
        .split_once(':')
        .map_or((backend.as_str(), None), |(module, object)| (module, Some(object)));
    if !is_name(module) || !object.is_none_or(is_name) {
        return Err(invalid(format!("build-backend is `{backend}`")));
    }
    for entry in &table.backend_path {
        if entry.starts_with('/') || EntryPath::parse(entry.as_bytes()).is_err() {
            return Err(invalid(format!("backend-path leaves the sdist: `{entry}`")));
        }
    }
    Ok(BuildSystem { backend, backend_path: table.backend_path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_systems() {
        let read = |text: &str| super::read("p-1.tar.gz", Some(text.into()));
        let system = |backend: &str, path: &[&str]| BuildSystem {
            backend: backend.into(),
            backend_path: path.iter().map(|&entry| entry.to_owned()).collect(),
        };
        assert_eq!(super::read("p-1.tar.gz", None).unwrap(), system(LEGACY_BACKEND, &[]));
        for (text, expected) in [
            ("", system(LEGACY_BACKEND, &[])),
            ("[tool.x]\na = 1\n", system(LEGACY_BACKEND, &[])),
            ("[build-system]\nrequires = []\n", system(LEGACY_BACKEND, &[])),
            (
                "[build-system]\nrequires = ['x']\nbuild-backend = 'a.b:c.d'\nbackend-path = ['.', 'sub/dir']\n",
                system("a.b:c.d", &[".", "sub/dir"]),
            ),
        ] {
            assert_eq!(read(text).unwrap(), expected, "{text}");
        }
        for bad in [
            "[build-system",
            "[build-system]\nbuild-backend = 'a b'\n",
            "[build-system]\nbuild-backend = ''\n",
            "[build-system]\nbackend-path = ['..']\n",
            "[build-system]\nbackend-path = ['/tmp']\n",
            "[build-system]\nbackend-path = 'x'\n",
        ] {
            assert!(matches!(read(bad), Err(Error::BuildSystem { .. })), "{bad}");
        }
    }
}
