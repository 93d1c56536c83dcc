//! `login` and `logout`: an entry of a credentials file is written or taken out.
//!
//! What else the file holds stays, known here or not. The file is written beside its place and
//! renamed, and nobody but its owner may read it. Where the file names a helper, the helper keeps the
//! secret and the file only says that there is one, as Docker has it.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fs_err as fs;
use serde_json::{Map, Value, json};

use super::config_file::{ConfigFile, entry_key};
use super::{Error, Secret, Sources, canonical, helper, parse, read_if_there, server_key};
use crate::beside;

/// A registry, or a part of one, that somebody logs in to: `ghcr.io`, `quay.io/team`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// `host[:port][/path]`
    key: String,
}

impl std::str::FromStr for Account {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let key = entry_key(text.trim());
        // The reference grammar knows what a registry is; the name only fills the gap.
        let reference = format!("{key}/x").parse::<crate::oci::Reference>().ok();
        let host = key.split('/').next().unwrap_or_default();
        if reference.is_some_and(|reference| reference.registry() == host) {
            return Ok(Self { key });
        }
        Err(Error::Registry(text.to_owned()))
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.key)
    }
}

impl Account {
    /// `host[:port]`, as in names.
    pub fn registry(&self) -> &str {
        self.key.split('/').next().unwrap_or_default()
    }

    /// What is written into files: Docker Hub as a whole has an address there.
    fn file_key(&self) -> &str {
        if self.key == self.registry() { server_key(&self.key) } else { &self.key }
    }
}

impl Sources {
    /// The file that `login` writes to: the one that is named by the environment, else Docker's own,
    /// which all tools read; `None` if there is no home.
    pub fn login_file(&self) -> Option<PathBuf> {
        self.registry_auth_file
            .clone()
            .or_else(|| Some(self.docker_config_dir.as_ref()?.join("config.json")))
            .or_else(|| Some(self.home.as_ref()?.join(".docker/config.json")))
    }
}

/// Writes an entry. Returns the name of the helper that has the secret, if the file names one.
///
/// # Errors
/// The file cannot be read or written, or its helper failed. Then it is as it was.
pub async fn store(
    file: &Path,
    account: &Account,
    user: &str,
    password: &Secret,
    helper_path: Option<&OsStr>,
) -> Result<Option<String>, Error> {
    let mut document = Document::read(file)?;
    let helper = document.config.helper(account.registry()).map(str::to_owned);
    let entry = match &helper {
        Some(name) => {
            let question = json!({
                "ServerURL": account.file_key(),
                "Username": user,
                "Secret": password.reveal(),
            });
            let place = document.place();
            helper::tell(name, "store", &question.to_string(), &place, helper_path).await?;
            json!({})
        }
        None => json!({"auth": STANDARD.encode(format!("{user}:{}", password.reveal()))}),
    };
    document.remove(account);
    document.entries()?.insert(account.file_key().to_owned(), entry);
    document.write()?;
    Ok(helper)
}

/// Takes an entry out, and from the helper that the file names. Returns whether there was one.
///
/// # Errors
/// As [`store`].
pub async fn forget(
    file: &Path,
    account: &Account,
    helper_path: Option<&OsStr>,
) -> Result<bool, Error> {
    let mut document = Document::read(file)?;
    let mut there = document.remove(account);
    if let Some(name) = document.config.helper(account.registry()) {
        let place = document.place();
        // A helper has no secret for what it was never told.
        let told = helper::get(name, account.file_key(), &place, helper_path).await?;
        if told.is_some() {
            helper::tell(name, "erase", account.file_key(), &place, helper_path).await?;
            there = true;
        }
    }
    if there {
        document.write()?;
    }
    Ok(there)
}

/// A credentials file that is about to change.
struct Document {
    file: PathBuf,
    config: ConfigFile,
    fields: Map<String, Value>,
}

impl Document {
    fn read(file: &Path) -> Result<Self, Error> {
        let bytes = read_if_there(file)?.unwrap_or_default();
        let place = format!("`{}`", file.display());
        let config = parse(&place, &bytes)?;
        let fields = if bytes.trim_ascii().is_empty() {
            Map::new()
        } else {
            serde_json::from_slice(&bytes).map_err(|_secret| Error::Malformed {
                place,
                reason: "it is not a JSON object".to_owned(),
            })?
        };
        Ok(Self { file: file.to_owned(), config, fields })
    }

    fn place(&self) -> String {
        format!("`{}`", self.file.display())
    }

    fn entries(&mut self) -> Result<&mut Map<String, Value>, Error> {
        let place = self.place();
        self.fields
            .entry("auths")
            .or_insert_with(|| json!({}))
            .as_object_mut()
            .ok_or_else(|| Error::Malformed { place, reason: "`auths` is no object".to_owned() })
    }

    /// Takes out every key that means the account: Docker Hub has had several.
    fn remove(&mut self, account: &Account) -> bool {
        let Some(entries) = self.fields.get_mut("auths").and_then(Value::as_object_mut) else {
            return false;
        };
        let before = entries.len();
        entries.retain(|key, _| canonical(&entry_key(key)) != account.key);
        entries.len() != before
    }

