//! What a source distribution says about itself before anything of it is run: PKG-INFO (PEP 643, source
//! distribution format) and pyproject.toml (PEP 517, 518, 621). Nothing is unpacked.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use pep440_rs::{Version, VersionSpecifiers};
use pep508_rs::{ExtraName, PackageName, Requirement};
use serde::Deserialize;

use super::requires_txt;
use crate::oci::Digest;
use crate::python::CoreMetadata;
use crate::python::metadata;

/// The build backend of an sdist that names none (PEP 517).
pub const LEGACY_BACKEND: &str = "setuptools.build_meta:__legacy__";
/// What an sdist needs to be built that does not say so (PEP 518).
const LEGACY_REQUIRES: [&str; 2] = ["setuptools>=40.8.0", "wheel"];
/// PKG-INFO and pyproject.toml are not larger.
const FILE_LIMIT: u64 = 16 << 20;
/// As much of an sdist is decompressed at most, while looking for them.
const ARCHIVE_LIMIT: u64 = 4 << 30;

/// What an sdist says about itself.
#[derive(Clone, Debug)]
pub struct SdistSource {
    /// Over the archive's bytes; it is in the store by that.
    pub digest: Digest,
    /// Bytes of the archive.
    pub size: u64,
    /// What can be known without a build, `is_static` if it can be trusted: of PKG-INFO, or of
    /// pyproject.toml where PKG-INFO is too old to promise anything. Where that has no requirements at
    /// all, as setuptools wrote it for years, they are those of `.egg-info/requires.txt`. `None` if it has neither, or if
    /// they cannot be read: then a build has to tell.
    pub metadata: Option<CoreMetadata>,
    /// `build-system.requires`, or what PEP 518 says instead.
    pub build_requires: Vec<Requirement>,
    /// `build-system.build-backend`, where it is named. Otherwise it is [`LEGACY_BACKEND`].
    pub build_backend: Option<String>,
    /// Whether [`LEGACY_BACKEND`] builds it.
    pub legacy: bool,
}

