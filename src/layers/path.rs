//! A path inside the image: never mixed with the host's.

use std::borrow::Borrow;
use std::fmt;

/// An absolute, normalised path inside the container: components are joined by single slashes, there
/// is no `.`, no `..`, no NUL and no trailing slash. `/` itself is the empty list of components.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPath(String);

/// Why a string is not a [`ContainerPath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an absolute, normalised container path: `{0}`")]
pub struct ParseError(pub String);

impl ContainerPath {
    /// Parses an absolute path such as `/usr/local/bin`.
    ///
    /// # Errors
    /// It is relative, or has empty, `.` or `..` components, control characters, or `.wh.` names,
    /// which would act as whiteouts (image-spec, *Whiteouts*).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError(text.to_owned());
        let relative = text.strip_prefix('/').ok_or_else(error)?;
        if relative.is_empty() {
            return Ok(Self(String::new()));
        }
        relative.split('/').all(is_component).then(|| Self(relative.to_owned())).ok_or_else(error)
    }

    /// `/`
    pub fn root() -> Self {
        Self(String::new())
    }

    /// A path that this program wrote itself: `usr/local/bin`, without the leading slash.
    pub(super) fn literal(relative: impl Into<String>) -> Self {
        let relative = relative.into();
        debug_assert!(relative.split('/').all(is_component), "{relative}");
        Self(relative)
    }

    /// This path and below it a relative one, such as a wheel's entry name.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn join(&self, relative: &str) -> Result<Self, ParseError> {
        if !relative.split('/').all(is_component) {
            return Err(ParseError(relative.to_owned()));
        }
        Ok(Self(if self.0.is_empty() {
            relative.to_owned()
        } else {
            format!("{}/{relative}", self.0)
        }))
    }

    /// The folder it lies in; `None` for `/`.
    pub fn parent(&self) -> Option<Self> {
        (!self.0.is_empty())
            .then(|| Self(self.0.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned()))
    }

    /// Whether it lies in `folder` or a folder of it; nothing is below itself.
    pub fn is_below(&self, folder: &Self) -> bool {
        match self.0.strip_prefix(&folder.0) {
            Some(rest) if folder.0.is_empty() => !rest.is_empty(),
            Some(rest) => rest.starts_with('/'),
            None => false,
        }
    }

    /// The way from the folder `from` to here, with `..` where it leads out of it:
    /// `../../../bin/x` from site-packages, as RECORD writes it. Empty if both are the same.
    pub fn relative_to(&self, from: &Self) -> String {
        let (here, from): (Vec<_>, Vec<_>) =
            (self.0.split_terminator('/').collect(), from.0.split_terminator('/').collect());
        let shared = here.iter().zip(&from).take_while(|(a, b)| a == b).count();
        let mut way = vec![".."; from.len() - shared];
        way.extend_from_slice(&here[shared..]);
        way.join("/")
    }

    /// Without the leading slash, as tar entries are named.
    pub fn as_relative(&self) -> &str {
        &self.0
    }
}

fn is_component(component: &str) -> bool {
    !matches!(component, "" | "." | "..")
        && !component.starts_with(".wh.")
        && !component.contains(|c: char| c.is_control() || c == '\\')
}

/// Its text without the leading slash: what it is ordered by.
impl Borrow<str> for ContainerPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

impl fmt::Debug for ContainerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_normalised_paths() {
        for good in ["/", "/usr", "/usr/local/lib/python3.13/site-packages", "/a b/ü"] {
            assert_eq!(ContainerPath::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "usr", "//", "/a/", "/a//b", "/./a", "/a/..", "/a/.wh.b", "/a\0", "/a\\b"] {
            assert!(ContainerPath::parse(bad).is_err(), "{bad}");
        }
        let usr = ContainerPath::parse("/usr").unwrap();
        assert_eq!(usr.join("bin/x").unwrap().to_string(), "/usr/bin/x");
        assert!(usr.join("../etc").is_err());
        assert_eq!(usr.parent().unwrap().to_string(), "/");
        assert_eq!(usr.parent().unwrap().parent(), None);
    }
    #[test]
    fn relative_paths_as_record_writes_them() {
        let site = ContainerPath::parse("/usr/local/lib/python3.13/site-packages").unwrap();
        for (to, way) in [
            ("/usr/local/lib/python3.13/site-packages/a/b.py", "a/b.py"),
            ("/usr/local/bin/flask", "../../../bin/flask"),
            ("/etc/x", "../../../../../etc/x"),
            ("/usr/local/lib/python3.13/site-packages-2/x", "../site-packages-2/x"),
            ("/usr/local/lib/python3.13/site-packages", ""),
        ] {
            assert_eq!(ContainerPath::parse(to).unwrap().relative_to(&site), way);
        }
        let root = ContainerPath::parse("/").unwrap();
        assert_eq!(site.relative_to(&root), site.as_relative());
    }
}
