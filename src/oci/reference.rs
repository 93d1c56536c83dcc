//! `registry/repository:tag@digest` (distribution-spec, *Pulling manifests*; the grammar and the
//! normalisation are those of `distribution/reference`).
//!
//! ```text
//! reference := name [ ":" tag ] [ "@" digest ]
//! name      := [ host [ ":" port ] "/" ] component { "/" component }
//! host      := label { "." label } | "[" IPv6 "]"
//! component := [a-z0-9]+ { ( "." | "_" | "__" | "-"+ ) [a-z0-9]+ }
//! tag       := [A-Za-z0-9_] { [A-Za-z0-9_.-] }          at most 128
//! ```

use std::fmt;
use std::str::FromStr;

use super::Digest;

/// The registry of names that name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// An older name of [`DEFAULT_REGISTRY`], still seen in names and credentials.
const LEGACY_DEFAULT_REGISTRY: &str = "index.docker.io";
/// The host that answers the API of [`DEFAULT_REGISTRY`].
const DEFAULT_API_HOST: &str = "registry-1.docker.io";
/// Where [`DEFAULT_REGISTRY`] keeps repositories whose name has one component.
const OFFICIAL_NAMESPACE: &str = "library/";
/// The longest repository (without registry), in bytes.
const REPOSITORY_MAX: usize = 255;
/// The longest tag, in bytes.
const TAG_MAX: usize = 128;

/// A fully qualified reference. `python:3.13` parses to `docker.io/library/python:3.13`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is not a [`Reference`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The grammar is not met.
    #[error("invalid reference `{reference}`: {reason}")]
    Malformed {
        /// What was given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Reference {
    /// `docker.io`, `localhost:5000`, … as written in names (not the API host).
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `host[:port]` that answers the registry's API: `registry-1.docker.io` for `docker.io`, else
    /// [`Self::registry`].
    pub fn api_host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { DEFAULT_API_HOST } else { &self.registry }
    }

    /// `library/python`
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `3.13-alpine3.24`, if given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if given; it wins over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository and tag, pinned to `digest`.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// The same repository and tag, without a digest.
    #[must_use]
    pub fn without_digest(&self) -> Self {
        Self { digest: None, ..self.clone() }
    }

    /// The same repository with another tag and no digest.
    ///
    /// # Errors
    /// `tag` does not meet the grammar of tags.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ParseError> {
        check_tag(tag).map_err(|reason| ParseError::Malformed {
            reference: format!("{}:{tag}", self.name()),
            reason,
        })?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// `registry/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The short form that Docker shows and `docker save` writes: without `docker.io/` and
    /// `library/`, with tag and digest. It always parses back to `self`, so the registry stays where
    /// the repository's first component would be taken for one.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full
            .strip_prefix("docker.io/")
            .map(|short| short.strip_prefix(OFFICIAL_NAMESPACE).unwrap_or(short));
        [short, full.strip_prefix("docker.io/")]
            .into_iter()
            .flatten()
            .find(|short| short.parse().as_ref() == Ok(self))
            .unwrap_or(&full)
            .to_owned()
    }
}

impl fmt::Display for Reference {
    /// The canonical form, always with registry; with tag and digest where they were given.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Reference {
    type Err = ParseError;

    /// No tag and no digest stays so: whoever needs one says `latest` where it is used.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text).map_err(|reason| ParseError::Malformed { reference: text.to_owned(), reason })
    }
}

