//! Which requirements of a distribution count on a target (pure): markers, extras, overrides.

use std::collections::BTreeMap;

use pep508_rs::{ExtraName, PackageName, Requirement, VersionOrUrl};

use super::candidates::{Goal, without_url};
use super::ranges::{self, Range};

/// A requirement that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dependency {
    pub(super) name: PackageName,
    pub(super) extras: Vec<ExtraName>,
    pub(super) range: Range,
    /// Whether it leaves one version only.
    pub(super) is_pinned: bool,
}

/// The requirements that count on the goal's target: without an extra those whose markers hold, with
/// one those that the extra adds.
///
/// An override replaces a requirement that counts; the requirement's own marker still decides whether
/// it does.
///
/// # Errors
/// A requirement that counts names an address: its text without the address.
pub(super) fn active(
    requirements: &[Requirement],
    extra: Option<&ExtraName>,
    goal: &Goal,
    overrides: &BTreeMap<PackageName, Option<Requirement>>,
) -> Result<Vec<Dependency>, String> {
    let mut dependencies = Vec::new();
    for requirement in requirements {
        let plain = requirement.evaluate_markers(&goal.markers, &[]);
        let counts = match extra {
            None => plain,
            Some(extra) => {
                !plain && requirement.evaluate_markers(&goal.markers, std::slice::from_ref(extra))
            }
        };
        if !counts {
            continue;
        }
        let (requirement, extras) = match overrides.get(&requirement.name) {
            None => (requirement, &requirement.extras),
            Some(Some(instead)) if instead.evaluate_markers(&goal.markers, &[]) => {
                let extras = if instead.extras.is_empty() && instead.name == requirement.name {
                    &requirement.extras
                } else {
                    &instead.extras
                };
                (instead, extras)
            }
            Some(_) => continue,
        };
        let specifiers = match &requirement.version_or_url {
            None => None,
            Some(VersionOrUrl::VersionSpecifier(specifiers)) => Some(specifiers),
            Some(VersionOrUrl::Url(_)) => return Err(without_url(requirement)),
        };
        let dependency = Dependency {
            name: requirement.name.clone(),
            extras: extras.clone(),
            range: specifiers.map_or_else(Range::full, ranges::from_specifiers),
            is_pinned: specifiers.and_then(ranges::pinned).is_some(),
        };
        if !dependencies.contains(&dependency) {
            dependencies.push(dependency);
        }
    }
    Ok(dependencies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::Target;

    /// An extra, overrides, and the answer.
    type Row = (Option<&'static str>, &'static [(&'static str, &'static str)], &'static str);

    fn words(requirements: &[&str], extra: Option<&str>, overrides: &[(&str, &str)]) -> String {
        let parse = |text: &str| text.parse::<Requirement>().unwrap();
        let requirements: Vec<Requirement> = requirements.iter().map(|r| parse(r)).collect();
        let platform = "linux/arm64".parse().unwrap();
        let target = Target::new("3.8.18", "alpine3.18", &platform).unwrap();
        let extra: Option<ExtraName> = extra.map(|extra| extra.parse().unwrap());
        let overrides = overrides
            .iter()
            .map(|(name, instead)| {
                let instead = (!instead.is_empty()).then(|| parse(instead));
                (name.parse().unwrap(), instead)
            })
            .collect();
        match active(&requirements, extra.as_ref(), &Goal::new(&target), &overrides) {
            Err(text) => format!("address: {text}"),
            Ok(dependencies) => dependencies
                .iter()
                .map(|d| format!("{}{:?}{}", d.name, d.extras, ranges::describe(&d.range)))
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    #[test]
    fn markers_extras_and_overrides_decide() {
        let requirements = [
            "a>=1",
            "b<2; python_version < '3.9'",
            "b<3; python_version >= '3.9'",
            "c; extra == 'fast'",
            "d; extra == 'fast' and platform_machine == 'x86_64'",
            "e; extra == 'slow'",
            "f[g]>=1; sys_platform == 'linux'",
        ];
        let table: [Row; 6] = [
            (None, &[], "a[]>=1 b[]<2 f[ExtraName(\"g\")]>=1"),
            (Some("fast"), &[], "c[]"),
            (Some("none"), &[], ""),
            // Dropped; replaced, keeping its extras; replaced by another project.
            (None, &[("a", ""), ("f", "f<1"), ("b", "bb>=7")], "bb[]>=7 f[ExtraName(\"g\")]<1"),
            // An override wakes nothing that its requirement leaves asleep.
            (Some("fast"), &[("e", "e==1")], "c[]"),
            (None, &[("a", "a; sys_platform == 'win32'")], "b[]<2 f[ExtraName(\"g\")]>=1"),
        ];
        for (extra, overrides, expected) in table {
            assert_eq!(words(&requirements, extra, overrides), expected);
        }
        assert_eq!(
            words(&["a[x] @ https://user:secret@host.invalid/a.whl"], None, &[]),
            "address: a[x]"
        );
    }
}
