//! A token server as registries are set up with (distribution, *token.md*): a name and a password
//! become a signed token for what is asked for.
#![expect(clippy::unwrap_used, reason = "a broken fixture must fail the test")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A token server on loopback. It stops when it is dropped.
#[derive(Debug)]
pub(crate) struct TokenServer {
    realm: String,
    certificate: PathBuf,
    scopes: Arc<Mutex<Vec<String>>>,
    server: tokio::task::JoinHandle<()>,
}

/// What it signs with.
#[derive(Clone)]
struct Signer {
    key: PathBuf,
    /// DER in base64: who gets a token finds the key in it.
    certificate: String,
}

impl TokenServer {
    /// The service it makes tokens for, and their issuer.
    pub(crate) const SERVICE: &str = "of-the-test";

    /// Starts one that knows `user` with `password` and keeps its key in `folder`. Needs `openssl`.
    pub(crate) async fn start(folder: &Path, user: &str, password: &str) -> Self {
        let (key, certificate) = (folder.join("token.key"), folder.join("token.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=tokens", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success());
        let pem = fs_err::read_to_string(&certificate).unwrap();
        let der = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let signer = Signer { key, certificate: der };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let realm = format!("http://{}/token", listener.local_addr().unwrap());
        let known = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let scopes = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::clone(&scopes);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (signer, known, asked) = (signer.clone(), known.clone(), Arc::clone(&asked));
                tokio::spawn(async move { answer(stream, &signer, &known, &asked).await });
            }
        });
        Self { realm, certificate, scopes, server }
    }

    /// The part of a `docker-registry` configuration that sends clients here.
    pub(crate) fn config(&self) -> String {
        let (realm, service) = (&self.realm, Self::SERVICE);
        format!(
            "auth:\n  token:\n    realm: {realm}\n    service: {service}\n    issuer: {service}\n    \
             rootcertbundle: {}\n",
            self.certificate.display()
        )
    }

    /// Every scope that was asked for, in order.
    pub(crate) fn scopes(&self) -> Vec<String> {
        self.scopes.lock().unwrap().clone()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// One request, one answer, then the connection is closed.
async fn answer(mut stream: TcpStream, signer: &Signer, known: &str, asked: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default();
    let url = url::Url::parse(&format!("http://token{target}")).unwrap();
    let scopes: Vec<String> = url
        .query_pairs()
        .filter(|(key, _)| key == "scope")
        .flat_map(|(_, value)| value.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let given = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
    });
    let (status, body) = if given.as_deref() == Some(known) {
        asked.lock().unwrap().extend(scopes.iter().cloned());
        ("200 OK", json!({"token": token(signer, &scopes), "expires_in": 300}).to_string())
    } else {
        let error = json!({"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]});
        ("401 Unauthorized", error.to_string())
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    let _hung_up = stream.write_all(answer.as_bytes()).await;
}

/// A JSON Web Token, signed with RS256, with the certificate in its header.
fn token(signer: &Signer, scopes: &[String]) -> String {
    let access: Vec<_> = scopes
        .iter()
        .filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let actions: Vec<_> = actions.split(',').collect();
            Some(json!({"type": kind, "name": name, "actions": actions}))
        })
        .collect();
    let now = jiff::Timestamp::now().as_second();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [signer.certificate]});
    let claims = json!({
        "iss": TokenServer::SERVICE,
        "aud": TokenServer::SERVICE,
        "sub": "user",
        "iat": now,
        "nbf": now - 60,
        "exp": now + 300,
        "jti": format!("{now}"),
        "access": access,
    });
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let content = format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes())
    );
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(&signer.key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
    let signature = child.wait_with_output().unwrap().stdout;
    format!("{content}.{}", encode(&signature))
}
