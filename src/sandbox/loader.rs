//! Tier 2: the base's dynamic loader runs the program in place. What a namespace hides is refused
//! instead ([`super::fence`]); the environment, the limits and the end of all processes are as in tier 1.
//! What the program starts is found by name ([`super::programs`]): by its path in the base nothing is.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::confine::resolve;

/// Where bases keep their libraries, in the order they are searched.
const LIBRARIES: [&str; 5] = ["usr/local/lib", "usr/lib", "lib", "usr/lib64", "lib64"];

/// What has to be started outside: paths of the base, the work folder and what is lent become the
/// host's.
pub(super) struct Translated {
    pub(super) argv: Vec<String>,
    pub(super) name: Option<String>,
    pub(super) env: BTreeMap<String, String>,
}

/// A folder as the job names it, and where it is on the host.
type Place = (String, PathBuf);

/// Translates a job whose program is `program` on the host, called by the name `called` in the base;
/// `interpreter` is the loader it asks for, `arguments` are those after its name. The base's folders of
/// the `PATH` are looked for below `programs`.
pub(super) fn translate(
    (rootfs, places, programs): (&Path, &[Place], Option<&Path>),
    (program, called): (&Path, &Path),
    interpreter: Option<&str>,
    arguments: &[String],
    env: &BTreeMap<String, String>,
) -> io::Result<Translated> {
    let root = text(rootfs)?;
    let programs = text(programs.unwrap_or(rootfs))?;
    let places: Vec<(&str, String)> = places
        .iter()
        .map(|(inside, outside)| Ok((inside.as_str(), text(outside)?)))
        .collect::<io::Result<_>>()?;
    // Programs such as busybox do what their name says. Python's `python3` and `python3.13` do the
    // same, and an old loader may not know `--argv0`.
    let name = match (called.file_name(), program.file_name()) {
        (Some(called_name), Some(file_name))
            if !file_name.as_encoded_bytes().starts_with(called_name.as_encoded_bytes()) =>
        {
            Some(format!("{root}{}", text(called)?))
        }
        _ => None,
    };
    let mut argv = Vec::new();
    let name = match (interpreter, name) {
        (Some(interpreter), name) => {
            argv.push(text(&resolve(rootfs, Path::new(interpreter))?)?);
            argv.extend(["--library-path".to_owned(), library_path(rootfs)?]);
            argv.extend(name.into_iter().flat_map(|name| ["--argv0".to_owned(), name]));
            None
        }
        (None, name) => name,
    };
    argv.push(text(program)?);
    argv.extend(arguments.iter().map(|argument| move_all(argument, &places)));
    let env = env
        .iter()
        .map(|(name, value)| {
            let moved = if name == "PATH" {
                // The host's own tools must not be found: a compiler of the host makes wrong code.
                move_path(value, &programs, &places)
            } else {
                move_all(value, &places)
            };
            (name.clone(), moved)
        })
        .collect();
    Ok(Translated { argv, name, env })
}

fn library_path(rootfs: &Path) -> io::Result<String> {
    let mut folders: Vec<PathBuf> = LIBRARIES.iter().map(|name| rootfs.join(name)).collect();
    // Debian's multiarch folders.
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    folders.extend(["usr/lib", "lib"].map(|name| rootfs.join(name).join(&triplet)));
    folders.retain(|folder| folder.is_dir());
    folders
        .iter()
        .map(|folder| text(folder))
        .collect::<io::Result<Vec<_>>>()
        .map(|folders| folders.join(":"))
}

fn text(path: &Path) -> io::Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("not UTF-8: {}", path.display()))
    })
}

/// What is below the places, moved to where they are. Where they are, no place is looked for again.
fn move_all(value: &str, places: &[(&str, String)]) -> String {
    match places {
        [] => value.to_owned(),
        [(inside, outside), rest @ ..] => value
            .split(':')
            .map(|part| {
                let moved = move_one(part, inside, outside);
                if moved == part { move_all(part, rest) } else { moved }
            })
            .collect::<Vec<_>>()
            .join(":"),
    }
}

/// `/build` and paths below it, alone, after `=` or in a list with colons.
fn move_one(value: &str, place: &str, outside: &str) -> String {
    let mut moved = String::new();
    let mut rest = value;
    while let Some(at) = rest.find(place) {
        let (before, after) = (&rest[..at], &rest[at + place.len()..]);
        let begins = before.is_empty() && moved.is_empty() || before.ends_with([':', '=']);
        let ends = after.is_empty() || after.starts_with(['/', ':']);
        moved.push_str(before);
        moved.push_str(if begins && ends { outside } else { place });
        rest = after;
    }
    moved + rest
}

fn move_path(value: &str, root: &str, places: &[(&str, String)]) -> String {
    let moved: Vec<String> = value
        .split(':')
        .map(|folder| {
            let below = |(place, _): &(&str, String)| {
                folder
                    .strip_prefix(place)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            if places.iter().any(below) || !folder.starts_with('/') {
                move_all(folder, places)
            } else {
                format!("{root}{folder}")
            }
        })
        .collect();
    moved.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_work_folder_and_what_is_lent_move() {
        // Where they are looks like a place itself.
        let places = [("/build", "/w".to_owned()), ("/tools", "/tools/t".to_owned())];
        for (value, moved) in [
            ("/build", "/w"),
            ("/build/driver.py", "/w/driver.py"),
            ("--out=/build/out", "--out=/w/out"),
            ("/a:/build/b:/build", "/a:/w/b:/w"),
            ("/tools/a:--x=/tools:/toolset", "/tools/t/a:--x=/tools/t:/toolset"),
            ("/builder", "/builder"),
            ("/usr/build", "/usr/build"),
            ("-I/build", "-I/build"),
            ("", ""),
        ] {
            assert_eq!(move_all(value, &places), moved, "{value}");
        }
        assert_eq!(
            move_path("/usr/bin:/build/env/bin:/tools/x:/bin", "/r", &places),
            "/r/usr/bin:/w/env/bin:/tools/t/x:/r/bin"
        );
    }
}
