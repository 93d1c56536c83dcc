//! What an ELF file asks of the system it is loaded on (pure).
//!
//! Read as a loader reads it: from the program headers and the dynamic section, not from section
//! headers, which may be stripped.

use std::collections::BTreeMap;

use object::endian::{Endianness, U32};
use object::read::elf::{
    Dyn as _, FileHeader, GnuHashTable, HashTable, ProgramHeader as _, Sym as _,
};
use object::read::{ReadRef, StringTable};
use object::{FileKind, elf};
use serde::{Deserialize, Serialize};

use super::names::Names;

/// The facts of one ELF file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elf {
    /// `e_machine`
    pub machine: u16,
    /// Whether its class is ELFCLASS64.
    pub wide: bool,
    /// Whether its data are little-endian.
    pub little: bool,
    /// `PT_INTERP`: the loader it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<String>,
    /// `DT_SONAME`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soname: Option<String>,
    /// `DT_NEEDED`, in the file's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needed: Vec<String>,
    /// The folders of `DT_RUNPATH` and `DT_RPATH`, with `$ORIGIN` as it is written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run_path: Vec<String>,
    /// Library → versions of its symbols that must be there, sorted; weak ones are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions_needed: BTreeMap<String, Vec<String>>,
    /// Versions of symbols that it has itself, in the file's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions_defined: Vec<String>,
    /// Dynamic symbols that others must have; weak ones are left out.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub undefined: Names,
    /// Dynamic symbols that it has for others; `None` if it has no table of them whose length is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exports: Option<Names>,
}

/// A file begins as ELF files do and cannot be read as one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(String);

/// No list of a real file is longer; a file's own numbers are claims.
const LONGEST_LIST: usize = 10_000;
/// The largest libraries have some 100,000 dynamic symbols.
const MOST_SYMBOLS: u32 = 1 << 22;

/// The facts of a file, of which only the tables are read; `None` if it does not begin with ELF's magic
/// number.
///
/// # Errors
/// It begins so and is not well-formed.
pub fn read<'a>(file: impl ReadRef<'a>) -> Result<Option<Elf>, Damaged> {
    if file.read_bytes_at(0, elf::ELFMAG.len() as u64) != Ok(&elf::ELFMAG) {
        return Ok(None);
    }
    let kind = FileKind::parse(file).map_err(|error| damaged(&error))?;
    match kind {
        FileKind::Elf32 => facts::<elf::FileHeader32<Endianness>, _>(file).map(Some),
        FileKind::Elf64 => facts::<elf::FileHeader64<Endianness>, _>(file).map(Some),
        _ => Err(Damaged("neither ELFCLASS32 nor ELFCLASS64".to_owned())),
    }
}

fn damaged(error: &object::read::Error) -> Damaged {
    Damaged(error.to_string())
}

fn facts<'a, H: FileHeader<Endian = Endianness>, R: ReadRef<'a>>(file: R) -> Result<Elf, Damaged> {
    let header = H::parse(file).map_err(|error| damaged(&error))?;
    let endian = header.endian().map_err(|error| damaged(&error))?;
    let mut found = Elf {
        machine: header.e_machine(endian).0,
        wide: header.is_class_64(),
        little: endian == Endianness::Little,
        ..Elf::default()
    };
    let segments = header.program_headers(endian, file).map_err(|error| damaged(&error))?;
    let image = Image::<H, R> { file, endian, segments };
    for segment in segments {
        if let Some(path) = segment.interpreter(endian, file).map_err(|error| damaged(&error))? {
            found.interpreter = Some(text(path)?);
        }
        if let Some(entries) = segment.dynamic(endian, file).map_err(|error| damaged(&error))? {
            image.read_dynamic(entries, &mut found)?;
        }
    }
    Ok(found)
}

/// A file as its loader sees it.
struct Image<'a, H: FileHeader, R: ReadRef<'a>> {
    file: R,
    endian: Endianness,
    segments: &'a [H::ProgramHeader],
}

