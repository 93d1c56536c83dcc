//! Who we are to a registry: Docker's and Podman's files, helpers, and identities given for one run.
//!
//! The order, first hit wins:
//!
//! 1. an identity given for this run ([`Keychain::with_identity`]);
//!    then, where a role has a file of its own, that file alone: what pulls is not shown what pushes;
//! 2. `DOCKER_AUTH_CONFIG`, a config document in a variable;
//! 3. `REGISTRY_AUTH_FILE`;
//! 4. `$DOCKER_CONFIG/config.json`, if the variable is set;
//! 5. `$XDG_RUNTIME_DIR/containers/auth.json`;
//! 6. `$XDG_CONFIG_HOME/containers/auth.json`, or `~/.config/containers/auth.json`;
//! 7. `~/.docker/config.json`.
//!
//! Docker and Podman order these differently; what was named explicitly comes first here. Within one
//! file the longest entry that contains the repository wins (containers-auth.json(5)), then the
//! helper for the host, then the helper for all hosts, as Docker does.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;
use tokio::sync::Mutex;

use crate::error::{Failure, Kind};

pub mod config_file;
pub mod helper;
pub mod keep;

use config_file::{ConfigFile, Entry};

/// A password or token. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for a request.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What we show to a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    Anonymous,
    /// User name and password.
    Password {
        /// The user name.
        user: String,
        /// The password or access token.
        password: Secret,
    },
    /// An identity token, to be exchanged by `OAuth2` (distribution, *oauth.md*).
    IdentityToken(Secret),
    /// A bearer token, used as it is.
    RegistryToken(Secret),
}

/// In which role we speak to a registry: a public base may be pulled as nobody and the result pushed
/// as somebody, on the same host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reading bases.
    Pull,
    /// Writing images.
    Push,
}

