//! Sets of versions (pure): from specifiers, and back into words.
//!
//! A version without a local part stands for all its local versions (PEP 440, *Version matching*):
//! `==1.0` takes `1.0+cpu`. That makes a range out of every single version, from the version itself up
//! to, and without, [`after`] it.

use std::fmt::Write as _;
use std::ops::Bound;

use pep440_rs::{Operator, Prerelease, Version, VersionSpecifier, VersionSpecifiers};

/// A set of versions, for the solver.
pub(super) type Range = pubgrub::Ranges<Version>;

/// The smallest version that is greater than every local version of `version`.
fn after(version: &Version) -> Version {
    let version = version.clone().without_local();
    if let Some(dev) = version.dev() {
        version.with_dev(Some(dev + 1))
    } else {
        let post = version.post().map_or(0, |post| post + 1);
        version.with_post(Some(post)).with_dev(Some(0))
    }
}

/// `==version`
pub(super) fn exactly(version: &Version) -> Range {
    if version.is_local() {
        Range::singleton(version.clone())
    } else {
        Range::between(version.clone(), after(version))
    }
}

/// The versions the specifiers allow, all pre-releases among them: which of these are wanted is the
/// candidates' business.
pub(super) fn from_specifiers(specifiers: &VersionSpecifiers) -> Range {
    specifiers
        .iter()
        .fold(Range::full(), |range, specifier| range.intersection(&from_specifier(specifier)))
}

fn from_specifier(specifier: &VersionSpecifier) -> Range {
    let version = specifier.version().clone();
    match specifier.operator() {
        Operator::Equal | Operator::ExactEqual => exactly(&version),
        Operator::NotEqual => exactly(&version).complement(),
        Operator::EqualStar => star(&version),
        Operator::NotEqualStar => star(&version).complement(),
        Operator::TildeEqual => {
            let release = version.release();
            let kept = release.len().saturating_sub(1).max(1);
            let prefix = Version::new(release.iter().take(kept)).with_epoch(version.epoch());
            Range::higher_than(version.clone()).intersection(&star(&prefix))
        }
        // No pre-release of the version itself, unless it is one.
        Operator::LessThan if version.any_prerelease() => Range::strictly_lower_than(version),
        Operator::LessThan => Range::strictly_lower_than(version.with_min(Some(0))),
        Operator::LessThanEqual => Range::strictly_lower_than(after(&version)),
        // No post-release and no local version of the version itself, unless it is a post-release.
        Operator::GreaterThan => {
            if version.dev().is_some() || version.post().is_some() {
                Range::higher_than(after(&version))
            } else {
                Range::strictly_higher_than(version.with_max(Some(0)))
            }
        }
        Operator::GreaterThanEqual => Range::higher_than(version),
    }
}

/// `==version.*`
fn star(version: &Version) -> Range {
    let low = version.clone().with_dev(Some(0));
    let high = if let Some(post) = low.post() {
        low.clone().with_post(Some(post + 1))
    } else if let Some(Prerelease { kind, number }) = low.pre() {
        let number = number + 1;
        low.clone().with_pre(Some(Prerelease { kind, number }))
    } else {
        let mut release = low.release().to_vec();
        if let Some(last) = release.last_mut() {
            *last += 1;
        }
        low.clone().with_release(release)
    };
    Range::between(low, high)
}

/// The one version that the requirement pins with `==` or `===`, if it does.
pub(super) fn pinned(specifiers: &VersionSpecifiers) -> Option<&Version> {
    specifiers.iter().find_map(|specifier| {
        matches!(specifier.operator(), Operator::Equal | Operator::ExactEqual)
            .then(|| specifier.version())
    })
}

/// The set in the words of specifiers: `>=1.0,<2.0`, `==1.0`, `!=1.5`, `<1.0 or >=2.0`; nothing for all
/// versions.
pub(super) fn describe(range: &Range) -> String {
    let segments: Vec<(Bound<&Version>, Bound<&Version>)> = range.iter().collect();
    let mut text = String::new();
    let Some((mut start, mut end)) = segments.first().copied() else {
        return "no version".to_owned();
    };
    let mut holes = Vec::new();
    for (next_start, next_end) in segments.into_iter().skip(1) {
        match (end, next_start) {
            (Bound::Excluded(low), Bound::Included(high)) if after(low) == *high => {
                holes.push(low.clone());
            }
            (Bound::Excluded(low), Bound::Excluded(high)) if low == high => {
                holes.push(low.clone());
            }
            _ => {
                push(&mut text, start, end, &holes);
                holes.clear();
                start = next_start;
            }
        }
        end = next_end;
    }
    push(&mut text, start, end, &holes);
    text
}

fn push(text: &mut String, start: Bound<&Version>, end: Bound<&Version>, holes: &[Version]) {
    let mut parts = Vec::new();
    match (start, end) {
        (Bound::Included(low), Bound::Included(high)) if low == high => {
            parts.push(format!("=={low}"));
        }
        (Bound::Included(low), Bound::Excluded(high)) if after(low) == *high => {
            parts.push(format!("=={low}"));
        }
        _ => {
            match start {
                Bound::Included(low) => parts.push(format!(">={}", plain(low))),
                Bound::Excluded(low) => parts.push(format!(">{low}")),
                Bound::Unbounded => {}
            }
            parts.extend(holes.iter().map(|hole| format!("!={hole}")));
            match end {
                Bound::Included(high) => parts.push(format!("<={high}")),
                Bound::Excluded(high) => parts.push(before(high)),
                Bound::Unbounded => {}
            }
        }
    }
    if !text.is_empty() {
        text.push_str(" or ");
    }
    // Writing to a string cannot fail.
    write!(text, "{}", parts.join(",")).ok();
}

