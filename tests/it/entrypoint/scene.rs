//! A place to run the entrypoint in: its folders, a stand-in for Locust, and the shells it meets.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support;

/// Long enough for a busy machine; only a run that hangs takes it.
const PATIENCE: Duration = Duration::from_mins(2);

/// What the entrypoint and the stand-in call, besides the shell's own words.
const APPLETS: [&str; 6] = ["cat", "env", "id", "sed", "sleep", "tr"];

/// A shell that images come with.
#[derive(Clone, Debug)]
pub(super) enum Shell {
    /// Debian's, with the machine's own tools.
    Dash(PathBuf),
    /// Alpine's, with its own tools and no others.
    Ash(PathBuf),
}

/// The shells of this machine; a missing one is said.
pub(super) fn shells() -> Vec<Shell> {
    let dash = support::tool("dash").map(Shell::Dash);
    let ash = support::tool("busybox").map(Shell::Ash);
    dash.into_iter().chain(ash).collect()
}

/// One container's worth of folders.
///
/// ```text
/// entrypoint.sh   the script as assembly installs it, with this scene's folders
/// bin/locust      the stand-in
/// bin/…           busybox's applets, if it is the shell
/// code            the stand-in's exit code
/// seen/           what the stand-in writes down
/// locust/         the container's /locust
/// home/           the container's /home/locust
/// ```
#[derive(Debug)]
pub(super) struct Scene {
    shell: Shell,
    root: PathBuf,
    _folder: tempfile::TempDir,
}

/// What a run ended with.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) pid: u32,
    /// `None` if Locust was not started.
    pub(super) seen: Option<Seen>,
}

/// What Locust was started with.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) arguments: Vec<String>,
    /// Without what shells set for themselves.
    pub(super) environment: BTreeMap<String, String>,
    pub(super) folder: PathBuf,
    pub(super) pid: u32,
}

impl Scene {
    /// With the entrypoint as installed beside this version of Locust; both folders are empty.
    pub(super) fn new(shell: &Shell, version: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in ["bin", "home", "locust", "seen"] {
            fs_err::create_dir(root.join(name)).unwrap();
        }
        // A link, not a copy: a program this process has just written cannot be started while
        // another thread's child still holds it open (ETXTBSY).
        symlink(sources.join("tests/it/entrypoint/locust"), root.join("bin/locust")).unwrap();
        if let Shell::Ash(busybox) = shell {
            for applet in APPLETS {
                symlink(busybox, root.join("bin").join(applet)).unwrap();
            }
        }
        let script = sources.join("layers/entrypoint/docker-entrypoint.sh");
        let mut script = fs_err::read_to_string(script).unwrap();
        for (from, to) in [
            ("'@locust@'", format!("'{version}'")),
            ("'/locust'", format!("'{}'", root.join("locust").display())),
            ("'/home/locust'", format!("'{}'", root.join("home").display())),
        ] {
            assert_eq!(script.matches(from).count(), 1, "{from} in the script");
            script = script.replace(from, &to);
        }
        fs_err::write(root.join("entrypoint.sh"), script).unwrap();
        let scene = Self { shell: shell.clone(), root, _folder: folder };
        scene.exits_with("0");
        scene
    }

    /// The shell the entrypoint runs under.
    pub(super) fn shell(&self) -> &Shell {
        &self.shell
    }

    /// The container's `/locust`.
    pub(super) fn scripts(&self) -> PathBuf {
        self.root.join("locust")
    }

    /// The container's `/home/locust`.
    pub(super) fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// The `PATH` a run has.
    pub(super) fn path(&self) -> String {
        let own = self.root.join("bin").display().to_string();
        match self.shell {
            Shell::Dash(_) => format!("{own}:/usr/bin:/bin"),
            Shell::Ash(_) => own,
        }
    }

    /// Puts an empty file into `/locust` or `/home/locust`.
    pub(super) fn with(self, folder: impl Fn(&Self) -> PathBuf, name: &str) -> Self {
        fs_err::write(folder(&self).join(name), "").unwrap();
        self
    }

    /// Sets the stand-in's exit code; `until-terminated` lets it wait for SIGTERM, and end with 7.
    pub(super) fn exits_with(&self, code: &str) {
        fs_err::write(self.root.join("code"), code).unwrap();
    }

    /// A command line that has nothing but this environment; `wrapper` comes before the shell.
    fn command(&self, wrapper: &[&str], environment: &[(&str, &str)]) -> Command {
        let shell: Vec<&Path> = match &self.shell {
            Shell::Dash(dash) => vec![dash],
            Shell::Ash(busybox) => vec![busybox, Path::new("ash")],
        };
        let mut words = wrapper.iter().map(Path::new).chain(shell);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .arg(self.root.join("entrypoint.sh"))
            .current_dir(&self.root)
            .env_clear()
            .env("PATH", self.path())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the entrypoint with nothing but this environment and these arguments.
    pub(super) fn run(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Run {
        let child = self.command(&[], environment).args(arguments).spawn().unwrap();
        let pid = child.id();
        let output = wait(child);
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            pid,
            seen: self.seen(),
        }
    }

    /// Starts the entrypoint below `wrapper`, and waits until the stand-in is ready for a signal.
    pub(super) fn start(&self, wrapper: &[&str], environment: &[(&str, &str)]) -> Child {
        self.exits_with("until-terminated");
        let mut child = self.command(wrapper, environment).spawn().unwrap();
        let ready = self.root.join("seen/ready");
        let ended = poll(|| ready.exists().then_some(None).or(child.try_wait().unwrap().map(Some)));
        if ended != Some(None) {
            child.kill().unwrap();
            panic!("the stand-in is not ready: {:?}", wait(child));
        }
        child
    }

    /// What the stand-in wrote down, if it was started.
    pub(super) fn seen(&self) -> Option<Seen> {
        let read = |name: &str| fs_err::read_to_string(self.root.join("seen").join(name));
        let arguments = read("arguments").ok()?;
        let environment = read("environment").unwrap();
        Some(Seen {
            arguments: arguments.split_terminator('\0').map(str::to_owned).collect(),
            environment: environment
                .lines()
                .filter_map(|line| line.split_once('='))
                .filter(|(name, _)| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            folder: read("folder").unwrap().trim_end().into(),
            pid: read("pid").unwrap().trim_end().parse().unwrap(),
        })
    }
}

impl Run {
    /// Locust's arguments on one line; those that are not plain words are quoted.
    pub(super) fn command_line(&self) -> String {
        let seen = self.seen.as_ref().expect("Locust was started");
        let is_plain = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_graphic());
        let quoted = seen
            .arguments
            .iter()
            .map(|word| if is_plain(word) { word.clone() } else { format!("{word:?}") });
        quoted.collect::<Vec<_>>().join(" ")
    }

    /// The lines of stderr, each without the prefix that all of them must have.
    pub(super) fn said(&self) -> Vec<&str> {
        let prefixed = |line| str::strip_prefix(line, "docker-entrypoint: ");
        self.stderr
            .lines()
            .map(|line| prefixed(line).unwrap_or_else(|| panic!("no prefix: `{line}`")))
            .collect()
    }
}

/// Waits for the end of a run that must not hang.
pub(super) fn wait(mut child: Child) -> Output {
    if poll(|| child.try_wait().unwrap()).is_none() {
        child.kill().unwrap();
        panic!("hangs: {:?}", child.wait_with_output());
    }
    child.wait_with_output().unwrap()
}

fn poll<T>(mut what: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(found) = what() {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}
