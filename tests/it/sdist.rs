//! Building sdists with a real base's Python, in both tiers.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use assemble::error::{Failure, Kind};
use assemble::http;
use assemble::layers::sdist::{BuildRequest, BuiltWheel, Error, StoredFile, build, cached};
use assemble::oci::Digest;
use assemble::package_index::{Client, Config, Sources};
use assemble::recipe::lock::{Distribution, Lock};
use assemble::sandbox::{Sandbox, Tier};
use assemble::store::Store;
use fs_err as fs;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

use crate::bases::{self, BaseSpec};
use crate::command::CELL;
use crate::support::skip;

pub(crate) const TIERS: [Tier; 2] = [Tier::Namespaces, Tier::Loader];

/// An unpacked base with CPython 3.13, and a folder with real files to build.
struct Base {
    rootfs: PathBuf,
    files: PathBuf,
}

/// Of two tests that want it, one makes it.
static MAKING: Mutex<()> = Mutex::new(());

/// Made once and kept below `target/`; `None`, said aloud, where such a base cannot run.
fn base() -> Option<Base> {
    if cfg!(not(target_arch = "x86_64")) {
        skip("the base's programs are for x86_64");
        return None;
    }
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let spec = BaseSpec::new("3.13", "alpine3.24");
    let layout = runtime.block_on(bases::make(spec, &crate::base_cache())).unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let rootfs = target.join(format!("rootfs-{}", &layout.digest().unwrap().hex()[..12]));
    if !rootfs.is_dir() {
        let folder = TempDir::new_in(target).unwrap();
        layout.unpack(folder.path()).unwrap();
        fs::rename(folder.keep(), &rootfs).unwrap();
    }
    let files = runtime.block_on(files_to_build(target));
    Some(Base { rootfs, files })
}

/// The sdist that the committed lock has, and what its build needs, in a folder of their own.
async fn files_to_build(target: &Path) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("matrix").join(CELL).join("lock.toml");
    let lock = Lock::parse(&fs::read_to_string(&path).unwrap(), &path).unwrap();
    let found = |distribution: &&Distribution| distribution.name.as_ref() == "zope-interface";
    let distribution = lock.distributions.iter().find(found).unwrap();
    let sdist = distribution.files.iter().find(|file| !file.is_wheel()).unwrap();
    let mut wanted = vec![(&distribution.name, &sdist.file_name, sdist.sha256)];
    wanted.extend(sdist.build.iter().map(|need| (&need.name, &need.file_name, need.sha256)));

    let store = Store::open(target.join("cache")).unwrap();
    let client = http::Client::new(http::Options::default()).unwrap();
    let config = Config::from_sources(&Sources::default()).unwrap();
    let index = Client::new(client, config, store.clone());
    let folder = target.join(format!("files-{}", &sdist.sha256.hex()[..12]));
    fs::create_dir_all(&folder).unwrap();
    for (name, file_name, sha256) in wanted {
        let file = folder.join(file_name);
        if !file.is_file() {
            index.fetch(name, file_name, Some(&sha256), None).await.unwrap();
            fs::copy(store.blob_path(&sha256), &file).unwrap();
        }
    }
    folder
}

pub(crate) struct Scene {
    // Kept for its end.
    _folder: TempDir,
    pub(crate) store: Store,
    base: Base,
}

impl Scene {
    pub(crate) fn new() -> Option<Self> {
        let base = base()?;
        let folder = TempDir::new().unwrap();
        let store = Store::open(folder.path().join("cache")).unwrap();
        Some(Self { _folder: folder, store, base })
    }

    pub(crate) fn stored(&self, file_name: &str, bytes: &[u8]) -> StoredFile {
        StoredFile { file_name: file_name.to_owned(), digest: self.store.put(bytes).unwrap() }
    }

    /// The fixture's file whose name begins so.
    fn real(&self, prefix: &str) -> StoredFile {
        let path = fs::read_dir(&self.base.files)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
            .unwrap_or_else(|| panic!("the fixture has no file {prefix}"));
        let name = path.file_name().unwrap().to_str().unwrap();
        self.stored(name, &fs::read(&path).unwrap())
    }

    fn request(name: &str, version: &str, sdist: StoredFile) -> BuildRequest {
        BuildRequest {
            name: name.parse().unwrap(),
            version: version.parse().unwrap(),
            sdist,
            build_requirements: Vec::new(),
            alternatives: Vec::new(),
            python: (3, 13),
            rootfs_key: Digest::of(b"the fixture"),
            toolchain: None,
            env: BTreeMap::new(),
        }
    }

    /// An sdist with its own backend, whose `build_wheel` is `body`; it may call `wheel(out)`.
    fn in_tree(&self, body: &str) -> BuildRequest {
        self.in_tree_with(body, &[])
    }