impl<'a, H: FileHeader<Endian = Endianness>, R: ReadRef<'a>> Image<'a, H, R> {
    fn read_dynamic(&self, entries: &'a [H::Dyn], found: &mut Elf) -> Result<(), Damaged> {
        let entries: Vec<(elf::DynamicTag, u64)> = entries
            .iter()
            .map(|entry| (entry.d_tag(self.endian), entry.d_val(self.endian).into()))
            .take_while(|(tag, _)| *tag != elf::DT_NULL)
            .collect();
        let value = |wanted| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, v)| *v);
        let Some(strings) = value(elf::DT_STRTAB) else { return Ok(()) };
        let strings = self.from(strings)?;
        let size = value(elf::DT_STRSZ).unwrap_or(0);
        let strings = StringTable::new(strings, 0, size.min(strings.len() as u64));
        for (tag, at) in &entries {
            match *tag {
                elf::DT_NEEDED => found.needed.push(string(&strings, *at)?),
                elf::DT_SONAME => found.soname = Some(string(&strings, *at)?),
                elf::DT_RUNPATH | elf::DT_RPATH => {
                    let folders = string(&strings, *at)?;
                    let folders = folders.split(':').filter(|folder| !folder.is_empty());
                    found.run_path.extend(folders.map(str::to_owned));
                }
                _ => {}
            }
        }
        if let Some(at) = value(elf::DT_VERNEED) {
            found.versions_needed = self.versions_needed(self.offset(at)?, &strings)?;
        }
        if let Some(at) = value(elf::DT_VERDEF) {
            found.versions_defined = self.versions_defined(self.offset(at)?, &strings)?;
        }
        let length = match (value(elf::DT_HASH), value(elf::DT_GNU_HASH)) {
            (Some(at), _) => self.hash(at)?,
            (None, Some(at)) => self.gnu_hash(at)?,
            (None, None) => None,
        };
        if let (Some(at), Some(length)) = (value(elf::DT_SYMTAB), length) {
            self.read_symbols(self.offset(at)?, length, &strings, found)?;
        }
        Ok(())
    }

    /// The number of dynamic symbols by the table that every symbol is in.
    fn hash(&self, address: u64) -> Result<Option<u32>, Damaged> {
        let table = HashTable::<H>::parse(self.endian, self.from(address)?);
        Ok(table.ok().map(|table| table.symbol_table_length()))
    }

    /// The number of dynamic symbols by the table that all are in that others may use: these are the
    /// last, and where there are none the table says how many others there are.
    fn gnu_hash(&self, address: u64) -> Result<Option<u32>, Damaged> {
        let bytes = self.from(address)?;
        let Ok(table) = GnuHashTable::<H>::parse(self.endian, bytes) else { return Ok(None) };
        let others = || bytes.read_at::<U32<Endianness>>(4).ok().map(|n| n.get(self.endian));
        Ok(table.symbol_table_length(self.endian).or_else(others))
    }

    /// The bytes from an address on, as far as they are loaded with it.
    fn from(&self, address: u64) -> Result<&'a [u8], Damaged> {
        let (at, rest) = self.place(address)?;
        let rest = self.file.len().unwrap_or(0).saturating_sub(at).min(rest);
        Ok(self.file.read_bytes_at(at, rest).unwrap_or_default())
    }

    fn read_symbols(
        &self,
        at: u64,
        length: u32,
        strings: &StringTable<'a, &'a [u8]>,
        found: &mut Elf,
    ) -> Result<(), Damaged> {
        if length > MOST_SYMBOLS {
            return Err(Damaged(format!("it has {length} symbols")));
        }
        let symbols: &[H::Sym] = self
            .file
            .read_slice_at(at, usize::try_from(length).unwrap_or(usize::MAX))
            .map_err(|()| Damaged(format!("the symbol table leaves the file at {at:#x}")))?;
        let (mut undefined, mut exports) = (Vec::new(), Vec::new());
        // The first one means none.
        for symbol in symbols.iter().skip(1).filter(|symbol| !symbol.is_local()) {
            let hidden = matches!(symbol.st_visibility(), elf::STV_HIDDEN | elf::STV_INTERNAL);
            match (symbol.is_undefined(self.endian), symbol.is_weak() || hidden) {
                (true, true) => {}
                (true, false) => {
                    undefined.push(string(strings, symbol.st_name(self.endian).into())?);
                }
                (false, _) if hidden => {}
                (false, _) => exports.push(string(strings, symbol.st_name(self.endian).into())?),
            }
        }
        found.undefined = Names::of(undefined);
        found.exports = Some(Names::of(exports));
        Ok(())
    }

    /// An address as an offset into the file.
    fn offset(&self, address: u64) -> Result<u64, Damaged> {
        self.place(address).map(|(offset, _)| offset)
    }

    /// An address as an offset into the file, and how many bytes are loaded from there on.
    fn place(&self, address: u64) -> Result<(u64, u64), Damaged> {
        self.segments
            .iter()
            .filter(|segment| segment.p_type(self.endian) == elf::PT_LOAD)
            .find_map(|segment| {
                let start: u64 = segment.p_vaddr(self.endian).into();
                let size: u64 = segment.p_filesz(self.endian).into();
                let offset: u64 = segment.p_offset(self.endian).into();
                let within = address.checked_sub(start).filter(|within| *within < size)?;
                Some((offset.checked_add(within)?, size - within))
            })
            .ok_or_else(|| Damaged(format!("address {address:#x} lies in no segment")))
    }

    fn versions_needed(
        &self,
        mut at: u64,
        strings: &StringTable<'a, &'a [u8]>,
    ) -> Result<BTreeMap<String, Vec<String>>, Damaged> {
        let mut needed: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for _ in 0..LONGEST_LIST {
            let file: &elf::Verneed<Endianness> = self.at(at)?;
            let versions =
                needed.entry(string(strings, file.vn_file.get(self.endian).into())?).or_default();
            let mut auxiliary = self.step(at, file.vn_aux.get(self.endian))?;
            for _ in 0..file.vn_cnt.get(self.endian) {
                let version: &elf::Vernaux<Endianness> = self.at(auxiliary)?;
                if version.vna_flags.get(self.endian).0 & elf::VER_FLG_WEAK.0 == 0 {
                    versions.push(string(strings, version.vna_name.get(self.endian).into())?);
                }
                match version.vna_next.get(self.endian) {
                    0 => break,
                    next => auxiliary = self.step(auxiliary, next)?,
                }
            }
            versions.sort();
            match file.vn_next.get(self.endian) {
                0 => return Ok(needed),
                next => at = self.step(at, next)?,
            }
        }
        Err(Damaged("its list of needed versions has no end".to_owned()))
    }

    fn versions_defined(
        &self,
        mut at: u64,
        strings: &StringTable<'a, &'a [u8]>,
    ) -> Result<Vec<String>, Damaged> {
        let mut defined = Vec::new();
        for _ in 0..LONGEST_LIST {
            let version: &elf::Verdef<Endianness> = self.at(at)?;
            // The first auxiliary entry is the version's name, others are what it stands on.
            let name: &elf::Verdaux<Endianness> =
                self.at(self.step(at, version.vd_aux.get(self.endian))?)?;
            defined.push(string(strings, name.vda_name.get(self.endian).into())?);
            match version.vd_next.get(self.endian) {
                0 => return Ok(defined),
                next => at = self.step(at, next)?,
            }
        }
        Err(Damaged("its list of defined versions has no end".to_owned()))
    }

    fn at<T: object::pod::Pod>(&self, offset: u64) -> Result<&'a T, Damaged> {
        self.file
            .read_at(offset)
            .map_err(|()| Damaged(format!("a version table leaves the file at {offset:#x}")))
    }

    #[expect(clippy::unused_self, reason = "it reads like the other steps of the walk")]
    fn step(&self, at: u64, by: u32) -> Result<u64, Damaged> {
        at.checked_add(by.into()).ok_or_else(|| Damaged("a version table overflows".to_owned()))
    }
}

