//! RECORD: what a distribution's files are (recording installed projects; binary distribution
//! format, *The .dist-info directory*).
//!
//! ```text
//! flask/__init__.py,sha256=8Ud…,1105
//! ../../../bin/flask,sha256=kmQ…,226
//! flask-3.1.2.dist-info/RECORD,,
//! ```

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::oci;

/// The rows of a RECORD by their path, in byte order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Path relative to the folder that holds `.dist-info`, with `/`; → what is known of the file.
    pub rows: BTreeMap<String, Row>,
}

/// What a row says about its file. RECORD itself has neither hash nor size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Hash over the file's bytes.
    pub hash: Option<Hash>,
    /// Bytes.
    pub size: Option<u64>,
}

/// A hash as RECORD writes it: `sha256=` and unpadded URL-safe base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hash {
    algorithm: Algorithm,
    digest: Vec<u8>,
}

/// "SHA-256 or better" is required; md5 and sha1 are refused (binary distribution format).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

/// Why a RECORD cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not CSV, or not UTF-8.
    #[error("not a table of comma-separated values")]
    Csv(#[source] csv::Error),
    /// A row is not `path,hash,size`.
    #[error("row {row} has {found} columns, not 3")]
    Columns {
        /// Counted from 1.
        row: usize,
        /// How many there are.
        found: usize,
    },
    /// Not `sha256=…`, or a weak algorithm.
    #[error("no hash that can be used for `{path}`: `{hash}`")]
    Hash {
        /// The row's path.
        path: String,
        /// What stands there.
        hash: String,
    },
    /// Not a number.
    #[error("no size for `{path}`: `{size}`")]
    Size {
        /// The row's path.
        path: String,
        /// What stands there.
        size: String,
    },
    /// Two rows say different things of one file.
    #[error("two different rows for `{0}`")]
    Contradiction(String),
}

impl Hash {
    /// The sha256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { algorithm: Algorithm::Sha256, digest: Sha256::digest(bytes).to_vec() }
    }

    /// The hash of `bytes` with this one's algorithm, to be compared with it.
    #[must_use]
    pub fn again(&self, bytes: &[u8]) -> Self {
        Self {
            algorithm: self.algorithm,
            digest: match self.algorithm {
                Algorithm::Sha256 => Sha256::digest(bytes).to_vec(),
                Algorithm::Sha384 => Sha384::digest(bytes).to_vec(),
                Algorithm::Sha512 => Sha512::digest(bytes).to_vec(),
            },
        }
    }

    /// A known sha256 of some bytes.
    pub fn of_digest(sha256: &oci::Digest) -> Self {
        Self { algorithm: Algorithm::Sha256, digest: sha256.as_bytes().to_vec() }
    }

    /// As [`Self::again`], of bytes whose sha256 is known; `None` if this one is no sha256.
    pub fn again_of(&self, sha256: &oci::Digest) -> Option<Self> {
        (self.algorithm == Algorithm::Sha256).then(|| Self::of_digest(sha256))
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, encoded) = text.split_once('=')?;
        let (algorithm, length) = match name.to_ascii_lowercase().as_str() {
            "sha256" => (Algorithm::Sha256, 32),
            "sha384" => (Algorithm::Sha384, 48),
            "sha512" => (Algorithm::Sha512, 64),
            _ => return None,
        };
        // Padding is not allowed, and old tools wrote it.
        let digest =
            URL_SAFE_NO_PAD.decode(encoded).or_else(|_unpadded| URL_SAFE.decode(encoded)).ok()?;
        (digest.len() == length).then_some(Self { algorithm, digest })
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.algorithm {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha384 => "sha384",
            Algorithm::Sha512 => "sha512",
        };
        write!(f, "{name}={}", URL_SAFE_NO_PAD.encode(&self.digest))
    }
}

impl Row {
    /// The row of a file with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { hash: Some(Hash::of(bytes)), size: Some(bytes.len() as u64) }
    }
}

