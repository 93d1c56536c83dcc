//! Modules are compiled in advance, by the base's own Python in the sandbox, to bytecode that is never
//! compared with its source (PEP 552, *unchecked hash-based pycs*): it holds no time, and an image's
//! modules do not change.
//!
//! The folder of a job, seen by it as `/build`:
//!
//! ```text
//! compile.py   the small program of ours     job.json   what it has to do
//! src/         the modules, numbered         out/       their bytecode, by the same numbers
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::content::{At, Content};
use super::path::ContainerPath;
use super::tree::Known;
use crate::error::{Failure, Kind};
use crate::oci::Digest;
use crate::sandbox::{self, Ending, Job, Sandbox};
use crate::store::{self, Store};

/// Path in the image → modules, or their bytecode.
pub type Modules = BTreeMap<ContainerPath, Content>;

/// Run by the base's Python.
const DRIVER: &str = include_str!("compile.py");
/// Changes when the same inputs would give another result.
const FORMAT: &str = "bytecode 2";
/// The largest distributions take seconds.
const TIME_LIMIT: Duration = Duration::from_mins(10);
/// What cannot be compiled is named.
const OUTPUT_LIMIT: u64 = 16 << 20;

/// Why modules were not compiled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache failed us.
    #[error("the bytecode cannot be kept")]
    Store(#[from] store::Error),
    /// The job's folder failed us.
    #[error("the folder of the compilation cannot be used: {path}")]
    Disk {
        /// The folder.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// The base's Python could not be run.
    #[error("the base's Python cannot be run here")]
    Sandbox(#[source] Box<sandbox::Error>),
    /// The base's Python failed.
    #[error("the base's Python failed ({ending}); it said: {said}")]
    Failed {
        /// How it ended.
        ending: Ending,
        /// The last line of what it said.
        said: String,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Disk { .. } => Kind::Unexpected,
            Self::Sandbox(error) => error.kind(),
            Self::Failed { .. } => Kind::Unsatisfiable,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Disk { .. } => {
                Some("free space or choose another folder with --cache-dir".into())
            }
            Self::Sandbox(error) => error.hint(),
            Self::Failed { .. } => {
                Some("remove `[bytecode]` from the layer's file to go without".into())
            }
        }
    }
}

/// What compiles: the base's Python.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// Major and minor version.
    pub python: (u8, u8),
    /// What the base is: [`crate::base::rootfs::key`].
    pub rootfs_key: Digest,
}

/// A module of a finished job, and its bytecode: behind that of the one before it in the blob that holds
/// all, and hashed, so that nobody has to read it to know it.
#[derive(Serialize, Deserialize)]
struct Kept {
    module: String,
    length: u64,
    sha256: Digest,
    crc32: u32,
}

/// What is kept of a job.
#[derive(Serialize, Deserialize)]
struct Record {
    /// The bytecode of all modules that could be compiled, one after the other.
    blob: Digest,
    kept: Vec<Kept>,
}

impl Compiler {
    /// What a result is found by: all that goes in.
    fn key(&self, modules: &Modules) -> Digest {
        let python = [self.python.0, self.python.1];
        let digests: Vec<Digest> = modules.values().map(|content| content.known().sha256).collect();
        let mut parts: Vec<&[u8]> =
            vec![FORMAT.as_bytes(), DRIVER.as_bytes(), &python, self.rootfs_key.as_bytes()];
        for (path, digest) in modules.keys().zip(&digests) {
            parts.extend([path.as_relative().as_bytes(), digest.as_bytes()]);
        }
        store::key(&parts)
    }

    /// Where Python looks for the bytecode of a module: `a/__pycache__/b.cpython-313.pyc`.
    fn path_of(&self, module: &ContainerPath) -> Option<ContainerPath> {
        let folder = module.parent()?;
        let name = module.relative_to(&folder);
        let stem = name.strip_suffix(".py")?;
        let (major, minor) = self.python;
        folder.join(&format!("__pycache__/{stem}.cpython-{major}{minor}.pyc")).ok()
    }

    /// The bytecode of an earlier job with these modules.
    ///
    /// # Errors
    /// The disk said no.
    pub fn cached(&self, modules: &Modules, store: &Store) -> Result<Option<Modules>, Error> {
        let Some(record) = store.record("bytecode", &self.key(modules))? else { return Ok(None) };
        let Ok(record) = serde_json::from_slice::<Record>(&record) else { return Ok(None) };
        let Some(blob) = store.open_verified(&record.blob)? else { return Ok(None) };
        let disk = |source| Error::Disk { path: store.blob_path(&record.blob), source };
        let blob = At::new(blob).map_err(disk)?;
        let mut place = 0;
        let mut bytecode = Modules::new();
        for kept in record.kept {
            let Ok(module) = ContainerPath::parse(&kept.module) else { return Ok(None) };
            let Some(path) = self.path_of(&module) else { return Ok(None) };
            let Kept { length: size, sha256, crc32, .. } = kept;
            let known = Known { size, sha256 };
            let content = Content::of_part(&blob, place, known, crc32).map_err(disk)?;
            place += size;
            bytecode.insert(path, content);
        }
        Ok(Some(bytecode))
    }

