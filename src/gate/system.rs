//! What a base is: by its own files, not by its name (pure).

use std::fmt;

use super::inventory::{Inventory, Node};
use crate::python::target::{Libc, Target};

/// A base's OS and C library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    release: OsRelease,
    libc: Option<Family>,
}

/// The C library that programs of the base are linked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Musl,
    /// With its version, where its symbols tell it.
    Glibc(Option<(u16, u16)>),
}

/// Where glibc lies: Debian's folders, then those of others. `{}` is the machine.
const GLIBC: [&str; 5] = [
    "/lib/{}-linux-gnu/libc.so.6",
    "/usr/lib/{}-linux-gnu/libc.so.6",
    "/lib64/libc.so.6",
    "/usr/lib64/libc.so.6",
    "/lib/libc.so.6",
];

impl System {
    /// What `below`, the base's files, say; `target` says which machine's libraries and whose Python.
    pub fn of(below: &Inventory, target: &Target) -> Self {
        let (major, minor, _) = target.python;
        let programs = [&format!("/usr/local/bin/python{major}.{minor}"), "/bin/sh"];
        let loader = programs
            .iter()
            .find_map(|path| below.file(path)?.elf.as_ref()?.interpreter.as_deref())
            .or_else(|| loader_in(below));
        let libc = loader.and_then(|loader| match loader.rsplit('/').next()? {
            name if name.starts_with("ld-musl-") => Some(Family::Musl),
            name if name.starts_with("ld-linux") || name.starts_with("ld64.so") => {
                Some(Family::Glibc(glibc(below, target.machine())))
            }
            _ => None,
        });
        Self { release: release(below), libc }
    }

    /// Whether that is what the cell's path says; else what was found, as words after `is`.
    ///
    /// # Errors
    /// It is another OS, another C library, or an older one than wheels were chosen for.
    pub fn agrees_with(&self, target: &Target, os: &str) -> Result<(), String> {
        match (target.libc, self.libc) {
            (Libc::Musl { .. }, Some(Family::Musl)) => {}
            (Libc::Glibc { major, minor }, Some(Family::Glibc(found))) => {
                if found.is_some_and(|found| found < (major, minor)) {
                    return Err(format!("{self}, older than the glibc {major}.{minor} of `{os}`"));
                }
            }
            _ => return Err(self.to_string()),
        }
        // A base without the file says nothing.
        if self.release.id.is_empty() || is_os(&self.release, os) {
            return Ok(());
        }
        Err(self.to_string())
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OsRelease { id, version, .. } = &self.release;
        let os = format!("{id} {version}");
        match os.trim() {
            "" => f.write_str("an unnamed OS")?,
            os => write!(f, "`{os}`")?,
        }
        match self.libc {
            Some(Family::Musl) => f.write_str(" on musl"),
            Some(Family::Glibc(Some((major, minor)))) => write!(f, " on glibc {major}.{minor}"),
            Some(Family::Glibc(None)) => f.write_str(" on glibc"),
            None => f.write_str(" without a C library's loader"),
        }
    }
}

/// The loader that lies where loaders lie, for a base without programs that name one.
fn loader_in(below: &Inventory) -> Option<&str> {
    below.iter().filter(|(_, node)| !matches!(node, Node::Directory)).map(|(path, _)| path).find(
        |path| {
            let path = path.strip_prefix("usr/").unwrap_or(path);
            let mut parts = path.rsplit('/');
            let name = parts.next().unwrap_or_default();
            path.starts_with("lib")
                && (name.starts_with("ld-musl-") || name.starts_with("ld-linux"))
        },
    )
}

/// The newest version of symbols that the base's glibc has.
fn glibc(below: &Inventory, machine: &str) -> Option<(u16, u16)> {
    let library =
        GLIBC.iter().find_map(|path| below.file(&path.replace("{}", machine))?.elf.as_ref())?;
    let version = |name: &String| {
        let mut numbers = name.strip_prefix("GLIBC_")?.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    library.versions_defined.iter().filter_map(version).max()
}

fn release(below: &Inventory) -> OsRelease {
    let text = below.file("/etc/os-release").and_then(|file| file.text.as_deref());
    os_release(text.unwrap_or_default())
}

/// The name of the base's OS as tags of bases have it: `alpine3.24`, `bookworm`; empty if no file says
/// it.
pub fn os_of(below: &Inventory) -> String {
    release(below).name()
}

/// What `/etc/os-release` says (os-release(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OsRelease {
    id: String,
    version: String,
    names: String,
}

