//! A layer's bytes become its tar (pure).

use std::io::{self, BufRead, Read as _};

use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

/// Writes the tar in `compressed` to `tar`; `compression` is `gzip`, `zstd`, or empty for none.
///
/// # Errors
/// Reading or writing failed, or the stream is damaged or cut short.
pub(super) fn decompress(
    compression: &str,
    mut compressed: impl BufRead,
    tar: &mut impl io::Write,
) -> io::Result<()> {
    match compression {
        "gzip" => {
            io::copy(&mut flate2::bufread::MultiGzDecoder::new(compressed), tar)?;
        }
        // A blob may hold several frames, and skippable ones (zstd:chunked ends with its index).
        "zstd" => {
            while !compressed.fill_buf()?.is_empty() {
                match StreamingDecoder::new(&mut compressed) {
                    Ok(mut frame) => {
                        io::copy(&mut frame, tar)?;
                    }
                    Err(FrameDecoderError::ReadFrameHeaderError(
                        ReadFrameHeaderError::SkipFrame { length, .. },
                    )) => {
                        io::copy(&mut (&mut compressed).take(length.into()), &mut io::sink())?;
                    }
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
        }
        _ => {
            io::copy(&mut compressed, tar)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn decompresses_what_registries_hold() {
        let zstd = |bytes: &[u8]| {
            ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
        };
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        for (compression, bytes) in [
            ("", b"hello world".to_vec()),
            ("gzip", fixture::gzip(b"hello world")),
            ("gzip", [fixture::gzip(b"hello "), fixture::gzip(b"world")].concat()),
            ("zstd", zstd(b"hello world")),
            ("zstd", [&zstd(b"hello "), &skippable[..], &zstd(b"world"), &skippable].concat()),
        ] {
            let mut tar = Vec::new();
            decompress(compression, bytes.as_slice(), &mut tar).unwrap();
            assert_eq!(tar, b"hello world", "{compression}");
            if !compression.is_empty() {
                let cut = &bytes[..bytes.len()
                    - 1
                    - if bytes.ends_with(&skippable) { skippable.len() } else { 0 }];
                assert!(decompress(compression, cut, &mut io::sink()).is_err(), "{compression}");
            }
        }
    }
}