    /// The same with files beside the backend.
    pub(crate) fn in_tree_with(&self, body: &str, files: &[(&str, &str)]) -> BuildRequest {
        let backend = format!(
            r#"
import os, sys, zipfile
def wheel(out, content=""):
    name = "p-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(out, name), "w") as file:
        for path, text in [("p.py", content), ("p-1.dist-info/METADATA", "Name: p\nVersion: 1\n"),
                           ("p-1.dist-info/WHEEL", ""), ("p-1.dist-info/RECORD", "")]:
            file.writestr(zipfile.ZipInfo(path), text)
    return name
def get_requires_for_build_wheel(config):
    return os.environ.get("WANTED", "").split()
def build_wheel(out, config, metadata):
{body}
"#
        );
        let pyproject = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\"build\"]\n";
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let own = [("../pyproject.toml", pyproject), ("backend.py", &backend)];
        for (name, text) in own.iter().chain(files) {
            let name = match name.strip_prefix("../") {
                Some(name) => format!("p-1/{name}"),
                None => format!("p-1/build/{name}"),
            };
            writer.start_file(name, SimpleFileOptions::default()).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        let bytes = writer.finish().unwrap().into_inner();
        let sdist = self.stored("p-1.zip", &bytes);
        Self::request("p", "1", sdist)
    }

    pub(crate) fn build(&self, request: &BuildRequest, tier: Tier) -> Result<BuiltWheel, Error> {
        let sandbox = Sandbox {
            launcher: env!("CARGO_BIN_EXE_assemble").into(),
            force_loader: tier == Tier::Loader,
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(build(
            request,
            &self.base.rootfs,
            None,
            &self.store,
            &sandbox,
        ))
    }

    pub(crate) fn entry(&self, wheel: &BuiltWheel, name: &str) -> String {
        let bytes = self.store.read(&wheel.digest).unwrap().unwrap();
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        std::io::read_to_string(archive.by_name(name).unwrap()).unwrap()
    }
}

#[test]
fn zope_interface_is_built_pure_and_found_again() {
    let mut digests = Vec::new();
    for tier in TIERS {
        let Some(scene) = Scene::new() else {
            return;
        };
        let sdist = scene.real("zope_interface-");
        let mut request = Scene::request("zope-interface", "8.7", sdist);
        request.build_requirements = vec![scene.real("setuptools-"), scene.real("wheel-")];
        assert_eq!(cached(&request, &scene.store).unwrap(), None);
        let begin = std::time::Instant::now();
        let built = scene.build(&request, tier).unwrap();
        eprintln!("built in {:?}: {built:?}", begin.elapsed());
        assert!(built.pure_fallback && !built.from_cache);
        assert!(built.file_name.starts_with("zope_interface-8.7-"));
        assert!(scene.entry(&built, "zope/interface/__init__.py").contains("Interface"));
        digests.push((built.digest, built.file_name.clone()));
        let again = cached(&request, &scene.store).unwrap().unwrap();
        assert_eq!(again, BuiltWheel { from_cache: true, ..built.clone() });
        // A damaged wheel is built again.
        fs::write(scene.store.blob_path(&built.digest), "damaged").unwrap();
        assert_eq!(cached(&request, &scene.store).unwrap(), None);
        assert_eq!(scene.build(&request, tier).unwrap().digest, built.digest);
    }
    // The same bytes in every tier.
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_backend_sees_the_locked_world_only() {
    for tier in TIERS {
        let Some(scene) = Scene::new() else {
            return;
        };
        let request = scene.in_tree(
            r#"
    import importlib.util
    seen = [name for name in ("pip", "setuptools") if importlib.util.find_spec(name)]
    seen += [path for path in sys.path if "site-packages" in path]
    seen += [name for name in os.environ if name.startswith(("CARGO", "ASSEMBLE", "SSH"))]
    seen.append("randomised" if sys.flags.hash_randomization else "same hashes")
    seen.append(os.path.basename(os.getcwd()))
    return wheel(out, " ".join(seen))
"#,
        );
        let built = scene.build(&request, tier).unwrap();
        assert_eq!(scene.entry(&built, "p.py"), "same hashes src", "{tier}");
        assert!(!built.pure_fallback);
    }
}

#[test]
fn a_backend_reaches_nothing_outside() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let secret = scene.base.files.display();
    let request = scene.in_tree(&format!(
        r#"
    import socket
    try:
        socket.create_connection(("127.0.0.1", {port}), 2)
        reached = "network"
    except OSError:
        reached = "nothing"
    if os.path.exists("{secret}"):
        reached += " and files"
    others = [p for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid()]
    for path in ("/usr/local/lib/x", "/etc/x", "/x"):
        try:
            open(path, "w")
            reached += " and wrote " + path
        except OSError:
            pass
    return wheel(out, reached + " " + str(len(others)) + " " + str(os.getpid()))
"#
    ));
    let built = scene.build(&request, Tier::Namespaces).unwrap();
    if built.tier == Tier::Loader {
        return skip(&format!("no user namespaces here: {:?}", built.refusal));
    }
    assert_eq!(scene.entry(&built, "p.py"), "nothing 0 1");
}

/// The base's programs run by their names, also where its loader is not at its place; the host's do not.
#[test]
fn a_backend_finds_the_base_s_programs_by_name() {
    for tier in TIERS {
        let Some(scene) = Scene::new() else {
            return;
        };
        let request = scene.in_tree(
            r#"
    import shutil, subprocess
    said = lambda *command, **more: subprocess.check_output(command, text=True, **more).strip()
    seen = [
        said("sh", "-c", "printf 'b,a c,' | tr , '\\n' | sort | sed -n 's/a //p'; echo $0"),
        said("echo $(basename /x/y) && expr 6 + 36", shell=True),
        said("python3", "-c", "import sys; print(sys.argv[1:])", "a b", "'$x'"),
        said(sys.executable, "-c", "import json, zlib; print(zlib.crc32(b'x'))"),
        said("pip", "--version").split()[0] if shutil.which("pip") else "pip",
        str(shutil.which("gcc")),
        str(shutil.which("apt-get")),
    ]
    return wheel(out, "\n".join(seen))
"#,
        );
        let built = scene.build(&request, tier).unwrap_or_else(|error| panic!("{tier}: {error}"));
        assert_eq!(
            scene.entry(&built, "p.py"),
            "c\nsh\ny\n42\n['a b', \"'$x'\"]\n2363233923\npip\nNone\nNone",
            "{tier}"
        );
    }
}

#[test]
fn failures_are_told_with_the_end_of_the_log() {
    let Some(scene) = Scene::new() else {
        return;
    };
    for tier in TIERS {
        let request = scene
            .in_tree("    print('\\n'.join(map(str, range(99)))); raise SystemError('no way')");
        let error = scene.build(&request, tier).unwrap_err();
        let Error::Failed { tail, log, .. } = &error else {
            panic!("{error:?}");
        };
        assert!(tail.ends_with("SystemError: no way"), "{tail}");
        assert_eq!(tail.lines().count(), 30);
        assert!(fs::read_to_string(log).unwrap().starts_with("0\n1\n"));
        assert!(error.hint().unwrap().contains(log.to_str().unwrap()));
        assert_eq!(error.kind(), Kind::Unsatisfiable);
        // A failure is not remembered.
        assert_eq!(cached(&request, &scene.store).unwrap(), None);
    }
    let mut request = scene.in_tree("    return wheel(out)");
    request.env.insert("WANTED".into(), "cython>=3 setuptools".into());
    let error = scene.build(&request, Tier::Namespaces).unwrap_err();
    assert_eq!(
        error.to_string(),
        "p 1 needs `cython>=3`, `setuptools` to be built, which is not among its locked build requirements"
    );
    request.build_requirements = vec![scene.real("setuptools-")];
    request.env.insert("WANTED".into(), "setuptools>40 zz;python_version<'3'".into());
    scene.build(&request, Tier::Namespaces).unwrap();
    request.env.insert("WANTED".into(), "setuptools<40".into());
    let error = scene.build(&request, Tier::Namespaces).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
}

#[test]
fn what_a_backend_returns_is_not_trusted() {
    let Some(scene) = Scene::new() else {
        return;
    };
    for (lie, found) in [
        ("    return '../../../etc/passwd'", "but `../../../etc/passwd`"),
        ("    return 'q-1-py3-none-any.whl'", "but `q-1-py3-none-any.whl`"),
        ("    return 'p-1-py3-none-any.whl'", "but nothing"),
        (
            "    os.symlink('/etc/passwd', os.path.join(out, 'p-1-py3-none-any.whl')); return 'p-1-py3-none-any.whl'",
            "but nothing",
        ),
        (
            "    os.mkfifo(os.path.join(out, 'p-1-py3-none-any.whl')); return 'p-1-py3-none-any.whl'",
            "but nothing",
        ),
        ("    os._exit(0)", "but nothing"),
    ] {
        let error = scene.build(&scene.in_tree(lie), Tier::Namespaces).unwrap_err();
        assert!(matches!(error, Error::WrongWheel { .. }), "{lie}: {error}");
        assert!(error.to_string().ends_with(found), "{lie}: {error}");
    }
}

#[test]
fn an_absent_base_is_an_error() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let request = scene.in_tree("    return wheel(out)");
    scene.base.rootfs = Path::new("/nowhere").to_path_buf();
    let error = scene.build(&request, Tier::Namespaces).unwrap_err();
    assert_eq!(error.to_string(), "p 1 cannot be built here");
    assert!(std::error::Error::source(&error).is_some());
}
