//! `config.json` and `auth.json`: one format, two families of keys (pure).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

use super::{Credential, Secret, canonical};

/// A parsed file: what it holds for each registry or part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFile {
    /// By `host[:port][/path]`.
    entries: BTreeMap<String, Credential>,
    /// By `host[:port]`.
    helpers: BTreeMap<String, String>,
    helper_for_all: Option<String>,
}

/// What a file says about a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// This.
    Credential(&'a Credential),
    /// Ask `docker-credential-<name>`.
    Helper(&'a str),
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    auths: BTreeMap<String, Option<Auth>>,
    #[serde(default, rename = "credHelpers")]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    #[serde(rename = "auth")]
    encoded: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl ConfigFile {
    /// Parses a file. An empty one is an empty document.
    ///
    /// # Errors
    /// What is wrong, in words that hold nothing of the file's content.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let document: Document = serde_json::from_slice(bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("line {line} column {column} is not what a config document has there")
        })?;
        let mut entries = BTreeMap::new();
        for (key, auth) in document.auths {
            // An empty entry means that a helper has it.
            let credential = auth.unwrap_or_default().credential();
            let credential = credential.map_err(|reason| format!("entry `{key}`: {reason}"))?;
            if let Some(credential) = credential {
                entries.insert(entry_key(&key), credential);
            }
        }
        let helpers =
            document.cred_helpers.into_iter().map(|(key, name)| (entry_key(&key), name)).collect();
        Ok(Self {
            entries,
            helpers,
            helper_for_all: document.creds_store.filter(|name| !name.is_empty()),
        })
    }

    /// The helper that keeps the registry's secrets, if there is one.
    pub fn helper(&self, registry: &str) -> Option<&str> {
        let own = self.helpers.get(registry).map(String::as_str);
        own.or(self.helper_for_all.as_deref())
    }

    /// What the file says about a repository of a registry; the longest entry that contains it wins.
    pub fn entry(&self, registry: &str, repository: &str) -> Option<Entry<'_>> {
        if let Some(name) = self.helpers.get(registry) {
            return Some(Entry::Helper(name));
        }
        let mut key = format!("{registry}/{repository}");
        loop {
            if let Some(credential) = self.entries.get(&key) {
                return Some(Entry::Credential(credential));
            }
            match key.rfind('/') {
                Some(slash) => key.truncate(slash),
                None => break,
            }
        }
        self.helper_for_all.as_deref().map(Entry::Helper)
    }
}

impl Auth {
    fn credential(self) -> Result<Option<Credential>, &'static str> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::RegistryToken(Secret::new(self.registrytoken))));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(Secret::new(self.identitytoken))));
        }
        if !self.encoded.is_empty() {
            let decoded = STANDARD
                .decode(self.encoded.trim())
                .or_else(|_padded| STANDARD_NO_PAD.decode(self.encoded.trim()))
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or("`auth` is not base64 of text")?;
            // The password may hold colons and, from old Docker versions, ends in NULs.
            let (user, password) =
                decoded.trim_end_matches('\0').split_once(':').ok_or("`auth` has no colon")?;
            return Ok(Some(Credential::Password {
                user: user.to_owned(),
                password: Secret::new(password),
            }));
        }
        if self.username.is_empty() {
            return Ok(None);
        }
        Ok(Some(Credential::Password { user: self.username, password: Secret::new(self.password) }))
    }
}

/// A file's key as `host[:port][/path]`. Docker's old keys are addresses (`https://host/v1/`): of
/// these only the host counts, while Podman's `host/namespace` is for that part of the host only.
pub(super) fn entry_key(key: &str) -> String {
    let (address, rest) = match key.split_once("://") {
        Some((_, rest)) => (true, rest),
        None => (false, key),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = canonical(host);
    let path = path.trim_matches('/');
    if address || matches!(path, "" | "v1" | "v2") {
        return host.to_owned();
    }
    format!("{host}/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(file: &ConfigFile, registry: &str, repository: &str) -> String {
        match file.entry(registry, repository) {
            Some(Entry::Credential(Credential::Password { user, password })) => {
                format!("{user}:{}", password.reveal())
            }
            Some(Entry::Credential(Credential::IdentityToken(token))) => {
                format!("identity {}", token.reveal())
            }
            Some(Entry::Credential(Credential::RegistryToken(token))) => {
                format!("registry {}", token.reveal())
            }
            Some(Entry::Credential(Credential::Anonymous)) => "anonymous".into(),
            Some(Entry::Helper(name)) => format!("helper {name}"),
            None => "none".into(),
        }
    }

    #[test]
    fn finds_the_longest_entry_and_the_right_helper() {
        let file = ConfigFile::parse(
            br#"{
              "auths": {
                "https://index.docker.io/v1/": {"auth": "aHViOmE6Yg=="},
                "quay.io": {"username": "host", "password": "p"},
                "quay.io/team": {"username": "team", "password": "p"},
                "quay.io/team/app": {"username": "app", "password": "p"},
                "https://old.example:5000/v2/": {"auth": "b2xkOnAAAA=="},
                "token.example": {"identitytoken": "i", "auth": "dTpw"},
                "bearer.example": {"registrytoken": "t"},
                "empty.example": {},
                "null.example": null,
                "helped.example": {"username": "unused", "password": "p"}
              },
              "credHelpers": {"helped.example": "one", "ecr.example": "ecr-login"},
              "credsStore": "desktop",
              "HttpHeaders": {"X": "y"}
            }"#,
        )
        .unwrap();
        for (registry, repository, found) in [
            ("docker.io", "library/python", "hub:a:b"),
            ("quay.io", "other/app", "host:p"),
            ("quay.io", "team/other", "team:p"),
            ("quay.io", "teams/other", "host:p"),
            ("quay.io", "team/app", "app:p"),
            ("quay.io", "team/app/deep", "app:p"),
            ("old.example:5000", "x", "old:p"),
            ("old.example", "x", "helper desktop"),
            ("token.example", "x", "identity i"),
            ("bearer.example", "x", "registry t"),
            ("empty.example", "x", "helper desktop"),
            ("null.example", "x", "helper desktop"),
            ("helped.example", "x", "helper one"),
            ("ecr.example", "x", "helper ecr-login"),
            ("quay.io.evil.example", "x", "helper desktop"),
        ] {
            assert_eq!(user(&file, registry, repository), found, "{registry}/{repository}");
        }
    }

    #[test]
    fn what_is_no_config_document() {
        for (text, fine) in [
            ("", true),
            (" \n", true),
            ("{}", true),
            ("\"text\"", false),
            (r#"{"auths": []}"#, false),
            (r#"{"auths": {"r": {"auth": "not base64"}}}"#, false),
            (r#"{"auths": {"r": {"auth": "bm9jb2xvbg=="}}}"#, false),
        ] {
            assert_eq!(ConfigFile::parse(text.as_bytes()).is_ok(), fine, "{text}");
        }
    }
}