/// An upper bound in words: the bounds made by `<=`, `~=` and `==….*` are undone.
fn before(high: &Version) -> String {
    if high.dev() == Some(0) && high.pre().is_none() {
        if let Some(post) = high.post() {
            let version = high.clone().with_dev(None);
            return format!("<={}", version.with_post(post.checked_sub(1)));
        }
        return format!("<{}", plain(high));
    }
    format!("<{high}")
}

/// Without the `.dev0` that makes a bound take in all pre-releases.
fn plain(version: &Version) -> Version {
    if version.dev() == Some(0) && version.post().is_none() && version.pre().is_none() {
        version.clone().with_dev(None)
    } else {
        version.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        from_specifiers(&text.parse().unwrap())
    }

    #[test]
    fn specifiers_contain_what_pep_440_says() {
        // specifiers, inside, outside
        let table = [
            ("==1.0", "1.0 1.0.0 1.0+cpu 1+2", "1.0.post1 1.0.1 1.0a1 1.0.dev1"),
            ("==1.0+cpu", "1.0+cpu", "1.0 1.0+cuda 1.0+cpu.1"),
            ("!=1.0", "1.0.post1 0.9 1.0a1", "1.0 1.0+cpu"),
            ("==1.0.dev1", "1.0.dev1 1.0.dev1+x", "1.0.dev2 1.0"),
            ("==1.0a1", "1.0a1 1.0a1+x", "1.0a2 1.0a1.post1 1.0a1.dev1"),
            ("==1.0.post1", "1.0.post1+x", "1.0.post2 1.0.post1.dev0 1.0"),
            ("==1.4.*", "1.4 1.4.9 1.4a1 1.4.dev0 1.4.0.post3", "1.5 1.5.dev0 1.3"),
            ("!=1.4.*", "1.5 1.3", "1.4 1.4.7"),
            ("~=1.4.2", "1.4.2 1.4.10", "1.4.1 1.5 1.5.dev0 1.5a1"),
            ("~=1.4", "1.4 1.99", "1.3 2.0 2.0a1"),
            ("~=2!1.4", "2!1.5", "1.5 2!2.0"),
            ("<2.0", "1.9 1.9+x", "2.0 2.0a1 2.0.dev0"),
            ("<2.0a2", "2.0a1 2.0.dev0 1.9", "2.0a2 2.0"),
            ("<=2.0", "2.0 2.0+cpu 2.0a1", "2.0.post1 2.0.1"),
            (">1.0", "1.0.1", "1.0 1.0.post1 1.0+cpu"),
            (">1.0.post1", "1.0.post2", "1.0.post1 1.0.post1+x"),
            (">1.0.dev1", "1.0.dev2 1.0", "1.0.dev1 1.0.dev1+x"),
            (">=1.0", "1.0 1.0+x 1.0.post1", "1.0a1"),
            (">=1,<2,!=1.5", "1.4 1.6", "1.5 2 0.9"),
        ];
        for (specifiers, inside, outside) in table {
            for (versions, expected) in [(inside, true), (outside, false)] {
                for version in versions.split_whitespace() {
                    assert_eq!(
                        range(specifiers).contains(&version.parse::<Version>().unwrap()),
                        expected,
                        "{version} in {specifiers}"
                    );
                }
            }
        }
    }

    #[test]
    fn ranges_read_like_specifiers() {
        let table = [
            (">=1.0", ">=1.0"),
            ("", ""),
            ("==1.0", "==1.0"),
            ("===1.0+cpu", "==1.0+cpu"),
            ("<2", "<2"),
            ("<=2", "<=2"),
            (">1.5", ">1.5"),
            ("~=1.4.2", ">=1.4.2,<1.5"),
            ("==1.4.*", ">=1.4,<1.5"),
            ("!=1.5", "!=1.5"),
            (">=1,<2,!=1.5,!=1.6", ">=1,!=1.5,!=1.6,<2"),
            ("!=1.5.*,<2", "<1.5 or >=1.6,<2"),
            ("<1,>2", "no version"),
        ];
        for (specifiers, expected) in table {
            assert_eq!(describe(&range(specifiers)), expected, "{specifiers}");
        }
    }

    #[test]
    fn only_double_and_triple_equals_pin() {
        let pin = |text: &str| {
            let specifiers: VersionSpecifiers = text.parse().unwrap();
            pinned(&specifiers).map(ToString::to_string)
        };
        assert_eq!(pin("==1.7").as_deref(), Some("1.7"));
        assert_eq!(pin(">=1,===1.7").as_deref(), Some("1.7"));
        assert_eq!(pin("==1.7.*"), None);
        assert_eq!(pin(">=1.7,<=1.7"), None);
    }
}
