//! The record of a page on disk (pure).

use serde::{Deserialize, Serialize};
use url::Url;

/// A page as it is kept on disk: this as JSON, a line feed, and the page's bytes.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct CachedPage {
    /// Whether the index knows the project at all.
    pub(super) found: bool,
    /// After redirects: what relative addresses are relative to.
    pub(super) url: Url,
    pub(super) content_type: String,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
}

impl CachedPage {
    /// What stands before the body in a record.
    pub(super) fn head(&self) -> Vec<u8> {
        // A struct of strings can always be written as JSON; if not, the record is found to be damaged.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// The page of a record and its body; `None` if it is no such record.
    pub(super) fn split(mut record: Vec<u8>) -> Option<(Self, Vec<u8>)> {
        let end = record.iter().position(|byte| *byte == b'\n')?;
        let page = serde_json::from_slice(&record[..end]).ok()?;
        record.drain(..=end);
        Some((page, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back() {
        let page = CachedPage {
            found: true,
            url: Url::parse("https://one.example/simple/a/").unwrap(),
            content_type: "text/html".into(),
            etag: Some("\"x\"".into()),
            last_modified: None,
        };
        let record = [&page.head()[..], b"line\nline"].concat();
        assert_eq!(CachedPage::split(record), Some((page, b"line\nline".to_vec())));
        assert_eq!(CachedPage::split(Vec::from(*b"{}\n")), None);
        assert_eq!(CachedPage::split(Vec::new()), None);
    }
}
