//! Segments become one gzip member (RFC 1952): header, segments, CRC-32 and length.

use std::io::{self, Write};
use std::str::FromStr as _;
use std::sync::mpsc;
use std::thread;

use super::deflate::{LAST_BLOCK, Unpacker};
use super::segment::{Parts, Segment};
use crate::layers::{Error, Layer};
use crate::oci::digest::DigestWriter;
use crate::oci::{Descriptor, MediaType};
use crate::store::{BlobWriter, Store};

/// No name, no time, no flags, neither the fastest nor the slowest; made on no particular system: the
/// defaults of encoders depend on the machine.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Pieces that are on their way from being written to being hashed.
const PIECES: usize = 2;

/// Puts a layer together.
///
/// The layer's digest and its `diff_id` are SHA-256 over all bytes in order, so this is one pass over
/// both: segments are read, verified and written on one thread, and decompressed and hashed on another.
pub(super) fn join(parts: Parts, created_by: &str, store: &Store) -> Result<Layer, Error> {
    let failed = |source| Error::Write { path: store.root().to_owned(), source };
    let (sender, receiver) = mpsc::sync_channel(PIECES);
    let (written, unpacked) = thread::scope(|scope| {
        let unpack = scope.spawn(move || {
            let mut unpacker = Unpacker::new();
            let mut tar = DigestWriter::new(io::sink());
            for Piece { packed, uncompressed } in receiver {
                tar.write_all(unpacker.unpack(packed, uncompressed)?)?;
            }
            Ok(tar.finish())
        });
        let segments = parts.segments();
        let write = move || {
            let mut layer = Written::begin(store.writer()?, sender).map_err(failed)?;
            for segment in segments {
                let packed = store
                    .read(&segment.digest)?
                    .ok_or(Error::Segment { digest: segment.digest })?;
                layer.add(segment, packed).map_err(failed)?;
            }
            layer.finish().map_err(failed)
        };
        let written: Result<BlobWriter, Error> = write();
        let unpacked: io::Result<_> =
            unpack.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (written, unpacked)
    });
    let (blob, (_, diff_id, uncompressed_size)) = (written?, unpacked.map_err(failed)?);
    let (digest, size) = blob.commit_unsynced()?;
    let digest = oci_spec::image::Digest::from_str(&digest.to_string())
        .map_err(|invalid| failed(io::Error::other(invalid)))?;
    Ok(Layer {
        descriptor: Descriptor::new(MediaType::ImageLayerGzip, size, digest),
        diff_id,
        uncompressed_size,
        created_by: created_by.to_owned(),
        parts: Some(parts),
    })
}

/// A piece of the stream, and the bytes it is uncompressed.
struct Piece {
    packed: Vec<u8>,
    uncompressed: u64,
}

/// The compressed side.
struct Written {
    out: BlobWriter,
    unpack: mpsc::SyncSender<Piece>,
    checksum: crc32fast::Hasher,
    size: u64,
}

impl Written {
    fn begin(mut out: BlobWriter, unpack: mpsc::SyncSender<Piece>) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        Ok(Self { out, unpack, checksum: crc32fast::Hasher::new(), size: 0 })
    }

    fn add(&mut self, segment: &Segment, packed: Vec<u8>) -> io::Result<()> {
        let Segment { crc32, uncompressed, .. } = *segment;
        self.out.write_all(&packed)?;
        self.checksum.combine(&crc32fast::Hasher::new_with_initial_len(crc32, uncompressed));
        self.size += uncompressed;
        // If nobody listens any more, it failed there, which is said in the end.
        let _sent = self.unpack.send(Piece { packed, uncompressed });
        Ok(())
    }

    fn finish(mut self) -> io::Result<BlobWriter> {
        self.out.write_all(&LAST_BLOCK)?;
        self.out.write_all(&self.checksum.finalize().to_le_bytes())?;
        // RFC 1952: modulo 2^32.
        self.out.write_all(&self.size.to_le_bytes()[..4])?;
        Ok(self.out)
    }
}