/// Why an sdist cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No `.tar.gz` or `.zip`, or a damaged one.
    #[error("its archive cannot be read")]
    Archive(#[source] io::Error),
    /// PKG-INFO or pyproject.toml is larger than any should be, or the archive is.
    #[error("`{name}` is larger than {limit} bytes")]
    TooLarge {
        /// What is too large.
        name: String,
        /// The most that is read of it.
        limit: u64,
    },
    /// pyproject.toml is no TOML, or has the wrong shape.
    #[error("its pyproject.toml cannot be read")]
    Toml(#[source] Box<toml::de::Error>),
    /// A build requirement that is none.
    #[error("its pyproject.toml has an unreadable build requirement `{requirement}`: {reason}")]
    Requirement {
        /// As written.
        requirement: String,
        /// What the parser said.
        reason: String,
    },
}

/// Reads the archive at `path`, which is called `file_name` and has that digest and size.
pub(super) fn read(
    path: &Path,
    file_name: &str,
    digest: Digest,
    size: u64,
) -> Result<SdistSource, Error> {
    let file = File::from(fs_err::File::open(path).map_err(Error::Archive)?);
    let found = match file_name.strip_suffix(".zip") {
        Some(_) => from_zip(file)?,
        None => from_tar(GzDecoder::new(file))?,
    };
    let pyproject = found.pyproject.as_deref().map(pyproject).transpose()?;
    let (build_system, project) =
        pyproject.map(|pyproject| (pyproject.build_system, pyproject.project)).unwrap_or_default();

    let core = found.pkg_info.and_then(|bytes| CoreMetadata::parse(&bytes).ok());
    let metadata = match (core, project) {
        (Some(core), Some(project)) if !core.is_static => {
            Some(project.complete(&core).unwrap_or(core))
        }
        (core, _) => core,
    };
    let metadata = metadata.map(|mut core| {
        if !core.is_static
            && core.requires_dist.is_empty()
            && let Some(bytes) = &found.requires_txt
        {
            (core.requires_dist, core.provides_extra) = requires_txt::parse(bytes);
        }
        core
    });

    let requires = match &build_system {
        Some(build_system) => build_system.requires.clone(),
        None => LEGACY_REQUIRES.map(str::to_owned).to_vec(),
    };
    let build_requires = requires
        .into_iter()
        .map(|text| {
            metadata::requirement(&text)
                .map_err(|reason| Error::Requirement { requirement: text, reason })
        })
        .collect::<Result<_, _>>()?;
    let build_backend = build_system.and_then(|build_system| build_system.build_backend);
    Ok(SdistSource {
        digest,
        size,
        metadata,
        build_requires,
        legacy: build_backend.is_none(),
        build_backend,
    })
}

/// The files, as bytes.
#[derive(Default)]
struct Found {
    pkg_info: Option<Vec<u8>>,
    pyproject: Option<Vec<u8>>,
    /// Below the top directory or below `src/`, in an `.egg-info`.
    requires_txt: Option<Vec<u8>>,
}

impl Found {
    /// Where the file called `path` goes, if it is one of the two at the archive's only top directory,
    /// or what setuptools left beside them.
    fn slot(&mut self, path: &Path) -> Option<&mut Option<Vec<u8>>> {
        let parts: Vec<_> =
            path.components().filter(|part| *part != std::path::Component::CurDir).collect();
        let parts: Vec<&str> =
            parts.iter().map(|part| part.as_os_str().to_str()).collect::<Option<_>>()?;
        let slot = match parts[..] {
            [_top, "PKG-INFO"] => &mut self.pkg_info,
            [_top, "pyproject.toml"] => &mut self.pyproject,
            [_top, egg_info, "requires.txt"] | [_top, "src", egg_info, "requires.txt"]
                if Path::new(egg_info).extension() == Some("egg-info".as_ref()) =>
            {
                &mut self.requires_txt
            }
            _ => return None,
        };
        slot.is_none().then_some(slot)
    }

    fn is_complete(&self) -> bool {
        // Metadata that can be trusted needs no second source.
        let is_static = |bytes: &[u8]| CoreMetadata::parse(bytes).is_ok_and(|core| core.is_static);
        self.pyproject.is_some()
            && self
                .pkg_info
                .as_deref()
                .is_some_and(|bytes| self.requires_txt.is_some() || is_static(bytes))
    }
}

fn from_tar(reader: impl Read) -> Result<Found, Error> {
    let mut found = Found::default();
    let mut archive = crate::oci::tar::Archive::new(reader.take(ARCHIVE_LIMIT));
    for entry in archive.entries().map_err(Error::Archive)? {
        let mut entry = entry.map_err(Error::Archive)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path: PathBuf = entry.path().map_err(Error::Archive)?.into_owned();
        if let Some(slot) = found.slot(&path) {
            *slot = Some(limited(&mut entry, &path)?);
            if found.is_complete() {
                break;
            }
        }
    }
    Ok(found)
}

fn from_zip(reader: impl Read + Seek) -> Result<Found, Error> {
    let archive = |error: zip::result::ZipError| Error::Archive(error.into());
    let mut found = Found::default();
    let mut zip = zip::ZipArchive::new(reader).map_err(archive)?;
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(archive)?;
        let path = PathBuf::from(entry.name().map_err(archive)?.into_owned());
        if let Some(slot) = found.slot(&path) {
            *slot = Some(limited(&mut entry, &path)?);
        }
    }
    Ok(found)
}

