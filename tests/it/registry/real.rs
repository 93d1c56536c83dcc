//! Debian's `docker-registry`, as it is packaged.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use assemble::error::Kind;
use assemble::oci::{Digest, ImageManifest, Reference, media_type};
use assemble::registry::credentials::{Credential, Keychain, Role, Secret};
use assemble::registry::{BlobBytes, Client, Options, Pushed};
use serde_json::json;

use super::{client, descriptor, http_with, layer, noise, read};
use crate::support::token_server::TokenServer;
use crate::support::tools::{Docker, Podman};
use crate::support::{require_tool, tool};

/// A running registry; it is stopped when this is dropped.
pub(super) struct Served {
    child: Child,
    pub(super) address: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub(super) async fn serve(folder: &Path, more: &str) -> Served {
    serve_at(folder, &free_address(), more).await
}

async fn serve_with(folder: &Path, storage: &str) -> Served {
    let free = free_address();
    start(folder, &free, storage, "").await
}

async fn serve_at(folder: &Path, address: &str, more: &str) -> Served {
    start(folder, address, "", more).await
}

/// The registry cannot be told to choose a port and say which.
fn free_address() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().to_string()
}

async fn start(folder: &Path, address: &str, storage: &str, more: &str) -> Served {
    let data = folder.join("data");
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
         delete:\n    enabled: true\n{storage}http:\n  addr: {address}\n  secret: of-the-test\n{more}",
        data.display()
    );
    let file = folder.join("config.yml");
    fs_err::write(&file, config).unwrap();
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let served = Served { child, address: address.to_owned() };
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(&served.address).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    served
}

/// Pushes an image and reads it back.
async fn round_trip(client: &Client, address: &str, file: &Path) {
    let target: Reference = format!("{address}/mine/app:1").parse().unwrap();
    let bytes = noise(1, 3_000_000);
    fs_err::write(file, &bytes).unwrap();
    let config = json!({"architecture": "amd64", "os": "linux"}).to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::OCI_CONFIG, &config),
        "layers": [layer(&bytes)],
    })
    .to_string()
    .into_bytes();
    let source = BlobBytes::File(file.to_owned());
    let pushed = client.push_blob(&target, &layer(&bytes), source.clone(), &[]).await.unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    let described = descriptor(media_type::OCI_CONFIG, &config);
    let memory = BlobBytes::Memory(config.clone().into());
    client.push_blob(&target, &described, memory, &[]).await.unwrap();
    let digest = client
        .push_manifest(&target, media_type::OCI_MANIFEST, manifest.clone().into())
        .await
        .unwrap();
    assert_eq!(digest, Digest::of(&manifest));
    assert_eq!(client.manifest(&target).await.unwrap().bytes, manifest);
    assert_eq!(read(client, &target, &layer(&bytes)).await.unwrap(), bytes);
    let other: Reference = format!("{address}/mine/other:1").parse().unwrap();
    let mounted = client.push_blob(&other, &layer(&bytes), source, &[target]).await.unwrap();
    assert_eq!(mounted, Pushed::Mounted);
}

#[tokio::test]
async fn plain_in_one_piece_and_in_chunks() {
    if !require_tool("docker-registry") {
        return;
    }
    for options in [
        Options::default(),
        Options { chunk_above: 1_000_000, chunk_size: 700_000, ..Options::default() },
    ] {
        let folder = tempfile::tempdir().unwrap();
        let served = serve(folder.path(), "").await;
        let file = folder.path().join("layer");
        round_trip(&client(options), &served.address, &file).await;
    }
}

