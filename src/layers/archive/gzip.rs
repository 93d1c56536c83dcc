//! Segments become one gzip member (RFC 1952): header, segments, CRC-32 and length.
//!
//! What layers have in common that differ only in what comes late is hashed once: another one copies it
//! and goes on from there.

use std::io::{self, Write};
use std::str::FromStr as _;
use std::sync::mpsc;
use std::thread;

use super::deflate::LAST_BLOCK;
use super::segment::Segment;
use super::{Compressed, Trust};
use crate::layers::kept::Begin;
use crate::layers::{Error, Layer};
use crate::oci::{Descriptor, MediaType};
use crate::store::{BlobWriter, Store};

/// No name, no time, no flags, neither the fastest nor the slowest; made on no particular system: the
/// defaults of encoders depend on the machine.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Bytes of a gzip member besides its segments.
const FRAME: u64 = (HEADER.len() + LAST_BLOCK.len() + 8) as u64;

/// Pieces that are on their way from being verified to being written.
const PIECES: usize = 2;

/// Puts a layer together: segments are read and verified on one thread, apart from those that `trust`
/// says, and hashed and written on another.
///
/// # Errors
/// The store cannot be written, or a segment is gone or damaged: then it is removed.
pub(in crate::layers) fn join(
    compressed: Compressed,
    created_by: &str,
    trust: Trust,
    store: &Store,
) -> Result<Layer, Error> {
    let failed = |source| Error::Write { path: store.root().to_owned(), source };
    let Compressed { parts, diff_id, uncompressed_size, begin } = compressed;
    let (sender, receiver) = mpsc::sync_channel::<(Segment, Vec<u8>)>(PIECES);
    let segments: Vec<Segment> = parts.segments().copied().collect();
    let size = segments.iter().map(|segment| segment.size).sum::<u64>() + FRAME;
    let (begun, rest) = segments.split_at(begin);
    let key = Begin::of_gzip(begun);
    let state = if trust == Trust::Begin { key.state(store)? } else { None };
    let (begun, rest) = if state.is_some() { (begun, rest) } else { (&[][..], &segments[..]) };
    let (read, written) = thread::scope(|scope| {
        let write = scope.spawn(|| {
            let blob = store.writer()?.reserve(size)?;
            let mut layer = match state {
                Some(state) => Written::resume(blob, begun, &state, store)?,
                None => Written::begin(blob).map_err(failed)?,
            };
            for (number, (segment, packed)) in receiver.into_iter().enumerate() {
                layer.add(&segment, &packed).map_err(failed)?;
                if number + 1 == begin && begun.is_empty() {
                    key.keep(&layer.out.state(), store)?;
                }
            }
            if layer.size != uncompressed_size {
                let problem = "the parts of the layer are not what was hashed";
                return Err(failed(io::Error::other(problem)));
            }
            layer.finish().map_err(failed)
        });
        let mut read = Ok(());
        // All that are damaged are found at once: what is made again for one is made for all.
        for segment in rest {
            match segment.read(store) {
                // If nobody listens any more, it failed there, which is said in the end.
                Ok(packed) if read.is_ok() => drop(sender.send((*segment, packed))),
                Ok(_) => {}
                Err(error) => read = read.and(Err(error)),
            }
        }
        drop(sender);
        (read, write.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    read?;
    let written: BlobWriter = written?;
    let (digest, size) = written.commit_unsynced()?;
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

/// The compressed side.
struct Written {
    out: BlobWriter,
    checksum: crc32fast::Hasher,
    size: u64,
}

impl Written {
    fn begin(mut out: BlobWriter) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        Ok(Self { out, checksum: crc32fast::Hasher::new(), size: 0 })
    }

    /// Behind the begin whose hash had this state.
    fn resume(
        out: BlobWriter,
        begin: &[Segment],
        state: &[u8],
        store: &Store,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Write { path: store.root().to_owned(), source };
        let mut layer = Self::begin(out).map_err(failed)?;
        for segment in begin {
            if !layer.out.append_unseen(&segment.digest, segment.size)? {
                return Err(Error::Segment { digest: segment.digest });
            }
            layer.count(segment);
        }
        if layer.out.set_state(state) {
            return Ok(layer);
        }
        Err(failed(io::Error::other("what is known of the begin of the layer is of another one")))
    }

    fn add(&mut self, segment: &Segment, packed: &[u8]) -> io::Result<()> {
        self.out.write_all(packed)?;
        self.count(segment);
        Ok(())
    }

    fn count(&mut self, segment: &Segment) {
        let Segment { crc32, uncompressed, .. } = *segment;
        self.checksum.combine(&crc32fast::Hasher::new_with_initial_len(crc32, uncompressed));
        self.size += uncompressed;
    }

    fn finish(mut self) -> io::Result<BlobWriter> {
        self.out.write_all(&LAST_BLOCK)?;
        self.out.write_all(&self.checksum.finalize().to_le_bytes())?;
        // RFC 1952: modulo 2^32.
        self.out.write_all(&self.size.to_le_bytes()[..4])?;
        Ok(self.out)
    }
}
