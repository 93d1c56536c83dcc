//! Which indexes are asked, in which order and as whom: from flags, the environment, `pip.conf` and
//! `.netrc`, whose texts the command line has read (pure).

use std::fmt;
use std::path::PathBuf;

use url::Url;

use super::netrc::{Credentials, Netrc};
use crate::error::{Failure, Kind};

/// What is asked for distributions.
///
/// **The first index that knows a project has all of its files.** The extra indexes come before the
/// main one, so a project of a private extra index cannot be replaced by one of the same name on a
/// public index ("dependency confusion"). This is uv's rule; pip would take the highest version of all.
/// Local folders are always looked at too, and win against a file of the same name on an index.
#[derive(Clone)]
pub struct Config {
    /// Simple API roots in the order in which they are asked. Paths end in `/`; no credentials.
    pub indexes: Vec<Url>,
    /// Folders with wheels and sdists.
    pub find_links: Vec<PathBuf>,
    /// Nothing is fetched: only the cache and the folders are used.
    pub offline: bool,
    /// Credentials that came in an index's address, with that address.
    from_urls: Vec<(Url, Credentials)>,
    netrc: Netrc,
}

/// Where a configuration comes from: plain values that the command line reads. In each group, what is
/// written first in the list below wins for each option by itself, as in pip:
/// flags, `UV_*`, `PIP_*`, `pip.conf`, the ecosystem's public index.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--index-url`
    pub index_url: Option<String>,
    /// `--extra-index-url`, in the order given.
    pub extra_index_urls: Vec<String>,
    /// `--find-links`, in the order given.
    pub find_links: Vec<String>,
    /// `--no-index`
    pub no_index: bool,
    /// `--offline`
    pub offline: bool,
    /// `UV_DEFAULT_INDEX`
    pub uv_default_index: Option<String>,
    /// `UV_INDEX_URL`, the older name.
    pub uv_index_url: Option<String>,
    /// `UV_INDEX`: addresses with or without `name=`, separated by blanks.
    pub uv_index: Option<String>,
    /// `UV_EXTRA_INDEX_URL`, the older name.
    pub uv_extra_index_url: Option<String>,
    /// `UV_FIND_LINKS`, separated by commas.
    pub uv_find_links: Option<String>,
    /// `PIP_INDEX_URL`
    pub pip_index_url: Option<String>,
    /// `PIP_EXTRA_INDEX_URL`, separated by blanks.
    pub pip_extra_index_url: Option<String>,
    /// `PIP_FIND_LINKS`, separated by blanks.
    pub pip_find_links: Option<String>,
    /// `PIP_NO_INDEX`
    pub pip_no_index: Option<String>,
    /// Texts of the `pip.conf` files that exist, the strongest **last**: global, user, site, and the
    /// one that `PIP_CONFIG_FILE` names.
    pub pip_conf: Vec<String>,
    /// The text of `$NETRC` or `~/.netrc`.
    pub netrc: Option<String>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Any of the values may hold a password.
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// Why the configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An index's address that is none, or is neither http nor https.
    #[error("{from}: the address of a package index is not an http or https address: {reason}")]
    Address {
        /// The flag, variable or option it came from.
        from: &'static str,
        /// Why not. Without the address: it may hold a password.
        reason: String,
    },
    /// A page of links on the web.
    #[error("{from}: only folders are searched for distributions, not web pages")]
    FindLinks {
        /// The flag, variable or option it came from.
        from: &'static str,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Address { .. } => Some("an index's address usually ends in `/simple/`".into()),
            Self::FindLinks { .. } => {
                Some("download the files and give the folder they lie in".into())
            }
        }
    }
}

/// The Simple API of the ecosystem's public index. The only place that knows how its address is made.
fn default_index() -> String {
    const ECOSYSTEM: &str = "pypi";
    format!("https://{ECOSYSTEM}.org/simple/")
}