    fn write(&self) -> Result<(), Error> {
        let disk = |source| Error::Unwritable { path: self.file.clone(), source };
        // A link, as dotfile managers make them, stays one: what it points to is replaced.
        let target = match fs::canonicalize(&self.file) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.file.clone(),
            Err(error) => return Err(disk(error)),
        };
        let folder = beside::parent(&target);
        make_private_folder(folder).map_err(disk)?;
        let mut text = serde_json::to_vec_pretty(&self.fields)
            .map_err(|error| disk(io::Error::other(error)))?;
        text.push(b'\n');
        beside::sweep(folder);
        // For its owner alone from its first byte on.
        beside::file(&target, 0o600)
            .and_then(|mut file| {
                file.write_all(&text)?;
                file.as_file().sync_data()?;
                file.persist(&target).map_err(|error| error.error)
            })
            .map_err(disk)?;
        Ok(())
    }
}

/// Makes the folder, and its missing parents, for its owner alone.
fn make_private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::registry::credentials::{Credential, Keychain, Role};

    fn account(text: &str) -> Account {
        text.parse().unwrap()
    }

    async fn user(file: &Path, registry: &str, repository: &str) -> Option<String> {
        let sources = Sources { registry_auth_file: Some(file.to_owned()), ..Sources::default() };
        let keychain = Keychain::load(sources).unwrap();
        match keychain.credential(Role::Push, registry, repository).await.unwrap() {
            Credential::Password { user, password } => {
                Some(format!("{user}:{}", password.reveal()))
            }
            _ => None,
        }
    }

    #[test]
    fn accounts_are_registries_or_parts_of_them() {
        for (text, key, file_key) in [
            ("docker.io", "docker.io", "https://index.docker.io/v1/"),
            ("https://index.docker.io/v1/", "docker.io", "https://index.docker.io/v1/"),
            ("docker.io/team", "docker.io/team", "docker.io/team"),
            ("localhost:5000", "localhost:5000", "localhost:5000"),
            ("https://r.example/", "r.example", "r.example"),
            ("quay.io/team/", "quay.io/team", "quay.io/team"),
        ] {
            let account = account(text);
            assert_eq!((account.to_string().as_str(), account.file_key()), (key, file_key));
        }
        for text in ["", "team", "-x.example", "r.example/UP", "r.example:port", "a b.example"] {
            assert!(text.parse::<Account>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn an_entry_comes_and_goes_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/config.json");
        let password = Secret::new("p:w");
        store(&file, &account("r.example:5000"), "me", &password, None).await.unwrap();
        assert_eq!(user(&file, "r.example:5000", "a").await.as_deref(), Some("me:p:w"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));

        fs::write(&file, r#"{"psFormat": "x", "auths": {"index.docker.io": {"auth": "bzpw"}}}"#)
            .unwrap();
        fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        store(&file, &account("docker.io"), "hub", &password, None).await.unwrap();
        store(&file, &account("quay.io/team"), "team", &password, None).await.unwrap();
        assert_eq!(mode(&file), 0o600);
        assert_eq!(user(&file, "docker.io", "library/x").await.as_deref(), Some("hub:p:w"));
        assert_eq!(user(&file, "quay.io", "team/x").await.as_deref(), Some("team:p:w"));
        assert_eq!(user(&file, "quay.io", "other/x").await, None);
        assert!(fs::read_to_string(&file).unwrap().contains("psFormat"));
        assert!(!fs::read_to_string(&file).unwrap().contains("bzpw"));

        assert!(forget(&file, &account("docker.io"), None).await.unwrap());
        assert!(!forget(&file, &account("docker.io"), None).await.unwrap());
        assert_eq!(user(&file, "docker.io", "library/x").await, None);
        assert_eq!(user(&file, "quay.io", "team/x").await.as_deref(), Some("team:p:w"));
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_helper_keeps_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept");
        let program = folder.path().join("docker-credential-box");
        let script = format!(
            "#!/bin/sh\ncase $1 in\nstore) cat >{0};;\nerase) rm {0};;\nget) [ -f {0} ] && cat {0} \
             || {{ echo credentials not found; exit 1; }};;\nesac\n",
            kept.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let file = folder.path().join("config.json");
        fs::write(&file, r#"{"credsStore": "box"}"#).unwrap();
        let path = Some(folder.path().as_os_str());
        let (account, password) = (account("r.example"), Secret::new("hidden"));
        let helper = store(&file, &account, "me", &password, path).await.unwrap();
        assert_eq!(helper.as_deref(), Some("box"));
        assert!(fs::read_to_string(&kept).unwrap().contains("hidden"));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("r.example") && !text.contains("auth\""), "{text}");
        assert!(forget(&file, &account, path).await.unwrap());
        assert!(!kept.exists());
        assert!(!forget(&file, &account, path).await.unwrap());
    }

    #[tokio::test]
    async fn what_is_no_config_document_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        fs::write(&file, "{\"auths\": {\"r\": {\"auth\": \"c2Vj").unwrap();
        let outcome = store(&file, &account("r.example"), "u", &Secret::new("p"), None).await;
        assert!(matches!(outcome, Err(Error::Malformed { .. })));
        assert!(fs::read_to_string(&file).unwrap().ends_with("c2Vj"));
    }
}