impl serde::Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    // Docker takes these for image IDs.
    if text.len() == 64 && Digest::from_hex(text).is_ok() {
        return Err("64 hex digits are an image ID, not a name".into());
    }
    if text.parse::<Digest>().is_ok() {
        return Err("a digest alone names no repository".into());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest: Digest = digest.parse().map_err(|e| format!("{e}"))?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    let (registry, rest) = match rest.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, rest),
    };
    // A port can only stand before the first slash, so what is left has at most the tag's colon.
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, None),
    };
    check_registry(registry)?;
    let registry = match registry {
        LEGACY_DEFAULT_REGISTRY => DEFAULT_REGISTRY,
        registry => registry,
    };
    check_repository(repository)?;
    let namespace = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        OFFICIAL_NAMESPACE
    } else {
        ""
    };
    let repository = format!("{namespace}{repository}");
    if repository.len() > REPOSITORY_MAX {
        return Err(format!("the repository is longer than {REPOSITORY_MAX} bytes"));
    }
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    Ok(Reference { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
}

/// Whether the component before the first slash names a registry, and not a part of the repository.
fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), String> {
    let malformed = || format!("`{registry}` is no registry host");
    let port = if let Some(rest) = registry.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(malformed)?;
        // Stricter than `distribution/reference`, which leaves the address to whoever dials it.
        address
            .parse::<std::net::Ipv6Addr>()
            .ok()
            .filter(|_| !address.contains('.'))
            .ok_or_else(malformed)?;
        match port.strip_prefix(':') {
            Some(port) => Some(port),
            None if port.is_empty() => None,
            None => return Err(malformed()),
        }
    } else {
        let (host, port) = match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        };
        let is_label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !host.split('.').all(is_label) {
            return Err(malformed());
        }
        port
    };
    match port {
        Some(port) if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("`{port}` is no port"))
        }
        Some(port) if port.parse::<u16>().is_err() => {
            Err(format!("port {port} is above {}", u16::MAX))
        }
        _ => Ok(()),
    }
}

fn check_repository(repository: &str) -> Result<(), String> {
    if repository.is_empty() {
        return Err("it has no repository".into());
    }
    for component in repository.split('/') {
        if component.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(format!("the repository must be lower case: `{repository}`"));
        }
        if !is_component(component) {
            return Err(format!("`{component}` is no component of a repository"));
        }
    }
    Ok(())
}

/// Runs of `[a-z0-9]` with one separator between each two.
fn is_component(component: &str) -> bool {
    let is_run = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    bytes.first().copied().is_some_and(is_run)
        && bytes.last().copied().is_some_and(is_run)
        && bytes.split(|&byte| is_run(byte)).all(|separator| match separator {
            [] | b"." | b"_" | b"__" => true,
            dashes => dashes.iter().all(|&byte| byte == b'-'),
        })
}

