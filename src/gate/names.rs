//! Names of symbols (pure).

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// A set of names, sorted, in one string: a library has thousands of symbols, and few are ever asked
/// for, so that reading them must not make each a string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Names(String);

/// Stands between two names: JSON writes it as it is.
const BETWEEN: u8 = b' ';

impl Names {
    /// The set of `names`. No compiler writes a space into a name; where one is, a no-break space
    /// stands for it.
    pub fn of(names: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<String> =
            names.into_iter().map(|name| name.replace(char::from(BETWEEN), "\u{a0}")).collect();
        names.sort_unstable();
        names.dedup();
        Self(names.join(" "))
    }

    /// All names, in byte order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(char::from(BETWEEN)).filter(|name| !name.is_empty())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `name`, one of a set's, is in this one.
    pub fn contains(&self, name: &str) -> bool {
        let bytes = self.0.as_bytes();
        let is_between = |byte: &u8| *byte == BETWEEN;
        let (mut low, mut high) = (0, bytes.len());
        while low < high {
            // The name that the middle lies in, or that ends there.
            let middle = low.midpoint(high);
            let start =
                bytes[low..middle].iter().rposition(is_between).map_or(low, |at| low + at + 1);
            let end =
                bytes[middle..high].iter().position(is_between).map_or(high, |at| middle + at);
            match bytes[start..end].cmp(name.as_bytes()) {
                Ordering::Equal => return true,
                Ordering::Less => low = end + 1,
                Ordering::Greater => high = start.saturating_sub(1),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> Names {
        Names::of(names.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn every_name_is_found_and_no_other() {
        let all: Vec<String> = (0..300).map(|n| "x".repeat(n % 7 + 1) + &n.to_string()).collect();
        for count in 0..all.len() {
            let (inside, outside) = all.split_at(count);
            let names = Names::of(inside.iter().cloned());
            assert!(inside.iter().all(|name| names.contains(name)), "{count}");
            assert!(!outside.iter().any(|name| names.contains(name)), "{count}");
            let mut sorted: Vec<&str> = inside.iter().map(String::as_str).collect();
            sorted.sort_unstable();
            assert!(names.iter().eq(sorted), "{count}");
        }
    }

    #[test]
    fn edges() {
        let names = set(&["b", "a", "b", "ab"]);
        assert_eq!(serde_json::to_string(&names).unwrap(), r#""a ab b""#);
        assert!(!["", " ", "a ", "a ab", "aa", "c", "B"].iter().any(|name| names.contains(name)));
        assert!(set(&[]).is_empty() && !names.is_empty());
        assert_eq!((set(&[]).iter().count(), set(&[]).contains("")), (0, false));
        // Two names do not come of one.
        let spaced = set(&["a b"]);
        assert!(!spaced.contains("a") && spaced.contains(spaced.iter().next().unwrap()));
    }
}
