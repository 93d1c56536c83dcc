//! The environment, read once: the only file that asks for variables.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The variables this program knows, as they were at the start. Values may be secrets.
#[derive(Clone, Default)]
pub(super) struct Environment(BTreeMap<&'static str, String>);

/// Every variable that means something here.
const KNOWN: [&str; 28] = [
    "ASSEMBLE_CACHE_DIR",
    "ASSEMBLE_MIRRORS",
    "ASSEMBLE_PULL_AUTH_FILE",
    "ASSEMBLE_PUSH_AUTH_FILE",
    "ASSEMBLE_SANDBOX",
    "ASSEMBLE_WHEEL_CACHE",
    "CONTAINERS_REGISTRIES_CONF",
    "DOCKER_AUTH_CONFIG",
    "DOCKER_CONFIG",
    "HOME",
    "NETRC",
    "PATH",
    "PIP_CONFIG_FILE",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_INDEX_URL",
    "PIP_NO_INDEX",
    "REGISTRY_AUTH_FILE",
    "SOURCE_DATE_EPOCH",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INDEX",
    "UV_INDEX_URL",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
];

impl Environment {
    /// The process's variables. One that is empty or not UTF-8 counts as not set.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads them")]
    pub(super) fn of_process() -> Self {
        Self(
            KNOWN
                .into_iter()
                .filter_map(|name| Some((name, std::env::var(name).ok()?)))
                .filter(|(_, value)| !value.is_empty())
                .collect(),
        )
    }

    /// The value of a known variable.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        debug_assert!(KNOWN.contains(&name), "{name} is not listed");
        self.0.get(name).map(String::as_str)
    }

    /// The value as a path.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }
}