/// The values that say where credentials are; read from the environment by the command line.
#[derive(Clone, Default)]
pub struct Sources {
    /// Where there is one, the only file that is looked in to pull.
    pub pull_auth_file: Option<PathBuf>,
    /// Where there is one, the only file that is looked in to push.
    pub push_auth_file: Option<PathBuf>,
    /// `DOCKER_AUTH_CONFIG`
    pub docker_auth_config: Option<String>,
    /// `REGISTRY_AUTH_FILE`
    pub registry_auth_file: Option<PathBuf>,
    /// `DOCKER_CONFIG`, a folder.
    pub docker_config_dir: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`
    pub xdg_config_home: Option<PathBuf>,
    /// `HOME`
    pub home: Option<PathBuf>,
    /// `PATH`: where `docker-credential-…` is looked for.
    pub helper_path: Option<String>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("docker_auth_config", &self.docker_auth_config.as_ref().map(|_| "…"))
            .field("files", &self.files())
            .finish_non_exhaustive()
    }
}

impl Sources {
    /// The files that are looked in, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        let config_home = self
            .xdg_config_home
            .clone()
            .or_else(|| self.home.as_ref().map(|home| home.join(".config")));
        let files = [
            self.registry_auth_file.clone(),
            self.docker_config_dir.as_ref().map(|folder| folder.join("config.json")),
            self.xdg_runtime_dir.as_ref().map(|folder| folder.join("containers/auth.json")),
            config_home.map(|folder| folder.join("containers/auth.json")),
            self.home.as_ref().map(|home| home.join(".docker/config.json")),
        ];
        let mut distinct = Vec::new();
        for file in files.into_iter().flatten() {
            if !distinct.contains(&file) {
                distinct.push(file);
            }
        }
        distinct
    }
}

/// Credentials cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("credentials cannot be read: `{}`", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no config document. The text is not shown: it holds secrets.
    #[error("no credentials file: {place}: {reason}")]
    Malformed {
        /// The file or variable.
        place: String,
        /// Where in it, and what.
        reason: String,
    },
    /// The file cannot be changed.
    #[error("credentials cannot be written: `{}`", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody can log in there.
    #[error("`{0}` is no registry: a host, maybe with a port or a path, is needed")]
    Registry(String),
    /// A helper failed.
    #[error(transparent)]
    Helper(#[from] helper::Error),
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Helper(helper::Error::Missing { .. }) => Some(
                "install the helper, or log in with another tool that writes ~/.docker/config.json"
                    .into(),
            ),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Source {
    /// The file, or the variable's name.
    place: String,
    config: ConfigFile,
}

/// What helpers answered, by helper and registry.
type Answers = BTreeMap<(String, String), Option<Credential>>;

/// All credentials of a run. Cheap to clone. Helpers are asked when a registry asks, once each.
#[derive(Clone, Debug, Default)]
pub struct Keychain {
    sources: Arc<Vec<Source>>,
    looked_in: Arc<Vec<String>>,
    /// Of roles that have a file of their own.
    by_role: BTreeMap<Role, Arc<Source>>,
    given: BTreeMap<(Role, String), Credential>,
    helper_path: Option<String>,
    asked: Arc<Mutex<Answers>>,
}

impl Keychain {
    /// Reads the files that exist.
    ///
    /// # Errors
    /// A file cannot be read or is no config document.
    pub fn load(sources: Sources) -> Result<Self, Error> {
        let mut found = Vec::new();
        let mut looked_in = Vec::new();
        if let Some(text) = &sources.docker_auth_config {
            let place = "DOCKER_AUTH_CONFIG".to_owned();
            looked_in.push(place.clone());
            let config = parse(&place, text.as_bytes())?;
            found.push(Source { place, config });
        }
        for file in sources.files() {
            let place = format!("`{}`", file.display());
            looked_in.push(place.clone());
            if let Some(bytes) = read_if_there(&file)? {
                let config = parse(&place, &bytes)?;
                found.push(Source { place, config });
            }
        }
        let mut by_role = BTreeMap::new();
        for (role, file) in
            [(Role::Pull, &sources.pull_auth_file), (Role::Push, &sources.push_auth_file)]
        {
            let Some(file) = file else { continue };
            // One that was named and is not there must not mean "as nobody".
            let bytes =
                fs::read(file).map_err(|source| Error::Disk { path: file.to_owned(), source })?;
            let place = format!("`{}`", file.display());
            let config = parse(&place, &bytes)?;
            by_role.insert(role, Arc::new(Source { place, config }));
        }
        Ok(Self {
            by_role,
            sources: Arc::new(found),
            looked_in: Arc::new(looked_in),
            helper_path: sources.helper_path,
            ..Self::default()
        })
    }

    /// The same keychain with an identity for a registry in a role, which goes before all files.
    #[must_use]
    pub fn with_identity(mut self, role: Role, registry: &str, credential: Credential) -> Self {
        self.given.insert((role, canonical(registry).to_owned()), credential);
        self
    }

    /// Where credentials for a role were looked for: files and variables, in order.
    pub fn looked_in(&self, role: Role) -> Vec<String> {
        match self.by_role.get(&role) {
            Some(own) => vec![own.place.clone()],
            None => self.looked_in.to_vec(),
        }
    }

    /// The credential for a repository of a registry (as written in names) in a role.
    ///
    /// # Errors
    /// A helper that is responsible failed.
    pub async fn credential(
        &self,
        role: Role,
        registry: &str,
        repository: &str,
    ) -> Result<Credential, Error> {
        let registry = canonical(registry);
        if let Some(given) = self.given.get(&(role, registry.to_owned())) {
            return Ok(given.clone());
        }
        let sources = match self.by_role.get(&role) {
            Some(own) => std::slice::from_ref(&**own),
            None => self.sources.as_slice(),
        };
        for source in sources {
            match source.config.entry(registry, repository) {
                Some(Entry::Credential(credential)) => return Ok(credential.clone()),
                Some(Entry::Helper(name)) => {
                    if let Some(credential) = self.ask(name, registry, &source.place).await? {
                        return Ok(credential);
                    }
                }
                None => {}
            }
        }
        Ok(Credential::Anonymous)
    }

    async fn ask(
        &self,
        name: &str,
        registry: &str,
        place: &str,
    ) -> Result<Option<Credential>, Error> {
        let key = (name.to_owned(), registry.to_owned());
        let mut asked = self.asked.lock().await;
        if let Some(known) = asked.get(&key) {
            return Ok(known.clone());
        }
        let server = server_key(registry);
        let credential =
            helper::get(name, server, place, self.helper_path.as_deref().map(OsStr::new)).await?;
        asked.insert(key, credential.clone());
        Ok(credential)
    }
}

/// The one name of a registry that has several: Docker Hub.
pub(crate) fn canonical(registry: &str) -> &str {
    match registry {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// The name under which Docker keeps a registry's credentials.
pub fn server_key(registry: &str) -> &str {
    match canonical(registry) {
        "docker.io" => "https://index.docker.io/v1/",
        other => other,
    }
}

fn parse(place: &str, bytes: &[u8]) -> Result<ConfigFile, Error> {
    ConfigFile::parse(bytes).map_err(|reason| Error::Malformed { place: place.to_owned(), reason })
}

/// The file's bytes; `None` if it is not there, or is a directory, as `docker run -v` makes where a
/// mounted file was missing.
fn read_if_there(file: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::IsADirectory
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(Error::Disk { path: file.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(user: &str) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(format!("{user}:pw"))
    }

    fn user(credential: &Credential) -> &str {
        match credential {
            Credential::Password { user, .. } => user,
            _ => "",
        }
    }

    #[tokio::test]
    async fn files_are_looked_in_in_the_documented_order() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path();
        let write = |path: &str, user: &str| {
            let path = home.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let document = format!(r#"{{"auths": {{"r.example": {{"auth": "{}"}}}}}}"#, auth(user));
            fs::write(path, document).unwrap();
        };
        let sources = Sources {
            docker_auth_config: Some(r#"{"auths": {"other.example": {}}}"#.into()),
            registry_auth_file: Some(home.join("given.json")),
            docker_config_dir: Some(home.join("docker")),
            xdg_runtime_dir: Some(home.join("run")),
            home: Some(home.to_owned()),
            ..Sources::default()
        };
        for (path, name) in [
            (".docker/config.json", "home"),
            (".config/containers/auth.json", "config"),
            ("run/containers/auth.json", "run"),
            ("docker/config.json", "docker"),
            ("given.json", "given"),
        ] {
            write(path, name);
            let keychain = Keychain::load(sources.clone()).unwrap();
            let found = keychain.credential(Role::Pull, "r.example", "a/b").await.unwrap();
            assert_eq!(user(&found), name);
            assert!(!format!("{keychain:?}").contains(&auth(name)));
            assert!(!format!("{keychain:?} {found:?}").contains("pw"));
        }
        let keychain = Keychain::load(sources.clone()).unwrap().with_identity(
            Role::Push,
            "r.example",
            Credential::Anonymous,
        );
        let pushes = keychain.credential(Role::Push, "r.example", "a").await.unwrap();
        assert_eq!(pushes, Credential::Anonymous);
        let pulls = keychain.credential(Role::Pull, "r.example", "a").await.unwrap();
        assert_eq!(user(&pulls), "given");
        assert_eq!(keychain.looked_in(Role::Pull).len(), 6);
    }

    #[tokio::test]
    async fn a_role_with_a_file_of_its_own_is_shown_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, registry: &str| {
            let file = folder.path().join(name);
            let document =
                format!(r#"{{"auths": {{"{registry}": {{"auth": "{}"}}}}}}"#, auth(name));
            fs::write(&file, document).unwrap();
            file
        };
        let sources = Sources {
            registry_auth_file: Some(write("all", "r.example")),
            pull_auth_file: Some(write("pull", "other.example")),
            push_auth_file: Some(write("push", "r.example")),
            ..Sources::default()
        };
        let keychain = Keychain::load(sources.clone()).unwrap();
        let pulls = keychain.credential(Role::Pull, "r.example", "a").await.unwrap();
        assert_eq!(pulls, Credential::Anonymous);
        let pushes = keychain.credential(Role::Push, "r.example", "a").await.unwrap();
        assert_eq!(user(&pushes), "push");
        assert!(keychain.looked_in(Role::Push)[0].ends_with("push`"));

        let keychain = Keychain::load(Sources { pull_auth_file: None, ..sources.clone() }).unwrap();
        let pulls = keychain.credential(Role::Pull, "r.example", "a").await.unwrap();
        assert_eq!(user(&pulls), "all");

        let absent = Some(folder.path().join("absent"));
        let error = Keychain::load(Sources { push_auth_file: absent, ..sources }).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }

    #[tokio::test]
    async fn a_directory_or_a_broken_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        fs::create_dir(&file).unwrap();
        let sources = Sources { registry_auth_file: Some(file.clone()), ..Sources::default() };
        assert!(Keychain::load(sources.clone()).is_ok());
        fs::remove_dir(&file).unwrap();
        fs::write(&file, r#"{"auths": {"r.example": {"auth": "c2VjcmV0"}"#).unwrap();
        let error = Keychain::load(sources.clone()).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(!error.to_string().contains("c2VjcmV0"), "{error}");
    }
}
