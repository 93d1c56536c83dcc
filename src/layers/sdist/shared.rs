//! Wheels that others built from the same: found in the shared cache, looked into, and remembered like
//! our own.

use std::path::Path;

use super::{BuildRequest, BuiltWheel, Error, Record, cached, is_wheel_of};
use crate::layers::wheel::{WheelFile, native_files};
use crate::oci::{Platform, Reference};
use crate::sandbox::Tier;
use crate::wheel_cache::{self, Build, Kept, Looked, Wheel};
use crate::world::{World, host_platform, on_thread};

/// A wheel that need not be built.
#[derive(Clone, Debug)]
pub(in crate::layers) struct Found {
    pub(in crate::layers) wheel: BuiltWheel,
    /// Where it was found, if not on this machine.
    pub(in crate::layers) entry: Option<Reference>,
}

/// [`find`] for a base that is for another machine than this one, where its own kind may have built the
/// wheel; on a machine of that kind it is asked for anyway.
///
/// # Errors
/// As [`find`].
pub(in crate::layers) async fn native(
    request: &BuildRequest,
    platform: &Platform,
    world: &World,
) -> Result<Option<Found>, Error> {
    if platform.architecture == host_platform().architecture {
        return Ok(None);
    }
    let _turn = world.store.turn("sdist", &request.key()).await;
    find(request, platform, world).await
}

/// The wheel of an earlier build with the same inputs: from this machine's cache, else from the shared
/// one. Needs neither the base's files nor the sdist's. The caller holds the build's turn.
///
/// # Errors
/// The shared cache has something else there than this build's wheel, or the disk said no. A shared
/// cache that cannot be reached is told, and is no error.
pub(in crate::layers) async fn find(
    request: &BuildRequest,
    platform: &Platform,
    world: &World,
) -> Result<Option<Found>, Error> {
    if let Some(wheel) = cached(request, &world.store)? {
        return Ok(Some(Found { wheel, entry: None }));
    }
    let Some(cache) = &world.wheel_cache else { return Ok(None) };
    let build = build_of(request, platform);
    let wheel = match cache.find(&build, &world.store).await? {
        Looked::Found(wheel) => wheel,
        Looked::Absent => return Ok(None),
        Looked::Failed(error) => {
            let name = cache.name();
            world.progress.notice(&format!("the wheel cache {name} is not used: {error}"));
            return Ok(None);
        }
    };
    let entry = cache.entry(&build)?;
    let wheel = on_thread({
        let (request, platform) = (request.clone(), platform.clone());
        let (store, entry) = (world.store.clone(), entry.clone());
        move || take(&request, &platform, &wheel, &entry, &store)
    })
    .await?;
    world.progress.step(&format!("{} was built before: {}", request.project(), entry.name()));
    Ok(Some(Found { wheel, entry: Some(entry) }))
}

/// Puts a wheel into the shared cache, if it is to be written and has none. A cache that cannot be
/// written is told, and is no error.
///
/// # Errors
/// The disk said no.
pub(in crate::layers) async fn keep(
    request: &BuildRequest,
    platform: &Platform,
    wheel: &BuiltWheel,
    world: &World,
) -> Result<(), Error> {
    let Some(cache) = world.wheel_cache.as_ref().filter(|cache| cache.writes()) else {
        return Ok(());
    };
    let path = world.store.blob_path(&wheel.digest);
    let size = fs_err::metadata(&path).map_err(|source| disk(&path, source))?.len();
    let described = Wheel {
        file_name: wheel.file_name.clone(),
        digest: wheel.digest,
        size,
        tier: wheel.tier,
        pure_fallback: wheel.pure_fallback,
    };
    match cache.keep(&build_of(request, platform), &described, &world.store).await? {
        Kept::Nothing => {}
        Kept::Written => {
            world.progress.step(&format!("{} is in {} now", wheel.file_name, cache.name()));
        }
        Kept::Failed(error) => {
            let name = cache.name();
            world.progress.notice(&format!("the wheel cache {name} is not written: {error}"));
        }
    }
    Ok(())
}

fn build_of(request: &BuildRequest, platform: &Platform) -> Build {
    Build {
        key: request.key(),
        project: request.name.to_string(),
        version: request.version.to_string(),
        python: format!("{}.{}", request.python.0, request.python.1),
        platform: platform.clone(),
    }
}

