//! What a wheel says of itself: `.dist-info`, METADATA, WHEEL, RECORD.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;

use bytes::Bytes;
use pep440_rs::Version;
use pep508_rs::PackageName;

use super::WheelFile;
use super::members::Member;
use crate::layers::error::WheelProblem;
use crate::python::record::Record;
use crate::python::{EntryPoints, WheelFilename};

/// A wheel's `.dist-info`, checked.
#[derive(Debug)]
pub(super) struct DistInfo {
    /// `Flask-3.1.0.dist-info`, as the wheel spells it.
    pub(super) folder: String,
    /// The name as METADATA spells it.
    pub(super) name: String,
    /// Whether what lies at the root goes to purelib, else to platlib.
    pub(super) is_purelib: bool,
    /// `Tag` of WHEEL, in the file's order.
    pub(super) tags: Vec<String>,
    /// `1.1`, if it is newer than the 1.0 we know.
    pub(super) newer_format: Option<String>,
    /// The commands.
    pub(super) entry_points: EntryPoints,
}

impl DistInfo {
    /// Reads it, and checks that the wheel is what the lock and its file name say, and that every
    /// file is the one RECORD lists.
    pub(super) fn read(
        wheel: &WheelFile,
        members: &BTreeMap<String, Member>,
    ) -> Result<Self, WheelProblem> {
        check_file_name(wheel)?;
        let folder = find_folder(members)?;
        let stem = folder.trim_end_matches(".dist-info");
        let (name, version) = stem.rsplit_once('-').unwrap_or((stem, ""));
        wheel.check("`.dist-info` folder", name, version)?;

        let metadata = lossy(members, &folder, "METADATA")?;
        let field = |field| fields(&metadata, field).next().unwrap_or_default();
        let name = field("Name").to_owned();
        wheel.check("METADATA", &name, field("Version"))?;

        let wheel_file = lossy(members, &folder, "WHEEL")?;
        let newer_format = check_format(&wheel_file)?;
        let is_purelib = match fields(&wheel_file, "Root-Is-Purelib").next() {
            Some(value) if value.eq_ignore_ascii_case("true") => true,
            Some(value) if value.eq_ignore_ascii_case("false") => false,
            _ => return Err(WheelProblem::Field("Root-Is-Purelib")),
        };
        check_record(&folder, members)?;
        Ok(Self {
            name,
            is_purelib,
            tags: fields(&wheel_file, "Tag").map(str::to_owned).collect(),
            newer_format,
            entry_points: entry_points(members, &folder)?,
            folder,
        })
    }
}

impl WheelFile {
    fn check(&self, place: &'static str, name: &str, version: &str) -> Result<(), WheelProblem> {
        let is_same = PackageName::from_str(name).is_ok_and(|found| found == self.name)
            // `-` cannot stand in a version here, so `_` is written for it.
            && Version::from_str(&version.replace('_', "-")).is_ok_and(|found| found == self.version);
        if is_same {
            return Ok(());
        }
        Err(self.other(place, format!("{name} {version}")))
    }

    fn other(&self, place: &'static str, found: String) -> WheelProblem {
        WheelProblem::Identity { place, expected: format!("{} {}", self.name, self.version), found }
    }
}

fn check_file_name(wheel: &WheelFile) -> Result<(), WheelProblem> {
    let parsed = WheelFilename::from_str(&wheel.file_name);
    if parsed.is_ok_and(|parsed| parsed.name == wheel.name && parsed.version == wheel.version) {
        return Ok(());
    }
    Err(wheel.other("file name", wheel.file_name.clone()))
}

fn find_folder(members: &BTreeMap<String, Member>) -> Result<String, WheelProblem> {
    let folders: BTreeSet<&str> = members
        .keys()
        .filter_map(|name| Some(name.split_once('/')?.0))
        .filter(|folder| folder.ends_with(".dist-info"))
        .collect();
    let mut names = folders.into_iter().map(str::to_owned);
    match (names.next(), names.next()) {
        (Some(folder), None) => Ok(folder),
        (first, second) => {
            Err(WheelProblem::DistInfo(first.into_iter().chain(second).chain(names).collect()))
        }
    }
}