fn limited(reader: &mut impl Read, path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    reader.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(Error::Archive)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(Error::TooLarge { name: path.display().to_string(), limit: FILE_LIMIT });
    }
    Ok(bytes)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PyProject {
    build_system: Option<BuildSystem>,
    project: Option<ProjectTable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct BuildSystem {
    /// PEP 518 wants it; pip and uv take a table without it as one with an empty list or refuse it.
    #[serde(default)]
    requires: Vec<String>,
    build_backend: Option<String>,
}

/// The fields of PEP 621 that say what CORE METADATA will say.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ProjectTable {
    name: String,
    version: Option<String>,
    requires_python: Option<String>,
    dependencies: Option<Vec<String>>,
    optional_dependencies: Option<std::collections::BTreeMap<String, Vec<String>>>,
    #[serde(default)]
    dynamic: Vec<String>,
}

fn pyproject(bytes: &[u8]) -> Result<PyProject, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct OnlyBuildSystem {
        build_system: Option<BuildSystem>,
    }
    let text = String::from_utf8_lossy(bytes);
    toml::from_str(&text).or_else(|_whole| {
        // A `[project]` table of the wrong shape is the backend's affair.
        toml::from_str(&text)
            .map(|OnlyBuildSystem { build_system }| PyProject { build_system, project: None })
            .map_err(|error| Error::Toml(Box::new(error)))
    })
}

