//! Recomputes everything an image says about itself: digests, sizes, `diff_id`s, history, media types
//! of one family, platforms. What comes in is a way to read blobs; what goes out is what was checked,
//! or everything that is wrong (not just the first thing).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read};

use base64::Engine as _;
use serde_json::{Map, Value};

use super::{Error, LAYERS_MAX, MANIFEST_MAX, config};
use crate::oci::decompress::decompress_as;
use crate::oci::digest::DigestWriter;
use crate::oci::{Descriptor, Digest, Platform, descriptor_digest, media_type};

/// How deep indexes may nest. Real ones do not; an endless chain is an attack.
const DEPTH_MAX: usize = 3;
/// How many documents one index may lead to. Indexes that name others many times over would make a
/// few kilobytes the work of years.
const DOCUMENTS_MAX: usize = 1000;

/// Where an image's blobs can be read.
pub trait Blobs {
    /// The blob's bytes from their start. The reader need not verify them.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is no such blob, or reading failed.
    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + '_>>;
}

impl Blobs for BTreeMap<Digest, Vec<u8>> {
    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + '_>> {
        match self.get(digest) {
            Some(bytes) => Ok(Box::new(bytes.as_slice())),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// What was checked and found right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Valid {
    /// Every image reached, in the order of the documents.
    pub images: Vec<ValidImage>,
    /// How many different blobs were read, documents included.
    pub blobs: usize,
    /// Their bytes, as stored.
    pub bytes: u64,
}

/// An image whose manifest, config and layers agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidImage {
    /// What its config says it runs on.
    pub platform: Platform,
    /// Of the manifest.
    pub digest: Digest,
    /// Of the config: the image ID.
    pub config_digest: Digest,
    /// Of the layers as stored, bottom first.
    pub layers: Vec<Digest>,
    /// Of the uncompressed layers, bottom first.
    pub diff_ids: Vec<Digest>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A blob that is named is not there.
    #[error("{what} is missing")]
    Absent {
        /// `layer sha256:…`
        what: String,
    },
    /// A blob cannot be read or decompressed.
    #[error("{what} cannot be read: {reason}")]
    Unreadable {
        /// `layer sha256:…`
        what: String,
        /// What the reader said.
        reason: String,
    },
    /// A blob has another length than its descriptor says.
    #[error("size mismatch of {what}: expected {expected}, found {found}")]
    Size {
        /// `layer sha256:…`
        what: String,
        /// Of the descriptor, in bytes.
        expected: u64,
        /// Bytes that came; reading stops at the first too many.
        found: u64,
    },
    /// A blob's bytes are not those its descriptor promises.
    #[error("digest mismatch of {what}: found {found}")]
    Digest {
        /// `layer sha256:…`
        what: String,
        /// Of the bytes that came.
        found: Digest,
    },
    /// A layer unpacks to something else than the config says.
    #[error("diff_id mismatch of {what}: expected {expected}, found {found}")]
    DiffId {
        /// `layer sha256:…`
        what: String,
        /// As the config has it.
        expected: String,
        /// Of the bytes that came.
        found: Digest,
    },
    /// A document contradicts itself, another one, or the specification.
    #[error("{what}: {reason}")]
    Document {
        /// `manifest sha256:…`
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Checks all images that `roots` (manifests or indexes) lead to; `what` names the whole in the error.
///
/// # Errors
/// [`Error::Invalid`] with everything that is wrong.
pub fn validate(what: &str, roots: &[Descriptor], blobs: &dyn Blobs) -> Result<Valid, Error> {
    let (valid, problems) = examine(roots, blobs);
    conclude(what, valid, problems)
}

/// [`Valid`] if there are no problems.
///
/// # Errors
/// [`Error::Invalid`] with `problems`.
pub fn conclude(what: &str, valid: Valid, problems: Vec<Problem>) -> Result<Valid, Error> {
    if problems.is_empty() {
        Ok(valid)
    } else {
        Err(Error::Invalid { what: what.to_owned(), problems })
    }
}

/// As [`validate`], for callers who have problems of their own to add.
pub fn examine(roots: &[Descriptor], blobs: &dyn Blobs) -> (Valid, Vec<Problem>) {
    let mut examination = Examination {
        blobs,
        valid: Valid::default(),
        problems: Vec::new(),
        read: BTreeSet::new(),
        diff_ids: BTreeMap::new(),
        documents: 0,
    };
    for root in roots {
        examination.documents = 0;
        examination.document(root, 0);
    }
    (examination.valid, examination.problems)
}

struct Examination<'a> {
    blobs: &'a dyn Blobs,
    valid: Valid,
    problems: Vec<Problem>,
    /// Blobs counted so far.
    read: BTreeSet<Digest>,
    /// What layers unpack to; `None` if they do not.
    diff_ids: BTreeMap<(Digest, &'static str), Option<Digest>>,
    /// Documents that the root led to so far.
    documents: usize,
}

/// A family of media types: one manifest must not mix them (they mean the same, but readers differ).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Oci,
    Docker,
}

impl Examination<'_> {
    fn wrong(&mut self, what: &str, reason: impl Into<String>) {
        self.problems.push(Problem::Document { what: what.to_owned(), reason: reason.into() });
    }