/// Old METADATA may be in any encoding; the fields that matter here are ASCII.
fn lossy(
    members: &BTreeMap<String, Member>,
    folder: &str,
    file: &str,
) -> Result<String, WheelProblem> {
    let path = format!("{folder}/{file}");
    match members.get(&path) {
        Some(member) => Ok(String::from_utf8_lossy(&read(member, &path)?).into_owned()),
        None => Err(WheelProblem::Missing(path)),
    }
}

/// A member's bytes.
fn read(member: &Member, path: &str) -> Result<Bytes, WheelProblem> {
    let unpack = |source| WheelProblem::Unpack { name: path.to_owned(), source };
    member.content.read().map_err(unpack)
}

/// The values of a header field; headers end at the first empty line.
fn fields<'text>(text: &'text str, name: &str) -> impl Iterator<Item = &'text str> {
    text.lines().take_while(|line| !line.trim_end().is_empty()).filter_map(move |line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn check_format(wheel_file: &str) -> Result<Option<String>, WheelProblem> {
    let text = fields(wheel_file, "Wheel-Version").next();
    let numbers: Option<(u32, u32)> = text.and_then(|text| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    match (text, numbers) {
        (Some(_), Some((1, 0))) => Ok(None),
        (Some(text), Some((1, _))) => Ok(Some(text.to_owned())),
        (Some(text), Some(_)) => Err(WheelProblem::WheelVersion(text.to_owned())),
        _ => Err(WheelProblem::Field("Wheel-Version")),
    }
}

/// "Apart from RECORD and its signatures, installation will fail if any file in the archive is not
/// both mentioned and correctly hashed in RECORD" (binary distribution format). We also refuse
/// rows whose file is not there; rows of folders, which old tools wrote, say nothing.
fn check_record(folder: &str, members: &BTreeMap<String, Member>) -> Result<(), WheelProblem> {
    let own = format!("{folder}/RECORD");
    let bytes = match members.get(&own) {
        Some(member) => read(member, &own)?,
        None => return Err(WheelProblem::Missing(own)),
    };
    let record = Record::parse(&bytes).map_err(WheelProblem::Record)?;
    for (path, member) in members {
        if is_record_or_signature(folder, path) {
            continue;
        }
        let row = record.rows.get(path);
        let Some(expected) = row.and_then(|row| row.hash.as_ref()) else {
            return Err(WheelProblem::Unrecorded(path.clone()));
        };
        let size = row.and_then(|row| row.size);
        let known = member.content.known();
        let found = match expected.again_of(&known.sha256) {
            Some(found) => found,
            None => expected.again(&read(member, path)?),
        };
        let mismatch = |expected: String, found: String| WheelProblem::Mismatch {
            path: path.clone(),
            expected,
            found,
        };
        if found != *expected {
            return Err(mismatch(expected.to_string(), found.to_string()));
        }
        let length = known.size;
        if size.is_some_and(|size| size != length) {
            let expected = size.unwrap_or_default();
            return Err(mismatch(format!("{expected} bytes"), format!("{length} bytes")));
        }
    }
    for path in record.rows.keys() {
        let is_known = members.contains_key(path)
            || path.ends_with('/')
            || is_record_or_signature(folder, path);
        if !is_known {
            return Err(WheelProblem::Gone(path.clone()));
        }
    }
    Ok(())
}

/// RECORD and the two signature files that cannot be in it.
pub(super) fn is_record_or_signature(folder: &str, path: &str) -> bool {
    path.strip_prefix(folder)
        .and_then(|rest| rest.strip_prefix('/'))
        .is_some_and(|file| matches!(file, "RECORD" | "RECORD.jws" | "RECORD.p7s"))
}

fn entry_points(
    members: &BTreeMap<String, Member>,
    folder: &str,
) -> Result<EntryPoints, WheelProblem> {
    let path = format!("{folder}/entry_points.txt");
    let Some(member) = members.get(&path) else {
        return Ok(EntryPoints::default());
    };
    let text = read(member, &path)?;
    let text = std::str::from_utf8(&text).map_err(|_utf8| WheelProblem::NotText(path))?;
    EntryPoints::parse(text).map_err(WheelProblem::EntryPoints)
}