impl ProjectTable {
    /// The metadata that a build must come to, if the table leaves no dependency to it (PEP 621: a
    /// backend must not change what is not `dynamic`). The version may be of PKG-INFO.
    fn complete(&self, core: &CoreMetadata) -> Option<CoreMetadata> {
        let is_dynamic = |field: &str| self.dynamic.iter().any(|dynamic| dynamic == field);
        if ["dependencies", "optional-dependencies", "requires-python"].into_iter().any(is_dynamic)
        {
            return None;
        }
        let name = PackageName::new(self.name.clone()).ok()?;
        let version = match &self.version {
            Some(version) => version.parse::<Version>().ok()?,
            None => core.version.clone(),
        };
        if name != core.name || version != core.version {
            return None;
        }
        let requires_python: Option<VersionSpecifiers> = match &self.requires_python {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        let mut requires_dist = Vec::new();
        for text in self.dependencies.iter().flatten() {
            requires_dist.push(metadata::exact_requirement(text).ok()?);
        }
        let mut provides_extra = Vec::new();
        for (extra, requirements) in self.optional_dependencies.iter().flatten() {
            let extra = ExtraName::new(extra.clone()).ok()?;
            for text in requirements {
                let requirement = metadata::exact_requirement(text).ok()?;
                requires_dist.push(requirement.with_extra_marker(&extra));
            }
            provides_extra.push(extra);
        }
        Some(CoreMetadata {
            name,
            version,
            requires_dist,
            requires_python,
            provides_extra,
            is_static: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tempfile::TempDir;

    use super::*;

    const OLD: &str = "Metadata-Version: 2.1\nName: foo\nVersion: 1.0\n";
    const NEW: &str = "Metadata-Version: 2.2\nName: foo\nVersion: 1.0\nRequires-Dist: bar>1\n";

    fn tar_gz(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    fn zip(files: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, text) in files {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn read_bytes(bytes: &[u8], file_name: &str) -> Result<SdistSource, Error> {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("archive");
        fs_err::write(&path, bytes).unwrap();
        read(&path, file_name, Digest::of(bytes), bytes.len() as u64)
    }

    fn requirements(requirements: &[Requirement]) -> Vec<String> {
        requirements.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_pyproject_it_is_legacy() {
        let files = [
            ("foo-1.0/setup.py", "raise SystemExit"),
            ("foo-1.0/foo.egg-info/PKG-INFO", "Name: no"),
            ("foo-1.0/PKG-INFO", OLD),
        ];
        for (bytes, name) in [(tar_gz(&files), "foo-1.0.tar.gz"), (zip(&files), "foo-1.0.zip")] {
            let source = read_bytes(&bytes, name).unwrap();
            assert_eq!(requirements(&source.build_requires), ["setuptools>=40.8.0", "wheel"]);
            assert!(source.legacy && source.build_backend.is_none());
            let metadata = source.metadata.unwrap();
            assert_eq!(metadata.version.to_string(), "1.0");
            assert!(!metadata.is_static);
        }
    }

    #[test]
    fn build_systems() {
        for (pyproject, requires, backend) in [
            (
                "[build-system]\nrequires = ['hatchling (>=1)']\nbuild-backend = 'hatchling.build'",
                vec!["hatchling>=1"],
                Some("hatchling.build"),
            ),
            (
                "[build-system]\nrequires = ['setuptools', 'cython<3']",
                vec!["setuptools", "cython<3"],
                None,
            ),
            ("[tool.black]\nx = 1", vec!["setuptools>=40.8.0", "wheel"], None),
            ("[project]\nname = 5", vec!["setuptools>=40.8.0", "wheel"], None),
        ] {
            let bytes =
                tar_gz(&[("./foo-1.0/pyproject.toml", pyproject), ("foo-1.0/PKG-INFO", NEW)]);
            let source = read_bytes(&bytes, "foo-1.0.tar.gz").unwrap();
            assert_eq!(requirements(&source.build_requires), requires);
            assert_eq!(source.build_backend.as_deref(), backend);
            assert_eq!(source.legacy, backend.is_none());
            let metadata = source.metadata.unwrap();
            assert!(metadata.is_static);
            assert_eq!(requirements(&metadata.requires_dist), ["bar>1"]);
        }
    }

    #[test]
    fn a_project_table_makes_old_metadata_static() {
        let table = "[project]\nname = 'Foo'\nversion = '1.0'\nrequires-python = '>=3.8'\n\
             dependencies = ['bar>=2']\n[project.optional-dependencies]\nfast = ['baz']\n";
        for (table, is_static) in [
            (table.to_owned(), true),
            (table.replace("version = '1.0'", "dynamic = ['version']"), true),
            (table.replace("version = '1.0'", "dynamic = ['dependencies']"), false),
            (table.replace("version = '1.0'", "version = '2.0'"), false),
        ] {
            let bytes = tar_gz(&[("foo-1.0/PKG-INFO", OLD), ("foo-1.0/pyproject.toml", &table)]);
            let metadata = read_bytes(&bytes, "foo-1.0.tar.gz").unwrap().metadata.unwrap();
            assert_eq!(metadata.is_static, is_static, "{table}");
            let expected: &[&str] =
                if is_static { &["bar>=2", "baz ; extra == 'fast'"] } else { &[] };
            assert_eq!(requirements(&metadata.requires_dist), expected);
        }
    }

    #[test]
    fn refuses() {
        type Check = fn(&Error) -> bool;
        let toml = |text| tar_gz(&[("foo-1.0/pyproject.toml", text)]);
        let cases: [(Vec<u8>, &str, Check); 5] = [
            (b"no".to_vec(), "foo-1.0.tar.gz", |e| matches!(e, Error::Archive(_))),
            (b"no".to_vec(), "foo-1.0.zip", |e| matches!(e, Error::Archive(_))),
            (toml("["), "foo-1.0.tar.gz", |e| matches!(e, Error::Toml(_))),
            (toml("[build-system]\nrequires = 5"), "foo-1.0.tar.gz", |e| {
                matches!(e, Error::Toml(_))
            }),
            (toml("[build-system]\nrequires = ['a b']"), "foo-1.0.tar.gz", |e| {
                matches!(e, Error::Requirement { .. })
            }),
        ];
        for (bytes, name, check) in cases {
            let error = read_bytes(&bytes, name).unwrap_err();
            assert!(check(&error), "{error:?}");
        }
        let empty = read_bytes(&tar_gz(&[]), "foo-1.0.tar.gz").unwrap();
        assert!(empty.metadata.is_none() && empty.legacy);
    }
}
