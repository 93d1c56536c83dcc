//! Tiny shared objects for tests: a header, a dynamic section and nothing to run.

/// What a made object says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    machine: u16,
    needed: Vec<String>,
    versions: Vec<(String, String)>,
    defined: Vec<String>,
    run_path: Option<String>,
    interpreter: Option<String>,
    uses: Vec<String>,
    exports: Vec<String>,
}

impl Object {
    /// For `x86_64` or `aarch64`.
    pub(crate) fn of(machine: &str) -> Self {
        Self { machine: if machine == "aarch64" { 183 } else { 62 }, ..Self::default() }
    }

    /// One more `DT_NEEDED`.
    pub(crate) fn needs(mut self, library: &str) -> Self {
        self.needed.push(library.to_owned());
        self
    }

    /// One more version that it needs of a library.
    pub(crate) fn version(mut self, library: &str, version: &str) -> Self {
        self.versions.push((library.to_owned(), version.to_owned()));
        self
    }

    /// One more version that it has.
    pub(crate) fn defines(mut self, version: &str) -> Self {
        self.defined.push(version.to_owned());
        self
    }

    /// `DT_RUNPATH`
    pub(crate) fn runs_from(mut self, folders: &str) -> Self {
        self.run_path = Some(folders.to_owned());
        self
    }

    /// `PT_INTERP`
    pub(crate) fn interpreter(mut self, path: &str) -> Self {
        self.interpreter = Some(path.to_owned());
        self
    }

    /// One more symbol that others must have.
    pub(crate) fn uses(mut self, symbol: &str) -> Self {
        self.uses.push(symbol.to_owned());
        self
    }

    /// One more symbol that it has for others.
    pub(crate) fn exports(mut self, symbol: &str) -> Self {
        self.exports.push(symbol.to_owned());
        self
    }

    /// The file: ELF64, little-endian, `ET_DYN`; addresses are offsets.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let headers = 64 + 3 * 56;
        let mut strings = vec![0_u8];
        let mut string = |text: &str| {
            let at = strings.len() as u64;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let mut dynamic: Vec<(u64, u64)> = Vec::new();
        dynamic.extend(self.needed.iter().map(|name| (1, string(name))));
        dynamic.extend(self.run_path.iter().map(|folders| (29, string(folders))));
        let needed: Vec<_> =
            self.versions.iter().map(|(file, name)| (string(file), string(name))).collect();
        let defined: Vec<_> = self.defined.iter().map(|name| string(name)).collect();
        let interpreter = self.interpreter.as_ref().map(|path| string(path));
        // Undefined ones lie in no section; the second number is `STB_GLOBAL`, for an object.
        let mut symbols: Vec<_> = self.uses.iter().map(|name| (string(name), 0)).collect();
        symbols.extend(self.exports.iter().map(|name| (string(name), 1_u64)));

        let mut tail = Vec::new();
        let verneed = tail.len() as u64;
        for (position, (file, name)) in needed.iter().enumerate() {
            let next = if position + 1 == needed.len() { 0 } else { 32 };
            for (value, size) in [(1, 2), (1, 2), (*file, 4), (16, 4), (next, 4)] {
                put(&mut tail, value, size);
            }
            for (value, size) in [(0, 4), (0, 2), (2, 2), (*name, 4), (0, 4)] {
                put(&mut tail, value, size);
            }
        }
        let verdef = tail.len() as u64;
        for (position, name) in defined.iter().enumerate() {
            let next = if position + 1 == defined.len() { 0 } else { 28 };
            for (value, size) in [(1, 2), (0, 2), (2, 2), (1, 2), (0, 4), (20, 4), (next, 4)] {
                put(&mut tail, value, size);
            }
            for (value, size) in [(*name, 4), (0, 4)] {
                put(&mut tail, value, size);
            }
        }
        let (symbols_at, hash_at) = put_symbols(&mut tail, &symbols);
        let tail_at = headers;
        if !symbols.is_empty() {
            dynamic.extend([(6, tail_at + symbols_at), (11, 24), (4, tail_at + hash_at)]);
        }
        if !needed.is_empty() {
            dynamic.extend([(0x6fff_fffe, tail_at + verneed), (0x6fff_ffff, needed.len() as u64)]);
        }
        if !defined.is_empty() {
            dynamic.extend([(0x6fff_fffc, tail_at + verdef), (0x6fff_fffd, defined.len() as u64)]);
        }
        let strings_at = tail_at + tail.len() as u64;
        dynamic.extend([(5, strings_at), (10, strings.len() as u64), (0, 0)]);
        let dynamic_at = (strings_at + strings.len() as u64).next_multiple_of(8);
        let dynamic_size = dynamic.len() as u64 * 16;
        let end = dynamic_at + dynamic_size;

        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        for (value, size) in [(3, 2), (self.machine.into(), 2), (1, 4), (0, 8), (64, 8), (0, 8)] {
            put(&mut bytes, value, size);
        }
        for (value, size) in [(0, 4), (64, 2), (56, 2), (3, 2), (64, 2), (0, 2), (0, 2)] {
            put(&mut bytes, value, size);
        }
        let (interpreter_kind, interpreter_at, interpreter_size) = match interpreter {
            Some(at) => {
                let length = self.interpreter.as_ref().map_or(0, |path| path.len() as u64 + 1);
                (3, strings_at + at, length)
            }
            None => (0, 0, 0),
        };
        for (kind, at, size) in [
            (1, 0, end),
            (2, dynamic_at, dynamic_size),
            (interpreter_kind, interpreter_at, interpreter_size),
        ] {
            for (value, width) in
                [(kind, 4), (5, 4), (at, 8), (at, 8), (at, 8), (size, 8), (size, 8), (8, 8)]
            {
                put(&mut bytes, value, width);
            }
        }
        bytes.extend(tail);
        bytes.extend(strings);
        bytes.resize(usize::try_from(dynamic_at).unwrap_or_default(), 0);
        for (tag, value) in dynamic {
            put(&mut bytes, tag, 8);
            put(&mut bytes, value, 8);
        }
        bytes
    }
}

/// A table of symbols, which begins with one that means none, and a hash table of one bucket, which only
/// says how many there are; where both lie.
fn put_symbols(bytes: &mut Vec<u8>, symbols: &[(u64, u64)]) -> (u64, u64) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let symbols_at = bytes.len() as u64;
    for (name, section) in [(0, 0)].iter().chain(symbols) {
        for (value, size) in [(*name, 4), (0x11, 1), (0, 1), (*section, 2), (0, 8), (0, 8)] {
            put(bytes, value, size);
        }
    }
    let hash_at = bytes.len() as u64;
    let length = symbols.len() as u64 + 1;
    for value in [1, length, 0].into_iter().chain((0..length).map(|_| 0)) {
        put(bytes, value, 4);
    }
    (symbols_at, hash_at)
}

fn put(bytes: &mut Vec<u8>, value: u64, size: usize) {
    bytes.extend_from_slice(&value.to_le_bytes()[..size]);
}
