//! Shared objects without what only debuggers and linkers read (pure).
//!
//! What a loader maps stays as it is, byte for byte, but for the header fields that say where things
//! lie in the file. That is less than other strippers do, and safe where they are not: libraries
//! whose `RPATH` was changed by the tools that repair wheels have their segments out of order.
//!
//! - A section goes if no segment holds it and it is a symbol table, its strings, or debug information.
//! - Its header becomes `SHT_NULL`, "inactive" (gABI, *Sections*): no section gets another number,
//!   so nothing that names sections by number has to change.
//! - What remains moves up by whole pages, so that every segment's offset stays congruent to its
//!   address (gABI, *Program Header*, `p_align`).

use object::Endianness;
use object::elf::{
    ET_DYN, FileHeader64, PT_LOAD, ProgramHeader64, SHF_ALLOC, SHT_NOBITS, SHT_NULL, SHT_SYMTAB,
    SectionHeader64,
};
use object::pod::{bytes_of, bytes_of_slice};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};

use crate::room;

type Header = FileHeader64<Endianness>;
type Segment = ProgramHeader64<Endianness>;
type Section = SectionHeader64<Endianness>;

/// Sections that only debuggers read, by the beginning of their names.
const DEBUG: [&[u8]; 3] = [b".debug_", b".zdebug_", b".gdb_index"];

/// Pages are at least this large everywhere.
const PAGE: u64 = 0x1000;

/// The shared object without debug information and symbol table; `None` if it is none, or has
/// nothing of this, or is laid out in a way that is not understood: then it stays as it is.
pub(super) fn strip(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = Header::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    if header.e_type(endian) != ET_DYN {
        return None;
    }
    let segments = header.program_headers(endian, bytes).ok()?;
    let sections = header.sections(endian, bytes).ok()?;
    let names: Vec<&[u8]> = sections
        .iter()
        .map(|section| sections.section_name(endian, section).ok())
        .collect::<Option<_>>()?;
    let headers: Vec<Section> = sections.iter().copied().collect();
    let goes = doomed(&headers, &names, endian);
    if !goes.contains(&true) {
        return None;
    }

    // What has to stay where it is, relative to pages: everything that is mapped.
    let mut mapped = vec![(0, u64::from(header.e_ehsize(endian)))];
    let segment_headers = segments.len().checked_mul(size_of::<Segment>())?;
    mapped.push(range(header.e_phoff(endian), u64::try_from(segment_headers).ok()?)?);
    for segment in segments {
        mapped.push(range(segment.p_offset(endian), segment.p_filesz(endian))?);
    }
    for section in headers.iter().filter(|section| is_loaded(section, endian)) {
        mapped.push(section.file_range(endian).and_then(|(start, size)| range(start, size))?);
    }
    let step = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == PT_LOAD)
        .map(|segment| segment.p_align(endian))
        .fold(PAGE, u64::max);
    if !step.is_power_of_two() {
        return None;
    }
    let pieces = merged(mapped, step);

    let mut out = room::vec(bytes.len());
    let mut places = Vec::new();
    for (start, end) in pieces {
        // The first place that is free and at the same distance from a page's begin.
        let end_of_out = out.len() as u64;
        let mut place = end_of_out - end_of_out % step + start % step;
        if place < end_of_out {
            place = place.checked_add(step)?;
        }
        out.resize(usize::try_from(place).ok()?, 0);
        out.extend_from_slice(bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)?);
        places.push((start, end, place));
    }
    let moved = |offset: u64| {
        let (start, _, place) =
            places.iter().find(|(start, end, _)| (*start..=*end).contains(&offset))?;
        place.checked_add(offset - start)
    };

    let mut new_sections = headers;
    for (position, section) in new_sections.iter_mut().enumerate() {
        if goes[position] {
            *section = Section { sh_type: object::U32::new(endian, SHT_NULL), ..empty(endian) };
        } else if section.sh_type(endian) == SHT_NOBITS {
            // It has no bytes: where they would be is only a hint.
            let offset = moved(section.sh_offset(endian)).unwrap_or(0);
            section.sh_offset.set(endian, offset);
        } else if is_loaded(section, endian) {
            let offset = moved(section.sh_offset(endian))?;
            section.sh_offset.set(endian, offset);
        } else if section.sh_type(endian) != SHT_NULL {
            let data = section.data(endian, bytes).ok()?;
            align(&mut out, section.sh_addralign(endian))?;
            section.sh_offset.set(endian, out.len() as u64);
            out.extend_from_slice(data);
        }
    }
    while new_sections.last().is_some_and(|section| section.sh_type(endian) == SHT_NULL) {
        new_sections.pop();
    }
    align(&mut out, 8)?;
    let mut new_header = *header;
    new_header.e_shoff.set(endian, out.len() as u64);
    // From 0xff00 on the number would stand elsewhere (gABI, *ELF Header*).
    let count = u16::try_from(new_sections.len()).ok().filter(|count| *count < 0xff00)?;
    new_header.e_shnum.set(endian, count);
    out.extend_from_slice(bytes_of_slice(&new_sections));

    let mut new_segments = segments.to_vec();
    for segment in &mut new_segments {
        let offset = moved(segment.p_offset(endian))?;
        segment.p_offset.set(endian, offset);
    }
    let place = usize::try_from(moved(header.e_phoff(endian))?).ok()?;
    new_header.e_phoff.set(endian, place as u64);
    overwrite(&mut out, place, bytes_of_slice(&new_segments))?;
    overwrite(&mut out, 0, bytes_of(&new_header))?;
    (out.len() < bytes.len() && is_same_in_memory(bytes, &out)).then_some(out)
}

