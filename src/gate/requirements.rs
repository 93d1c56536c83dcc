//! Whether the installed distributions satisfy each other, as `pip check` asks in a container (pure):
//! every `Requires-Dist` whose marker holds on the target, without extras, among those of the base and
//! ours. It needs nothing to run, so it is asked for every platform.

use std::collections::{BTreeMap, BTreeSet};

use pep440_rs::Version;
use pep508_rs::{MarkerEnvironment, PackageName, Requirement, VersionOrUrl};

use super::error::Finding;
use super::inventory::Inventory;
use super::stack::Stack;
use crate::python::metadata::CoreMetadata;
use crate::python::target::Target;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unmet {
    /// What nothing explains, sorted by owner and path.
    pub findings: Vec<Finding>,
    /// The projects among the overridden that somebody requires otherwise, or that are not installed.
    pub overridden: BTreeSet<PackageName>,
}

/// A distribution that is installed.
struct Installed {
    /// Where its METADATA lies.
    path: String,
    version: Version,
    requires: Vec<Requirement>,
    is_ours: bool,
}

/// Compares all installed distributions, of which `overridden` are not what others require, on
/// purpose. What is wrong between two of the base's is not ours to report.
pub fn check(stack: &Stack<'_>, target: &Target, overridden: &BTreeSet<PackageName>) -> Unmet {
    let mut unmet = Unmet::default();
    let mut installed = BTreeMap::new();
    for (inventory, is_ours) in [(stack.below, false), (stack.ours, true)] {
        read(inventory, is_ours, &mut installed, &mut unmet.findings);
    }
    let markers = target.markers();
    for (name, distribution) in &installed {
        for requirement in &distribution.requires {
            let other = installed.get(&requirement.name);
            let concerns_us = distribution.is_ours || other.is_some_and(|other| other.is_ours);
            let Some(problem) = problem(requirement, &markers, other) else { continue };
            if overridden.contains(&requirement.name) {
                unmet.overridden.insert(requirement.name.clone());
            } else if concerns_us {
                unmet.findings.push(Finding {
                    owner: format!("{name} {}", distribution.version),
                    path: format!("/{}", distribution.path),
                    problem,
                });
            }
        }
    }
    unmet.findings.sort();
    unmet
}

/// Why a requirement is not met.
fn problem(
    requirement: &Requirement,
    markers: &MarkerEnvironment,
    installed: Option<&Installed>,
) -> Option<String> {
    if !requirement.evaluate_markers(markers, &[]) {
        return None;
    }
    // Without the marker, which holds.
    let Requirement { name, version_or_url, .. } = requirement;
    let Some(installed) = installed else {
        return Some(format!("requires `{name}`, which is not installed"));
    };
    match version_or_url {
        Some(VersionOrUrl::VersionSpecifier(specifiers))
            if !specifiers.contains(&installed.version) =>
        {
            let version = &installed.version;
            Some(format!("requires `{name}{specifiers}`, and {name} {version} is installed"))
        }
        _ => None,
    }
}

/// Reads the METADATA of every `.dist-info` where Python looks for them. One of ours covers one of the
/// base's.
fn read(
    inventory: &Inventory,
    is_ours: bool,
    installed: &mut BTreeMap<PackageName, Installed>,
    findings: &mut Vec<Finding>,
) {
    for (path, file) in inventory.files() {
        let is_metadata = path.strip_suffix("/METADATA").is_some_and(super::owners::is_installed);
        let Some(text) = file.text.as_ref().filter(|_| is_metadata) else { continue };
        match CoreMetadata::parse(text.as_bytes()) {
            Ok(metadata) => {
                let CoreMetadata { name, version, requires_dist: requires, .. } = metadata;
                let found = Installed { path: path.to_owned(), version, requires, is_ours };
                installed.insert(name, found);
            }
            Err(error) if is_ours => findings.push(Finding {
                owner: super::owners::NOBODY.to_owned(),
                path: format!("/{path}"),
                problem: format!("cannot be used: {error}"),
            }),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::gate::inventory::{File, Node};

    fn site(distributions: &[(&str, &str, &[&str])]) -> Inventory {
        Inventory::made(distributions.iter().map(|(name, version, requires)| {
            let path = format!(
                "usr/local/lib/python3.13/site-packages/{name}-{version}.dist-info/METADATA"
            );
            let mut text = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
            for requirement in *requires {
                text.push_str("Requires-Dist: ");
                text.push_str(requirement);
                text.push('\n');
            }
            let file = File::made(&path, text.as_bytes(), 0o644);
            (path, Node::File(Arc::new(file)))
        }))
    }

    fn said(ours: &Inventory, overridden: &[&str]) -> (Vec<String>, Vec<String>) {
        let below = site(&[("pip", "25.0", &[]), ("old", "1", &["gone"]), ("tool", "1", &[])]);
        let target = Target::new("3.13", "alpine3.24", &"linux/arm64".parse().unwrap()).unwrap();
        let names = overridden.iter().map(|name| name.parse().unwrap()).collect();
        let unmet = check(&Stack::of(ours, &below), &target, &names);
        let problems =
            unmet.findings.iter().map(|found| format!("{}: {}", found.owner, found.problem));
        (problems.collect(), unmet.overridden.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_pip_check_says() {
        for (requirement, problem) in [
            ("b", None),
            ("B>=2,<3", None),
            ("b>=2.0a1", None),
            ("pip", None),
            ("c; python_version < '3.13'", None),
            ("c; platform_machine == 'x86_64'", None),
            ("c; extra == 'more'", None),
            ("b @ https://example.org/b.whl", None),
            ("c", Some("a 1.0: requires `c`, which is not installed")),
            (
                "c; platform_machine == 'aarch64'",
                Some("a 1.0: requires `c`, which is not installed"),
            ),
            ("b[more]<2", Some("a 1.0: requires `b<2`, and b 2.1 is installed")),
            ("pip>=26", Some("a 1.0: requires `pip>=26`, and pip 25.0 is installed")),
        ] {
            let ours = site(&[("a", "1.0", &[requirement]), ("b", "2.1", &[])]);
            let expected: Vec<_> = problem.into_iter().map(str::to_owned).collect();
            assert_eq!(said(&ours, &[]).0, expected, "{requirement}");
        }
    }

    #[test]
    fn what_is_overridden_is_told_and_no_error() {
        let ours = site(&[("a", "1.0", &["b<2", "c", "d"]), ("b", "2.1", &[])]);
        let (problems, overridden) = said(&ours, &["b", "c", "pip"]);
        assert_eq!(problems, ["a 1.0: requires `d`, which is not installed"]);
        assert_eq!(overridden, ["b", "c"]);
    }

    #[test]
    fn one_of_ours_covers_one_of_the_base_s() {
        let ours = site(&[("a", "1.0", &["tool>=2"]), ("tool", "2", &[])]);
        assert_eq!(said(&ours, &[]).0, Vec::<String>::new());
    }
}
