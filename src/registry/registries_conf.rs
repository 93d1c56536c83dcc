//! `registries.conf`, version 2, as Podman's users have it (containers-registries.conf(5)): mirrors,
//! other locations, and registries that are not to be used (pure).
//!
//! What concerns names without a registry is not looked at: there are none here.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::http::redirect::is_below;
use crate::oci::Reference;

/// What the machine's files say about registries. Later files win, `prefix` by `prefix`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistriesConf {
    rules: Vec<Rule>,
}

/// One `[[registry]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// `host[:port][/path][:tag][@digest]`, or `*.domain`.
    prefix: String,
    /// What stands in for the prefix; `None` if nothing does.
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
}

/// One `[[registry.mirror]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mirror {
    location: String,
    insecure: bool,
    pulls: Pulls,
}

/// Which pulls a mirror is for (`pull-from-mirror`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Pulls {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    registry: Vec<Registry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Registry {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<MirrorTable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorTable {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<Pulls>,
}

/// Where one reference is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    /// `host[:port]/repository`, in the order they are asked.
    pub(super) mirrors: Vec<String>,
    /// What stands in for the registry itself; `None` if it does.
    pub(super) location: Option<String>,
    /// The rule that forbids it.
    pub(super) blocked_by: Option<String>,
}

impl RegistriesConf {
    /// Adds a file's rules; a rule with the same prefix is replaced.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let document: Document = toml::from_str(text)
            .map_err(|error| error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))?;
        let mut own: Vec<Rule> = Vec::new();
        for registry in document.registry {
            let rule = rule(registry)?;
            if own.iter().any(|other| other.prefix == rule.prefix) {
                return Err(format!("prefix `{}` has two tables", rule.prefix));
            }
            own.push(rule);
        }
        self.rules.retain(|rule| own.iter().all(|other| other.prefix != rule.prefix));
        self.rules.extend(own);
        Ok(())
    }

    /// `host[:port]` of registries and mirrors that are marked as insecure, and `*.domain` of whole
    /// domains.
    pub fn insecure(&self) -> BTreeSet<String> {
        let host = |location: &str| location.split('/').next().unwrap_or_default().to_owned();
        let rules = self.rules.iter().filter(|rule| rule.insecure);
        let own = rules.map(|rule| host(rule.location.as_deref().unwrap_or(&rule.prefix)));
        let mirrors = self.rules.iter().flat_map(|rule| &rule.mirrors);
        let mirrors = mirrors.filter(|mirror| mirror.insecure).map(|mirror| host(&mirror.location));
        own.chain(mirrors).collect()
    }

    /// Hosts and domains that have a rule of their own and are not insecure by it: a wider rule does
    /// not make them so.
    pub fn secure(&self) -> BTreeSet<String> {
        let rules = self.rules.iter().filter(|rule| !rule.insecure && !rule.prefix.contains('/'));
        rules.map(|rule| rule.prefix.clone()).collect()
    }

    /// Where a reference is read: by the rule with the longest prefix.
    pub(super) fn route(&self, reference: &Reference) -> Route {
        let name = reference.name();
        let Some((rule, length)) = self
            .rules
            .iter()
            .filter_map(|rule| Some((rule, matching(&rule.prefix, reference)?)))
            .max_by_key(|(_, length)| *length)
        else {
            return Route::default();
        };
        let rest = name.get(length.min(name.len())..).unwrap_or_default();
        let by_digest = reference.digest().is_some();
        let mirrors = rule.mirrors.iter().filter(|mirror| match mirror.pulls {
            Pulls::All => true,
            Pulls::DigestOnly => by_digest,
            Pulls::TagOnly => !by_digest,
        });
        Route {
            mirrors: mirrors.map(|mirror| format!("{}{rest}", mirror.location)).collect(),
            location: rule.location.as_ref().map(|location| format!("{location}{rest}")),
            blocked_by: rule.blocked.then(|| rule.prefix.clone()),
        }
    }
}

fn rule(registry: Registry) -> Result<Rule, String> {
    let clean = |text: Option<String>| {
        text.map(|text| text.trim_end_matches('/').to_owned()).filter(|text| !text.is_empty())
    };
    let location = clean(registry.location);
    let prefix = clean(registry.prefix)
        .or_else(|| location.clone())
        .ok_or("a [[registry]] has neither `prefix` nor `location`")?;
    for text in [Some(&prefix), location.as_ref()].into_iter().flatten() {
        if text.contains("://") {
            return Err(format!("`{text}` is an address, where a host is needed"));
        }
    }
    let mut mirrors = Vec::new();
    for mirror in registry.mirror {
        let location = clean(Some(mirror.location))
            .filter(|location| !location.contains("://"))
            .ok_or_else(|| format!("a mirror of `{prefix}` has no host"))?;
        let pulls = match (registry.mirror_by_digest_only, mirror.pull_from_mirror) {
            (true, Some(_)) => {
                return Err(format!(
                    "`{prefix}` has both `mirror-by-digest-only` and `pull-from-mirror`"
                ));
            }
            (true, None) => Pulls::DigestOnly,
            (false, pulls) => pulls.unwrap_or_default(),
        };
        mirrors.push(Mirror { location, insecure: mirror.insecure, pulls });
    }
    Ok(Rule {
        location: location.filter(|location| *location != prefix),
        prefix,
        insecure: registry.insecure,
        blocked: registry.blocked,
        mirrors,
    })
}

