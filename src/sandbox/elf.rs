//! What an ELF header says: machine and dynamic loader. Enough to know whether and how a program of
//! the base can be run here.

use std::io::{self, Read, Seek, SeekFrom};

/// The first facts about an ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// In Rust's words (`x86_64`, `aarch64`), or the number.
    pub(super) machine: String,
    /// `PT_INTERP`: the loader's absolute path inside the base; `None` for a static program.
    pub(super) interpreter: Option<String>,
}

/// A loader's path is never longer (`PATH_MAX`).
const LONGEST_PATH: u64 = 4096;

/// The header of `file`; `None` if it is no ELF file.
pub(super) fn read(file: &mut (impl Read + Seek)) -> io::Result<Option<Header>> {
    let mut start = Vec::new();
    file.by_ref().take(64).read_to_end(&mut start)?;
    let Some(elf) = Elf::new(&start) else {
        return Ok(None);
    };
    let wide = elf.wide;
    let (Some(machine), Some(offset), Some(size), Some(count)) = (
        elf.number(&start, 18, 2),
        elf.number(&start, if wide { 32 } else { 28 }, if wide { 8 } else { 4 }),
        elf.number(&start, if wide { 54 } else { 42 }, 2),
        elf.number(&start, if wide { 56 } else { 44 }, 2),
    ) else {
        return Ok(None);
    };
    let mut interpreter = None;
    for position in 0..count {
        // Offsets are the file's claims: seeking past the end reads nothing, overflow ends the walk.
        let Some(at) = position.checked_mul(size).and_then(|n| n.checked_add(offset)) else {
            break;
        };
        let mut program_header = Vec::new();
        file.seek(SeekFrom::Start(at))?;
        file.by_ref().take(56).read_to_end(&mut program_header)?;
        if elf.number(&program_header, 0, 4) != Some(3) {
            continue;
        }
        let fields = if wide { (8, 32, 8) } else { (4, 16, 4) };
        if let (Some(at), Some(length)) = (
            elf.number(&program_header, fields.0, fields.2),
            elf.number(&program_header, fields.1, fields.2),
        ) {
            let mut path = Vec::new();
            file.seek(SeekFrom::Start(at))?;
            file.by_ref().take(length.min(LONGEST_PATH)).read_to_end(&mut path)?;
            path.truncate(path.iter().position(|&b| b == 0).unwrap_or(path.len()));
            interpreter = String::from_utf8(path).ok();
        }
        break;
    }
    Ok(Some(Header { machine: machine_name(machine, wide), interpreter }))
}

/// Whether programs for `machine` run on this machine without help.
pub(super) fn runs_here(machine: &str) -> bool {
    let host = std::env::consts::ARCH;
    machine == host || (machine == "x86" && host == "x86_64")
}

struct Elf {
    wide: bool,
    little: bool,
}

impl Elf {
    fn new(start: &[u8]) -> Option<Self> {
        start.starts_with(&object::elf::ELFMAG).then_some(())?;
        Some(Self {
            wide: match start.get(4)? {
                1 => false,
                2 => true,
                _ => return None,
            },
            little: match start.get(5)? {
                1 => true,
                2 => false,
                _ => return None,
            },
        })
    }

    fn number(&self, bytes: &[u8], at: usize, length: usize) -> Option<u64> {
        let field = bytes.get(at..at + length)?;
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.little { field.iter().rev().fold(0, add) } else { field.iter().fold(0, add) })
    }
}

/// `e_machine` in the words of `std::env::consts::ARCH`.
fn machine_name(machine: u64, wide: bool) -> String {
    match (machine, wide) {
        (3, _) => "x86",
        (62, true) => "x86_64",
        (183, _) => "aarch64",
        (40, _) => "arm",
        (21, _) => "powerpc64",
        (22, _) => "s390x",
        (243, true) => "riscv64",
        (243, false) => "riscv32",
        (258, _) => "loongarch64",
        _ => return format!("ELF machine {machine}"),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn elf64(machine: u16, interpreter: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes.resize(120, 0);
        bytes[64] = 3;
        bytes[72] = 120;
        bytes[96] = u8::try_from(interpreter.len()).unwrap();
        bytes.extend(interpreter);
        bytes
    }

    #[test]
    fn reads_machine_and_loader() {
        for (number, name) in [(62, "x86_64"), (183, "aarch64"), (9999, "ELF machine 9999")] {
            let mut file = Cursor::new(elf64(number, b"/lib/ld-musl-x.so.1\0"));
            assert_eq!(
                read(&mut file).unwrap(),
                Some(Header {
                    machine: name.to_owned(),
                    interpreter: Some("/lib/ld-musl-x.so.1".to_owned())
                })
            );
        }
    }

    #[test]
    fn anything_short_or_absurd_is_survived() {
        let whole = elf64(62, b"/lib/ld.so\0");
        for length in 0..whole.len() {
            let _any = read(&mut Cursor::new(&whole[..length])).unwrap();
        }
        let mut absurd = whole.clone();
        absurd[32..40].fill(0xff);
        let header = read(&mut Cursor::new(absurd));
        assert!(header.is_err() || header.unwrap().unwrap().interpreter.is_none());
        assert_eq!(read(&mut Cursor::new(b"#!/bin/sh\n")).unwrap(), None);
    }

    #[test]
    fn reads_itself() {
        let mut file = fs_err::File::open("/proc/self/exe").unwrap();
        let header = read(&mut file).unwrap().unwrap();
        assert_eq!(header.machine, std::env::consts::ARCH);
        assert!(runs_here(&header.machine));
    }
}
