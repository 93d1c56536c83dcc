//! The sandbox's promises against a build script that means harm: the same list of attempts in each tier.

use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};

use assemble::sandbox::{Promise, Tier};
use fs_err as fs;
use serde_json::json;
use tempfile::TempDir;

use crate::sdist::{Scene, TIERS};

/// Everything below a folder, with what is in the files.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = if path.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        found.push((path.display().to_string(), bytes));
    }
    found.sort();
    found
}

/// What the host has there, if we may look.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_hostile_build_reaches_nothing_in_any_tier() {
    for tier in TIERS {
        let Some(scene) = Scene::new() else { return };
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("secret"), "the host's").unwrap();
        fs::copy("/bin/true", folder.path().join("program")).unwrap();
        let _socket = UnixListener::bind(folder.path().join("socket")).unwrap();
        let name = format!("assemble-{}-{tier}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let abstract_socket = UnixListener::bind_addr(&address).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut process = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let before = content(folder.path());
        let blob = scene.stored("other.whl", b"what another build wants").digest;

        let seen: BTreeMap<_, _> = ["/", "/etc", "/home", "/root", "/tmp", "/var"]
            .into_iter()
            .map(|path| (path, names(path)))
            .filter(|(_, names)| !names.is_empty())
            .collect();
        let given = json!({
            "folder": folder.path(),
            "program": folder.path().join("program"),
            "files": [Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"), scene.store.blob_path(&blob)],
            "folders": [folder.path(), scene.store.root()],
            "names": seen,
            "passwd": fs::read_to_string("/etc/passwd").unwrap(),
            "tcp": tcp.local_addr().unwrap().port(),
            "udp": udp.local_addr().unwrap().port(),
            "abstract": name,
            "pid": process.id(),
            "strict": tier == Tier::Loader,
        });
        let request = scene.in_tree_with(
            "    import attempts\n    return wheel(out, '\\n'.join(attempts.reached))",
            &[("attempts.py", include_str!("attempts.py")), ("given.json", &given.to_string())],
        );
        let built = scene.build(&request, tier).unwrap_or_else(|error| panic!("{tier}: {error}"));
        assert_eq!(built.tier, tier);

        let reached = scene.entry(&built, "p.py");
        let left = |promise| built.left.contains(&promise);
        assert!(tier == Tier::Loader || built.left.is_empty());
        let log = fs::read_to_string(scene.store.blob_path(&built.log.unwrap())).unwrap();
        let reached: Vec<_> = reached
            .lines()
            .filter(|attempt| !(*attempt == "socket" && left(Promise::Sockets)))
            .collect();
        assert_eq!(reached, [""; 0], "{tier}: {log}");
        assert_eq!(content(folder.path()), before, "{tier}");
        assert!(process.try_wait().unwrap().is_none(), "{tier}");
        tcp.set_nonblocking(true).unwrap();
        assert!(tcp.accept().is_err(), "{tier}");
        udp.set_nonblocking(true).unwrap();
        assert!(udp.recv(&mut [0; 9]).is_err(), "{tier}");
        abstract_socket.set_nonblocking(true).unwrap();
        assert!(abstract_socket.accept().is_err(), "{tier}");
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
