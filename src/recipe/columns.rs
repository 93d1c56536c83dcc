//! The facts that a cell's path states, and the templates they are put into (pure).

use std::collections::BTreeMap;

use pep440_rs::{Version, VersionSpecifiers};

use super::Error;

/// Column name → value: `locust → 2.47.0`, `python → 3.13`, `os → alpine3.24`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct Columns(pub BTreeMap<String, String>);

/// A piece of a template.
enum Piece<'a> {
    Text(&'a str),
    Column(&'a str),
}

/// `a{b}c` → text, column, text. A brace that is not closed is text.
fn pieces(template: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((text, tail)) = rest.split_once('{') {
        let Some((column, tail)) = tail.split_once('}') else {
            break;
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        pieces.push(Piece::Column(column));
        rest = tail;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

impl Columns {
    /// The value of a column.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0.get(column).map(String::as_str)
    }

    /// `template` with every `{column}` replaced by its value, and `{column.major}`, `.minor` and
    /// `.patch` by a part of the version that it is: 0 where the version is shorter.
    ///
    /// # Errors
    /// A column that is not there, or that is no version and has no parts.
    pub fn expand(&self, template: &str) -> Result<String, Error> {
        pieces(template)
            .into_iter()
            .map(|piece| match piece {
                Piece::Text(text) => Ok(text.to_owned()),
                Piece::Column(column) => self.value(column).ok_or_else(|| Error::Column {
                    template: template.to_owned(),
                    column: column.to_owned(),
                    have: self.0.keys().cloned().collect(),
                }),
            })
            .collect()
    }

    /// The value of a column, or of a part of one.
    fn value(&self, name: &str) -> Option<String> {
        if let Some(value) = self.get(name) {
            return Some(value.to_owned());
        }
        let (column, part) = name.rsplit_once('.')?;
        let position = ["major", "minor", "patch"].iter().position(|known| *known == part)?;
        let version: Version = self.get(column)?.parse().ok()?;
        Some(version.release().get(position).copied().unwrap_or_default().to_string())
    }

    /// The columns for which [`Self::expand`] of `template` gives `text`; `None` if there are none.
    /// A value is never empty, holds no `/`, and ends where the template's next text begins first.
    pub fn extract(template: &str, text: &str) -> Option<Self> {
        let mut columns = BTreeMap::new();
        let mut rest = text;
        let mut pieces = pieces(template).into_iter().peekable();
        while let Some(piece) = pieces.next() {
            match piece {
                Piece::Text(text) => rest = rest.strip_prefix(text)?,
                Piece::Column(column) => {
                    let end = match pieces.peek() {
                        Some(Piece::Text(next)) => rest.find(next)?,
                        _ => rest.len(),
                    };
                    let value = &rest[..end];
                    if value.is_empty() || value.contains('/') {
                        return None;
                    }
                    columns.insert(column.to_owned(), value.to_owned());
                    rest = &rest[end..];
                }
            }
        }
        rest.is_empty().then_some(Self(columns))
    }

    /// Whether every column is a version that its specifiers hold: `{ locust = ">=1.0" }`.
    ///
    /// # Errors
    /// An unknown column, or something that is no version or no specifier.
    pub fn hold(&self, conditions: &BTreeMap<String, String>) -> Result<bool, String> {
        for (column, specifiers) in conditions {
            let value =
                self.get(column).ok_or_else(|| format!("no column is called `{column}`"))?;
            let version: Version = value
                .parse()
                .map_err(|error| format!("column `{column}` is no version: `{value}`: {error}"))?;
            let specifiers: VersionSpecifiers = specifiers
                .parse()
                .map_err(|error| format!("condition on `{column}`: `{specifiers}`: {error}"))?;
            if !specifiers.contains(&version) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "{locust}/python{python}/{os}";

    #[test]
    fn a_path_states_the_columns_and_a_tag_repeats_them() {
        let columns = Columns::extract(PATH, "0.10.0/python3.6/alpine3.9").unwrap();
        assert_eq!(columns.expand(PATH).unwrap(), "0.10.0/python3.6/alpine3.9");
        assert_eq!(
            columns.expand("{locust}-python{python}-{os}").unwrap(),
            "0.10.0-python3.6-alpine3.9"
        );
        for bad in
            ["0.10.0/python3.6", "0.10.0/3.6/alpine3.9", "0.10.0/python/alpine", "a/pythonb/c/d"]
        {
            assert_eq!(Columns::extract(PATH, bad), None, "{bad}");
        }
        let error = columns.expand("{base}").unwrap_err().to_string();
        assert!(error.contains("`{base}`") && error.contains("locust, os, python"), "{error}");
    }

    #[test]
    fn conditions_compare_versions() {
        let columns = Columns::extract(PATH, "0.10.0/python3.6/alpine3.9").unwrap();
        let condition = |column: &str, specifiers: &str| {
            columns.hold(&BTreeMap::from([(column.to_owned(), specifiers.to_owned())]))
        };
        assert_eq!(condition("locust", "<1.0"), Ok(true));
        assert_eq!(condition("locust", "<0.9"), Ok(false));
        assert!(condition("os", "<1").is_err());
        assert!(condition("x", "<1").is_err());
        assert!(condition("locust", "about 1").is_err());
    }
}