/// Which sections go: symbol tables, their strings, debug information.
fn doomed(headers: &[Section], names: &[&[u8]], endian: Endianness) -> Vec<bool> {
    let strings: Vec<u32> = headers
        .iter()
        .filter(|section| section.sh_type(endian) == SHT_SYMTAB && !is_loaded(section, endian))
        .map(|section| section.sh_link(endian))
        .collect();
    headers
        .iter()
        .zip(names)
        .enumerate()
        .map(|(position, (section, name))| {
            !is_loaded(section, endian)
                && section.sh_type(endian) != SHT_NULL
                // One table may hold the sections' own names as well.
                && *name != b".shstrtab"
                && (section.sh_type(endian) == SHT_SYMTAB
                    || strings.iter().any(|link| *link as usize == position)
                    || DEBUG.iter().any(|prefix| name.starts_with(prefix)))
        })
        .collect()
}

/// Whether the section takes part in the program, and so lies in a segment.
fn is_loaded(section: &Section, endian: Endianness) -> bool {
    section.sh_flags(endian).contains(SHF_ALLOC) && section.sh_type(endian) != SHT_NOBITS
}

fn empty(endian: Endianness) -> Section {
    let (word, long) = (object::U32::new(endian, 0), object::U64::new(endian, 0));
    Section {
        sh_name: word,
        sh_type: object::U32::new(endian, SHT_NULL),
        sh_flags: object::U64::new(endian, object::elf::SectionFlags(0)),
        sh_addr: long,
        sh_offset: long,
        sh_size: long,
        sh_link: word,
        sh_info: word,
        sh_addralign: long,
        sh_entsize: long,
    }
}

/// `[start, start + size)`
fn range(start: u64, size: u64) -> Option<(u64, u64)> {
    Some((start, start.checked_add(size)?))
}

/// The ranges in their order, with those that overlap or are less than `step` apart as one.
fn merged(mut ranges: Vec<(u64, u64)>, step: u64) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match pieces.last_mut() {
            Some((_, last)) if start <= last.saturating_add(step) => *last = end.max(*last),
            _ => pieces.push((start, end)),
        }
    }
    pieces
}

fn align(out: &mut Vec<u8>, alignment: u64) -> Option<()> {
    let alignment = usize::try_from(alignment).ok()?.max(1);
    // A section asks for a few bytes; more is no alignment but an attack on memory.
    if alignment > 0x1_0000 {
        return None;
    }
    out.resize(out.len().checked_next_multiple_of(alignment)?, 0);
    Some(())
}

fn overwrite(out: &mut [u8], place: usize, bytes: &[u8]) -> Option<()> {
    out.get_mut(place..place.checked_add(bytes.len())?)?.copy_from_slice(bytes);
    Some(())
}

/// Whether a loader makes the same memory of both: the same segments with the same bytes at the same
/// addresses, apart from the file's header and the segments' table themselves.
fn is_same_in_memory(old: &[u8], new: &[u8]) -> bool {
    /// A segment without where it lies in the file, and its bytes before, between and behind the tables.
    type Loaded<'a> = (Segment, Vec<(usize, &'a [u8])>);

    fn loaded(bytes: &[u8]) -> Option<Vec<Loaded<'_>>> {
        let header = Header::parse(bytes).ok()?;
        let endian = header.endian().ok()?;
        let segments = header.program_headers(endian, bytes).ok()?;
        let table = range(header.e_phoff(endian), size_of_val(segments) as u64)?;
        let mut loaded = Vec::new();
        for segment in segments {
            let offset = segment.p_offset(endian);
            if segment.p_type(endian) == PT_LOAD
                && segment.p_align(endian) > 1
                && offset % segment.p_align(endian)
                    != segment.p_vaddr(endian) % segment.p_align(endian)
            {
                return None;
            }
            let data = segment.data(endian, bytes).ok()?;
            let place = |of: u64| {
                usize::try_from(of.saturating_sub(offset)).map_or(data.len(), |n| n.min(data.len()))
            };
            let (mut pieces, mut done) = (Vec::new(), 0);
            for (start, end) in merged(vec![(0, size_of::<Header>() as u64), table], 0) {
                pieces.push((done, &data[done..place(start)]));
                done = place(end);
            }
            pieces.push((done, &data[done..]));
            let mut plain = *segment;
            plain.p_offset.set(endian, 0);
            loaded.push((plain, pieces));
        }
        Some(loaded)
    }
    let (Some(old), Some(new)) = (loaded(old), loaded(new)) else { return false };
    old.len() == new.len()
        && old.iter().zip(&new).all(|((left, left_pieces), (right, right_pieces))| {
            bytes_of(left) == bytes_of(right) && left_pieces == right_pieces
        })
}