    /// A manifest or index.
    fn document(&mut self, descriptor: &Descriptor, depth: usize) {
        let media_type = descriptor.media_type().to_string();
        let (noun, family) = match media_type.as_str() {
            media_type::OCI_MANIFEST => ("manifest", Family::Oci),
            media_type::DOCKER_MANIFEST => ("manifest", Family::Docker),
            media_type::OCI_INDEX | media_type::DOCKER_MANIFEST_LIST => ("index", Family::Oci),
            _ => {
                let what = format!("descriptor of {}", descriptor.digest());
                return self.wrong(&what, format!("unknown media type `{media_type}`"));
            }
        };
        let what = format!("{noun} {}", descriptor.digest());
        let Some((digest, document)) = self.json(descriptor, &what) else {
            return;
        };
        // Content-addressed bytes mean one thing only (CVE-2021-41190): the type in the body, if
        // any, is the descriptor's, and it is not both an index and a manifest.
        if let Some(found) = document.get("mediaType")
            && found.as_str() != Some(&media_type)
        {
            self.wrong(&what, format!("media type is {found}, not `{media_type}`"));
        }
        if document.get("schemaVersion") != Some(&Value::from(2)) {
            self.wrong(&what, "schemaVersion is not 2");
        }
        let other = match noun {
            "index" => "layers",
            _ => "manifests",
        };
        if document.contains_key(other) {
            return self.wrong(&what, format!("it has `{other}`, so its type is ambiguous"));
        }
        if noun == "index" {
            self.index(&document, &what, depth);
        } else {
            self.manifest(descriptor, digest, &document, &what, family);
        }
    }

    fn index(&mut self, document: &Map<String, Value>, what: &str, depth: usize) {
        if depth >= DEPTH_MAX {
            return self.wrong(what, "indexes are nested too deep");
        }
        let Some(manifests) = self.descriptors(document, "manifests", what) else {
            return;
        };
        for manifest in &manifests {
            self.documents += 1;
            if self.documents > DOCUMENTS_MAX {
                let reason = format!("it leads to more than {DOCUMENTS_MAX} documents");
                return self.wrong(what, reason);
            }
            let is_attestation = manifest
                .annotations()
                .as_ref()
                .is_some_and(|map| map.contains_key(media_type::DOCKER_REFERENCE_TYPE));
            if is_attestation {
                let what = format!("attestation {}", manifest.digest());
                self.bytes(manifest, &what);
            } else {
                self.document(manifest, depth + 1);
            }
        }
    }

