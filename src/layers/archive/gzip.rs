//! Segments become one gzip member (RFC 1952): header, segments, the tar's end, CRC-32 and length.

use std::io::{self, Read, Write};
use std::str::FromStr as _;
use std::sync::mpsc;
use std::thread;

use flate2::FlushCompress;
use flate2::read::DeflateDecoder;

use super::segment::{Deflater, Segment};
use crate::layers::{Error, Layer};
use crate::oci::digest::DigestWriter;
use crate::oci::{Descriptor, MediaType};
use crate::store::{BlobReader, Store};

/// No name, no time, no flags; "slowest"; made on no particular system: the defaults of encoders
/// depend on the machine.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255];

/// An empty last block, for reading a segment alone.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// Two zero blocks.
const TAR_END: [u8; 1024] = [0; 1024];

/// Bytes that are on their way from decompression to hashing.
const PIECE: usize = 256 << 10;
const PIECES: usize = 8;

/// Puts a layer together: the tar `folders`, which is compressed here, then `segments`, then the tar
/// `links`.
///
/// The layer's digest and its `diff_id` are SHA-256 over all bytes in order, so this is one pass over
/// both: segments are read, verified, written and decompressed on one thread and hashed on another.
pub(super) fn join(
    folders: &[u8],
    segments: &[Segment],
    links: &[u8],
    created_by: &str,
    store: &Store,
) -> Result<Layer, Error> {
    let failed = |source| Error::Write { path: store.root().to_owned(), source };
    let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(PIECES);
    let (written, hashed) = thread::scope(|scope| {
        let write = scope.spawn(move || -> Result<_, Error> {
            // The other side ends only after this one.
            let send = |bytes: &[u8]| {
                let _hashed_or_gone = sender.send(bytes.to_vec());
            };
            let mut out = store.writer()?;
            out.write_all(&HEADER).map_err(failed)?;
            let mut deflater = Deflater::new(out);
            deflater.write_all(folders).map_err(failed)?;
            send(folders);
            let (mut out, crc32, mut size) =
                deflater.finish(FlushCompress::Full).map_err(failed)?;
            let mut checksum = crc32fast::Hasher::new_with_initial_len(crc32, size);
            for segment in segments {
                let damaged = Error::Segment { digest: segment.digest };
                let Some(blob) = store.reader(&segment.digest)? else { return Err(damaged) };
                let mut tee = Tee { blob, out: &mut out };
                let inflated = inflate(&mut tee, &send);
                // If it is damaged, that is why it could not be inflated, and all is thrown away.
                let Some(_file) = tee.blob.finish()? else { return Err(damaged) };
                inflated.map_err(failed)?;
                checksum.combine(&crc32fast::Hasher::new_with_initial_len(
                    segment.crc32,
                    segment.uncompressed,
                ));
                size += segment.uncompressed;
            }
            let mut deflater = Deflater::new(out);
            for bytes in [links, &TAR_END[..]] {
                deflater.write_all(bytes).map_err(failed)?;
                send(bytes);
            }
            let (mut out, crc32, rest) = deflater.finish(FlushCompress::Finish).map_err(failed)?;
            checksum.combine(&crc32fast::Hasher::new_with_initial_len(crc32, rest));
            out.write_all(&checksum.finalize().to_le_bytes()).map_err(failed)?;
            // RFC 1952: modulo 2^32.
            let length = (size + rest) & u64::from(u32::MAX);
            out.write_all(&length.to_le_bytes()[..4]).map_err(failed)?;
            Ok(out.commit()?)
        });
        let mut hasher = DigestWriter::new(io::sink());
        let mut hash = Ok(());
        for bytes in receiver {
            hash = hash.and_then(|()| hasher.write_all(&bytes));
        }
        let written = write.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (written, hash.map(|()| hasher.finish()))
    });
    let ((digest, size), (_, diff_id, uncompressed_size)) = (written?, hashed.map_err(failed)?);
    let digest_of_descriptor = oci_spec::image::Digest::from_str(&digest.to_string())
        .map_err(|invalid| failed(io::Error::other(invalid)))?;
    Ok(Layer {
        descriptor: Descriptor::new(MediaType::ImageLayerGzip, size, digest_of_descriptor),
        diff_id,
        uncompressed_size,
        created_by: created_by.to_owned(),
    })
}

/// Writes what is read.
struct Tee<'a, W> {
    blob: BlobReader,
    out: &'a mut W,
}

impl<W: Write> Read for Tee<'_, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.blob.read(buffer)?;
        self.out.write_all(&buffer[..read])?;
        Ok(read)
    }
}

fn inflate(segment: impl Read, send: &impl Fn(&[u8])) -> io::Result<()> {
    let mut decoder = DeflateDecoder::new(segment.chain(&LAST_BLOCK[..]));
    let mut buffer = vec![0; PIECE];
    loop {
        match decoder.read(&mut buffer)? {
            0 => return Ok(()),
            read => send(&buffer[..read]),
        }
    }
}
