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

    let mut out = Vec::with_capacity(bytes.len());
    let mut moves = Vec::new();
    for (start, end) in pieces {
        // The first place that is free and at the same distance from a page's begin.
        let end_of_out = out.len() as u64;
        let mut place = end_of_out - end_of_out % step + start % step;
        if place < end_of_out {
            place = place.checked_add(step)?;
        }
        out.resize(usize::try_from(place).ok()?, 0);
        out.extend_from_slice(bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)?);
        moves.push((start, end, place));
    }
    let moved = |offset: u64| {
        let (start, _, place) =
            moves.iter().find(|(start, end, _)| (*start..=*end).contains(&offset))?;
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
    fn read(bytes: &[u8]) -> Option<Vec<(Segment, Vec<u8>)>> {
        let header = Header::parse(bytes).ok()?;
        let endian = header.endian().ok()?;
        let segments = header.program_headers(endian, bytes).ok()?;
        let tables = [
            (0, size_of::<Header>() as u64),
            (header.e_phoff(endian), size_of_val(segments) as u64),
        ];
        let mut read = Vec::new();
        for segment in segments {
            let offset = segment.p_offset(endian);
            if segment.p_type(endian) == PT_LOAD
                && segment.p_align(endian) > 1
                && offset % segment.p_align(endian)
                    != segment.p_vaddr(endian) % segment.p_align(endian)
            {
                return None;
            }
            let mut data = segment.data(endian, bytes).ok()?.to_vec();
            for (start, size) in tables {
                let first = start.saturating_sub(offset).min(data.len() as u64);
                let last = (start + size).saturating_sub(offset).min(data.len() as u64);
                data[usize::try_from(first).ok()?..usize::try_from(last).ok()?].fill(0);
            }
            let mut plain = *segment;
            plain.p_offset.set(endian, 0);
            read.push((plain, data));
        }
        Some(read)
    }
    let (Some(old), Some(new)) = (read(old), read(new)) else { return false };
    old.len() == new.len()
        && old.iter().zip(&new).all(|((left, left_bytes), (right, right_bytes))| {
            bytes_of(left) == bytes_of(right) && left_bytes == right_bytes
        })
}