    fn manifest(
        &mut self,
        descriptor: &Descriptor,
        digest: Digest,
        document: &Map<String, Value>,
        what: &str,
        family: Family,
    ) {
        let Some(layers) = self.descriptors(document, "layers", what) else {
            return;
        };
        if layers.len() > LAYERS_MAX {
            self.wrong(what, format!("more than {LAYERS_MAX} layers"));
        }
        let config = document.get("config").cloned().map(serde_json::from_value::<Descriptor>);
        let config = match config {
            Some(Ok(config)) => config,
            Some(Err(error)) => return self.wrong(what, format!("`config`: {error}")),
            None => return self.wrong(what, "it has no `config`"),
        };
        let expected = match family {
            Family::Oci => media_type::OCI_CONFIG,
            Family::Docker => media_type::DOCKER_CONFIG,
        };
        if config.media_type().as_ref() != expected {
            self.wrong(what, format!("its config is `{}`, not `{expected}`", config.media_type()));
        }
        for layer in &layers {
            let (oci, docker) = compression_of(layer).1;
            if !(if family == Family::Oci { oci } else { docker }) {
                self.wrong(
                    what,
                    format!(
                        "layer {} is `{}`, which does not belong in a `{}`",
                        layer.digest(),
                        layer.media_type(),
                        descriptor.media_type(),
                    ),
                );
            }
        }
        let diff_ids: Vec<_> = layers.iter().map(|layer| self.layer(layer)).collect();

        let config_what = format!("config {}", config.digest());
        let Some((config_digest, config)) = self.json(&config, &config_what) else {
            return;
        };
        self.config(&config, &config_what, &layers, &diff_ids);
        match config::platform(&config) {
            Ok(platform) => {
                self.check_platform(descriptor, &platform, what);
                let layers: Result<Vec<_>, _> = layers.iter().map(descriptor_digest).collect();
                if let (Ok(layers), Some(diff_ids)) = (layers, diff_ids.into_iter().collect()) {
                    self.valid.images.push(ValidImage {
                        platform,
                        digest,
                        config_digest,
                        layers,
                        diff_ids,
                    });
                }
            }
            Err(field) => self.wrong(&config_what, format!("`{field}` is not a string")),
        }
    }

    fn config(
        &mut self,
        config: &Map<String, Value>,
        what: &str,
        layers: &[Descriptor],
        found: &[Option<Digest>],
    ) {
        let rootfs = config.get("rootfs").unwrap_or(&Value::Null);
        if rootfs["type"] != "layers" {
            self.wrong(what, "rootfs.type is not `layers`");
        }
        let none = Vec::new();
        let expected = rootfs["diff_ids"].as_array().unwrap_or(&none);
        if expected.len() != layers.len() {
            self.wrong(what, format!("{} diff_ids for {} layers", expected.len(), layers.len()));
        }
        for ((layer, expected), found) in layers.iter().zip(expected).zip(found) {
            let expected = expected.as_str().unwrap_or_default();
            if let Some(found) = *found
                && found.to_string() != expected
            {
                self.problems.push(Problem::DiffId {
                    what: format!("layer {}", layer.digest()),
                    expected: expected.to_owned(),
                    found,
                });
            }
        }
        // History is OPTIONAL, but if it is there it must be in step.
        match config.get("history") {
            None | Some(Value::Null) => {}
            Some(Value::Array(history)) => {
                let entries = config::entries_with_layer(history);
                if !history.is_empty() && entries != layers.len() {
                    self.wrong(
                        what,
                        format!(
                            "{entries} history entries with a layer for {} layers",
                            layers.len()
                        ),
                    );
                }
            }
            Some(_) => self.wrong(what, "history is not an array"),
        }
    }

    fn check_platform(&mut self, descriptor: &Descriptor, platform: &Platform, what: &str) {
        let Some(named) = descriptor.platform() else {
            return;
        };
        let named = Platform {
            os: named.os().to_string(),
            architecture: named.architecture().to_string(),
            variant: named.variant().clone(),
        };
        let mut found = platform.clone();
        if found.variant.is_none() {
            found.variant.clone_from(&named.variant);
        }
        if !found.matches(&named) {
            self.wrong(
                what,
                format!("its descriptor is for {named}, but its config for {platform}"),
            );
        }
    }

    fn descriptors(
        &mut self,
        document: &Map<String, Value>,
        key: &str,
        what: &str,
    ) -> Option<Vec<Descriptor>> {
        let Some(value) = document.get(key) else {
            self.wrong(what, format!("it has no `{key}`"));
            return None;
        };
        serde_json::from_value(value.clone())
            .map_err(|error| self.wrong(what, format!("`{key}`: {error}")))
            .ok()
    }