fn string<'a>(strings: &StringTable<'a, &'a [u8]>, at: u64) -> Result<String, Damaged> {
    let bytes = u32::try_from(at).ok().and_then(|at| strings.get(at).ok());
    text(bytes.ok_or_else(|| Damaged(format!("there is no string at {at:#x}")))?)
}

fn text(bytes: &[u8]) -> Result<String, Damaged> {
    String::from_utf8(bytes.to_vec())
        .map_err(|error| Damaged(format!("a name is not UTF-8: {:?}", error.as_bytes())))
}

#[cfg(test)]
mod tests {
    use std::io;

    use object::read::ReadCache;

    use super::*;
    use crate::gate::fixture::Object;

    #[test]
    fn what_a_file_asks_for() {
        let object = Object::of("x86_64")
            .needs("libc.so.6")
            .needs("libz.so.1")
            .version("libc.so.6", "GLIBC_2.2.5")
            .version("libc.so.6", "GLIBC_2.17")
            .runs_from("$ORIGIN/../x.libs:/opt/lib")
            .defines("X_1")
            .interpreter("/lib64/ld-linux-x86-64.so.2");
        let found = read(&*object.to_bytes()).unwrap().unwrap();
        assert_eq!((found.machine, found.wide, found.little), (62, true, true));
        assert_eq!(found.needed, ["libc.so.6", "libz.so.1"]);
        assert_eq!(found.run_path, ["$ORIGIN/../x.libs", "/opt/lib"]);
        assert_eq!(found.versions_needed["libc.so.6"], ["GLIBC_2.17", "GLIBC_2.2.5"]);
        assert_eq!(found.versions_defined, ["X_1"]);
        assert_eq!(found.interpreter.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!((found.undefined, found.exports), (Names::default(), None));
        assert_eq!(read(&b"#!/bin/sh\n"[..]).unwrap(), None);

        let object = Object::of("x86_64").uses("b").uses("a").exports("d").exports("c");
        let found = read(&*object.to_bytes()).unwrap().unwrap();
        assert!(found.undefined.iter().eq(["a", "b"]));
        assert!(found.exports.unwrap().iter().eq(["c", "d"]));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_end_of_the_program() {
        let whole = Object::of("aarch64")
            .needs("libc.so")
            .version("libc.so", "V_1")
            .defines("W")
            .uses("s")
            .exports("t")
            .to_bytes();
        assert!(read(&b"\x7fELF"[..]).is_err());
        for length in 4..whole.len() {
            // Only that it returns: what is cut off may be what nobody reads.
            let _outcome = read(&whole[..length]);
        }
        for at in 0..whole.len() {
            for value in [0, 0x7f, 0xff] {
                let mut broken = whole.clone();
                broken[at] = value;
                let _outcome = read(&*broken);
            }
        }
    }

    #[test]
    fn the_test_s_own_program_is_read() {
        let own = fs_err::read("/proc/self/exe").unwrap();
        let found = read(&*own).unwrap().unwrap();
        let in_pieces = ReadCache::new(io::Cursor::new(&own));
        assert_eq!(read(&in_pieces).unwrap().as_ref(), Some(&found));
        assert!(found.needed.iter().any(|name| name.starts_with("libc.")), "{found:?}");
        assert!(found.interpreter.is_some());
        assert!(found.undefined.iter().any(|name| name == "malloc"), "{:?}", found.undefined);
    }
}
