//! `docker-credential-<name>`: a program that keeps secrets (docker-credential-helpers).
//!
//! The name comes from a file and becomes the name of a program, so it is checked; the program is
//! looked for in `PATH` only, run without a shell, and must answer in time.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{Credential, Secret};

/// Cloud helpers ask their cloud: that may take a while.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// More than any token.
const OUTPUT_LIMIT: u64 = 256 << 10;

/// A helper failed. What it printed is not shown where it may hold a secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name could name something else than a helper.
    #[error(
        "credential helper `{name}` in {place}: the name has other characters than letters, digits, `.`, `_` and `-`"
    )]
    Name {
        /// The name.
        name: String,
        /// The file that names it.
        place: String,
    },
    /// There is no such program.
    #[error("credential helper `docker-credential-{name}` in {place} is not in PATH")]
    Missing {
        /// The name.
        name: String,
        /// The file that names it.
        place: String,
    },
    /// It cannot be run.
    #[error("credential helper `{}` cannot be run", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It said no.
    #[error("credential helper `{}` failed: {message}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// What it said.
        message: String,
    },
    /// It did not answer.
    #[error("credential helper `{}` gave no answer within {} s", program.display(), TIME_LIMIT.as_secs())]
    Late {
        /// The program.
        program: PathBuf,
    },
    /// Its answer is not the protocol's.
    #[error("credential helper `{}` gave an answer that is not its protocol's", program.display())]
    Malformed {
        /// The program.
        program: PathBuf,
    },
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// What the helper has for a server; `None` if it has nothing.
///
/// # Errors
/// It is not there, failed, or did not answer.
pub async fn get(
    name: &str,
    server: &str,
    place: &str,
    path: Option<&OsStr>,
) -> Result<Option<Credential>, Error> {
    let program = find(name, place, path)?;
    let (output, status) = converse(&program, "get", &format!("{server}\n")).await?;
    if !status.success() {
        // The protocol's one way to say "nothing", as all helpers write it.
        if String::from_utf8_lossy(&output).contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(program, &output));
    }
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|_secret| Error::Malformed { program })?;
    let secret = Secret::new(answer.secret);
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credential::IdentityToken(secret),
        _ => Credential::Password { user: answer.username, password: secret },
    }))
}

/// Tells the helper to `store` a secret, or to `erase` what it has for a server.
///
/// # Errors
/// It is not there, failed, or did not answer.
pub async fn tell(
    name: &str,
    verb: &'static str,
    question: &str,
    place: &str,
    path: Option<&OsStr>,
) -> Result<(), Error> {
    let program = find(name, place, path)?;
    let (output, status) = converse(&program, verb, question).await?;
    if status.success() { Ok(()) } else { Err(failed(program, &output)) }
}

fn failed(program: PathBuf, output: &[u8]) -> Error {
    let message = String::from_utf8_lossy(output).trim().to_owned();
    let message = message.chars().filter(|c| !c.is_control()).take(200).collect();
    Error::Failed { program, message }
}

/// Runs the helper, and returns what it printed.
async fn converse(
    program: &Path,
    verb: &str,
    question: &str,
) -> Result<(Vec<u8>, ExitStatus), Error> {
    let run = |source| Error::Run { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(run)?;
    let conversation = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A helper may answer without reading the question.
            let _unread = stdin.write_all(question.as_bytes()).await;
        }
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(OUTPUT_LIMIT).read_to_end(&mut output).await?;
        }
        Ok((output, child.wait().await?))
    };
    tokio::time::timeout(TIME_LIMIT, conversation)
        .await
        .map_err(|_elapsed| Error::Late { program: program.to_owned() })?
        .map_err(run)
}

fn find(name: &str, place: &str, path: Option<&OsStr>) -> Result<PathBuf, Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || !name.chars().all(plain) {
        return Err(Error::Name { name: name.to_owned(), place: place.to_owned() });
    }
    std::env::split_paths(path.unwrap_or_default())
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(format!("docker-credential-{name}")))
        .find(|program| program.is_file())
        .ok_or_else(|| Error::Missing { name: name.to_owned(), place: place.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use fs_err as fs;

    use super::*;

    #[tokio::test]
    async fn asks_and_understands() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, script: &str| {
            let file = folder.path().join(format!("docker-credential-{name}"));
            fs::write(&file, format!("#!/bin/sh\nread server\n{script}\n")).unwrap();
            fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        program("good", r#"echo "{\"Username\":\"$1\",\"Secret\":\"$server\"}""#);
        program("token", r#"echo '{"Username":"<token>","Secret":"s"}'"#);
        program("none", "echo credentials not found in native keychain; exit 1");
        program("bad", "echo locked; exit 1");
        program("odd", "echo secret");
        let path = folder.path().as_os_str();
        let ask = |name: &'static str| get(name, "r.example", "`f`", Some(path));

        let password =
            Credential::Password { user: "get".into(), password: Secret::new("r.example") };
        assert_eq!(ask("good").await.unwrap(), Some(password));
        let token = Credential::IdentityToken(Secret::new("s"));
        assert_eq!(ask("token").await.unwrap(), Some(token));
        assert_eq!(ask("none").await.unwrap(), None);
        let failed = ask("bad").await.unwrap_err();
        assert!(failed.to_string().ends_with("failed: locked"), "{failed}");
        let odd = ask("odd").await.unwrap_err();
        assert!(matches!(odd, Error::Malformed { .. }));
        assert!(!odd.to_string().contains("secret"));
        assert!(matches!(ask("absent").await, Err(Error::Missing { .. })));
        for evil in ["", "../evil", "a/b", "a b", "a;b", "$(x)"] {
            assert!(matches!(ask(evil).await, Err(Error::Name { .. })), "{evil}");
        }
    }
}
