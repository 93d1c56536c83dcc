//! Files as a tree of folders with sums (pure).

use serde::Serialize;

use super::Weight;
use super::kind::Kind;
use super::read::File;

/// Something that has a size: a file, or a group of such things.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    /// `gevent 26.9.0`, `gevent/libuv`, `core.py`
    #[serde(rename = "n")]
    pub name: String,
    /// Bytes of files.
    #[serde(rename = "u")]
    pub unpacked: u64,
    /// An estimated part of the compressed layer; true for layers.
    #[serde(rename = "c")]
    pub compressed: u64,
    /// How many files a leaf stands for, where not one.
    #[serde(rename = "f", skip_serializing_if = "is_one")]
    count: u64,
    /// What it is; groups are nothing but what they hold.
    #[serde(rename = "k", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The largest first, by unpacked bytes.
    #[serde(rename = "d", skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Node>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_one(count: &u64) -> bool {
    *count == 1
}

impl Node {
    /// A group that holds nothing yet.
    pub(super) fn group(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    /// Something that is not looked into.
    pub(super) fn leaf(name: String, weight: Weight, kind: Kind) -> Self {
        Self {
            name,
            unpacked: weight.unpacked,
            compressed: weight.compressed,
            count: weight.files,
            kind: Some(kind),
            children: Vec::new(),
        }
    }

    /// How many files it holds.
    pub fn files(&self) -> u64 {
        if self.children.is_empty() {
            return self.count;
        }
        self.children.iter().map(Self::files).sum()
    }

    /// Sums and sorts all that lies below.
    pub(super) fn finish(&mut self) {
        if self.children.is_empty() {
            return;
        }
        self.children.iter_mut().for_each(Self::finish);
        self.unpacked = self.children.iter().map(|child| child.unpacked).sum();
        self.compressed = self.children.iter().map(|child| child.compressed).sum();
        self.count = self.files();
        self.children.sort_by(|a, b| b.unpacked.cmp(&a.unpacked).then_with(|| a.name.cmp(&b.name)));
    }

    /// Joins folders that hold nothing but one folder.
    fn join(&mut self) {
        self.children.iter_mut().for_each(Self::join);
        for child in &mut self.children {
            while let [only] = child.children.as_mut_slice()
                && !only.children.is_empty()
            {
                let only = std::mem::take(only);
                child.name = format!("{}/{}", child.name, only.name);
                child.children = only.children;
            }
        }
    }

    fn insert(&mut self, path: &[&str], leaf: Self) {
        let [folder, rest @ ..] = path else { return };
        if rest.is_empty() {
            self.children.push(leaf);
            return;
        }
        // Sorted archives name the files of a folder one after the other.
        let is_there =
            self.children.last().is_some_and(|last| last.name == *folder && last.kind.is_none());
        if !is_there {
            let there = self
                .children
                .iter()
                .position(|child| child.name == *folder && child.kind.is_none());
            let child = match there {
                Some(position) => self.children.remove(position),
                None => Self::group((*folder).to_owned()),
            };
            self.children.push(child);
        }
        if let Some(child) = self.children.last_mut() {
            child.insert(rest, leaf);
        }
    }
}

/// The files as a tree. Those of a distribution begin at its site-packages folder, like its RECORD;
/// what lies elsewhere keeps its whole path.
pub(super) fn of_files(files: &[File], estimate: impl Fn(u64) -> u64) -> Node {
    let site = files.iter().find_map(|file| {
        let (folder, _) = file.path.strip_suffix("/RECORD")?.rsplit_once('/')?;
        file.owner.is_some().then(|| format!("{folder}/"))
    });
    let mut root = Node::group(String::new());
    for file in files {
        let below = site.as_ref().and_then(|site| file.path.strip_prefix(site.as_str()));
        let mut parts: Vec<&str> = below.unwrap_or(&file.path).split('/').collect();
        let absolute = format!("/{}", parts.first().copied().unwrap_or_default());
        if below.is_none() && parts.len() > 1 {
            parts[0] = &absolute;
        }
        let name = match parts.as_slice() {
            [only] if below.is_none() => format!("/{only}"),
            [.., last] => (*last).to_owned(),
            [] => continue,
        };
        let weight =
            Weight { files: 1, unpacked: file.unpacked, compressed: estimate(file.deflated) };
        root.insert(&parts, Node::leaf(name, weight, file.kind));
    }
    root.join();
    root.finish();
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, unpacked: u64, owned: bool) -> File {
        File {
            path: path.to_owned(),
            unpacked,
            deflated: unpacked / 2,
            kind: Kind::of(path, false),
            owner: owned.then(|| ("a".to_owned(), "1".to_owned())),
        }
    }

    fn lines(node: &Node, depth: usize, out: &mut Vec<String>) {
        out.push(format!("{:depth$}{} {} {}", "", node.name, node.unpacked, node.files()));
        node.children.iter().for_each(|child| lines(child, depth + 1, out));
    }

    #[test]
    fn folders_are_summed_sorted_and_joined() {
        let site = "usr/lib/site-packages";
        let files = [
            file("usr/bin/a", 5, true),
            file(&format!("{site}/a-1.dist-info/RECORD"), 7, true),
            file(&format!("{site}/a/deep/er/one.py"), 10, true),
            file(&format!("{site}/a/deep/er/two.py"), 30, true),
            file(&format!("{site}/a.py"), 1, true),
        ];
        let mut found = Vec::new();
        lines(&of_files(&files, |n| n), 0, &mut found);
        assert_eq!(
            found,
            [
                " 53 5",
                " a/deep/er 40 2",
                "  two.py 30 1",
                "  one.py 10 1",
                " a-1.dist-info 7 1",
                "  RECORD 7 1",
                " /usr/bin 5 1",
                "  a 5 1",
                " a.py 1 1",
            ]
        );
    }

    #[test]
    fn what_is_nobodys_keeps_its_path() {
        let files = [file("docker-entrypoint.sh", 9, false), file("etc/x/y", 1, false)];
        let mut found = Vec::new();
        lines(&of_files(&files, |n| n), 0, &mut found);
        assert_eq!(found, [" 10 2", " /docker-entrypoint.sh 9 1", " /etc/x 1 1", "  y 1 1"]);
    }
}
