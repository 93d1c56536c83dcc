//! A page as HTML (PEP 503, 592, 629, 658, 714).

use std::borrow::Cow;

use html5gum::{StartTag, Token, Tokenizer};

use super::{Entry, Error, check_version};

/// The links of a page, and what their addresses are relative to if it says so (`<base href>`).
pub(super) fn read(body: &[u8]) -> Result<(Option<String>, Vec<Entry<'static>>), Error> {
    let mut base = None;
    let mut entries = Vec::new();
    for Ok(token) in Tokenizer::new(body) {
        let Token::StartTag(tag) = token else {
            continue;
        };
        match tag.name.as_slice() {
            b"base" if base.is_none() => base = attribute(&tag, "href"),
            b"meta" if attribute(&tag, "name").as_deref() == Some("pypi:repository-version") => {
                check_version(attribute(&tag, "content").unwrap_or_default().trim())?;
            }
            b"a" => entries.extend(anchor(&tag)),
            _ => {}
        }
    }
    Ok((base, entries))
}

fn attribute(tag: &StartTag<()>, name: &str) -> Option<String> {
    let value = tag.attributes.get(name.as_bytes())?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The file name is the last part of the address: the link's text is for people.
fn anchor(tag: &StartTag<()>) -> Option<Entry<'static>> {
    let href = attribute(tag, "href")?.trim().to_owned();
    let (address, fragment) = match href.split_once('#') {
        Some((address, fragment)) => (address.to_owned(), fragment),
        None => (href.clone(), ""),
    };
    let path = address.split('?').next().unwrap_or_default();
    let file_name = percent_decode(path.rsplit('/').next().unwrap_or_default());
    let sha256 =
        fragment.split('&').find_map(|pair| pair.strip_prefix("sha256=")).map(str::to_owned);
    let core_metadata = attribute(tag, "data-core-metadata")
        .or_else(|| attribute(tag, "data-dist-info-metadata"))
        .filter(|value| value != "false")
        .map(|value| value.strip_prefix("sha256=").map(str::to_owned));
    Some(Entry {
        file_name: file_name.into(),
        url: address.into(),
        sha256: sha256.map(Cow::Owned),
        requires_python: attribute(tag, "data-requires-python").map(Cow::Owned),
        size: None,
        upload_time: None,
        yanked: attribute(tag, "data-yanked").map(Cow::Owned),
        core_metadata: core_metadata.map(|hex| hex.map(Cow::Owned)),
    })
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%')
            .then(|| std::str::from_utf8(after.get(..2)?).ok())
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(byte) = escaped {
            decoded.push(byte);
            rest = &after[2..];
        } else {
            decoded.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
