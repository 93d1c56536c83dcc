//! Real servers and clients of Debian's packages, each with its own folders, gone when dropped.
//!
//! Each `start` is `None`, said aloud (see [`super::tool`]), where the tool is missing.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a broken fixture must fail the test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{skip, tool};

/// How long a server may take to answer or to end.
const PATIENCE: Duration = Duration::from_mins(2);

/// A process that is asked to end when it is dropped, and made to if it does not.
#[derive(Debug)]
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0.id().cast_signed());
        // Gone already is good too.
        let _asked = kill(pid, Signal::SIGTERM);
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Tries until it is true; panics with `failure` if it never is.
fn until(mut condition: impl FnMut() -> bool, failure: impl Fn() -> String) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{}", failure());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a command that must succeed; what it wrote to stdout.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Debian's `docker-registry` on a free loopback port, without TLS or credentials.
#[derive(Debug)]
pub(crate) struct DockerRegistry {
    address: String,
    folder: TempDir,
    _server: Server,
}

impl DockerRegistry {
    /// Starts an empty one and waits until it answers.
    pub(crate) fn start() -> Option<Self> {
        let program = tool("docker-registry")?;
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("config.yml");
        let storage = folder.path().join("storage");
        fs_err::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    \
                 rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  \
                 addr: 127.0.0.1:0\n  secret: of-the-test\n",
                storage.display()
            ),
        )
        .unwrap();
        let mut child = Command::new(program)
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let server = Server(child);
        // Port 0: which one it is, only its log says.
        let mut said = String::new();
        let address = loop {
            let line = said.len();
            assert!(log.read_line(&mut said).unwrap() > 0, "docker-registry ended: {said}");
            if let Some((_, rest)) = said[line..].split_once("listening on ") {
                break rest.split(['"', ',']).next().unwrap().to_owned();
            }
        };
        // Its log must be read, or it stops when the pipe is full.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        until(
            || http_status(&address, "/v2/") == Some(200),
            || "docker-registry does not answer".into(),
        );
        Some(Self { address, folder, _server: server })
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The folder of its blobs.
    pub(crate) fn storage(&self) -> PathBuf {
        self.folder.path().join("storage")
    }
}

/// The status of a GET without TLS; `None` if nobody answers.
pub(crate) fn http_status(address: &str, path: &str) -> Option<u16> {
    Some(http(address, "GET", path, "")?.0)
}

/// Status and body of a request without TLS; `None` if nobody answers. A body that is sent is a form.
pub(crate) fn http(address: &str, method: &str, path: &str, form: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // 1.0: the body ends where the connection does.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    )
    .ok()?;
    let mut answer = Vec::new();
    // Closed early by the server is an answer if the first line came.
    let _read = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A Docker daemon of its own: data, socket and bridge are shared with nobody. Needs root.
///
/// It changes no firewall rules but one, for its own bridge: containers reach each other, and nothing
/// else. Ports published with `-p` go through Docker's own proxy.
#[derive(Debug)]
pub(crate) struct Docker {
    client: PathBuf,
    // Dropped in this order.
    _server: Server,
    bridge: Bridge,
    folder: TempDir,
}

impl Docker {
    /// Starts one without images and waits until it answers.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same with further arguments for the daemon.
    pub(crate) fn start_with(arguments: &[&str]) -> Option<Self> {
        let (daemon, client, ip) = (tool("dockerd")?, tool("docker")?, tool("ip")?);
        root()?;
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        let bridge = Bridge::add(ip);
        let log = fs_err::File::create(path("log")).unwrap().into_parts().0;
        let mut command = Command::new(daemon);
        command
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg("--host")
            .arg(socket(folder.path()))
            .args(["--bridge", &bridge.name])
            .args(["--iptables=false", "--ip6tables=false", "--ip-masq=false"])
            // No configuration of the machine's own daemon.
            .arg("--config-file")
            .arg(path("daemon.json"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        fs_err::write(path("daemon.json"), "{}").unwrap();
        let docker = Self { client, _server: Server(command.spawn().unwrap()), bridge, folder };
        until(
            || docker.command(&["version"]).output().unwrap().status.success(),
            || format!("dockerd does not answer:\n{}", docker.log()),
        );
        Some(docker)
    }

    /// `docker <arguments>`, talking to this daemon.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        self.is_for(&mut command).args(arguments);
        command
    }

    /// Lets the clients that a command starts talk to this daemon.
    pub(crate) fn is_for<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("DOCKER_HOST", socket(self.folder.path()))
            .env("DOCKER_CONFIG", self.folder.path())
            .env_remove("DOCKER_CONTEXT")
    }

    /// Makes a network of that name, as users do for themselves, whose containers reach each other.
    pub(crate) fn network(&self, name: &str) -> Network<'_> {
        let bridge = format!("{}n", self.bridge.name);
        let option = format!("com.docker.network.bridge.name={bridge}");
        let subnet = format!("10.214.{}.0/24", self.bridge.name.trim_start_matches(PREFIX));
        self.run(&["network", "create", "--opt", &option, "--subnet", &subnet, name]);
        Network { docker: self, name: name.to_owned(), _traffic: Traffic::allow(&bridge) }
    }

    /// Runs `docker <arguments>`, which must succeed; its stdout.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        succeed(&mut self.command(arguments))
    }

    /// The address of the containerd that it runs on.
    pub(crate) fn containerd(&self) -> PathBuf {
        self.folder.path().join("exec/containerd/containerd.sock")
    }

    /// What the daemon said so far.
    pub(crate) fn log(&self) -> String {
        fs_err::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // A daemon leaves running containers' mounts behind, and then the folder cannot be removed.
        self.remove_containers();
    }
}

