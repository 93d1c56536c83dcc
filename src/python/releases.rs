//! Which Python was ever published on which OS by the official `python` image, and its last patch.
//!
//! Read from all 404 revisions of the official images' list up to 2026-08-22. What is newer than that
//! cannot be known here and is never refused.

/// The newest Python minor version of the table (3.x).
const NEWEST_PYTHON: u8 = 14;
/// The newest Alpine minor version of the table (3.x).
const NEWEST_ALPINE: u8 = 24;
/// The oldest Python minor version (3.x) that still had releases when the table was made.
const OLDEST_LIVE_PYTHON: u8 = 10;

/// `(Python 3.x, [(OS, last patch on it)])`
const RELEASES: [(u8, &[(&str, u8)]); 9] = [
    (
        6,
        &[
            ("alpine3.4", 5),
            ("alpine3.6", 8),
            ("alpine3.7", 8),
            ("alpine3.8", 8),
            ("alpine3.9", 10),
            ("alpine3.10", 10),
            ("alpine3.11", 12),
            ("alpine3.12", 13),
            ("alpine3.13", 15),
            ("alpine3.14", 15),
            ("alpine3.15", 15),
            ("jessie", 9),
            ("stretch", 14),
            ("buster", 15),
            ("bullseye", 15),
        ],
    ),
    (
        7,
        &[
            ("alpine3.7", 2),
            ("alpine3.8", 3),
            ("alpine3.9", 6),
            ("alpine3.10", 7),
            ("alpine3.11", 9),
            ("alpine3.12", 10),
            ("alpine3.13", 12),
            ("alpine3.14", 13),
            ("alpine3.15", 15),
            ("alpine3.16", 16),
            ("alpine3.17", 17),
            ("alpine3.18", 17),
            ("stretch", 11),
            ("buster", 17),
            ("bullseye", 17),
            ("bookworm", 17),
        ],
    ),
    (
        8,
        &[
            ("alpine3.10", 3),
            ("alpine3.11", 7),
            ("alpine3.12", 10),
            ("alpine3.13", 12),
            ("alpine3.14", 13),
            ("alpine3.15", 15),
            ("alpine3.16", 16),
            ("alpine3.17", 18),
            ("alpine3.18", 19),
            ("alpine3.19", 20),
            ("alpine3.20", 20),
            ("buster", 17),
            ("bullseye", 20),
            ("bookworm", 20),
        ],
    ),
    (
        9,
        &[
            ("alpine3.12", 5),
            ("alpine3.13", 9),
            ("alpine3.14", 13),
            ("alpine3.15", 15),
            ("alpine3.16", 16),
            ("alpine3.17", 18),
            ("alpine3.18", 19),
            ("alpine3.19", 21),
            ("alpine3.20", 22),
            ("alpine3.21", 25),
            ("alpine3.22", 25),
            ("buster", 17),
            ("bullseye", 23),
            ("bookworm", 25),
            ("trixie", 25),
        ],
    ),
    (
        10,
        &[
            ("alpine3.13", 0),
            ("alpine3.14", 4),
            ("alpine3.15", 8),
            ("alpine3.16", 11),
            ("alpine3.17", 13),
            ("alpine3.18", 14),
            ("alpine3.19", 16),
            ("alpine3.20", 17),
            ("alpine3.21", 19),
            ("alpine3.22", 20),
            ("alpine3.23", 21),
            ("alpine3.24", 21),
            ("buster", 12),
            ("bullseye", 18),
            ("bookworm", 21),
            ("trixie", 21),
        ],
    ),
    (
        11,
        &[
            ("alpine3.15", 0),
            ("alpine3.16", 3),
            ("alpine3.17", 7),
            ("alpine3.18", 9),
            ("alpine3.19", 11),
            ("alpine3.20", 12),
            ("alpine3.21", 14),
            ("alpine3.22", 15),
            ("alpine3.23", 16),
            ("alpine3.24", 16),
            ("buster", 4),
            ("bullseye", 13),
            ("bookworm", 16),
            ("trixie", 16),
        ],
    ),
    (
        12,
        &[
            ("alpine3.17", 0),
            ("alpine3.18", 3),
            ("alpine3.19", 8),
            ("alpine3.20", 10),
            ("alpine3.21", 12),
            ("alpine3.22", 13),
            ("alpine3.23", 14),
            ("alpine3.24", 14),
            ("bullseye", 11),
            ("bookworm", 14),
            ("trixie", 14),
        ],
    ),
    (
        13,
        &[
            ("alpine3.19", 1),
            ("alpine3.20", 3),
            ("alpine3.21", 10),
            ("alpine3.22", 13),
            ("alpine3.23", 15),
            ("alpine3.24", 15),
            ("bullseye", 6),
            ("bookworm", 15),
            ("trixie", 15),
        ],
    ),
    (
        14,
        &[
            ("alpine3.21", 1),
            ("alpine3.22", 5),
            ("alpine3.23", 7),
            ("alpine3.24", 7),
            ("bookworm", 7),
            ("trixie", 7),
        ],
    ),
];