    /// Compiles modules with the Python of the base unpacked at `rootfs`, unless that was done before.
    /// A module that cannot be compiled has no bytecode.
    ///
    /// # Errors
    /// There is no way to run the base's Python here, or it fails.
    pub async fn compile(
        &self,
        modules: &Modules,
        rootfs: &Path,
        store: &Store,
        sandbox: &Sandbox,
    ) -> Result<Modules, Error> {
        if let Some(bytecode) = self.cached(modules, store)? {
            return Ok(bytecode);
        }
        let work = store.temporary_directory()?;
        let disk = |source| Error::Disk { path: work.path().to_path_buf(), source };
        prepare(modules, work.path()).map_err(disk)?;
        let (major, minor) = self.python;
        let env = [
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("LANG", "C.UTF-8"),
            ("PYTHONHASHSEED", "0"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ];
        let job = Job {
            rootfs: rootfs.to_path_buf(),
            work: work.path().to_path_buf(),
            lent: Vec::new(),
            // As for builds: no site-packages of the base's, no user's. Not -I: it would ignore
            // PYTHONHASHSEED.
            argv: ["-S", "-s", "-B", "/build/compile.py"].iter().fold(
                vec![format!("python{major}.{minor}")],
                |mut argv, argument| {
                    argv.push((*argument).to_owned());
                    argv
                },
            ),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            time_limit: TIME_LIMIT,
            output_limit: OUTPUT_LIMIT,
        };
        let outcome = sandbox.run(&job).await.map_err(|error| Error::Sandbox(Box::new(error)))?;
        if !outcome.success {
            let log = String::from_utf8_lossy(&outcome.log);
            let said = log.lines().last().unwrap_or_default();
            let said = said.chars().filter(|c| !c.is_control()).collect();
            return Err(Error::Failed { ending: outcome.ending, said });
        }
        let (blob, kept) = take(modules, work.path()).map_err(disk)?;
        let record = Record { blob: store.put(&blob)?, kept };
        let json = serde_json::to_vec(&record).map_err(|error| disk(error.into()))?;
        store.put_record("bytecode", &self.key(modules), &json)?;
        self.cached(modules, store)?.ok_or_else(|| {
            disk(io::Error::new(io::ErrorKind::InvalidData, "what was written is not there"))
        })
    }
}

/// Fills the job's folder.
fn prepare(modules: &Modules, work: &Path) -> io::Result<()> {
    for folder in ["src", "out"] {
        fs::create_dir(work.join(folder))?;
    }
    let mut job = Vec::new();
    for (number, (path, content)) in modules.iter().enumerate() {
        let source = format!("{number}.py");
        content.copy_to(&mut fs::File::create(work.join("src").join(&source))?)?;
        job.push((source, path.to_string()));
    }
    fs::write(work.join("job.json"), serde_json::to_vec(&job)?)?;
    fs::write(work.join("compile.py"), DRIVER)
}

/// Takes the bytecode out of the job's folder, which foreign code has written.
fn take(modules: &Modules, work: &Path) -> io::Result<(Vec<u8>, Vec<Kept>)> {
    let folder = Dir::open_ambient_dir(work, ambient_authority())?;
    let (mut blob, mut kept) = (Vec::new(), Vec::new());
    for (number, path) in modules.keys().enumerate() {
        let file = format!("out/{number}.pyc");
        if folder.metadata(&file).is_ok_and(|found| found.is_file()) {
            let bytes = folder.read(&file)?;
            blob.extend_from_slice(&bytes);
            let Known { size: length, sha256 } = Known::of(&bytes);
            let crc32 = crc32fast::hash(&bytes);
            kept.push(Kept { module: path.to_string(), length, sha256, crc32 });
        }
    }
    Ok((blob, kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytecode_lies_where_python_looks() {
        let compiler = Compiler { python: (3, 13), rootfs_key: Digest::of(b"") };
        let path = |text: &str| ContainerPath::parse(text).unwrap();
        assert_eq!(
            compiler.path_of(&path("/lib/a/__init__.py")),
            Some(path("/lib/a/__pycache__/__init__.cpython-313.pyc"))
        );
        assert_eq!(compiler.path_of(&path("/lib/a/b.so")), None);
    }

    #[test]
    fn a_result_is_found_by_all_that_went_in() {
        let compiler = |python, base: &[u8]| Compiler { python, rootfs_key: Digest::of(base) };
        let modules = |path: &str, text: &'static str| {
            Modules::from([(ContainerPath::parse(path).unwrap(), text.into())])
        };
        let keys = [
            compiler((3, 13), b"a").key(&modules("/a.py", "x = 1")),
            compiler((3, 12), b"a").key(&modules("/a.py", "x = 1")),
            compiler((3, 13), b"b").key(&modules("/a.py", "x = 1")),
            compiler((3, 13), b"a").key(&modules("/b.py", "x = 1")),
            compiler((3, 13), b"a").key(&modules("/a.py", "x = 2")),
        ];
        for (position, key) in keys.iter().enumerate() {
            assert!(!keys[..position].contains(key), "{position}");
        }
    }
}