#[cfg(test)]
mod tests {
    use object::elf::{
        EM_X86_64, Ident, PF_R, PT_DYNAMIC, SHT_DYNSYM, SHT_PROGBITS, SHT_STRTAB, SectionFlags,
        SectionType, SymbolSection,
    };
    use object::{U16, U32, U64};

    use super::*;

    const ENDIAN: Endianness = Endianness::Little;

    /// A section to be written: name, type, whether it is loaded, offset, size.
    type Row = (&'static str, SectionType, bool, u64, u64);

    /// A shared object of `length` bytes that count up, with these segments (offset, size, address)
    /// and these sections; the names and headers of sections lie behind it.
    fn library(length: u64, loads: &[(u64, u64, u64)], rows: &[Row]) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..length).map(|number| u8::try_from(number % 251).unwrap()).collect();
        let (mut names, mut sections) = (vec![0], vec![empty(ENDIAN)]);
        let names_row = (".shstrtab", SHT_STRTAB, false, length, 0);
        for (name, kind, is_loaded, offset, size) in rows.iter().chain([&names_row]) {
            let flags = if *is_loaded { SHF_ALLOC } else { SectionFlags(0) };
            let link = if *kind == SHT_SYMTAB { sections.len() + 1 } else { 0 };
            sections.push(Section {
                sh_name: U32::new(ENDIAN, u32::try_from(names.len()).unwrap()),
                sh_type: U32::new(ENDIAN, *kind),
                sh_flags: U64::new(ENDIAN, flags),
                sh_offset: U64::new(ENDIAN, *offset),
                sh_size: U64::new(ENDIAN, *size),
                sh_link: U32::new(ENDIAN, u32::try_from(link).unwrap()),
                sh_addralign: U64::new(ENDIAN, 1),
                ..empty(ENDIAN)
            });
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        sections.last_mut().unwrap().sh_size.set(ENDIAN, names.len() as u64);
        bytes.extend_from_slice(&names);
        align(&mut bytes, 8).unwrap();
        let mut header = Header {
            e_ident: Ident {
                magic: *b"\x7fELF",
                class: object::elf::ELFCLASS64,
                data: object::elf::ELFDATA2LSB,
                version: object::elf::EV_CURRENT,
                os_abi: object::elf::ELFOSABI_NONE,
                abi_version: 0,
                padding: [0; 7],
            },
            e_type: U16::new(ENDIAN, ET_DYN),
            e_machine: U16::new(ENDIAN, EM_X86_64),
            e_version: U32::new(ENDIAN, 1),
            e_entry: U64::new(ENDIAN, 0),
            e_phoff: U64::new(ENDIAN, 64),
            e_shoff: U64::new(ENDIAN, bytes.len() as u64),
            e_flags: U32::new(ENDIAN, object::elf::FileFlags(0)),
            e_ehsize: U16::new(ENDIAN, 64),
            e_phentsize: U16::new(ENDIAN, 56),
            e_phnum: U16::new(ENDIAN, u16::try_from(loads.len() + 1).unwrap()),
            e_shentsize: U16::new(ENDIAN, 64),
            e_shnum: U16::new(ENDIAN, u16::try_from(sections.len()).unwrap()),
            e_shstrndx: U16::new(ENDIAN, SymbolSection(0)),
        };
        let last = u16::try_from(sections.len() - 1).unwrap();
        header.e_shstrndx.set(ENDIAN, SymbolSection(last));
        bytes.extend_from_slice(bytes_of_slice(&sections));
        let segment = |kind, (offset, size, address): (u64, u64, u64)| Segment {
            p_type: U32::new(ENDIAN, kind),
            p_flags: U32::new(ENDIAN, PF_R),
            p_offset: U64::new(ENDIAN, offset),
            p_vaddr: U64::new(ENDIAN, address),
            p_paddr: U64::new(ENDIAN, address),
            p_filesz: U64::new(ENDIAN, size),
            p_memsz: U64::new(ENDIAN, size),
            p_align: U64::new(ENDIAN, if kind == PT_LOAD { PAGE } else { 8 }),
        };
        let mut segments: Vec<_> = loads.iter().map(|load| segment(PT_LOAD, *load)).collect();
        // Within the last one, as real libraries have it.
        let (offset, size, address) = *loads.last().unwrap();
        segments.push(segment(PT_DYNAMIC, (offset + 8, size - 8, address + 8)));
        overwrite(&mut bytes, 64, bytes_of_slice(&segments)).unwrap();
        overwrite(&mut bytes, 0, bytes_of(&header)).unwrap();
        bytes
    }

