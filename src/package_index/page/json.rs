//! A page as JSON (PEP 691, 700), whose files are read one after the other: a page has thousands of them.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Entry, Error, check_version};

/// Gives `take` each file of the page.
pub(super) fn read<'a>(body: &'a [u8], take: &mut dyn FnMut(Entry<'a>)) -> Result<(), Error> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let version = Page(take).deserialize(&mut json).map_err(Error::Json)?;
    json.end().map_err(Error::Json)?;
    check_version(version.as_deref().unwrap_or("1.0"))
}

/// Reads a page; what comes out is the repository's version, if it says one.
struct Page<'t, 'a>(&'t mut dyn FnMut(Entry<'a>));

impl<'a> DeserializeSeed<'a> for Page<'_, 'a> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Page<'_, 'a> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a project's page")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut page: M) -> Result<Self::Value, M::Error> {
        let mut version = None;
        while let Some(key) = page.next_key::<String>()? {
            match key.as_str() {
                "meta" => version = page.next_value::<JsonMeta>()?.api_version,
                "files" => page.next_value_seed(Files(&mut *self.0))?,
                _ => {
                    page.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(version)
    }
}

/// Reads the files of a page.
struct Files<'t, 'a>(&'t mut dyn FnMut(Entry<'a>));

impl<'a> DeserializeSeed<'a> for Files<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'a> Visitor<'a> for Files<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of files")
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut files: S) -> Result<(), S::Error> {
        while let Some(file) = files.next_element::<JsonFile<'a>>()? {
            (self.0)(file.into());
        }
        Ok(())
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct JsonMeta {
    api_version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct JsonFile<'a> {
    #[serde(borrow)]
    filename: Cow<'a, str>,
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(borrow, default)]
    hashes: Hashes<'a>,
    #[serde(borrow)]
    requires_python: Option<Text<'a>>,
    size: Option<u64>,
    #[serde(borrow)]
    upload_time: Option<Text<'a>>,
    #[serde(borrow)]
    yanked: Option<BoolOr<Text<'a>>>,
    #[serde(borrow)]
    core_metadata: Option<BoolOr<Hashes<'a>>>,
    #[serde(borrow)]
    dist_info_metadata: Option<BoolOr<Hashes<'a>>>,
}

/// Of the hashes that a page has the one that counts.
#[derive(Default, Deserialize)]
struct Hashes<'a> {
    #[serde(borrow)]
    sha256: Option<Text<'a>>,
}

/// Within an `Option` serde would copy a plain `Cow`.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(untagged)]
enum BoolOr<T> {
    Bool(bool),
    Value(T),
}

impl<'a> From<JsonFile<'a>> for Entry<'a> {
    fn from(file: JsonFile<'a>) -> Self {
        Self {
            file_name: file.filename,
            url: file.url,
            sha256: file.hashes.sha256.map(|text| text.0),
            requires_python: file.requires_python.map(|text| text.0),
            size: file.size,
            upload_time: file.upload_time.map(|text| text.0),
            yanked: match file.yanked {
                Some(BoolOr::Bool(true)) => Some(Cow::Borrowed("")),
                Some(BoolOr::Value(Text(reason))) if !reason.is_empty() => Some(reason),
                _ => None,
            },
            core_metadata: match file.core_metadata.or(file.dist_info_metadata) {
                Some(BoolOr::Bool(true)) => Some(None),
                Some(BoolOr::Value(hashes)) => Some(hashes.sha256.map(|text| text.0)),
                _ => None,
            },
        }
    }
}