fn os_release(text: &str) -> OsRelease {
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(found, _)| found.trim() == key)
            .map(|(_, value)| value.trim().trim_matches(['"', '\'']).to_owned())
            .unwrap_or_default()
    };
    OsRelease {
        id: value("ID"),
        version: value("VERSION_ID"),
        names: format!("{} {}", value("VERSION_CODENAME"), value("VERSION")),
    }
}

impl OsRelease {
    /// `alpine3.24`, `bookworm`: as tags of bases have it.
    fn name(&self) -> String {
        if self.id == "alpine" {
            let release: Vec<&str> = self.version.splitn(3, ['.', '_']).take(2).collect();
            return format!("alpine{}", release.join("."));
        }
        self.names.split_whitespace().next().unwrap_or_default().to_owned()
    }
}

/// Whether that is `alpine3.24`, `slim-bookworm`, …
fn is_os(found: &OsRelease, os: &str) -> bool {
    if let Some(release) = os.strip_prefix("alpine") {
        let version = found.version.strip_prefix(release);
        return found.id == "alpine"
            && version.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '_']));
    }
    let name = os.strip_prefix("slim-").unwrap_or(os);
    found.names.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::gate::fixture::Object;
    use crate::gate::inventory::File;

    #[test]
    fn the_base_says_what_it_is() {
        let alpine = os_release("NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.24.1\n");
        let debian = os_release(
            "ID=debian\nVERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\n",
        );
        let jessie = os_release("ID=debian\nVERSION_ID=\"8\"\nVERSION=\"8 (jessie)\"\n");
        for (found, os, expected) in [
            (&alpine, "alpine3.24", true),
            (&alpine, "alpine3.2", false),
            (&alpine, "bookworm", false),
            (&debian, "slim-bookworm", true),
            (&debian, "bookworm", true),
            (&debian, "trixie", false),
            (&debian, "alpine3.24", false),
            (&jessie, "slim-jessie", true),
        ] {
            assert_eq!(is_os(found, os), expected, "{found:?} {os}");
        }
        assert_eq!(alpine.name(), "alpine3.24");
        assert_eq!(debian.name(), "bookworm");
    }

    fn base(os_release: &str, nodes: &[(&str, Object)]) -> Inventory {
        let files = nodes.iter().map(|(path, object)| (*path, object.to_bytes()));
        let files = files.chain([("etc/os-release", os_release.as_bytes().to_vec())]);
        Inventory::made(files.map(|(path, bytes)| {
            (path.to_owned(), Node::File(Arc::new(File::made(path, &bytes, 0o755))))
        }))
    }

    #[test]
    fn the_c_library_is_the_one_that_python_asks_for() {
        let alpine = "ID=alpine\nVERSION_ID=3.24.1\n";
        let debian = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";
        let object = || Object::of("x86_64");
        let python = "usr/local/bin/python3.13";
        let on_musl = || (python, object().interpreter("/lib/ld-musl-x86_64.so.1"));
        let on_glibc = || (python, object().interpreter("/lib64/ld-linux-x86-64.so.2"));
        let musl = || ("lib/ld-musl-x86_64.so.1", object());
        let libc = |version| ("lib/x86_64-linux-gnu/libc.so.6", object().defines(version));
        for (release, files, os, expected) in [
            (alpine, vec![on_musl()], "alpine3.24", Ok(())),
            (alpine, vec![musl()], "alpine3.24", Ok(())),
            ("", vec![musl()], "alpine3.24", Ok(())),
            (alpine, vec![on_musl()], "alpine3.23", Err("`alpine 3.24.1` on musl")),
            (alpine, vec![on_musl()], "slim-bookworm", Err("`alpine 3.24.1` on musl")),
            (alpine, vec![], "alpine3.24", Err("`alpine 3.24.1` without a C library's loader")),
            (debian, vec![on_glibc(), libc("GLIBC_2.36")], "slim-bookworm", Ok(())),
            // Debian's package of musl does not make it an Alpine.
            (debian, vec![on_glibc(), musl()], "slim-bookworm", Ok(())),
            (
                debian,
                vec![on_glibc(), libc("GLIBC_2.36")],
                "alpine3.24",
                Err("`debian 12` on glibc 2.36"),
            ),
            (
                debian,
                vec![on_glibc(), libc("GLIBC_2.31")],
                "bookworm",
                Err("`debian 12` on glibc 2.31, older than the glibc 2.36 of `bookworm`"),
            ),
            ("", vec![on_glibc()], "alpine3.24", Err("an unnamed OS on glibc")),
        ] {
            let target = Target::new("3.13", os, &"linux/amd64".parse().unwrap()).unwrap();
            let found = System::of(&base(release, &files), &target).agrees_with(&target, os);
            assert_eq!(found, expected.map_err(str::to_owned), "{release} {os}");
        }
    }
}