fn of(minor: u8) -> Option<&'static [(&'static str, u8)]> {
    RELEASES.iter().find(|(known, _)| *known == minor).map(|(_, releases)| *releases)
}

/// `alpine3.24` as 24.
fn alpine(os: &str) -> Option<u8> {
    os.strip_prefix("alpine3.")?.parse().ok()
}

/// The last known patch of Python 3.`minor` on `os` (`alpine3.24`, `slim-bookworm`); on an OS that the
/// table does not have, the last one of all. `None` for a Python that the table does not have.
pub fn last_patch(minor: u8, os: &str) -> Option<u8> {
    let os = os.strip_prefix("slim-").unwrap_or(os);
    let releases = of(minor)?;
    releases
        .iter()
        .find(|(known, _)| *known == os)
        .or_else(|| releases.iter().max_by_key(|(_, patch)| *patch))
        .map(|&(_, patch)| patch)
}

/// Whether Python 3.`minor` was ever published on `os` (`alpine3.24`, `slim-bookworm`). `None` where
/// the table cannot know: what was released after it was made, or an OS that is not in it.
pub fn existed(minor: u8, os: &str) -> Option<bool> {
    let os = os.strip_prefix("slim-").unwrap_or(os);
    if let Some(releases) = of(minor)
        && releases.iter().any(|(known, _)| *known == os)
    {
        return Some(true);
    }
    let is_known_os =
        RELEASES.iter().any(|(_, releases)| releases.iter().any(|(known, _)| *known == os));
    match alpine(os) {
        // Two Alpine releases are published at any time: a later Python may still come to the two
        // newest, and any live Python to a newer Alpine.
        Some(alpine) if minor > NEWEST_PYTHON => (alpine + 1 < NEWEST_ALPINE).then_some(false),
        Some(alpine) if alpine > NEWEST_ALPINE => (minor < OLDEST_LIVE_PYTHON).then_some(false),
        Some(_) => Some(false),
        None if is_known_os && minor <= NEWEST_PYTHON => Some(false),
        None => None,
    }
}

/// What to propose instead of a pair that never existed: the nearest Alpine release (or other OS of
/// the same kind) that this Python was published on, newest first among equally near ones. `None` for
/// a Python that the table does not have.
pub fn nearest(minor: u8, os: &str) -> Option<&'static str> {
    let releases = of(minor)?;
    let Some(wanted) = alpine(os) else {
        return releases.last().map(|&(known, _)| known);
    };
    releases
        .iter()
        .filter_map(|&(known, _)| Some((known, alpine(known)?)))
        .min_by_key(|&(_, known)| (known.abs_diff(wanted), u8::MAX - known))
        .map(|(known, _)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_patches() {
        for (minor, os, patch) in [
            (6, "alpine3.9", Some(10)),
            (6, "alpine3.15", Some(15)),
            (7, "alpine3.18", Some(17)),
            (12, "alpine3.24", Some(14)),
            (13, "alpine3.25", Some(15)),
            (13, "slim-bookworm", Some(15)),
            (11, "buster", Some(4)),
            (15, "alpine3.24", None),
        ] {
            assert_eq!(last_patch(minor, os), patch, "3.{minor} {os}");
        }
    }

    #[test]
    fn pairs() {
        for (minor, os, expected, instead) in [
            (6, "alpine3.9", Some(true), Some("alpine3.9")),
            (7, "alpine3.19", Some(false), Some("alpine3.18")),
            (8, "alpine3.9", Some(false), Some("alpine3.10")),
            (6, "alpine3.5", Some(false), Some("alpine3.6")),
            (13, "alpine3.25", None, Some("alpine3.24")),
            (9, "alpine3.25", Some(false), Some("alpine3.22")),
            (15, "alpine3.24", None, None),
            (15, "alpine3.22", Some(false), None),
            (13, "slim-bookworm", Some(true), Some("trixie")),
            (14, "buster", Some(false), Some("trixie")),
            (14, "forky", None, Some("trixie")),
        ] {
            assert_eq!(existed(minor, os), expected, "3.{minor} {os}");
            assert_eq!(nearest(minor, os), instead, "3.{minor} {os}");
        }
    }

    #[test]
    fn the_table_is_whole() {
        for (index, (minor, releases)) in RELEASES.iter().enumerate() {
            assert_eq!(usize::from(*minor), index + 6);
            let alpines: Vec<u8> = releases.iter().filter_map(|(os, _)| alpine(os)).collect();
            assert!(alpines.is_sorted() && alpines.last() <= Some(&NEWEST_ALPINE));
        }
        assert_eq!(RELEASES.last().map(|(minor, _)| *minor), Some(NEWEST_PYTHON));
    }
}