    fn names_and_data(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        let header = Header::parse(bytes).unwrap();
        let sections = header.sections(ENDIAN, bytes).unwrap();
        let live = sections.iter().filter(|section| section.sh_type(ENDIAN) != SHT_NULL);
        live.map(|section| {
            let name = sections.section_name(ENDIAN, section).unwrap();
            let data = section.data(ENDIAN, bytes).unwrap();
            (String::from_utf8(name.to_vec()).unwrap(), data.to_vec())
        })
        .collect()
    }

    #[test]
    fn what_lies_behind_the_segments_goes() {
        let bytes = library(
            0x9000,
            &[(0, 0x1200, 0), (0x1200, 0x800, 0x2200)],
            &[
                (".dynsym", SHT_DYNSYM, true, 0x200, 0x100),
                (".data", SHT_PROGBITS, true, 0x1200, 0x800),
                (".comment", SHT_PROGBITS, false, 0x1a00, 0x20),
                (".debug_info", SHT_PROGBITS, false, 0x1a20, 0x6000),
                (".symtab", SHT_SYMTAB, false, 0x7a20, 0x1000),
                (".strtab", SHT_STRTAB, false, 0x8a20, 0x5e0),
            ],
        );
        let stripped = strip(&bytes).unwrap();
        assert!(stripped.len() < 0x2000, "{:#x}", stripped.len());
        let before = names_and_data(&bytes);
        let after = names_and_data(&stripped);
        let expected: Vec<_> = before
            .into_iter()
            .filter(|(name, _)| [".dynsym", ".data", ".comment", ".shstrtab"].contains(&&**name))
            .collect();
        assert_eq!(after, expected);
        assert!(is_same_in_memory(&bytes, &stripped));
        // Nothing is left to do, and nothing is done.
        assert_eq!(strip(&stripped), None);
    }

    #[test]
    fn segments_behind_debug_information_move_by_pages() {
        let bytes = library(
            0x8000,
            &[(0, 0x1234, 0), (0x7128, 0x600, 0x9128)],
            &[
                (".text", SHT_PROGBITS, true, 0x300, 0x200),
                (".debug_line", SHT_PROGBITS, false, 0x1234, 0x5000),
                (".dynamic", SHT_PROGBITS, true, 0x7200, 0x100),
            ],
        );
        let stripped = strip(&bytes).unwrap();
        assert!(stripped.len() < 0x3000, "{:#x}", stripped.len());
        let header = Header::parse(&*stripped).unwrap();
        let segments = header.program_headers(ENDIAN, &*stripped).unwrap();
        let offsets: Vec<_> = segments.iter().map(|segment| segment.p_offset(ENDIAN)).collect();
        assert_eq!(offsets, [0, 0x2128, 0x2130]);
        let names: Vec<_> = names_and_data(&stripped).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [".text", ".dynamic", ".shstrtab"]);
        assert!(is_same_in_memory(&bytes, &stripped));
    }

    #[test]
    fn what_is_not_understood_stays_as_it_is() {
        let rows = [(".debug_info", SHT_PROGBITS, false, 0x1000, 0x4000)];
        let good = library(0x5000, &[(0, 0x1000, 0)], &rows);
        assert!(strip(&good).is_some());
        let mut program = good.clone();
        program[16] = 2; // ET_EXEC
        let mut wide = good.clone();
        wide[4] = 1; // ELFCLASS32
        let nothing = library(0x5000, &[(0, 0x1000, 0)], &[]);
        for bytes in [&program[..], &wide, &good[..0x4000], &good[..40], b"\x7fELF", b"", &nothing]
        {
            assert_eq!(strip(bytes), None);
        }
        // Every header may lie; none of it may panic or make a wrong file.
        for position in 0..0x100 {
            for value in [0, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[position] = value;
                if let Some(stripped) = strip(&bytes) {
                    assert!(is_same_in_memory(&bytes, &stripped), "{position} {value}");
                }
            }
        }
    }
}