fn check_tag(tag: &str) -> Result<(), String> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if tag.len() > TAG_MAX {
        return Err(format!("the tag is longer than {TAG_MAX} bytes"));
    }
    if !tag.bytes().next().is_some_and(is_word)
        || !tag.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
    {
        return Err(format!(
            "`{tag}` is no tag: letters, digits, `_`, and after the first also `.` and `-`"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FF: &str = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
    const HEX: &str = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a";

    fn reference(text: &str) -> Reference {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    /// Text, registry, repository, and tag and digest as they are printed.
    const CASES: &str = "
        test_com                       docker.io               library/test_com
        test.com:tag                   docker.io               library/test.com         :tag
        test.com:5000                  docker.io               library/test.com         :5000
        test.com/repo:tag              test.com                repo                     :tag
        test:5000/repo                 test:5000               repo
        test:5000/repo:tag             test:5000               repo                     :tag
        test:5000/repo@FF              test:5000               repo                     @FF
        test:5000/repo:tag@FF          test:5000               repo                     :tag@FF
        lowercase:Upper                docker.io               library/lowercase        :Upper
        sub-dom1.foo.com/b/c:a-tag     sub-dom1.foo.com        b/c                      :a-tag
        b.gcr.io/t.com/app:t.com       b.gcr.io                t.com/app                :t.com
        xn--n3h.com/x:xn--n3h.com      xn--n3h.com             x                        :xn--n3h.com
        foo_bar.com:8080               docker.io               library/foo_bar.com      :8080
        foo/foo_bar.com:80             docker.io               foo/foo_bar.com          :80
        192.168.1.1:5000               docker.io               library/192.168.1.1      :5000
        192.168.1.1/repo               192.168.1.1             repo
        192.168.1.1:5000/r:5050        192.168.1.1:5000        r                        :5050
        [2001:db8::1]/repo             [2001:db8::1]           repo
        [2001:db8::1]:5000/repo:tag    [2001:db8::1]:5000      repo                     :tag
        [2001:db8::1]:5000/repo@FF     [2001:db8::1]:5000      repo                     @FF
        [fc00:1:2:3:4:5:6:7]:5/d       [fc00:1:2:3:4:5:6:7]:5  d
        [::1]:5000/repo                [::1]:5000              repo
        localhost/debian               localhost               debian
        LOCALDOMAIN/library/debian     LOCALDOMAIN             library/debian
        Docker/docker                  Docker                  docker
        docker/migrator                docker.io               docker/migrator
        test_com/foo                   docker.io               test_com/foo
        docker.io/debian               docker.io               library/debian
        index.docker.io/debian         docker.io               library/debian
        index.docker.io/docker/docker  docker.io               docker/docker
        docker.io/library/foo/bar      docker.io               library/foo/bar
        docker---rules/dock__er        docker.io               docker---rules/dock__er
        d/d                            docker.io               d/d
    ";

    /// Cases of `TestReferenceParse`, `TestValidateReferenceName` and `TestNormalizedSplitHostname`.
    #[test]
    fn parses_and_normalises() {
        let a = |count| "a".repeat(count);
        let long = [
            // 64 letters, but not hex digits; 63 hex digits.
            format!("{0} docker.io library/{0}", "g".repeat(64)),
            format!("{0} docker.io library/{0}", &HEX[1..]),
            // The registry, or a tag, takes the ambiguity away.
            format!("docker.io/{HEX} docker.io library/{HEX}"),
            format!("{HEX}:tag docker.io library/{HEX} :tag"),
            format!("r.com/{0}:tag r.com {0} :tag", a(255)),
            format!("r.com/a:{0} r.com a :{0}", a(128)),
        ];
        let cases = CASES.lines().filter(|line| !line.trim().is_empty());
        for case in cases.chain(long.iter().map(String::as_str)) {
            let mut columns = case.split_whitespace();
            let mut column = || columns.next().unwrap_or_default();
            let (text, registry, repository, rest) = (column(), column(), column(), column());
            let (text, rest) = (text.replace("FF", FF), rest.replace("FF", FF));
            let parsed = reference(&text);
            assert_eq!(parsed.registry(), registry, "{text}");
            assert_eq!(parsed.repository(), repository, "{text}");
            let tag = parsed.tag().map(|tag| format!(":{tag}"));
            let digest = parsed.digest().map(|digest| format!("@{digest}"));
            assert_eq!(tag.unwrap_or_default() + &digest.unwrap_or_default(), rest, "{text}");
            assert_eq!(parsed.to_string(), format!("{registry}/{repository}{rest}"));
            assert_eq!(reference(&parsed.to_string()), parsed, "{text}");
            assert_eq!(reference(&parsed.familiar()), parsed, "{text}");
        }
    }

    /// The invalid cases of the same tests, of `TestValidateRemoteName` and of `regexp_test.go`.
    #[test]
    fn refuses() {
        for text in [
            "",
            ":justtag",
            FF,
            &format!("@{FF}"),
            "repo@sha256:ffffffffffffffffffffffffffffffffff",
            &format!("repo@{}", FF.replace("sha256", "invaliddigest")),
            &format!("repo@{}", FF.replace("sha256", "sha512")),
            &format!("repo@{FF}{FF}"),
            "Uppercase:tag",
            "test:5000/Uppercase/lowercase:tag",
            "docker/Docker",
            "docker.io/docker/Docker",
            &format!("domain/{}:tag", "a".repeat(256)),
            &format!("{}/docker", "namespace_".repeat(26)),
            &"a".repeat(250),
            "aa/asdf$$^/aa",
            "a^a",
            "[2001:db8::1]",
            "[2001:db8::1]:5000",
            "[2001:db8::1]:tag",
            "[fe80::1%eth0]:5000/repo",
            "[2001:db8:3:4::192.0.2.33]:5000/debian",
            "[fd00:1:2::3]75050/debian",
            "[fd00:1:2::3]::75050/debian",
            "fc00::1:5000/debian",
            "[]/repo",
            "https://github.com/docker/docker",
            "-docker",
            "-docker/docker",
            "docker-/docker",
            "foo/bar-",
            "-docker.io/docker/docker",
            "docker-.io/docker/docker",
            "docker///docker",
            "docker.io/docker///docker",
            "docker/",
            "/docker",
            "a/a/a/a/",
            "____/____",
            "_docker/_docker",
            "dock..er/docker",
            "dock_.er/docker",
            "dock-.er/docker",
            "dock___er/docker",
            "foo.com:http/bar",
            "foo.com:/bar",
            "foo.com:65536/bar",
            "foo_bar.com:8080/app",
            // `distribution/reference` lets this through without any registry.
            "foo_bar.com/app",
            "foo:",
            "foo@",
            "foo:-tag",
            "foo:.tag",
            "foo:a/b",
            "foo:a:b",
            "foo:tag name",
            " foo",
            "foo\n",
            "f\u{f6}\u{f6}",
            &format!("foo:{}", "t".repeat(129)),
            HEX,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    /// `TestParseRepositoryInfo`.
    #[test]
    fn familiar_form() {
        for (text, familiar, full) in [
            ("localhost/fooo", "localhost/fooo", "localhost/fooo"),
            ("LOCALDOMAIN/fooo/bar", "LOCALDOMAIN/fooo/bar", "LOCALDOMAIN/fooo/bar"),
            ("index.docker.io/fooo/bar", "fooo/bar", "docker.io/fooo/bar"),
            ("library/ubuntu", "ubuntu", "docker.io/library/ubuntu"),
            ("nonlibrary/ubuntu", "nonlibrary/ubuntu", "docker.io/nonlibrary/ubuntu"),
            (
                "127.0.0.1:8000/privatebase",
                "127.0.0.1:8000/privatebase",
                "127.0.0.1:8000/privatebase",
            ),
            ("library/foo/bar", "library/foo/bar", "docker.io/library/foo/bar"),
            ("FOO/bar", "FOO/bar", "FOO/bar"),
            (
                "docker.io/grubykarol/app:1.0-python3.13",
                "grubykarol/app:1.0-python3.13",
                "docker.io/grubykarol/app:1.0-python3.13",
            ),
            // Without the registry these would name another one, or none.
            ("docker.io/localhost/app", "docker.io/localhost/app", "docker.io/localhost/app"),
            (
                &format!("docker.io/{HEX}"),
                &format!("library/{HEX}"),
                &format!("docker.io/library/{HEX}"),
            ),
        ] {
            let parsed = reference(text);
            assert_eq!(parsed.familiar(), familiar, "{text}");
            assert_eq!(parsed.to_string(), full, "{text}");
        }
    }

    #[test]
    fn derives_other_references() {
        let tagged = reference("busybox:latest");
        let digest: Digest = FF.parse().unwrap();
        assert_eq!(
            tagged.with_digest(digest).to_string(),
            format!("docker.io/library/busybox:latest@{FF}")
        );
        assert_eq!(tagged.with_digest(digest).without_digest(), tagged);
        assert_eq!(tagged.with_digest(digest).with_tag("1.0").unwrap(), reference("busybox:1.0"));
        assert_eq!(
            tagged.with_tag("-foo").unwrap_err().to_string(),
            "invalid reference `docker.io/library/busybox:-foo`: `-foo` is no tag: \
             letters, digits, `_`, and after the first also `.` and `-`"
        );
        assert_eq!(tagged.name(), "docker.io/library/busybox");
        assert_eq!(tagged.api_host(), "registry-1.docker.io");
        assert_eq!(reference("[::1]:5000/x").api_host(), "[::1]:5000");
    }
}
