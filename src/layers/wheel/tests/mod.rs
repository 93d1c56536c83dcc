//! Wheels made in memory, byte by byte: a well-meaning zip writer cannot write hostile archives.

use std::io::Write as _;
use std::str::FromStr as _;

use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::*;
use crate::layers::tree::Node;
use crate::python::record::Hash;

mod hostile;
mod installing;

/// An entry of a zip archive, with everything a lie needs.
#[derive(Clone, Debug)]
pub(super) struct ZipEntry {
    /// As the central directory has it.
    name: Vec<u8>,
    /// As the local header has it.
    local_name: Vec<u8>,
    data: Vec<u8>,
    mode: u32,
    flags: u16,
    deflate: bool,
    /// What both headers say the data's length is.
    declared: u32,
    /// Whether the central directory lists it.
    listed: bool,
}

impl ZipEntry {
    pub(super) fn new(name: &str, data: &[u8]) -> Self {
        Self {
            name: name.into(),
            local_name: name.into(),
            data: data.into(),
            mode: 0o100_644,
            flags: 0,
            deflate: false,
            declared: u32::try_from(data.len()).unwrap(),
            listed: true,
        }
    }
}

/// The archive of these entries.
pub(super) fn zip(entries: &[ZipEntry]) -> Vec<u8> {
    let (mut bytes, mut directory, mut listed) = (Vec::new(), Vec::new(), 0_u16);
    for entry in entries {
        let mut crc = flate2::Crc::new();
        crc.update(&entry.data);
        let stored = if entry.deflate {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(9));
            encoder.write_all(&entry.data).unwrap();
            encoder.finish().unwrap()
        } else {
            entry.data.clone()
        };
        let offset = u32::try_from(bytes.len()).unwrap();
        let mut common = Vec::new();
        common.extend(20_u16.to_le_bytes());
        common.extend(entry.flags.to_le_bytes());
        common.extend(if entry.deflate { 8_u16 } else { 0 }.to_le_bytes());
        common.extend([0, 0, 0x21, 0]); // 1980-01-01 00:00
        common.extend(crc.sum().to_le_bytes());
        common.extend(u32::try_from(stored.len()).unwrap().to_le_bytes());
        common.extend(entry.declared.to_le_bytes());
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&common);
        bytes.extend(u16::try_from(entry.local_name.len()).unwrap().to_le_bytes());
        bytes.extend(0_u16.to_le_bytes());
        bytes.extend(&entry.local_name);
        bytes.extend(&stored);
        if entry.listed {
            listed += 1;
            directory.extend(b"PK\x01\x02");
            directory.extend([20, 3]); // made on Unix
            directory.extend(&common);
            directory.extend(u16::try_from(entry.name.len()).unwrap().to_le_bytes());
            directory.extend([0; 8]); // no extra field, no comment, disk 0, binary
            directory.extend((entry.mode << 16).to_le_bytes());
            directory.extend(offset.to_le_bytes());
            directory.extend(&entry.name);
        }
    }
    let start = u32::try_from(bytes.len()).unwrap();
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend(listed.to_le_bytes());
    bytes.extend(listed.to_le_bytes());
    bytes.extend(u32::try_from(directory.len()).unwrap().to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// A wheel that can be changed before it is packed.
#[derive(Clone, Debug)]
pub(in crate::layers) struct Wheel {
    pub(in crate::layers) file: WheelFile,
    entries: Vec<ZipEntry>,
    /// Written as it is, instead of a true RECORD.
    record: Option<String>,
    /// `{name}-{version}`, as the wheel spells it.
    stem: String,
}

impl Wheel {
    /// `Demo_Pkg-1.0`, which holds one module.
    pub(super) fn demo() -> Self {
        Self::named("Demo_Pkg", "1.0").with("demo/__init__.py", b"x = 1\n")
    }

    /// Holds nothing but its `.dist-info`.
    pub(in crate::layers) fn named(name: &str, version: &str) -> Self {
        let metadata = format!(
            "Metadata-Version: 2.1\nName: {}\nVersion: {version}\n\nName: other\n",
            name.replace('_', "-")
        );
        Self {
            file: WheelFile {
                name: PackageName::from_str(name).unwrap(),
                version: Version::from_str(version).unwrap(),
                file_name: format!("{name}-{version}-py3-none-any.whl"),
                digest: Digest::of(b""),
                requested: false,
            },
            entries: vec![
                ZipEntry::new(
                    &format!("{name}-{version}.dist-info/METADATA"),
                    metadata.as_bytes(),
                ),
                ZipEntry::new(
                    &format!("{name}-{version}.dist-info/WHEEL"),
                    b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py2-none-any\nTag: py3-none-any\n",
                ),
            ],
            record: None,
            stem: format!("{name}-{version}"),
        }
    }

    /// With one more file, or another one of that name.
    pub(in crate::layers) fn with(mut self, name: &str, data: &[u8]) -> Self {
        self.entries.retain(|entry| entry.name != name.as_bytes());
        self.entries.push(ZipEntry::new(name, data));
        self
    }

    /// With the entry of that name changed.
    pub(super) fn but(mut self, name: &str, change: impl FnOnce(&mut ZipEntry)) -> Self {
        let mut named = self.entries.iter_mut();
        change(named.find(|entry| entry.name == name.as_bytes()).unwrap());
        self
    }

    /// Packed, with a RECORD over everything that is listed.
    pub(in crate::layers) fn pack(&self) -> Vec<u8> {
        let own = format!("{}.dist-info/RECORD", self.stem);
        let mut entries = self.entries.clone();
        let true_record = || {
            let mut record = format!("{own},,\n");
            for entry in entries.iter().filter(|entry| !entry.name.ends_with(b"/")) {
                let name = String::from_utf8_lossy(&entry.name);
                let row = format!("{name},{},{}\n", Hash::of(&entry.data), entry.data.len());
                record.push_str(&row);
            }
            record
        };
        let record = self.record.clone().unwrap_or_else(true_record);
        entries.push(ZipEntry::new(&own, record.as_bytes()));
        zip(&entries)
    }

    pub(super) fn install(&self, prune: &[Prune]) -> Result<(Tree, Installed), Error> {
        self.treated(&Treatment { prune: prune.to_vec(), ..Treatment::default() })
    }

    pub(super) fn treated(&self, treatment: &Treatment) -> Result<(Tree, Installed), Error> {
        install(&self.pack(), &self.file, &Scheme::for_base((3, 13)), treatment)
    }
}

/// An empty cache, and the folder it lies in for as long as it is used.
pub(super) fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

/// A file with these bytes, which has no name.
pub(super) fn on_disk(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Laid out and finished without bytecode.
pub(super) fn install(
    bytes: &[u8],
    wheel: &WheelFile,
    scheme: &Scheme,
    treatment: &Treatment,
) -> Result<(Tree, Installed), Error> {
    let (_folder, store) = store();
    lay_out(on_disk(bytes), wheel, scheme, treatment, (&store, 2))?.finish(&BTreeMap::new())
}