impl Config {
    /// Works out the configuration.
    ///
    /// # Errors
    /// An address that cannot be used.
    pub fn from_sources(sources: &Sources) -> Result<Self, Error> {
        let conf = PipConf::parse(&sources.pip_conf);
        let one = |value: &Option<String>| value.clone().filter(|value| !value.trim().is_empty());
        let split = |value: &Option<String>, separator: fn(char) -> bool| -> Vec<String> {
            let values = value.as_deref().unwrap_or_default().split(separator);
            values.map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned).collect()
        };

        let main = [
            ("--index-url", sources.index_url.clone()),
            ("UV_DEFAULT_INDEX", one(&sources.uv_default_index)),
            ("UV_INDEX_URL", one(&sources.uv_index_url)),
            ("PIP_INDEX_URL", one(&sources.pip_index_url)),
            ("pip.conf index-url", conf.one("index-url")),
        ]
        .into_iter()
        .find_map(|(from, value)| value.map(|value| (from, value)))
        .unwrap_or_else(|| ("--index-url", default_index()));

        let mut uv_extra = split(&sources.uv_index, char::is_whitespace);
        uv_extra.extend(split(&sources.uv_extra_index_url, char::is_whitespace));
        let extra = first_with_any([
            ("--extra-index-url", sources.extra_index_urls.clone()),
            ("UV_INDEX", uv_extra),
            ("PIP_EXTRA_INDEX_URL", split(&sources.pip_extra_index_url, char::is_whitespace)),
            ("pip.conf extra-index-url", conf.many("extra-index-url")),
        ]);
        let find_links = first_with_any([
            ("--find-links", sources.find_links.clone()),
            ("UV_FIND_LINKS", split(&sources.uv_find_links, |c| c == ',')),
            ("PIP_FIND_LINKS", split(&sources.pip_find_links, char::is_whitespace)),
            ("pip.conf find-links", conf.many("find-links")),
        ]);

        // An index that is asked for by a flag overrules a no-index of the environment.
        let no_index = sources.no_index
            || (sources.index_url.is_none()
                && (is_true(sources.pip_no_index.as_deref())
                    || is_true(conf.one("no-index").as_deref())));

