//! The command itself: login, logout, whom it trusts, and with whose identity it pulls and pushes.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::real::{HTPASSWD, certificate, serve};
use crate::support::registry::{Auth, FakeRegistry};
use crate::support::{require_tool, tool};

/// A secret that must turn up nowhere but in requests and the file.
const PASSWORD: &str = "hunter2-and-more";

/// Runs `assemble` as somebody whose home is `home`, with no other variable than these.
fn run(home: &Path, variables: &[(&str, &str)], arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_assemble"))
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .envs(variables.iter().copied())
        .current_dir(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without reading.
    let _unread = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let shown = format!("{output:?}");
    assert!(!shown.contains(PASSWORD), "{shown}");
    output
}

fn log_in(home: &Path, variables: &[(&str, &str)], registry: &str, more: &[&str]) -> Output {
    let mut arguments = vec!["login", registry, "--username", "me", "--password-stdin"];
    arguments.extend(more);
    run(home, variables, &arguments, &format!("{PASSWORD}\n"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn basic(password: &str) -> Auth {
    Auth::Basic { user: "me".into(), password: password.into() }
}

fn token(password: &str) -> Auth {
    Auth::Token { user: "me".into(), password: password.into(), anonymous_pull: false, realm: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn login_keeps_what_the_registry_takes_and_nothing_else() {
    let registry = FakeRegistry::start().await;
    let address = registry.address();
    for auth in [basic as fn(&str) -> Auth, token] {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(".docker/config.json");

        registry.set_auth(auth("another"));
        let refused = log_in(home.path(), &[], &address, &[]);
        assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
        assert!(!file.exists());

        registry.set_auth(auth(PASSWORD));
        let taken = log_in(home.path(), &[], &address, &[]);
        assert!(taken.status.success(), "{}", said(&taken));
        let text = fs_err::read_to_string(&file).unwrap();
        assert!(text.contains(&address) && !text.contains(PASSWORD), "{text}");

        let out = run(home.path(), &[], &["logout", &address], "");
        assert!(out.status.success() && said(&out).contains("were removed"), "{}", said(&out));
        let out = run(home.path(), &[], &["logout", &address], "");
        assert!(out.status.success() && said(&out).contains("were not in"), "{}", said(&out));
        assert!(!fs_err::read_to_string(&file).unwrap().contains(&address));
    }
    assert!(registry.log().iter().all(|logged| !logged.path.contains(PASSWORD)));
}

#[tokio::test(flavor = "multi_thread")]
async fn login_says_when_nobody_asked_and_when_others_come_first() {
    let registry = FakeRegistry::start().await;
    let address = registry.address();
    let home = tempfile::tempdir().unwrap();
    let open = log_in(home.path(), &[], &address, &[]);
    assert!(said(&open).contains("asked for no credentials"), "{}", said(&open));

    let variables = [(
        "DOCKER_AUTH_CONFIG",
        &*format!(r#"{{"auths": {{"{address}": {{"auth": "b3RoZXI6cHc="}}}}}}"#),
    )];
    let hidden = log_in(home.path(), &variables, &address, &[]);
    assert!(said(&hidden).contains("come first in DOCKER_AUTH_CONFIG"), "{}", said(&hidden));

    let named = home.path().join("named/auth.json");
    let variables = [("REGISTRY_AUTH_FILE", named.to_str().unwrap()), ("DOCKER_CONFIG", "x")];
    let output = log_in(home.path(), &variables, &address, &[]);
    assert!(output.status.success() && named.exists(), "{}", said(&output));

    for (arguments, stdin) in [
        (&["login", &address, "--username", "me"][..], PASSWORD),
        (&["login", &address, "--username", "me", "--password-stdin"], "\n"),
        (&["login", "no registry", "--username", "me", "--password-stdin"], PASSWORD),
    ] {
        let output = run(home.path(), &[], arguments, stdin);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_come_from_the_flag_the_variable_and_the_folders() {
    if !require_tool("docker-registry") || !require_tool("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (pem, tls) = certificate(folder.path());
    let users = folder.path().join("htpasswd");
    fs_err::write(&users, HTPASSWD).unwrap();
    let auth = format!("auth:\n  htpasswd:\n    realm: the test\n    path: {}\n", users.display());
    let served = serve(folder.path(), &format!("{tls}{auth}")).await;
    let home = folder.path().join("home");
    fs_err::create_dir(&home).unwrap();
    let arguments = ["login", &served.address, "--username", "user", "--password-stdin"];
    let pem = pem.to_str().unwrap();
    let trusting = |variables: &[(&str, &str)], more: &[&str]| {
        run(&home, variables, &[&arguments, more].concat(), "password\n")
    };

    let unknown = trusting(&[], &[]);
    assert_eq!(unknown.status.code(), Some(4));
    assert!(said(&unknown).contains("--ca-bundle"), "{}", said(&unknown));
    let absent = trusting(&[], &["--ca-bundle", "absent.pem"]);
    assert_eq!(absent.status.code(), Some(2), "{}", said(&absent));
    for (variables, more) in
        [(&[][..], &["--ca-bundle", pem][..]), (&[("SSL_CERT_FILE", pem)], &[])]
    {
        let output = trusting(variables, more);
        assert!(output.status.success(), "{variables:?}: {}", said(&output));
    }
    let by_host = home.join(".config/containers/certs.d").join(&served.address);
    fs_err::create_dir_all(&by_host).unwrap();
    fs_err::copy(pem, by_host.join("ca.crt")).unwrap();
    let output = trusting(&[], &[]);
    assert!(output.status.success(), "{}", said(&output));

    // What we wrote is what another tool reads.
    let Some(skopeo) = tool("skopeo") else { return };
    let asked = Command::new(skopeo)
        .args(["login", "--get-login", "--authfile"])
        .arg(home.join(".docker/config.json"))
        .arg(&served.address)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&asked.stdout).trim(), "user", "{asked:?}");
}
