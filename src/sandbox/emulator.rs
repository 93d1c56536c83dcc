//! Whether the kernel hands programs for another machine to an emulator (`binfmt_misc`).

use std::path::Path;

use fs_err as fs;

/// Where the kernel lists its handlers, if that is mounted.
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";

/// Whether a handler for programs of `machine` (in Rust's words) is enabled that is also found after
/// the root folder has changed (flag `F`: the kernel holds it open).
pub(super) fn is_registered(machine: &str) -> bool {
    let Some(number) = number(machine) else { return false };
    let Ok(entries) = fs::read_dir(Path::new(HANDLERS)) else { return false };
    entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .any(|text| handles(&text, number))
}

/// `e_machine`
fn number(machine: &str) -> Option<u16> {
    Some(match machine {
        "x86_64" => 62,
        "aarch64" => 183,
        "arm" => 40,
        "x86" => 3,
        "riscv64" => 243,
        "powerpc64" => 21,
        "s390x" => 22,
        _ => return None,
    })
}

/// Whether a handler's text is of an enabled one for ELF files with that `e_machine`.
fn handles(text: &str, machine: u16) -> bool {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let Some(magic) = value("magic ") else { return false };
    let byte = |at: usize| {
        let digits = magic.get(at * 2..at * 2 + 2)?;
        u8::from_str_radix(digits, 16).ok()
    };
    let is_elf = magic.starts_with("7f454c46");
    let found = match (byte(5), byte(18), byte(19)) {
        (Some(2), Some(high), Some(low)) => u16::from_be_bytes([high, low]),
        (_, Some(low), Some(high)) => u16::from_le_bytes([low, high]),
        _ => return false,
    };
    text.lines().next() == Some("enabled")
        && value("flags:").is_some_and(|flags| flags.contains('F'))
        && value("offset ") == Some("0")
        && is_elf
        && found == machine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_as_the_kernel_shows_them() {
        let handler = |state: &str, flags: &str, magic: &str| {
            format!(
                "{state}\ninterpreter /usr/bin/qemu\nflags: {flags}\noffset 0\nmagic {magic}\nmask ff\n"
            )
        };
        let aarch64 = "7f454c460201010000000000000000000200b700";
        let s390x = "7f454c4602020100000000000000000000020016";
        for (text, machine, expected) in [
            (handler("enabled", "F", aarch64), "aarch64", true),
            (handler("enabled", "POCF", aarch64), "aarch64", true),
            (handler("enabled", "F", s390x), "s390x", true),
            (handler("enabled", "F", aarch64), "arm", false),
            (handler("enabled", "", aarch64), "aarch64", false),
            (handler("disabled", "F", aarch64), "aarch64", false),
            (handler("enabled", "F", "cafebabe"), "aarch64", false),
            ("enabled\ninterpreter /usr/bin/x\nflags: F\nextension .x\n".into(), "aarch64", false),
            (String::new(), "aarch64", false),
        ] {
            assert_eq!(handles(&text, number(machine).unwrap()), expected, "{text} {machine}");
        }
    }
}
