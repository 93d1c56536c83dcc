//! METADATA and PKG-INFO (core metadata specification), and the old spellings that are still in them.

use pep440_rs::{Version, VersionSpecifiers};
use pep508_rs::{ExtraName, PackageName, Requirement};

/// The fields a resolver and an installer need.
#[derive(Clone, Debug)]
pub struct CoreMetadata {
    /// Normalised name (PEP 503).
    pub name: PackageName,
    /// The distribution's version.
    pub version: Version,
    /// `Requires-Dist`, in the file's order.
    pub requires_dist: Vec<Requirement>,
    /// `Requires-Python`
    pub requires_python: Option<VersionSpecifiers>,
    /// `Provides-Extra`
    pub provides_extra: Vec<ExtraName>,
    /// PKG-INFO only: whether its dependencies can be trusted without a build (metadata 2.2 or newer,
    /// and neither `Requires-Dist`, `Requires-Python` nor `Provides-Extra` is `Dynamic`).
    pub is_static: bool,
}

/// Why a METADATA file cannot be used. As uv does, one requirement that cannot be read makes the
/// whole file unusable: leaving it out could install a tree that does not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field that every METADATA has is missing.
    #[error("metadata has no `{0}` field")]
    Missing(&'static str),
    /// A field's value cannot be read.
    #[error("metadata has an unreadable `{field}`: `{value}`: {reason}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// Its value, as written.
        value: String,
        /// What the parser said.
        reason: String,
    },
    /// A major version of the format that did not exist when this was written.
    #[error("metadata version `{0}` is not supported: 1.x and 2.x are")]
    Format(String),
}

impl CoreMetadata {
    /// Reads a METADATA or PKG-INFO file. Bytes that are not UTF-8 are tolerated where they are not
    /// in a field that is used.
    ///
    /// # Errors
    /// A missing name or version, an unreadable field, or an unknown major version of the format.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let text = String::from_utf8_lossy(bytes);
        let headers = Headers::parse(&text);
        let format = headers.first("Metadata-Version").unwrap_or("1.0");
        let (major, minor) = format_version(format)?;

        let name =
            headers.first("Name").filter(|name| !name.is_empty()).ok_or(Error::Missing("Name"))?;
        let name = PackageName::new(name.to_owned()).map_err(|e| field("Name", name, &e))?;
        let version = headers.first("Version").ok_or(Error::Missing("Version"))?;
        let version = version
            .parse()
            .map_err(|e: pep440_rs::VersionParseError| field("Version", version, &e))?;

        let requires_dist = headers
            .all("Requires-Dist")
            .map(|line| requirement(line).map_err(|reason| field("Requires-Dist", line, &reason)))
            .collect::<Result<_, _>>()?;
        // `UNKNOWN` is what old setuptools wrote for an empty field.
        let requires_python = headers
            .first("Requires-Python")
            .filter(|value| !value.is_empty() && *value != "UNKNOWN")
            .map(|value| {
                specifiers(value).map_err(|reason| field("Requires-Python", value, &reason))
            })
            .transpose()?;
        // An extra that cannot be named cannot be asked for either.
        let provides_extra = headers
            .all("Provides-Extra")
            .filter_map(|extra| ExtraName::new(extra.to_owned()).ok())
            .collect();

        let is_dynamic = headers.all("Dynamic").any(|dynamic| {
            ["Requires-Dist", "Requires-Python", "Provides-Extra"]
                .iter()
                .any(|field| dynamic.eq_ignore_ascii_case(field))
        });
        Ok(Self {
            name,
            version,
            requires_dist,
            requires_python,
            provides_extra,
            is_static: (major, minor) >= (2, 2) && !is_dynamic,
        })
    }
}

fn field(field: &'static str, value: &str, reason: &dyn ToString) -> Error {
    Error::Field { field, value: value.to_owned(), reason: reason.to_string() }
}

fn format_version(text: &str) -> Result<(u32, u32), Error> {
    text.split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .filter(|&(major, _)| major == 1 || major == 2)
        .ok_or_else(|| Error::Format(text.to_owned()))
}

/// The header block of an RFC 822-like file, read as Python's `email` package reads it: it ends at
/// the first empty line, or at the first line that is neither a header nor a continuation.
struct Headers(Vec<(String, String)>);

