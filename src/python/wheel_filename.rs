//! `{distribution}-{version}(-{build})?-{python}-{abi}-{platform}.whl` (binary distribution format,
//! *File name convention*; platform compatibility tags, *Compressed tag sets*).

use std::fmt;
use std::str::FromStr;

use pep440_rs::Version;
use pep508_rs::PackageName;

/// Whether a file of that name is a wheel: the specification knows one spelling of the ending.
pub fn is_wheel(file_name: &str) -> bool {
    std::path::Path::new(file_name).extension().is_some_and(|ending| ending == "whl")
}

/// A parsed wheel file name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WheelFilename {
    /// Normalised name.
    pub name: PackageName,
    /// Version.
    pub version: Version,
    /// The rest.
    pub tags: WheelTags,
}

/// What a wheel's file name says of it beside name and version. Tags are lower case; those that stand
/// for one another have dots between them, as in the name: a page has thousands of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WheelTags {
    /// The build tag's number and rest, ordered as the specification says.
    pub build: Option<(u64, String)>,
    /// Python tags: `cp313`, `py2.py3`, …
    pub python: Box<str>,
    /// ABI tags: `cp313`, `abi3`, `none`, …
    pub abi: Box<str>,
    /// Platform tags: `musllinux_1_2_x86_64`, `any`, …
    pub platform: Box<str>,
}

/// Why a string is not a [`WheelFilename`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It does not end in `.whl`.
    #[error("wheel file name does not end in `.whl`: `{0}`")]
    Extension(String),
    /// It has not five or six parts, or one of them is empty or has a character that tags cannot have.
    #[error("wheel file name is not `name-version(-build)?-python-abi-platform.whl`: `{0}`")]
    Parts(String),
    /// The first part is not the name of a project.
    #[error("wheel file name does not begin with a project's name: `{0}`")]
    Name(String),
    /// The second part is not a version (PEP 440).
    #[error("wheel file name has no PEP 440 version: `{0}`")]
    Version(String),
    /// The build tag does not begin with a digit.
    #[error("wheel file name has a build tag that does not begin with a digit: `{0}`")]
    Build(String),
}

impl FromStr for WheelFilename {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let failed = |error: fn(String) -> ParseError| error(text.to_owned());
        let stem = text.strip_suffix(".whl").ok_or_else(|| failed(ParseError::Extension))?;
        let parts: Vec<&str> = stem.split('-').collect();
        let (name, version, build, tags) = match parts[..] {
            [name, version, python, abi, platform] => {
                (name, version, None, [python, abi, platform])
            }
            [name, version, build, python, abi, platform] => {
                (name, version, Some(build), [python, abi, platform])
            }
            _ => return Err(failed(ParseError::Parts)),
        };
        let [python, abi, platform] =
            tags.map(|tag| tag_set(tag).ok_or_else(|| failed(ParseError::Parts)));
        Ok(Self {
            // `PackageName` takes the empty string.
            name: PackageName::new(name.to_owned())
                .ok()
                .filter(|name| !name.as_ref().is_empty())
                .ok_or_else(|| failed(ParseError::Name))?,
            // A `-` of the version (a local version's, an old post release's) is written `_`.
            version: version
                .replace('_', "-")
                .parse()
                .ok()
                .ok_or_else(|| failed(ParseError::Version))?,
            tags: WheelTags {
                build: build
                    .map(|build| build_tag(build).ok_or_else(|| failed(ParseError::Build)))
                    .transpose()?,
                python: python?,
                abi: abi?,
                platform: platform?,
            },
        })
    }
}

/// `cp36.cp37`. Tags are lower case, but some files in the wild are not.
fn tag_set(text: &str) -> Option<Box<str>> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.split('.')
        .all(|tag| !tag.is_empty() && tag.bytes().all(valid))
        .then(|| text.to_ascii_lowercase().into())
}

