//! os/architecture/variant.

use std::fmt;
use std::str::FromStr;

/// What an image runs on: `linux/amd64`, `linux/arm64/v8`. Values are the specification's (Go's
/// GOOS and GOARCH).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v8`, `v7`, …
    pub variant: Option<String>,
}

/// Why a string is not a [`Platform`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("platform is not `os/architecture[/variant]`, as in `linux/arm64`: `{0}`")]
pub struct ParseError(pub String);

impl Platform {
    /// Whether an image for `self` is what a request for `wanted` means: os and architecture are
    /// equal, and so are the variants, where arm64 without a variant is v8 (image-spec, *Platform
    /// Variants*) and 32-bit arm without one is v7.
    pub fn matches(&self, wanted: &Self) -> bool {
        let key = |platform: &Self| {
            let variant =
                platform.variant.clone().or_else(|| match platform.architecture.as_str() {
                    "arm64" => Some("v8".to_owned()),
                    "arm" => Some("v7".to_owned()),
                    _ => None,
                });
            (platform.os.clone(), platform.architecture.clone(), variant)
        };
        key(self) == key(wanted)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let valid = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(|part| valid(part)) {
            return Err(error());
        }
        Ok(Self {
            os: parts[0].to_owned(),
            architecture: parts[1].to_owned(),
            variant: parts.get(2).map(|&variant| variant.to_owned()),
        })
    }
}

impl serde::Serialize for Platform {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Platform {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_by_the_rules_of_variants() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        for (image, wanted, same) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/arm/v6", "linux/arm", false),
            ("linux/arm/v7", "linux/arm", true),
            ("windows/amd64", "linux/amd64", false),
        ] {
            assert_eq!(platform(image).matches(&platform(wanted)), same, "{image} {wanted}");
        }
        for bad in ["linux", "linux/", "/amd64", "linux/arm/v7/x", "Linux/amd64", "linux/amd 64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