impl Headers {
    fn parse(text: &str) -> Self {
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            if line.is_empty() {
                break;
            }
            if line.starts_with([' ', '\t']) {
                let Some((_, value)) = headers.last_mut() else {
                    break;
                };
                value.push(' ');
                value.push_str(line.trim());
            } else if let Some((name, value)) = line.split_once(':')
                && !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_graphic())
            {
                headers.push((name.to_owned(), value.trim().to_owned()));
            } else {
                break;
            }
        }
        Self(headers)
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    fn first(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// A requirement (PEP 508) of published metadata. If it is not one, the repairs of [`specifiers`] are
/// tried on its version specifiers.
///
/// # Errors
/// What the parser said of the text as written, in one line.
pub fn requirement(text: &str) -> Result<Requirement, String> {
    exact_requirement(text).or_else(|reason| {
        let (head, marker) = match text.split_once(';') {
            Some((head, marker)) => (head, Some(marker)),
            None => (text, None),
        };
        let start = head.find(['<', '>', '=', '!', '~']).filter(|_| !head.contains('@'));
        start
            .and_then(|start| {
                let name = head[..start].trim().trim_end_matches('(').trim_end();
                let versions = head[start..].trim().trim_end_matches(')');
                let mut repaired = format!("{name}{}", repair(versions));
                if let Some(marker) = marker.map(str::trim).filter(|marker| !marker.is_empty()) {
                    repaired = format!("{repaired} ; {marker}");
                }
                exact_requirement(&repaired).ok()
            })
            .ok_or(reason)
    })
}

/// A requirement (PEP 508), as it is written.
///
/// # Errors
/// What the parser said, in one line.
pub fn exact_requirement(text: &str) -> Result<Requirement, String> {
    // The parser counts characters where it cuts bytes, and panics.
    if !text.is_ascii() {
        return Err("a requirement has ASCII characters only".to_owned());
    }
    if !names_end_well(text) {
        return Err("a name ends with a letter or a digit".to_owned());
    }
    text.parse().map_err(|error: pep508_rs::Pep508Error| one_line(&error.message.to_string()))
}

/// Whether the project's name and those of its extras end as names do. The parser takes them for
/// names before it has looked, and panics.
fn names_end_well(text: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let ends_well =
        |name: &str| name.is_empty() || name.ends_with(|c: char| c.is_ascii_alphanumeric());
    let text = text.trim_start();
    let (name, rest) = text.split_at(text.find(|c| !is_inner(c)).unwrap_or(text.len()));
    let extras = rest.trim_start().strip_prefix('[').unwrap_or_default();
    let extras = extras.split(']').next().unwrap_or_default();
    ends_well(name) && extras.split(|c| !is_inner(c)).all(ends_well)
}

/// The version specifiers (PEP 440) of published metadata, or of `data-requires-python`. If they are
/// none, what old tools wrote is repaired as uv does: `>=2.*`, `!=3.0*`, `>=3.6,`, `>=1.0<2.0`,
/// `!=~1.0`, `>dev`, `>='3.6'`.
///
/// # Errors
/// What the parser said of the text as written, in one line.
pub fn specifiers(text: &str) -> Result<VersionSpecifiers, String> {
    text.parse::<VersionSpecifiers>()
        .or_else(|error| repair(text).parse().ok().ok_or_else(|| one_line(&error.to_string())))
}

/// The parsers underline what they mean on further lines.
fn one_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

fn repair(text: &str) -> String {
    let mut separated = String::with_capacity(text.len());
    let mut in_version = false;
    for c in text.chars() {
        match c {
            '"' | '\'' => continue,
            '<' | '>' | '=' | '!' | '~' if in_version => {
                // A comma is missing: `>=7.2.0<8.0.0`.
                separated.push(',');
                in_version = false;
            }
            '<' | '>' | '=' | '!' | '~' | ',' => in_version = false,
            c if c.is_ascii_alphanumeric() || c == '*' => in_version = true,
            _ => {}
        }
        separated.push(c);
    }
    let repaired: Vec<String> =
        separated.split(',').map(str::trim).filter(|one| !one.is_empty()).map(repair_one).collect();
    repaired.join(",")
}

fn repair_one(specifier: &str) -> String {
    let end =
        specifier.find(|c| !['<', '>', '=', '!', '~'].contains(&c)).unwrap_or(specifier.len());
    let (operator, version) = specifier.split_at(end);
    let mut version = version.trim().to_owned();
    let operator = if operator == "!=~" { "!=" } else { operator };
    if let Some(stem) = version.strip_suffix('*') {
        let stem = stem.trim_end_matches('.');
        version = match operator {
            "==" | "!=" => format!("{stem}.*"),
            _ => stem.to_owned(),
        };
    } else if version == "dev" {
        "0.0.0dev".clone_into(&mut version);
    } else if version.parse::<Version>().is_err()
        && let Some(stem) = version.strip_suffix(".0")
    {
        // `>=9.0.0a1.0`
        version = stem.to_owned();
    }
    format!("{operator}{version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields() {
        let metadata = CoreMetadata::parse(
            b"Metadata-Version: 2.4\r\nName: Zope.Interface\r\nVersion: 8.1\r\n\
              Summary: one\r\n  two\r\nrequires-dist: greenlet>=3.2.2; platform_python_implementation == 'CPython'\r\n\
              Requires-Dist: foo (>=1.0)\r\nRequires-Python: >=3.9\r\nProvides-Extra: test\r\n\
              Provides-Extra: !!\r\nDynamic: license-file\r\n\r\nRequires-Dist: not-me\r\n",
        )
        .unwrap();
        assert_eq!(metadata.name.as_ref(), "zope-interface");
        assert_eq!(metadata.version.to_string(), "8.1");
        let requires: Vec<String> =
            metadata.requires_dist.iter().map(ToString::to_string).collect();
        assert_eq!(
            requires,
            ["greenlet>=3.2.2 ; platform_python_implementation == 'CPython'", "foo>=1.0"]
        );
        assert_eq!(metadata.requires_python.unwrap().to_string(), ">=3.9");
        assert_eq!(metadata.provides_extra.len(), 1);
        assert!(metadata.is_static);
    }

    #[test]
    fn only_new_metadata_without_dynamic_dependencies_is_static() {
        for (version, extra, is_static) in [
            ("2.1", "", false),
            ("1.0", "", false),
            ("2.2", "", true),
            ("2.10", "", true),
            ("2.2", "Dynamic: Requires-Dist\n", false),
            ("2.4", "Dynamic: requires-python\n", false),
            ("2.3", "Dynamic: Provides-Extra\n", false),
            ("2.3", "Dynamic: Classifier\n", true),
        ] {
            let text = format!("Metadata-Version: {version}\nName: a\nVersion: 1\n{extra}\n");
            assert_eq!(
                CoreMetadata::parse(text.as_bytes()).unwrap().is_static,
                is_static,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_unusable_says_why() {
        for (text, message) in [
            ("Name: a\n", "metadata has no `Version` field"),
            ("\nName: a\nVersion: 1\n", "metadata has no `Name` field"),
            (
                "Metadata-Version: 3.0\nName: a\nVersion: 1\n",
                "metadata version `3.0` is not supported: 1.x and 2.x are",
            ),
        ] {
            assert_eq!(CoreMetadata::parse(text.as_bytes()).unwrap_err().to_string(), message);
        }
        for line in ["Name: a b", "Version: one", "Requires-Dist: a >= what?", "Requires-Python: x"]
        {
            let text = format!("{line}\nName: a\nVersion: 1\n");
            let error = CoreMetadata::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Field { .. }), "{line}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn old_spellings_are_repaired() {
        for (written, repaired) in [
            (">=3.6", ">=3.6"),
            (">=2.*", ">=2"),
            ("<4.*", "<4"),
            (">=3.6,", ">=3.6"),
            (">=2.7, !=3.0.*, !=3.1.*,", ">=2.7, !=3.0.*, !=3.1.*"),
            (">=2.7,!=3.0*", ">=2.7, !=3.0.*"),
            (">=7.2.0<8.0.0", ">=7.2.0, <8.0.0"),
            ("!=~5.0", "!=5.0"),
            (">dev", ">0.0.0.dev0"),
            (">=9.0.0a1.0", ">=9.0.0a1"),
            (">= '3.6'", ">=3.6"),
            (">=\"2.7\",!=3.0.*", ">=2.7, !=3.0.*"),
        ] {
            assert_eq!(specifiers(written).unwrap().to_string(), repaired, "{written}");
        }
        for (written, repaired) in [
            ("foo (>=1.0)", "foo>=1.0"),
            ("foo (>=2.*)", "foo>=2"),
            ("foo[bar] (>=1.0,)", "foo[bar]>=1.0"),
            ("foo>=1.0<2; extra == 'x'", "foo>=1.0,<2 ; extra == 'x'"),
            ("foo (>dev)", "foo>0.0.0.dev0"),
            ("foo >= 1.0 ;", "foo>=1.0"),
        ] {
            assert_eq!(requirement(written).unwrap().to_string(), repaired, "{written}");
        }
        for wrong in ["foo bar", "foo @", "", "foo >= what?", "@ >= 1"] {
            assert!(requirement(wrong).is_err(), "{wrong}");
        }
        // The parser itself panics on these.
        for wrong in [
            "a-",
            "a- >=1",
            "a.@b",
            "a_;",
            " a-[x]",
            "a[x-]",
            "a [x, y.]>=1",
            "a[x-",
            "a ; (os_name == 'nt')éé",
        ] {
            assert!(requirement(wrong).is_err(), "{wrong}");
        }
    }
}