impl Docker {
    fn remove_containers(&self) {
        let Ok(listed) = self.command(&["ps", "--quiet", "--all"]).output() else {
            return;
        };
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let containers: Vec<_> = listed.split_whitespace().collect();
        if !containers.is_empty() {
            let arguments = [&["rm", "--force", "--volumes"], &containers[..]].concat();
            let _removed = self.command(&arguments).output();
        }
    }
}

fn socket(folder: &Path) -> String {
    format!("unix://{}", folder.join("docker.sock").display())
}

fn root() -> Option<()> {
    if nix::unistd::geteuid().is_root() {
        return Some(());
    }
    skip("it needs root");
    None
}

/// A network of a daemon, gone when dropped: its containers must be gone before.
#[derive(Debug)]
pub(crate) struct Network<'a> {
    docker: &'a Docker,
    name: String,
    _traffic: Option<Traffic>,
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        self.docker.remove_containers();
        let _removed = self.docker.command(&["network", "rm", &self.name]).output();
    }
}

/// What the names of our bridges begin with.
const PREFIX: &str = "assemble";

/// A network bridge with a subnet that no other has.
#[derive(Debug)]
struct Bridge {
    ip: PathBuf,
    name: String,
    _traffic: Option<Traffic>,
}

impl Bridge {
    fn add(ip: PathBuf) -> Self {
        // Processes and threads that look for a free one at the same time: adding the link decides.
        for subnet in 0..=255_u8 {
            let name = format!("{PREFIX}{subnet}");
            let run = |arguments: &[&str]| {
                let output = Command::new(&ip).args(arguments).output().unwrap();
                output.status.success()
            };
            if run(&["link", "add", "name", &name, "type", "bridge"]) {
                let address = format!("10.213.{subnet}.1/24");
                assert!(run(&["address", "add", &address, "dev", &name]), "{address}");
                assert!(run(&["link", "set", &name, "up"]), "{name}");
                let traffic = Traffic::allow(&name);
                return Self { ip, name, _traffic: traffic };
            }
        }
        panic!("no network bridge can be made");
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _deleted = Command::new(&self.ip).args(["link", "delete", &self.name]).output();
    }
}

/// A rule that lets packets pass from one port of a bridge to another, as `--link` needs. Without it a
/// machine that filters bridged packets too (`bridge-nf-call-iptables`), and whose own Docker or podman
/// lets nothing pass that they did not ask for, drops them.
#[derive(Debug)]
struct Traffic {
    iptables: PathBuf,
    bridge: String,
}

impl Traffic {
    /// `None` where there is no such firewall.
    fn allow(bridge: &str) -> Option<Self> {
        let traffic =
            Self { iptables: super::optional_tool("iptables")?, bridge: bridge.to_owned() };
        traffic.rule("--insert").then_some(traffic)
    }

    fn rule(&self, change: &str) -> bool {
        let output = Command::new(&self.iptables)
            .args(["--wait", change, "FORWARD", "--jump", "ACCEPT"])
            .args(["--in-interface", &self.bridge, "--out-interface", &self.bridge])
            .output();
        output.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _deleted = self.rule("--delete");
    }
}

/// Podman with storage of its own. Needs root.
#[derive(Debug)]
pub(crate) struct Podman {
    program: PathBuf,
    folder: TempDir,
}

impl Podman {
    /// One without images.
    pub(crate) fn start() -> Option<Self> {
        let program = tool("podman")?;
        root()?;
        let folder = TempDir::new().unwrap();
        // Its own limits are above what a container in a container may ask for; and crun refuses
        // machines with both kinds of control groups, runc does not.
        let runtime = match tool("runc") {
            Some(_) => "runtime = \"runc\"\n",
            None => "",
        };
        fs_err::write(
            folder.path().join("containers.conf"),
            format!(
                "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
                 [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n{runtime}"
            ),
        )
        .unwrap();
        Some(Self { program, folder })
    }

    /// `podman <arguments>` on this storage.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let path = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(&self.program);
        command
            .env("CONTAINERS_CONF", path("containers.conf"))
            .arg("--root")
            .arg(path("root"))
            .arg("--runroot")
            .arg(path("run"))
            .arg("--tmpdir")
            .arg(path("tmp"))
            .args(["--storage-driver", "vfs"])
            .args(arguments);
        command
    }

    /// Runs `podman <arguments>`, which must succeed; its stdout.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        succeed(&mut self.command(arguments))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Its mounts and its pause processes.
        let _reset = self.command(&["system", "reset", "--force"]).output();
    }
}