/// A certificate for loopback that is its own authority, and what tells a registry to show it.
pub(super) fn certificate(folder: &Path) -> (PathBuf, String) {
    let (key, certificate) = (folder.join("key.pem"), folder.join("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=the test"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let tls =
        format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display());
    (certificate, tls)
}

#[tokio::test]
async fn with_tls_and_an_authority_of_its_own() {
    if !require_tool("docker-registry") || !require_tool("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (certificate, tls) = certificate(folder.path());
    let served = serve(folder.path(), &tls).await;
    let trusting = Client::new(http_with(Some(&certificate)), Options::default());
    round_trip(&trusting, &served.address, &folder.path().join("layer")).await;

    let target: Reference = format!("{}/mine/app:1", served.address).parse().unwrap();
    let by_host = folder.path().join("certs.d").join(&served.address);
    fs_err::create_dir_all(&by_host).unwrap();
    fs_err::copy(&certificate, by_host.join("ca.crt")).unwrap();
    let http = assemble::http::Client::new(assemble::http::Options {
        certs_d: vec![folder.path().join("absent"), folder.path().join("certs.d")],
        ..assemble::http::Options::default()
    });
    let trusting = Client::new(http.unwrap(), Options::default());
    trusting.manifest(&target).await.unwrap();
    let error = client(Options::default()).manifest(&target).await.unwrap_err();
    let hint = assemble::error::Failure::hint(&error).unwrap_or_default();
    assert!(hint.contains("--ca-bundle"), "{error:?}: {hint}");
}

/// A certificate that names `name`, and its key, in `folder`.
fn client_certificate(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let place = |ending: &str| folder.join(format!("{name}.{ending}"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")])
        .args(["-addext", "extendedKeyUsage=clientAuth", "-keyout"])
        .arg(place("key"))
        .arg("-out")
        .arg(place("cert"))
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    (place("cert"), place("key"))
}

#[tokio::test]
async fn with_tls_for_those_who_have_a_certificate() {
    if !require_tool("docker-registry") || !require_tool("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (certificate, tls) = certificate(folder.path());
    let [known, stranger] = ["known", "stranger"].map(|n| client_certificate(folder.path(), n));
    let tls = format!("{tls}    clientcas:\n      - {}\n", known.0.display());
    let served = serve(folder.path(), &tls).await;
    // As containers-certs.d(5) has it: `<host:port>/{ca.crt,client.cert,client.key}`.
    let with = |name: &str, identity: Option<&(PathBuf, PathBuf)>| {
        let root = folder.path().join(name);
        let by_host = root.join(&served.address);
        fs_err::create_dir_all(&by_host).unwrap();
        fs_err::copy(&certificate, by_host.join("ca.crt")).unwrap();
        if let Some((certificate, key)) = identity {
            fs_err::copy(certificate, by_host.join("client.cert")).unwrap();
            fs_err::copy(key, by_host.join("client.key")).unwrap();
        }
        let http = assemble::http::Client::new(assemble::http::Options {
            certs_d: vec![root],
            retry: assemble::http::Retry {
                tries: 2,
                first: Duration::from_millis(5),
                longest: Duration::from_millis(10),
            },
            ..assemble::http::Options::default()
        });
        Client::new(http.unwrap(), Options::default())
    };
    let trusted = with("known.d", Some(&known));
    round_trip(&trusted, &served.address, &folder.path().join("layer")).await;
    let target: Reference = format!("{}/mine/app:1", served.address).parse().unwrap();
    for (name, identity) in [("nobody.d", None), ("stranger.d", Some(&stranger))] {
        let error = with(name, identity).manifest(&target).await.unwrap_err();
        assert_eq!(assemble::error::Failure::kind(&error), Kind::Remote, "{name}: {error:?}");
    }
    // A certificate without its key is said before anything is sent.
    let half = with("half.d", Some(&known));
    fs_err::remove_file(folder.path().join("half.d").join(&served.address).join("client.key"))
        .unwrap();
    let error = half.manifest(&target).await.unwrap_err();
    assert!(format!("{error:?}").contains("client.key"), "{error:?}");
}

#[tokio::test]
async fn killed_and_started_again_in_the_middle_of_an_upload() {
    if !require_tool("docker-registry") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut served = serve(folder.path(), "").await;
    let bytes = noise(8, 40_000_000);
    let file = folder.path().join("layer");
    fs_err::write(&file, &bytes).unwrap();
    let http = assemble::http::Client::new(assemble::http::Options {
        retry: assemble::http::Retry {
            tries: 12,
            first: Duration::from_millis(100),
            longest: Duration::from_millis(500),
        },
        ..assemble::http::Options::default()
    })
    .unwrap();
    let options = Options { chunk_above: 0, chunk_size: 500_000, ..Options::default() };
    let client = Client::new(http, options);
    let target: Reference = format!("{}/mine/app:1", served.address).parse().unwrap();
    let pushing = {
        let (client, target, blob) = (client.clone(), target.clone(), layer(&bytes));
        tokio::spawn(
            async move { client.push_blob(&target, &blob, BlobBytes::File(file), &[]).await },
        )
    };
    while client.cost().bytes_up < 5_000_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    served.child.kill().unwrap();
    served.child.wait().unwrap();
    let address = served.address.clone();
    let _again = serve_at(folder.path(), &address, "").await;
    assert_eq!(pushing.await.unwrap().unwrap(), Pushed::Uploaded);
    assert_eq!(read(&client, &target, &layer(&bytes)).await.unwrap(), bytes);
}

/// `user` and `password`, as htpasswd(1) writes them with bcrypt.
pub(super) const HTPASSWD: &str =
    "user:$2y$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu\n";

#[tokio::test]
async fn with_htpasswd() {
    if !require_tool("docker-registry") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("htpasswd");
    fs_err::write(&file, HTPASSWD).unwrap();
    let auth = format!("auth:\n  htpasswd:\n    realm: the test\n    path: {}\n", file.display());
    let served = serve(folder.path(), &auth).await;
    let credential =
        Credential::Password { user: "user".into(), password: Secret::new("password") };
    let keychain = [Role::Pull, Role::Push].into_iter().fold(Keychain::default(), |keys, role| {
        keys.with_identity(role, &served.address, credential.clone())
    });
    let known = client(Options { keychain, ..Options::default() });
    round_trip(&known, &served.address, &folder.path().join("layer")).await;
    let target: Reference = format!("{}/mine/app:1", served.address).parse().unwrap();
    let error = client(Options::default()).manifest(&target).await.unwrap_err();
    assert!(error.to_string().contains("refused access"), "{error}");
}

#[tokio::test]
async fn as_a_mirror_that_pulls_through() {
    if !require_tool("docker-registry") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("hub"), folder.path().join("mirror"));
    fs_err::create_dir(&first).unwrap();
    fs_err::create_dir(&second).unwrap();
    let hub = serve(&first, "").await;
    let proxy = format!("proxy:\n  remoteurl: http://{}\n", hub.address);
    let mirror = serve(&second, &proxy).await;
    round_trip(&client(Options::default()), &hub.address, &folder.path().join("layer")).await;
    let mirrors = [(hub.address.clone(), vec![mirror.address.clone()])].into();
    let pulling = client(Options { mirrors, ..Options::default() });
    let target: Reference = format!("{}/mine/app:1", hub.address).parse().unwrap();
    let manifest = pulling.manifest(&target).await.unwrap();
    let parsed: ImageManifest = serde_json::from_slice(&manifest.bytes).unwrap();
    let bytes = read(&pulling, &target, &parsed.layers()[0]).await.unwrap();
    assert_eq!(bytes, noise(1, 3_000_000));
    let stored = second.join("data/docker/registry/v2/repositories/mine/app");
    assert!(stored.exists(), "the mirror was not asked");
}

#[tokio::test]
async fn read_only() {
    if !require_tool("docker-registry") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let served =
        serve_with(folder.path(), "  maintenance:\n    readonly:\n      enabled: true\n").await;
    let target: Reference = format!("{}/mine/app:1", served.address).parse().unwrap();
    let source = BlobBytes::Memory(b"layer".to_vec().into());
    let client = client(Options::default());
    let error = client.push_blob(&target, &layer(b"layer"), source, &[]).await.unwrap_err();
    assert!(error.to_string().contains("405"), "{error}");
}

#[tokio::test]
async fn an_independent_client_reads_what_was_pushed() {
    if !require_tool("docker-registry") {
        return;
    }
    let Some(skopeo) = tool("skopeo") else { return };
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path(), "").await;
    let client = client(Options::default());
    round_trip(&client, &served.address, &folder.path().join("layer")).await;
    let name = format!("{}/mine/app:1", served.address);
    let output = Command::new(skopeo)
        .args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ours = client.manifest(&name.parse().unwrap()).await.unwrap();
    assert_eq!(output.stdout, ours.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_server() {
    if !require_tool("docker-registry") || !require_tool("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tokens = TokenServer::start(folder.path(), "user", "password").await;
    let served = serve(folder.path(), &tokens.config()).await;
    let keychain = |password: &str| {
        let password = Secret::new(password);
        let credential = Credential::Password { user: "user".into(), password };
        [Role::Pull, Role::Push].into_iter().fold(Keychain::default(), |keys, role| {
            keys.with_identity(role, &served.address, credential.clone())
        })
    };
    let known = client(Options { keychain: keychain("password"), ..Options::default() });
    round_trip(&known, &served.address, &folder.path().join("layer")).await;
    // One token to push, one to pull, one to mount: a token is used as long as it is good.
    let scopes = tokens.scopes();
    assert!(scopes.contains(&"repository:mine/app:pull,push".to_owned()), "{scopes:?}");
    assert!(scopes.contains(&"repository:mine/other:pull,push".to_owned()), "{scopes:?}");
    assert!(scopes.len() < 8, "{scopes:?}");

    let target: Reference = format!("{}/mine/app:1", served.address).parse().unwrap();
    for keychain in [Keychain::default(), keychain("wrong")] {
        let stranger = client(Options { keychain, ..Options::default() });
        let error = stranger.manifest(&target).await.unwrap_err();
        assert!(error.to_string().starts_with("no token"), "{error}");
    }
    let Some(skopeo) = tool("skopeo") else { return };
    let name = format!("docker://{target}");
    let output = tokio::process::Command::new(skopeo)
        .args(["inspect", "--raw", "--tls-verify=false", "--creds", "user:password", &name])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, known.manifest(&target).await.unwrap().bytes);

    let small = format!("{}/mine/small:1", served.address);
    let digest = push_small(&known, &small.parse().unwrap()).await.to_string();
    // The token server is a task of this runtime.
    tokio::task::spawn_blocking(move || others_pull_with_a_password(&small, &digest))
        .await
        .unwrap();
}

/// An image with one file, which engines take.
async fn push_small(client: &Client, target: &Reference) -> Digest {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(5);
    tar.append_data(&mut header, "hello", &b"hello"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &tar).unwrap();
    let bytes = gzip.finish().unwrap();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar)]},
        "history": [{"created_by": "the test"}],
    });
    let config = config.to_string().into_bytes();
    let described = descriptor(media_type::OCI_CONFIG, &config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": described,
        "layers": [layer(&bytes)],
    });
    let manifest = manifest.to_string().into_bytes();
    for (descriptor, bytes) in [(layer(&bytes), bytes), (described, config)] {
        client.push_blob(target, &descriptor, BlobBytes::Memory(bytes.into()), &[]).await.unwrap();
    }
    client.push_manifest(target, media_type::OCI_MANIFEST, manifest.into()).await.unwrap()
}

fn others_pull_with_a_password(image: &str, digest: &str) {
    if let Some(podman) = Podman::start() {
        let pull = ["pull", "--quiet", "--tls-verify=false", "--creds"];
        let refused = podman.command(&[&pull[..], &["user:wrong", image]].concat()).output();
        assert!(!refused.unwrap().status.success());
        podman.run(&[&pull[..], &["user:password", image]].concat());
        let found = podman.run(&["image", "inspect", "--format={{.Digest}}", image]);
        assert_eq!(found.trim(), digest);
    }
    if let Some(docker) = Docker::start() {
        assert!(!docker.command(&["pull", image]).output().unwrap().status.success());
        let registry = image.split('/').next().unwrap();
        let mut login =
            docker.command(&["login", "--username", "user", "--password-stdin", registry]);
        let mut child = login.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"password").unwrap();
        assert!(child.wait().unwrap().success());
        let said = docker.run(&["pull", image]);
        assert!(said.contains(&format!("Digest: {digest}")), "{said}");
    }
}
