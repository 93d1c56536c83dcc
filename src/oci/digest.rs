//! `algorithm:hex` over stored bytes (image-spec, *Descriptor*, "Digests").

use std::fmt;
use std::io;
use std::str::FromStr;

use sha2::digest::common::hazmat::SerializableState as _;
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest of stored bytes, `sha256:` and 64 lower-case hex digits.
///
/// The only way in is to compute it or to parse it strictly, so it is safe in a path or a URL.
/// sha512 is registered by the specification too, but no image in use has it: it is refused by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a string is not a [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not `sha256:…`.
    #[error("digest is not `sha256:` and 64 lower-case hex digits: `{0}`")]
    Malformed(String),
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// 64 lower-case hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            for nibble in [byte >> 4, byte & 15] {
                hex.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
            }
            hex
        })
    }

    /// A digest from 64 lower-case hex digits, as the Simple API and lock files write sha256.
    ///
    /// # Errors
    /// Anything else.
    pub fn from_hex(hex: &str) -> Result<Self, ParseError> {
        let malformed = || ParseError::Malformed(hex.to_owned());
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return Err(malformed());
        }
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(malformed()),
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }

    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.strip_prefix("sha256:")
            .and_then(|hex| Self::from_hex(hex).ok())
            .ok_or_else(|| ParseError::Malformed(text.to_owned()))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Hashes and counts the bytes that flow through to an inner writer.
#[derive(Clone, Debug)]
pub struct DigestWriter<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: io::Write> DigestWriter<W> {
    /// Wraps `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), size: 0 }
    }

    /// The inner writer.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    /// The inner writer: what is written to it is neither hashed nor counted.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.inner
    }

    /// As if all that went through the writer that [`Self::state`] is of had gone through this one, and
    /// nothing else; `false` if it is no such state.
    #[must_use]
    pub fn set_state(&mut self, state: &[u8]) -> bool {
        let Some((size, hasher)) = state.split_first_chunk() else { return false };
        let Ok(Ok(hasher)) = hasher.try_into().map(Sha256::deserialize) else { return false };
        (self.size, self.hasher) = (u64::from_le_bytes(*size), hasher);
        true
    }

    /// What is known of all that was written so far, for [`Self::set_state`] of the same program.
    pub fn state(&self) -> Vec<u8> {
        [&self.size.to_le_bytes()[..], &self.hasher.serialize()].concat()
    }

    /// The inner writer, the digest and the number of all bytes written so far.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest(self.hasher.finalize().into()), self.size)
    }
}

impl<W: io::Write> io::Write for DigestWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn parses_what_it_prints_and_nothing_else() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
        for bad in [
            "",
            "sha256:",
            "sha256:../../etc/passwd",
            &EMPTY.to_uppercase(),
            &EMPTY[..70],
            &EMPTY.replace("sha256", "sha512"),
            &format!("{EMPTY}0"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn writer_counts_and_hashes() {
        use io::Write as _;
        let mut writer = DigestWriter::new(Vec::new());
        writer.write_all(b"ab").unwrap();
        writer.write_all(b"c").unwrap();
        assert_eq!(writer.finish(), (b"abc".to_vec(), Digest::of(b"abc"), 3));
    }

    #[test]
    fn what_was_hashed_is_gone_on_with() {
        use io::Write as _;
        let bytes: Vec<u8> = (0..200).collect();
        for cut in [0, 1, 63, 64, 65, 128, 200] {
            let mut first = DigestWriter::new(io::sink());
            first.write_all(&bytes[..cut]).unwrap();
            let state = first.state();
            let mut second = DigestWriter::new(io::sink());
            assert!(second.set_state(&state));
            second.write_all(&bytes[cut..]).unwrap();
            let (_, digest, size) = second.finish();
            assert_eq!((digest, size), (Digest::of(&bytes), 200), "{cut}");
            assert!(!DigestWriter::new(io::sink()).set_state(&state[1..]));
        }
    }
}