    /// A verified JSON object and its digest.
    fn json(
        &mut self,
        descriptor: &Descriptor,
        what: &str,
    ) -> Option<(Digest, Map<String, Value>)> {
        let (digest, bytes) = self.bytes(descriptor, what)?;
        match serde_json::from_slice(&bytes) {
            Ok(object) => Some((digest, object)),
            Err(error) => {
                self.wrong(what, error.to_string());
                None
            }
        }
    }

    /// A verified document's bytes.
    fn bytes(&mut self, descriptor: &Descriptor, what: &str) -> Option<(Digest, Vec<u8>)> {
        let digest = self.digest(descriptor, what)?;
        if descriptor.size() > MANIFEST_MAX as u64 {
            self.wrong(what, format!("larger than {MANIFEST_MAX} bytes"));
            return None;
        }
        let mut bytes = Vec::new();
        let mut reader = self.open(&digest, descriptor, what)?;
        let copied = io::copy(&mut reader, &mut bytes);
        let (found, size) = reader.finish();
        if let Err(error) = copied {
            self.unreadable(what, &error);
            return None;
        }
        let stored = self.compare(descriptor, &digest, what, found, size);
        if let Some(data) = descriptor.data()
            && base64::engine::general_purpose::STANDARD.decode(data).ok().as_ref() != Some(&bytes)
        {
            self.wrong(what, "the copy embedded in its descriptor is another one");
        }
        stored.then_some((digest, bytes))
    }

    /// What a layer's tar has as its digest, where the layer itself is right.
    fn layer(&mut self, descriptor: &Descriptor) -> Option<Digest> {
        let what = format!("layer {}", descriptor.digest());
        let digest = self.digest(descriptor, &what)?;
        let (compression, _) = compression_of(descriptor);
        if let Some(&known) = self.diff_ids.get(&(digest, compression)) {
            return known;
        }
        let mut reader = self.open(&digest, descriptor, &what)?;
        let mut tar = DigestWriter::new(io::sink());
        let unpacked =
            io::copy(&mut decompress_as(compression, BufReader::new(&mut reader)), &mut tar);
        // What follows the compressed stream belongs to the blob too.
        let drained = io::copy(&mut reader, &mut io::sink());
        let (found, size) = reader.finish();
        let stored = match drained {
            Ok(_) => self.compare(descriptor, &digest, &what, found, size),
            Err(error) => {
                self.unreadable(&what, &error);
                false
            }
        };
        let diff_id = match unpacked {
            Ok(_) => stored.then(|| tar.finish().1),
            // A wrong digest says it all.
            Err(_) if !stored => None,
            Err(error) => {
                self.unreadable(&what, &error);
                None
            }
        };
        self.diff_ids.insert((digest, compression), diff_id);
        diff_id
    }

    fn digest(&mut self, descriptor: &Descriptor, what: &str) -> Option<Digest> {
        descriptor_digest(descriptor).map_err(|error| self.wrong(what, error.to_string())).ok()
    }

    fn open(
        &mut self,
        digest: &Digest,
        descriptor: &Descriptor,
        what: &str,
    ) -> Option<HashingReader<'_>> {
        // One byte more than promised is enough to see that there is more.
        let limit = descriptor.size().saturating_add(1);
        match self.blobs.open(digest) {
            Ok(reader) => Some(HashingReader {
                inner: reader.take(limit),
                hasher: DigestWriter::new(io::sink()),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.problems.push(Problem::Absent { what: what.to_owned() });
                None
            }
            Err(error) => {
                self.unreadable(what, &error);
                None
            }
        }
    }

    fn compare(
        &mut self,
        descriptor: &Descriptor,
        digest: &Digest,
        what: &str,
        found: Digest,
        size: u64,
    ) -> bool {
        if self.read.insert(*digest) {
            self.valid.blobs += 1;
            self.valid.bytes += size;
        }
        let what = what.to_owned();
        if size != descriptor.size() {
            self.problems.push(Problem::Size { what, expected: descriptor.size(), found: size });
            return false;
        }
        if found != *digest {
            self.problems.push(Problem::Digest { what, found });
            return false;
        }
        true
    }

    fn unreadable(&mut self, what: &str, error: &io::Error) {
        self.problems
            .push(Problem::Unreadable { what: what.to_owned(), reason: error.to_string() });
    }
}

