//! Every seed of the fuzz targets, and every input that once broke something, through the same
//! functions; and what mutates of them, always the same way.

use std::path::{Path, PathBuf};

use crate::fuzz::{self, TARGETS};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_target_has_seeds_and_every_folder_a_target() {
    let folders: Vec<String> = files(&corpus())
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(folders, names);
    let mut bytes = 0;
    for folder in files(&corpus()) {
        let seeds = files(&folder);
        assert!(seeds.len() >= 3, "{}", folder.display());
        bytes += seeds.iter().map(|path| fs_err::metadata(path).unwrap().len()).sum::<u64>();
        let program =
            format!("tests/fuzz/cargo/src/bin/{}.rs", folder.file_name().unwrap().display());
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&program).is_file(), "{program}");
    }
    assert!(bytes < 300_000, "the seeds have {bytes} bytes");
}

/// A number below `limit`; the same ones for the same seed.
fn draw(state: &mut u64, limit: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state).unwrap_or_default() % limit.max(1)
}

#[test]
fn promises_hold_for_every_seed_and_what_is_near_it() {
    for (name, _) in TARGETS {
        let mut state = 0x9E37_79B9_7F4A_7C15;
        for path in files(&corpus().join(name)) {
            let seed = fs_err::read(&path).unwrap();
            let run = |bytes: &[u8], what: &str| {
                let bytes = bytes.to_vec();
                let outcome = std::panic::catch_unwind(|| fuzz::run(name, &bytes));
                assert!(outcome.is_ok(), "{name}: {}, {what}", path.display());
            };
            run(&seed, "as it is");
            for round in 0..8 {
                let mut bytes = seed.clone();
                match round % 4 {
                    0 => bytes.truncate(draw(&mut state, seed.len())),
                    1 if !bytes.is_empty() => {
                        let at = draw(&mut state, bytes.len());
                        bytes[at] ^= 1 << draw(&mut state, 8);
                    }
                    2 => {
                        let (from, to) =
                            (draw(&mut state, seed.len()), draw(&mut state, seed.len()));
                        bytes.drain(from.min(to)..from.max(to));
                    }
                    _ => {
                        let at = draw(&mut state, seed.len());
                        bytes.extend_from_slice(&seed[at..]);
                    }
                }
                run(&bytes, &format!("round {round}"));
            }
        }
    }
}