        let mut config = Self {
            indexes: Vec::new(),
            find_links: Vec::new(),
            offline: sources.offline,
            from_urls: Vec::new(),
            netrc: Netrc::parse(sources.netrc.as_deref().unwrap_or_default()),
        };
        if !no_index {
            for value in &extra.1 {
                config.add_index(extra.0, value)?;
            }
            config.add_index(main.0, &main.1)?;
        }
        for value in &find_links.1 {
            config.find_links.push(folder(find_links.0, value)?);
        }
        Ok(config)
    }

    fn add_index(&mut self, from: &'static str, text: &str) -> Result<(), Error> {
        // `UV_INDEX` may name its indexes: `internal=https://…`.
        let address = match text.split_once('=') {
            Some((name, address)) if !name.contains(':') => address,
            _ => text,
        };
        let failed = |reason: String| Error::Address { from, reason };
        let mut url = Url::parse(address.trim()).map_err(|error| failed(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(failed(format!("its scheme is `{}`", url.scheme())));
        }
        let credentials = take_credentials(&mut url);
        url.set_fragment(None);
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        if let Some(credentials) = credentials {
            self.from_urls.push((url.clone(), credentials));
        }
        if !self.indexes.contains(&url) {
            self.indexes.push(url);
        }
        Ok(())
    }

    /// Who we are for `url`: by an index's own address if scheme, host and port are the same (of several
    /// such indexes, by the one whose path is most like it), else by `.netrc` for that host. No other
    /// host ever gets them.
    pub fn credentials(&self, url: &Url) -> Option<&Credentials> {
        let common_path = |index: &Url| {
            let pairs = index.path().bytes().zip(url.path().bytes());
            pairs.take_while(|(a, b)| a == b).count()
        };
        self.from_urls
            .iter()
            .rev()
            .filter(|(index, _)| index.origin() == url.origin())
            .max_by_key(|(index, _)| common_path(index))
            .map(|(_, credentials)| credentials)
            .or_else(|| self.netrc.credentials(url.host_str()?))
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indexes: Vec<&str> = self.indexes.iter().map(Url::as_str).collect();
        f.debug_struct("Config")
            .field("indexes", &indexes)
            .field("find_links", &self.find_links)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// Takes user and password out of an address.
pub(super) fn take_credentials(url: &mut Url) -> Option<Credentials> {
    let decode = |text: &str| {
        let pair = format!("x={}", text.replace('+', "%2B"));
        url::form_urlencoded::parse(pair.as_bytes())
            .next()
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default()
    };
    let credentials = Credentials {
        user: decode(url.username()),
        password: decode(url.password().unwrap_or_default()),
    };
    // Both fail only for addresses without a host, which have no user either.
    let removed = url.set_username("").is_ok() && url.set_password(None).is_ok();
    let is_anonymous = credentials.user.is_empty() && credentials.password.is_empty();
    (removed && !is_anonymous).then_some(credentials)
}

fn first_with_any<const N: usize>(
    sources: [(&'static str, Vec<String>); N],
) -> (&'static str, Vec<String>) {
    sources.into_iter().find(|(_, values)| !values.is_empty()).unwrap_or_default()
}

fn is_true(value: Option<&str>) -> bool {
    value.is_some_and(|value| {
        matches!(value.to_ascii_lowercase().as_str(), "1" | "y" | "yes" | "t" | "true" | "on")
    })
}

fn folder(from: &'static str, text: &str) -> Result<PathBuf, Error> {
    if let Some((scheme, _)) = text.split_once("://") {
        return (scheme == "file")
            .then(|| Url::parse(text).ok()?.to_file_path().ok())
            .flatten()
            .ok_or(Error::FindLinks { from });
    }
    Ok(PathBuf::from(text))
}

/// The options of `[global]`, overruled by those of `[install]`, of all files.
struct PipConf(Vec<(String, String)>);

impl PipConf {
    fn parse(texts: &[String]) -> Self {
        let mut options = Vec::new();
        for wanted in ["global", "install"] {
            for text in texts {
                let mut section = String::new();
                let mut is_open = false;
                for line in text.lines() {
                    let content = line.trim();
                    if content.is_empty() || content.starts_with(['#', ';']) {
                        continue;
                    }
                    if line.starts_with([' ', '\t']) && is_open {
                        if let Some((_, value)) = options.last_mut() {
                            let value: &mut String = value;
                            value.push('\n');
                            value.push_str(content);
                        }
                        continue;
                    }
                    is_open = false;
                    if let Some(name) = content.strip_prefix('[') {
                        name.trim_end_matches(']').trim().clone_into(&mut section);
                    } else if let Some((key, value)) = content.split_once(['=', ':'])
                        && section == wanted
                    {
                        let key = key.trim().to_ascii_lowercase().replace('_', "-");
                        options.push((key, value.trim().to_owned()));
                        is_open = true;
                    }
                }
            }
        }
        Self(options)
    }

    fn one(&self, key: &str) -> Option<String> {
        self.0
            .iter()
            .rev()
            .find(|(known, value)| known == key && !value.is_empty())
            .map(|(_, value)| value.clone())
    }

    fn many(&self, key: &str) -> Vec<String> {
        let value = self.one(key).unwrap_or_default();
        value.split_whitespace().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexes(sources: &Sources) -> Vec<String> {
        let config = Config::from_sources(sources).unwrap();
        config.indexes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn flags_win_over_uv_over_pip_over_files_over_the_default() {
        assert_eq!(indexes(&Sources::default()), [default_index()]);
        let mut sources = Sources {
            pip_conf: vec![
                "[global]\nindex-url = https://global.example/simple\n".into(),
                "[install]\nindex_url: https://install.example/simple\n\
                 extra-index-url =\n    https://a.example/\n    https://b.example/x\n"
                    .into(),
                "[global]\n; no\nindex-url = https://user.example/\n[list]\nindex-url=https://no.example\n"
                    .into(),
            ],
            ..Sources::default()
        };
        let extra = ["https://a.example/", "https://b.example/x/"];
        let with = |main: &str| [extra[0], extra[1], main].map(str::to_owned).to_vec();
        assert_eq!(indexes(&sources), with("https://install.example/simple/"));
        sources.pip_index_url = Some("https://pip.example/".into());
        assert_eq!(indexes(&sources), with("https://pip.example/"));
        sources.uv_index_url = Some("https://old-uv.example/".into());
        assert_eq!(indexes(&sources), with("https://old-uv.example/"));
        sources.uv_default_index = Some("https://uv.example/".into());
        assert_eq!(indexes(&sources), with("https://uv.example/"));
        sources.index_url = Some("https://flag.example".into());
        assert_eq!(indexes(&sources), with("https://flag.example/"));
        sources.pip_extra_index_url = Some("https://c.example/ https://d.example/".into());
        assert_eq!(
            indexes(&sources),
            ["https://c.example/", "https://d.example/", "https://flag.example/"]
        );
        sources.uv_index = Some("inner=https://e.example/?a=b".into());
        assert_eq!(indexes(&sources), ["https://e.example/?a=b", "https://flag.example/"]);
        sources.extra_index_urls = vec!["https://flag.example/".into()];
        assert_eq!(indexes(&sources), ["https://flag.example/"]);
        sources.no_index = true;
        assert!(indexes(&sources).is_empty());
    }

    #[test]
    fn folders() {
        let mut sources = Sources {
            pip_find_links: Some("wheels /srv/wheels".into()),
            pip_no_index: Some("true".into()),
            ..Sources::default()
        };
        let config = Config::from_sources(&sources).unwrap();
        assert_eq!(config.find_links, [PathBuf::from("wheels"), PathBuf::from("/srv/wheels")]);
        assert!(config.indexes.is_empty());
        sources.find_links = vec!["file:///srv/a%20b".into()];
        let config = Config::from_sources(&sources).unwrap();
        assert_eq!(config.find_links, [PathBuf::from("/srv/a b")]);
        sources.find_links = vec!["https://links.example/".into()];
        assert_eq!(
            Config::from_sources(&sources).unwrap_err(),
            Error::FindLinks { from: "--find-links" }
        );
    }

    #[test]
    fn credentials_stay_with_their_host_and_are_not_shown() {
        let sources = Sources {
            index_url: Some("https://an%20na:s3cret@one.example/simple".into()),
            extra_index_urls: vec!["https://feed@one.example/feeds/x".into()],
            netrc: Some("machine files.example login bob password hidden".into()),
            ..Sources::default()
        };
        let config = Config::from_sources(&sources).unwrap();
        let user = |url: &str| {
            config
                .credentials(&Url::parse(url).unwrap())
                .map(|credentials| credentials.user.clone())
        };
        assert_eq!(user("https://one.example/simple/a/"), Some("an na".into()));
        assert_eq!(user("https://one.example/feeds/x/a/"), Some("feed".into()));
        assert_eq!(user("https://one.example:8443/simple/a/"), None);
        assert_eq!(user("http://one.example/simple/a/"), None);
        assert_eq!(user("https://files.example/a.whl"), Some("bob".into()));
        assert_eq!(user("https://two.example/a.whl"), None);
        for text in [format!("{config:?}"), format!("{sources:?}")] {
            assert!(!text.contains("s3cret") && !text.contains("hidden"), "{text}");
        }
    }

    #[test]
    fn a_bad_address_is_refused_without_showing_it() {
        for bad in ["anna:s3cret@one.example", "ftp://anna:s3cret@one.example/", "", "simple"] {
            let sources = Sources { extra_index_urls: vec![bad.into()], ..Sources::default() };
            let error = Config::from_sources(&sources).unwrap_err();
            assert!(matches!(&error, Error::Address { from: "--extra-index-url", .. }), "{bad}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
