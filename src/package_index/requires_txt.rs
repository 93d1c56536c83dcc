//! `.egg-info/requires.txt`: what setuptools knew of a distribution's requirements when it made the
//! sdist (pure).
//!
//! ```text
//! botocore<1.25
//!
//! [fast]
//! speed>=1
//!
//! [:python_version < "3.7"]
//! async_generator
//!
//! [fast:sys_platform == "linux"]
//! more-speed
//! ```

use pep508_rs::{ExtraName, MarkerTree, Requirement, VerbatimUrl};

use crate::python::metadata;

/// The requirements, with what their section says as markers, and the extras. Lines that are no
/// requirements are left out: who asks has nothing better to go by.
pub(super) fn parse(bytes: &[u8]) -> (Vec<Requirement>, Vec<ExtraName>) {
    let text = String::from_utf8_lossy(bytes);
    let mut requirements = Vec::new();
    let mut extras: Vec<ExtraName> = Vec::new();
    let mut section: (Option<ExtraName>, Option<MarkerTree>) = (None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            let (extra, marker) = name.split_once(':').unwrap_or((name, ""));
            section = (
                ExtraName::new(extra.to_owned()).ok().filter(|_| !extra.is_empty()),
                // The parser panics on some that are not ASCII.
                Some(marker)
                    .filter(|marker| !marker.is_empty() && marker.is_ascii())
                    .and_then(|marker| MarkerTree::parse_str::<VerbatimUrl>(marker).ok()),
            );
            if let Some(extra) = &section.0
                && !extras.contains(extra)
            {
                extras.push(extra.clone());
            }
        } else if let Ok(mut requirement) = metadata::requirement(line) {
            if let Some(marker) = &section.1 {
                requirement.marker.and(marker.clone());
            }
            requirements.push(match &section.0 {
                Some(extra) => requirement.with_extra_marker(extra),
                None => requirement,
            });
        }
    }
    (requirements, extras)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_become_markers() {
        let text = b"
botocore<1.25,>=1.24
aiohttp>=3.3.1

[:python_version < \"3.7\"]
async_generator

[Fast]
speed>=1

[fast:sys_platform == 'linux']
more-speed
not a requirement!
";
        let (requirements, extras) = parse(text);
        let words: Vec<String> = requirements.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "botocore>=1.24,<1.25",
                "aiohttp>=3.3.1",
                "async-generator ; python_full_version < '3.7'",
                "speed>=1 ; extra == 'fast'",
                "more-speed ; sys_platform == 'linux' and extra == 'fast'",
            ]
        );
        assert_eq!(extras, ["fast".parse().unwrap()]);
    }
}