impl Record {
    /// Reads a RECORD. A row that is repeated word for word counts once.
    ///
    /// # Errors
    /// It is no such table, a hash is weak or malformed, or rows contradict one another.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader =
            csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
        let mut rows = BTreeMap::new();
        for (position, fields) in reader.records().enumerate() {
            let fields = fields.map_err(ParseError::Csv)?;
            let [path, hash, size] = fields.iter().collect::<Vec<_>>()[..] else {
                return Err(ParseError::Columns { row: position + 1, found: fields.len() });
            };
            let row = Row {
                hash: match hash {
                    "" => None,
                    hash => Some(Hash::parse(hash).ok_or_else(|| ParseError::Hash {
                        path: path.to_owned(),
                        hash: hash.to_owned(),
                    })?),
                },
                size: match size {
                    "" => None,
                    size => Some(size.parse().map_err(|_digits| ParseError::Size {
                        path: path.to_owned(),
                        size: size.to_owned(),
                    })?),
                },
            };
            if let Some(earlier) = rows.insert(path.to_owned(), row.clone())
                && earlier != row
            {
                return Err(ParseError::Contradiction(path.to_owned()));
            }
        }
        Ok(Self { rows })
    }

    /// The file's bytes: rows in byte order of their paths, `\n` behind each.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (path, row) in &self.rows {
            let quoted;
            let path = if path.contains(['"', ',', '\r', '\n']) {
                quoted = format!("\"{}\"", path.replace('"', "\"\""));
                &quoted
            } else {
                path
            };
            let hash = row.hash.as_ref().map(Hash::to_string).unwrap_or_default();
            let size = row.size.map(|size| size.to_string()).unwrap_or_default();
            bytes.extend_from_slice(format!("{path},{hash},{size}\n").as_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";

    #[test]
    fn reads_what_it_writes_sorted() {
        let text = format!(
            "b.py,{EMPTY},0\n\"a,\"\"quoted\"\".py\",{EMPTY},0\nx-1.dist-info/RECORD,,\nb.py,{EMPTY},0\n"
        );
        let record = Record::parse(text.as_bytes()).unwrap();
        assert_eq!(record.rows["b.py"], Row::of(b""));
        assert_eq!(record.rows["a,\"quoted\".py"], Row::of(b""));
        assert_eq!(record.rows["x-1.dist-info/RECORD"], Row::default());
        let written = record.to_bytes();
        assert_eq!(
            String::from_utf8(written.clone()).unwrap(),
            format!("\"a,\"\"quoted\"\".py\",{EMPTY},0\nb.py,{EMPTY},0\nx-1.dist-info/RECORD,,\n")
        );
        assert_eq!(Record::parse(&written).unwrap(), record);
    }

    #[test]
    fn better_hashes_and_padding_are_read() {
        for text in [
            format!("{EMPTY}="),
            "sha512=z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg_SpIdNs6c5H0NE8XYXysP-DGNKHfuwvY7kxvUdBeoGlODJ6-SfaPg"
                .into(),
            "SHA384=OLBgp1GsljhM2TJ-sbHjaiH9txEUvgdDTAzHv2P24donTt6_529l-9Ua0vFImLlb".into(),
        ] {
            let record = Record::parse(format!("a,{text},\r\n").as_bytes()).unwrap();
            let hash = record.rows["a"].hash.clone().unwrap();
            assert_eq!(hash.again(b""), hash, "{text}");
            assert_ne!(hash.again(b"x"), hash);
        }
    }

    #[test]
    fn refuses_what_cannot_be_trusted() {
        let md5 = "a,md5=1B2M2Y8AsgTpgAmY7PhCfg,0\n";
        let truncated = "a,sha256=47DEQpj8HBSa,0\n";
        for (text, expected) in [
            ("a,b\n", "row 1 has 2 columns, not 3"),
            (md5, "no hash that can be used for `a`: `md5=1B2M2Y8AsgTpgAmY7PhCfg`"),
            (truncated, "no hash that can be used for `a`: `sha256=47DEQpj8HBSa`"),
            ("a,,-1\n", "no size for `a`: `-1`"),
            ("a,,1\na,,2\n", "two different rows for `a`"),
        ] {
            assert_eq!(Record::parse(text.as_bytes()).unwrap_err().to_string(), expected);
        }
        assert!(matches!(Record::parse(b"\xff,,\n"), Err(ParseError::Csv(_))));
    }
}