/// Hashes and counts what is read.
struct HashingReader<'a> {
    inner: io::Take<Box<dyn Read + 'a>>,
    hasher: DigestWriter<io::Sink>,
}

impl HashingReader<'_> {
    fn finish(self) -> (Digest, u64) {
        let (_, digest, size) = self.hasher.finish();
        (digest, size)
    }
}

impl Read for HashingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        io::Write::write_all(&mut self.hasher, &buffer[..read])?;
        Ok(read)
    }
}

/// How a layer is compressed, and whether its type belongs to OCI's family and to Docker's.
fn compression_of(layer: &Descriptor) -> (&'static str, (bool, bool)) {
    match layer.media_type().as_ref() {
        media_type::OCI_LAYER_TAR => ("", (true, false)),
        media_type::OCI_LAYER_GZIP => ("gzip", (true, false)),
        media_type::OCI_LAYER_ZSTD => ("zstd", (true, false)),
        media_type::DOCKER_LAYER_TAR => ("", (false, true)),
        media_type::DOCKER_LAYER_GZIP => ("gzip", (false, true)),
        media_type::DOCKER_LAYER_ZSTD => ("zstd", (false, true)),
        _ => ("", (false, false)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture;
    use super::*;

    type Store = BTreeMap<Digest, Vec<u8>>;

    fn texts(roots: &[Descriptor], blobs: &Store) -> Vec<String> {
        let (_, problems) = examine(roots, blobs);
        problems.iter().map(ToString::to_string).collect()
    }

    /// Rebuilds the fixture's manifest and config as `edit` leaves them; returns the problems with
    /// the digests cut out.
    fn problems_after(edit: impl Fn(&mut Value, &mut Value)) -> Vec<String> {
        let (image, mut blobs) = fixture::image("linux/amd64");
        let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
        let mut config: Value = serde_json::from_slice(&image.config).unwrap();
        edit(&mut manifest, &mut config);
        let config = serde_json::to_vec(&config).unwrap();
        if manifest["config"].is_object() {
            manifest["config"]["digest"] = json!(Digest::of(&config));
            manifest["config"]["size"] = json!(config.len());
        }
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let root = serde_json::from_value(json!({
            "mediaType": media_type::OCI_MANIFEST,
            "digest": Digest::of(&manifest), "size": manifest.len(),
            "platform": {"os": "linux", "architecture": "amd64"},
        }))
        .unwrap();
        for bytes in [config, manifest] {
            blobs.insert(Digest::of(&bytes), bytes);
        }
        texts(&[root], &blobs)
            .into_iter()
            .map(|text| {
                let mut cut = String::new();
                let mut rest = text.as_str();
                while let Some(at) = rest.find("sha256:") {
                    cut.push_str(&rest[..at]);
                    cut.push('#');
                    rest = &rest[at + 71..];
                }
                cut + rest
            })
            .collect()
    }

    #[test]
    fn every_blob_is_read_to_its_last_byte() {
        let (image, blobs) = fixture::image("linux/amd64");
        let roots = [image.descriptor.clone()];
        assert_eq!(texts(&roots, &blobs), Vec::<String>::new());
        for digest in blobs.keys() {
            let mut absent = blobs.clone();
            absent.remove(digest);
            let found = texts(&roots, &absent);
            assert!(
                found.len() == 1 && found[0].ends_with(&format!("{digest} is missing")),
                "{found:?}"
            );

            let mut flipped = blobs.clone();
            let bytes = flipped.get_mut(digest).unwrap();
            // The last byte of a gzip stream is of its length: decompressing fails as well, but the
            // digest is what is reported.
            *bytes.last_mut().unwrap() ^= 1;
            let found = texts(&roots, &flipped);
            assert!(found.len() == 1 && found[0].starts_with("digest mismatch of "), "{found:?}");

            for change in [
                |bytes: &mut Vec<u8>| bytes.push(b'x'),
                |bytes: &mut Vec<u8>| {
                    bytes.pop();
                },
            ] {
                let mut resized = blobs.clone();
                change(resized.get_mut(digest).unwrap());
                let found = texts(&roots, &resized);
                assert!(found.len() == 1 && found[0].starts_with("size mismatch of "), "{found:?}");
            }
        }
    }

    #[test]
    fn contradictions() {
        let (image, _) = fixture::image("linux/amd64");
        let oci = image.layers[1].diff_id;
        for (edit, expected) in [
            (
                Box::new(|m: &mut Value, _: &mut Value| m["manifests"] = json!([]))
                    as Box<dyn Fn(&mut Value, &mut Value)>,
                "manifest #: it has `manifests`, so its type is ambiguous",
            ),
            (
                Box::new(|m, _| m["mediaType"] = json!(media_type::DOCKER_MANIFEST)),
                "manifest #: media type is \"application/vnd.docker.distribution.manifest.v2+json\", not `application/vnd.oci.image.manifest.v1+json`",
            ),
            (Box::new(|m, _| m["schemaVersion"] = json!(1)), "manifest #: schemaVersion is not 2"),
            (
                Box::new(|m, _| m["config"]["mediaType"] = json!(media_type::DOCKER_CONFIG)),
                "manifest #: its config is `application/vnd.docker.container.image.v1+json`, not `application/vnd.oci.image.config.v1+json`",
            ),
            (
                Box::new(|m, _| m["config"]["data"] = json!("e30=")),
                "config #: the copy embedded in its descriptor is another one",
            ),
            (
                Box::new(|m, _| m["layers"][0]["mediaType"] = json!(media_type::DOCKER_LAYER_GZIP)),
                "manifest #: layer # is `application/vnd.docker.image.rootfs.diff.tar.gzip`, which does not belong in a `application/vnd.oci.image.manifest.v1+json`",
            ),
            (
                Box::new(|_, c| c["rootfs"]["type"] = json!(null)),
                "config #: rootfs.type is not `layers`",
            ),
            (
                Box::new(|_, c| {
                    c["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
                }),
                "config #: 1 diff_ids for 2 layers",
            ),
            (
                Box::new(move |_, c| c["rootfs"]["diff_ids"][0] = json!(oci)),
                "diff_id mismatch of layer #: expected #, found #",
            ),
            (
                Box::new(|_, c| {
                    c["history"].as_array_mut().unwrap().pop();
                }),
                "config #: 1 history entries with a layer for 2 layers",
            ),
            (
                Box::new(|_, c| c["architecture"] = json!("arm64")),
                "manifest #: its descriptor is for linux/amd64, but its config for linux/arm64",
            ),
            (Box::new(|_, c| c["os"] = json!(null)), "config #: `os` is not a string"),
        ] {
            assert_eq!(problems_after(edit), [expected]);
        }
        assert!(problems_after(|_, config| config["history"] = json!(null)).is_empty());
    }

    #[test]
    fn indexes_do_not_nest_for_ever() {
        let mut blobs = Store::new();
        let mut root =
            json!({"mediaType": media_type::OCI_MANIFEST, "size": 0, "digest": Digest::of(b"")});
        for _ in 0..=DEPTH_MAX {
            let bytes = serde_json::to_vec(&json!({
                "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [root],
            }))
            .unwrap();
            root = json!({
                "mediaType": media_type::OCI_INDEX, "size": bytes.len(), "digest": Digest::of(&bytes),
            });
            blobs.insert(Digest::of(&bytes), bytes);
        }
        let found = texts(&[serde_json::from_value(root).unwrap()], &blobs);
        assert!(found.len() == 1 && found[0].ends_with("nested too deep"), "{found:?}");

        // Each names the one below it four hundred times: that is 64 million manifests.
        let mut root =
            json!({"mediaType": media_type::OCI_MANIFEST, "size": 0, "digest": Digest::of(b"")});
        for _ in 0..DEPTH_MAX {
            let bytes = serde_json::to_vec(&json!({
                "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
                "manifests": vec![root; 400],
            }))
            .unwrap();
            root = json!({
                "mediaType": media_type::OCI_INDEX, "size": bytes.len(), "digest": Digest::of(&bytes),
            });
            blobs.insert(Digest::of(&bytes), bytes);
        }
        let found = texts(&[serde_json::from_value(root).unwrap()], &blobs);
        assert!(found.iter().any(|one| one.ends_with("leads to more than 1000 documents")));
    }
}