/// `1_post` as `(1, "_post")`.
fn build_tag(text: &str) -> Option<(u64, String)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    rest.bytes().all(valid).then(|| number.parse().ok())?.map(|number| (number, rest.to_owned()))
}

impl fmt::Display for WheelFilename {
    /// The name in its escaped form: not always the spelling it was parsed from.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_dist_info_name();
        let version = self.version.to_string().replace('-', "_");
        write!(f, "{name}-{version}")?;
        let WheelTags { build, python, abi, platform } = &self.tags;
        if let Some((number, rest)) = build {
            write!(f, "-{number}{rest}")?;
        }
        write!(f, "-{python}-{abi}-{platform}.whl")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_writes() {
        for (text, name, version, build, tags, written) in [
            (
                "gevent-26.9.0-cp313-cp313-musllinux_1_2_x86_64.whl",
                "gevent",
                "26.9.0",
                None,
                ["cp313", "cp313", "musllinux_1_2_x86_64"],
                None,
            ),
            (
                "zope_interface-8.1-1_post-py2.py3-none-any.whl",
                "zope-interface",
                "8.1",
                Some((1, "_post")),
                ["py2.py3", "none", "any"],
                None,
            ),
            (
                "Flask_Cors-4.0.0+local.1-PY3-none-any.whl",
                "flask-cors",
                "4.0.0+local.1",
                None,
                ["py3", "none", "any"],
                Some("flask_cors-4.0.0+local.1-py3-none-any.whl"),
            ),
            (
                "foo.bar-1.0_1-py3-none-any.whl",
                "foo-bar",
                "1.0.post1",
                None,
                ["py3", "none", "any"],
                Some("foo_bar-1.0.post1-py3-none-any.whl"),
            ),
            (
                "x-1.0-2017-cp36.cp37-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
                "x",
                "1.0",
                Some((2017, "")),
                ["cp36.cp37", "abi3", "manylinux_2_17_x86_64.manylinux2014_x86_64"],
                None,
            ),
        ] {
            let wheel: WheelFilename = text.parse().unwrap();
            assert_eq!(wheel.name.as_ref(), name, "{text}");
            assert_eq!(wheel.version, version.parse().unwrap(), "{text}");
            assert_eq!(
                wheel.tags.build,
                build.map(|(number, rest)| (number, rest.to_owned())),
                "{text}"
            );
            let WheelTags { python, abi, platform, .. } = &wheel.tags;
            assert_eq!([python, abi, platform].map(|set| &**set), tags, "{text}");
            assert_eq!(wheel.to_string(), written.unwrap_or(text));
            assert_eq!(wheel.to_string().parse::<WheelFilename>().unwrap(), wheel);
        }
    }

    #[test]
    fn refuses() {
        type Make = fn(String) -> ParseError;
        for (text, error) in [
            ("gevent-26.9.0.tar.gz", ParseError::Extension as Make),
            ("gevent-26.9.0-py3-none.whl", ParseError::Parts),
            ("a-1-2-3-4-5-6.whl", ParseError::Parts),
            ("gevent-1.0-py3--any.whl", ParseError::Parts),
            ("gevent-1.0-py3-none-a/b.whl", ParseError::Parts),
            ("-1.0-py3-none-any.whl", ParseError::Name),
            ("../x-1.0-py3-none-any.whl", ParseError::Name),
            ("gevent-one-py3-none-any.whl", ParseError::Version),
            ("gevent-1.0-x1-py3-none-any.whl", ParseError::Build),
            ("gevent-1.0-1/2-py3-none-any.whl", ParseError::Build),
        ] {
            assert_eq!(text.parse::<WheelFilename>(), Err(error(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn build_tags_are_ordered_by_number_and_absent_is_lowest() {
        let build = |text: &str| text.parse::<WheelFilename>().unwrap().tags.build;
        let none = build("a-1-py3-none-any.whl");
        let two = build("a-1-2-py3-none-any.whl");
        let ten = build("a-1-10-py3-none-any.whl");
        assert!(none < two && two < ten);
    }
}