/// How many bytes of the reference's name a prefix covers; `None` if it is about others.
fn matching(prefix: &str, reference: &Reference) -> Option<usize> {
    if prefix.starts_with('*') {
        // `*.example.com` is for every host below it, and covers the host.
        let host = reference.registry();
        return is_below(host, prefix).then_some(host.len());
    }
    let full = reference.to_string();
    let rest = full.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with(['/', ':', '@'])).then_some(prefix.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = r#"
        unqualified-search-registries = ["docker.io"]
        short-name-mode = "enforcing"

        [aliases]
        "python" = "docker.io/library/python"

        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror.example:5000/hub/"
        insecure = true
        [[registry.mirror]]
        location = "digests.example"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "tags.example"
        pull-from-mirror = "tag-only"

        [[registry]]
        prefix = "docker.io/team"
        location = "inner.example/of/team"
        insecure = true

        [[registry]]
        prefix = "*.blocked.example"
        blocked = true

        [[registry]]
        prefix = "quay.io"
        mirror-by-digest-only = true
        mirror = [{ location = "quay.mirror.example" }]
    "#;

    const DIGEST: &str = "@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn conf(texts: &[&str]) -> RegistriesConf {
        let mut conf = RegistriesConf::default();
        for text in texts {
            conf.add(text).unwrap();
        }
        conf
    }

    #[test]
    fn the_longest_prefix_says_where() {
        let conf = conf(&[CONF]);
        for (reference, mirrors, location, blocked) in [
            (
                "docker.io/library/python:3",
                &["mirror.example:5000/hub/library/python", "tags.example/library/python"][..],
                None,
                false,
            ),
            (
                &format!("docker.io/library/python{DIGEST}"),
                &["mirror.example:5000/hub/library/python", "digests.example/library/python"],
                None,
                false,
            ),
            ("docker.io/team/app:1", &[], Some("inner.example/of/team/app"), false),
            (
                "docker.io/teams/app:1",
                &["mirror.example:5000/hub/teams/app", "tags.example/teams/app"],
                None,
                false,
            ),
            ("a.blocked.example/app:1", &[], None, true),
            ("blocked.example/app:1", &[], None, false),
            ("quay.io/app:1", &[], None, false),
            (&format!("quay.io/app{DIGEST}"), &["quay.mirror.example/app"], None, false),
            ("other.example/app:1", &[], None, false),
        ] {
            let route = conf.route(&reference.parse().unwrap());
            assert_eq!(route.mirrors, mirrors, "{reference}");
            assert_eq!(route.location.as_deref(), location, "{reference}");
            assert_eq!(route.blocked_by.is_some(), blocked, "{reference}");
        }
        let insecure: Vec<_> = conf.insecure().into_iter().collect();
        assert_eq!(insecure, ["inner.example", "mirror.example:5000"]);
    }

    #[test]
    fn a_whole_domain_may_be_insecure() {
        let conf = conf(&[
            "[[registry]]\nprefix = '*.lab.example'\ninsecure = true\n",
            "[[registry]]\nprefix = 'a.lab.example'\n\
             [[registry]]\nprefix = 'b.lab.example/team'\nblocked = true\n",
        ]);
        assert_eq!(conf.insecure().into_iter().collect::<Vec<_>>(), ["*.lab.example"]);
        assert_eq!(conf.secure().into_iter().collect::<Vec<_>>(), ["a.lab.example"]);
    }

    #[test]
    fn later_files_replace_rules_by_prefix() {
        let conf = conf(&[CONF, "[[registry]]\nprefix = 'docker.io'\nblocked = true\n"]);
        let route = |text: &str| conf.route(&text.parse().unwrap());
        assert!(route("docker.io/library/python:3").blocked_by.is_some());
        assert!(route("docker.io/library/python:3").mirrors.is_empty());
        assert!(route("docker.io/team/app:3").blocked_by.is_none());
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "[[registry]]\nblocked = true",
            "[[registry]]\nlocation = 'https://r.example'",
            "[[registry]]\nlocation = 'r.example'\n[[registry]]\nprefix = 'r.example'",
            "[[registry]]\nlocation = 'r.example'\nmirror = [{ location = '' }]",
            "[[registry]]\nlocation = 'r.example'\nmirror = [{ location = 'm', pull-from-mirror = 'x' }]",
            "[[registry]]\nlocation = 'r'\nmirror-by-digest-only = true\n\
             mirror = [{ location = 'm', pull-from-mirror = 'all' }]",
            "[[registry",
        ] {
            assert!(RegistriesConf::default().add(text).is_err(), "{text}");
        }
        assert!(RegistriesConf::default().add("[registries.search]\nregistries = []").is_ok());
    }
}
