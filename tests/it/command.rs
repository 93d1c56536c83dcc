//! The program as people run it: a recipe's folder, a cache, arguments; then an exit code and text.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// The image that is assembled.
pub(crate) const CELL: &str = "2.47.0/python3.13/alpine3.24";

/// Its tag.
pub(crate) const TAG: &str = "2.47.0-python3.13-alpine3.24";

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_assemble");

/// Variables that would make a run depend on who runs it.
const OWN: [&str; 9] = [
    "ASSEMBLE_CACHE_DIR",
    "ASSEMBLE_MIRRORS",
    "ASSEMBLE_SANDBOX",
    "ASSEMBLE_WHEEL_CACHE",
    "DOCKER_AUTH_CONFIG",
    "DOCKER_CONFIG",
    "REGISTRY_AUTH_FILE",
    "SOURCE_DATE_EPOCH",
    "XDG_RUNTIME_DIR",
];

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Of a finished process.
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It must have succeeded.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self
    }

    /// It must have failed with this code, and have said all of this.
    #[track_caller]
    pub(crate) fn failure(self, code: i32, said: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        for words in said {
            assert!(self.stderr.contains(words), "not said: {words}\n{}", self.stderr);
        }
        self
    }

    /// What `--json` printed.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("{error}\n{}{}", self.stdout, self.stderr);
        })
    }
}

/// Runs it to its end.
pub(crate) fn run(command: &mut Command) -> Outcome {
    Outcome::of(command.output().unwrap())
}

/// A copy of `matrix/` and `layers/` that a test may change, and the folder it works in.
#[derive(Debug)]
pub(crate) struct Recipe {
    folder: TempDir,
}

impl Recipe {
    /// This project's own.
    pub(crate) fn copy() -> Self {
        let folder = TempDir::new().unwrap();
        for name in ["matrix/matrix.toml", "layers"] {
            copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(name), &folder.path().join(name));
        }
        let lock = format!("matrix/{CELL}/lock.toml");
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(&lock), &folder.path().join(&lock));
        Self { folder }
    }

    /// One of another application: `matrix.toml`, and a python layer with these requirements.
    pub(crate) fn of(requirements: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let recipe = Self { folder };
        recipe.write(
            "matrix/matrix.toml",
            "path = \"{app}/python{python}/{os}\"\n\
             tag = \"{app}-python{python}-{os}\"\n\
             repository = \"docker.io/example/app\"\n\
             base = \"docker.io/library/python:{python}-{os}\"\n\
             platforms = [\"linux/amd64\"]\n\
             layers = [\"app\"]\n",
        );
        let list: Vec<_> = requirements
            .iter()
            .map(|requirement| format!("{{ requirement = \"{requirement}\" }}"))
            .collect();
        let list = list.join(", ");
        recipe.write(
            "layers/app/layer.toml",
            &format!("kind = \"python\"\nrequirements = [{list}]\nscheme = \"base\"\n"),
        );
        fs_err::create_dir_all(recipe.path("matrix/1.0/python3.13/alpine3.24")).unwrap();
        recipe.write("matrix/1.0/python3.13/alpine3.24/cell.toml", "");
        recipe
    }

    /// Somewhere in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of it.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }

    /// Reads a file of it.
    pub(crate) fn read(&self, name: &str) -> String {
        fs_err::read_to_string(self.path(name)).unwrap()
    }

    /// Changes a file of it; `from` must occur.
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{name} does not hold {from}");
        self.write(name, &text.replace(from, to));
    }

    /// The same recipe, whose image has another repository.
    pub(crate) fn pushed_to(self, repository: &str) -> Self {
        self.edit("matrix/matrix.toml", "docker.io/grubykarol/locust", repository);
        self
    }

    /// `assemble <arguments>` in its folder, with this cache and without the user's own settings.
    pub(crate) fn command(&self, cache: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        for name in OWN {
            command.env_remove(name);
        }
        command
            .current_dir(self.folder.path())
            // No credentials of the user's.
            .env("HOME", self.folder.path())
            .env("ASSEMBLE_CACHE_DIR", cache)
            .args(arguments);
        command
    }
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        for entry in fs_err::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs_err::create_dir_all(to.parent().unwrap()).unwrap();
        fs_err::copy(from, to).unwrap();
    }
}
