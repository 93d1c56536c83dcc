//! Segments become one gzip member (RFC 1952): header, segments, the tar's end, CRC-32 and length.

use std::io::{self, Write};
use std::str::FromStr as _;
use std::sync::mpsc;
use std::thread;

use libdeflater::Decompressor;

use super::deflate::{LAST_BLOCK, Packer};
use super::segment::{CUT, Segment};
use crate::layers::{Error, Layer};
use crate::oci::digest::DigestWriter;
use crate::oci::{Descriptor, MediaType};
use crate::store::{BlobWriter, Store};

/// No name, no time, no flags, neither the fastest nor the slowest; made on no particular system: the
/// defaults of encoders depend on the machine.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Two zero blocks.
const TAR_END: [u8; 1024] = [0; 1024];

/// Pieces that are on their way from being written to being hashed.
const PIECES: usize = 2;

/// Puts a layer together: the tar `folders`, which is compressed here, then `segments`, then the tar
/// `links`.
///
/// The layer's digest and its `diff_id` are SHA-256 over all bytes in order, so this is one pass over
/// both: segments are read, verified and written on one thread, and decompressed and hashed on another.
pub(super) fn join(
    folders: &[u8],
    segments: &[Segment],
    links: &[u8],
    created_by: &str,
    store: &Store,
) -> Result<Layer, Error> {
    let failed = |source| Error::Write { path: store.root().to_owned(), source };
    let (sender, receiver) = mpsc::sync_channel(PIECES);
    let (written, unpacked) = thread::scope(|scope| {
        let unpack = scope.spawn(move || {
            let mut tar = Unpacked::new();
            receiver.into_iter().try_for_each(|piece| tar.add(piece))?;
            Ok(tar.hasher.finish())
        });
        let write = || {
            let mut layer = Written::begin(store.writer()?, sender).map_err(failed)?;
            layer.add_tar(folders).map_err(failed)?;
            for segment in segments {
                let bytes = store
                    .read(&segment.digest)?
                    .ok_or(Error::Segment { digest: segment.digest })?;
                layer.add(segment.crc32, segment.uncompressed, bytes).map_err(failed)?;
            }
            layer.add_tar(&[links, &TAR_END].concat()).map_err(failed)?;
            layer.finish().map_err(failed)
        };
        let written: Result<BlobWriter, Error> = write();
        let unpacked: io::Result<_> =
            unpack.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (written, unpacked)
    });
    let (blob, (_, diff_id, uncompressed_size)) = (written?, unpacked.map_err(failed)?);
    let (digest, size) = blob.commit()?;
    let digest = oci_spec::image::Digest::from_str(&digest.to_string())
        .map_err(|invalid| failed(io::Error::other(invalid)))?;
    Ok(Layer {
        descriptor: Descriptor::new(MediaType::ImageLayerGzip, size, digest),
        diff_id,
        uncompressed_size,
        created_by: created_by.to_owned(),
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
    packer: Packer,
    checksum: crc32fast::Hasher,
    size: u64,
}

impl Written {
    fn begin(mut out: BlobWriter, unpack: mpsc::SyncSender<Piece>) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        let (packer, checksum) = (Packer::new(), crc32fast::Hasher::new());
        Ok(Self { out, unpack, packer, checksum, size: 0 })
    }

    fn add(&mut self, crc32: u32, uncompressed: u64, packed: Vec<u8>) -> io::Result<()> {
        self.out.write_all(&packed)?;
        self.checksum.combine(&crc32fast::Hasher::new_with_initial_len(crc32, uncompressed));
        self.size += uncompressed;
        // If nobody listens any more, it failed there, which is said in the end.
        let _sent = self.unpack.send(Piece { packed, uncompressed });
        Ok(())
    }

    /// Adds what no earlier run compressed.
    fn add_tar(&mut self, tar: &[u8]) -> io::Result<()> {
        for piece in tar.chunks(CUT) {
            let packed = self.packer.pack(piece)?.to_vec();
            self.add(crc32fast::hash(piece), piece.len() as u64, packed)?;
        }
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

/// The tar that the pieces are, hashed.
struct Unpacked {
    decompressor: Decompressor,
    tar: Vec<u8>,
    hasher: DigestWriter<io::Sink>,
}

impl Unpacked {
    fn new() -> Self {
        let hasher = DigestWriter::new(io::sink());
        Self { decompressor: Decompressor::new(), tar: Vec::new(), hasher }
    }

    fn add(&mut self, piece: Piece) -> io::Result<()> {
        let Piece { mut packed, uncompressed } = piece;
        packed.extend_from_slice(&LAST_BLOCK);
        self.tar.resize(usize::try_from(uncompressed).map_err(io::Error::other)?, 0);
        let size = self
            .decompressor
            .deflate_decompress(&packed, &mut self.tar)
            .map_err(io::Error::other)?;
        self.hasher.write_all(&self.tar[..size])
    }
}
