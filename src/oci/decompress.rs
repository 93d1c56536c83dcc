//! The bytes of a layer's tar, however the blob is compressed (pure).

use std::io::{self, BufRead, BufReader, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Decides by the first bytes, as registries hold layers whose media type is wrong; the `diff_id`
/// decides in the end.
///
/// # Errors
/// The blob cannot be read. Reading what is returned fails where the stream is damaged or cut short.
pub fn decompress<'a>(mut blob: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let compression = match blob.fill_buf()? {
        [0x1f, 0x8b, ..] => "gzip",
        // A frame, or a skippable one (RFC 8878, 3.1).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => "zstd",
        _ => "",
    };
    Ok(decompress_as(compression, blob))
}

/// Believes the media type: `compression` is `gzip`, `zstd`, or empty for none. Reading what is
/// returned fails where the stream is another, damaged or cut short.
pub fn decompress_as<'a>(compression: &str, blob: impl BufRead + 'a) -> Box<dyn Read + 'a> {
    match compression {
        "gzip" => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(blob))),
        "zstd" => Box::new(BufReader::new(Zstd::new(blob))),
        _ => Box::new(blob),
    }
}

/// All frames of a zstd stream, one after the other.
struct Zstd<R> {
    source: R,
    frame: FrameDecoder,
    within: bool,
}

impl<R> Zstd<R> {
    fn new(source: R) -> Self {
        Self { source, frame: FrameDecoder::new(), within: false }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.within {
                while self.frame.can_collect() == 0 && !self.frame.is_finished() {
                    self.frame
                        .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                        .map_err(io::Error::other)?;
                }
                let read = self.frame.read(buffer)?;
                if read > 0 {
                    return Ok(read);
                }
                self.within = false;
            }
            if self.source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            match self.frame.init(&mut self.source) {
                Ok(()) => self.within = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped = io::copy(&mut (&mut self.source).take(length), &mut io::sink())?;
                    if skipped < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(e) => return Err(io::Error::other(e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn decompresses_what_registries_hold() {
        let zstd = |bytes: &[u8]| {
            ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
        };
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        for (compression, bytes) in [
            ("", b"hello world".to_vec()),
            ("gzip", gzip(b"hello world")),
            ("gzip", [gzip(b"hello "), gzip(b"world")].concat()),
            ("zstd", zstd(b"hello world")),
            ("zstd", [&zstd(b"hello "), &skippable[..], &zstd(b"world"), &skippable].concat()),
        ] {
            let read = |mut tar: Box<dyn Read + '_>| {
                let mut bytes = Vec::new();
                tar.read_to_end(&mut bytes).map(|_| bytes)
            };
            for tar in [decompress_as(compression, &bytes[..]), decompress(&bytes[..]).unwrap()] {
                assert_eq!(read(tar).unwrap(), b"hello world", "{compression}");
            }
            if !compression.is_empty() {
                let cut = &bytes[..bytes.len()
                    - 1
                    - if bytes.ends_with(&skippable) { skippable.len() } else { 0 }];
                assert!(read(decompress_as(compression, cut)).is_err(), "{compression}");
                assert!(read(decompress_as(compression, &b"hello"[..])).is_err(), "{compression}");
            }
        }
    }
}