/// Looks into a fetched wheel and remembers it.
fn take(
    request: &BuildRequest,
    platform: &Platform,
    wheel: &Wheel,
    entry: &Reference,
    store: &crate::store::Store,
) -> Result<BuiltWheel, Error> {
    let wrong = |problem: String| wheel_cache::Error::wrong(entry, problem);
    let file_name = wheel.file_name.clone();
    if !is_wheel_of(&file_name, &request.name, &request.version) {
        return Err(wrong(format!("holds another file: `{}`", file_name.escape_debug())).into());
    }
    let file = store
        .open_verified(&wheel.digest)?
        .ok_or_else(|| Error::Absent { file_name: file_name.clone() })?;
    let described = WheelFile {
        name: request.name.clone(),
        version: request.version.clone(),
        file_name: file_name.clone(),
        digest: wheel.digest,
        requested: false,
    };
    let native = native_files(file, &described).map_err(|problem| wheel_cache::Error::Wrong {
        entry: entry.to_string(),
        problem: format!("holds `{file_name}`, which is refused"),
        source: Some(Box::new(problem)),
    })?;
    if let Some((name, _)) = native.iter().find(|(_, bytes)| is_foreign(bytes, platform)) {
        let name = name.escape_debug();
        return Err(wrong(format!("holds `{name}`, which is not made for {platform}")).into());
    }
    let refusal = (wheel.tier == Tier::Loader).then(|| "on another machine".to_owned());
    let record = Record {
        wheel: wheel.digest,
        file_name: file_name.clone(),
        tier: wheel.tier,
        refusal: refusal.clone(),
        left: Vec::new(),
        pure_fallback: wheel.pure_fallback,
        log: None,
    };
    let json = serde_json::to_vec(&record).map_err(|error| disk(store.root(), error.into()))?;
    store.put_record("built-wheels", &request.key(), &json)?;
    Ok(BuiltWheel {
        digest: wheel.digest,
        file_name,
        tier: wheel.tier,
        refusal,
        left: Vec::new(),
        pure_fallback: wheel.pure_fallback,
        from_cache: true,
        log: None,
    })
}

/// Whether an ELF file is for another machine than `platform` (ELF, `e_ident` and `e_machine`). The
/// gate looks at everything else once the layer is made; this is what must not even be remembered.
fn is_foreign(file: &[u8], platform: &Platform) -> bool {
    let expected = match platform.architecture.as_str() {
        "amd64" => (2, 1, 62),
        "386" => (1, 1, 3),
        "arm64" => (2, 1, 183),
        "arm" => (1, 1, 40),
        "ppc64le" => (2, 1, 21),
        "riscv64" => (2, 1, 243),
        "s390x" => (2, 2, 22),
        // The gate decides.
        _ => return false,
    };
    let Some(&[class, order]) = file.get(4..6) else { return true };
    let machine = match (file.get(18..20), order) {
        (Some(&[low, high]), 1) => u16::from_le_bytes([low, high]),
        (Some(&[high, low]), 2) => u16::from_be_bytes([high, low]),
        _ => return true,
    };
    (class, order, machine) != expected
}

fn disk(path: &Path, source: std::io::Error) -> Error {
    Error::Disk { path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_other_machines_are_foreign() {
        let elf = |class: u8, order: u8, machine: [u8; 2]| {
            let mut bytes = vec![0; 64];
            bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, order]);
            bytes[18..20].copy_from_slice(&machine);
            bytes
        };
        for (bytes, platform, foreign) in [
            (elf(2, 1, [62, 0]), "linux/amd64", false),
            (elf(1, 1, [62, 0]), "linux/amd64", true),
            (elf(2, 1, [183, 0]), "linux/amd64", true),
            (elf(2, 1, [183, 0]), "linux/arm64/v8", false),
            (elf(1, 1, [40, 0]), "linux/arm/v7", false),
            (elf(2, 2, [0, 22]), "linux/s390x", false),
            (elf(2, 1, [22, 0]), "linux/s390x", true),
            (elf(2, 1, [2, 1]), "linux/loong64", false),
            (b"\x7fELF".to_vec(), "linux/amd64", true),
            (elf(2, 1, [62, 0])[..19].to_vec(), "linux/amd64", true),
        ] {
            assert_eq!(is_foreign(&bytes, &platform.parse().unwrap()), foreign, "{platform}");
        }
    }
}
