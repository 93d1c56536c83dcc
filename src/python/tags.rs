//! Which wheels a target accepts, and which of them it likes best (PEP 425, 600, 656; the order is
//! that of `packaging.tags`).

use std::collections::BTreeMap;

use super::target::{Libc, Target};
use super::wheel_filename::WheelTags;

/// All tag triples of a target, in the order of preference.
#[derive(Clone, Debug)]
pub struct Tags {
    /// Python tag → ABI tag → platform tag → priority.
    triples: BTreeMap<String, BTreeMap<String, BTreeMap<String, u32>>>,
    /// The best Python, ABI and platform tag, for messages.
    best: [String; 3],
}

impl Tags {
    /// The tags of `target`.
    pub fn new(target: &Target) -> Self {
        let (major, minor, _) = target.python;
        let platforms = platforms(target);
        let python = format!("cp{major}{minor}");
        // `m` (pymalloc) went away with 3.8.
        let abi = if (major, minor) < (3, 8) { format!("{python}m") } else { python.clone() };

        let mut order: Vec<(String, &str, &str)> = Vec::new();
        for abi in [abi.as_str(), "abi3", "none"] {
            order.extend(platforms.iter().map(|p| (python.clone(), abi, p.as_str())));
        }
        // abi3 came with 3.2.
        for older in (2..minor).rev() {
            let python = format!("cp{major}{older}");
            order.extend(platforms.iter().map(|p| (python.clone(), "abi3", p.as_str())));
        }
        let generic: Vec<String> = [format!("py{major}{minor}"), format!("py{major}")]
            .into_iter()
            .chain((0..minor).rev().map(|older| format!("py{major}{older}")))
            .collect();
        for python in &generic {
            order.extend(platforms.iter().map(|p| (python.clone(), "none", p.as_str())));
        }
        order.push((python.clone(), "none", "any"));
        order.extend(generic.into_iter().map(|python| (python, "none", "any")));

        let best = [python, abi.clone(), platforms.first().cloned().unwrap_or_default()];
        let mut triples: BTreeMap<String, BTreeMap<String, BTreeMap<String, u32>>> =
            BTreeMap::new();
        for (priority, (python, abi, platform)) in (1..).zip(order.into_iter().rev()) {
            triples
                .entry(python)
                .or_default()
                .entry(abi.to_owned())
                .or_default()
                .insert(platform.to_owned(), priority);
        }
        Self { triples, best }
    }

    /// How well the wheel fits: **greater is better**; `None` if the target cannot use it.
    ///
    /// Of two wheels of one version with equal priority, the one with the greater build tag is better.
    pub fn priority(&self, wheel: &WheelTags) -> Option<u32> {
        wheel
            .python
            .split('.')
            .filter_map(|python| self.triples.get(python))
            .flat_map(|abis| wheel.abi.split('.').filter_map(|abi| abis.get(abi)))
            .flat_map(|platforms| wheel.platform.split('.').filter_map(|p| platforms.get(p)))
            .max()
            .copied()
    }

    /// Why the target cannot use the wheel, for a report; `None` if it can.
    ///
    /// `it is for musllinux_1_2_aarch64, not musllinux_1_2_x86_64`
    pub fn reject_reason(&self, wheel: &WheelTags) -> Option<String> {
        if self.priority(wheel).is_some() {
            return None;
        }
        let [python, abi, platform] = &self.best;
        let accepts_platform = |tag: &str| {
            self.triples
                .values()
                .flat_map(BTreeMap::values)
                .any(|platforms| platforms.contains_key(tag))
        };
        if !wheel.platform.split('.').any(accepts_platform) {
            return Some(format!("it is for {}, not {platform}", wheel.platform));
        }
        if !wheel.python.split('.').any(|tag| self.triples.contains_key(tag)) {
            return Some(format!("it is for {}, not {python}", wheel.python));
        }
        Some(format!("it is for {}-{}, not {python}-{abi}", wheel.python, wheel.abi))
    }

    /// The best Python and platform tag: `cp313/musllinux_1_2_x86_64`, for a report.
    pub fn describe(&self) -> String {
        let [python, _, platform] = &self.best;
        format!("{python}/{platform}")
    }
}

/// Platform tags, best first.
fn platforms(target: &Target) -> Vec<String> {
    let machine = target.machine();
    let mut tags = Vec::new();
    match target.libc {
        Libc::Musl { major, minor } => {
            tags.extend(
                (0..=minor).rev().map(|minor| format!("musllinux_{major}_{minor}_{machine}")),
            );
        }
        Libc::Glibc { major, minor } => {
            // manylinux1 and 2010 were for x86 only; nothing older than 2014 is defined elsewhere.
            let oldest = match machine {
                "x86_64" | "i686" => 5,
                _ => 17,
            };
            for minor in (oldest..=minor).rev() {
                tags.push(format!("manylinux_{major}_{minor}_{machine}"));
                let alias = match minor {
                    17 => "manylinux2014",
                    12 => "manylinux2010",
                    5 => "manylinux1",
                    _ => continue,
                };
                tags.push(format!("{alias}_{machine}"));
            }
        }
    }
    // What a wheel is called that was built on the spot; no index takes it.
    tags.push(format!("linux_{machine}"));
    tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::WheelFilename;

    fn tags(python: &str, os: &str, platform: &str) -> Tags {
        Target::new(python, os, &platform.parse().unwrap()).unwrap().tags()
    }

    fn wheel(triple: &str) -> WheelTags {
        format!("a-1-{triple}.whl").parse::<WheelFilename>().unwrap().tags
    }

    fn priority(tags: &Tags, triple: &str) -> Option<u32> {
        tags.priority(&wheel(triple))
    }

    #[test]
    fn order_is_that_of_packaging() {
        let musl = tags("3.13", "alpine3.24", "linux/amd64");
        let old = tags("3.6", "alpine3.9", "linux/arm64");
        let glibc = tags("3.12", "slim-bullseye", "linux/amd64");
        let orders: [(&Tags, &[&str]); 3] = [
            (
                &musl,
                &[
                    "cp313-cp313-musllinux_1_2_x86_64",
                    "cp313-cp313-musllinux_1_1_x86_64",
                    "cp313-cp313-musllinux_1_0_x86_64",
                    "cp313-cp313-linux_x86_64",
                    "cp313-abi3-musllinux_1_2_x86_64",
                    "cp313-none-musllinux_1_2_x86_64",
                    "cp312-abi3-musllinux_1_2_x86_64",
                    "cp32-abi3-musllinux_1_1_x86_64",
                    "py313-none-musllinux_1_2_x86_64",
                    "py3-none-musllinux_1_2_x86_64",
                    "py2.py3-none-musllinux_1_1_x86_64",
                    "py312-none-musllinux_1_2_x86_64",
                    "cp313-none-any",
                    "py313-none-any",
                    "py3-none-any",
                    "py312-none-any",
                    "py30-none-any",
                ],
            ),
            (
                &old,
                &[
                    "cp36-cp36m-musllinux_1_1_aarch64",
                    "cp36-abi3-musllinux_1_1_aarch64",
                    "cp35-abi3-musllinux_1_1_aarch64",
                    "py2.py3-none-any",
                ],
            ),
            (
                &glibc,
                &[
                    "cp312-cp312-manylinux_2_31_x86_64",
                    "cp312-cp312-manylinux_2_17_x86_64",
                    "cp312-cp312-manylinux2014_x86_64",
                    "cp312-cp312-manylinux_2_12_x86_64",
                    "cp312-cp312-manylinux2010_x86_64",
                    "cp312-cp312-manylinux1_x86_64",
                    "cp312-cp312-linux_x86_64",
                    "cp310-abi3-manylinux_2_28_x86_64",
                ],
            ),
        ];
        for (tags, order) in orders {
            let priorities: Vec<u32> = order
                .iter()
                .map(|triple| priority(tags, triple).unwrap_or_else(|| panic!("{triple}")))
                .collect();
            assert!(priorities.is_sorted_by(|a, b| a > b), "{order:?} {priorities:?}");
        }
    }

    #[test]
    fn refuses_and_says_why() {
        let musl = tags("3.13", "alpine3.24", "linux/amd64");
        let old = tags("3.6", "alpine3.9", "linux/amd64");
        let glibc = tags("3.12", "bullseye", "linux/arm64");
        for (tags, triple, reason) in [
            (&musl, "cp312-cp312-musllinux_1_2_x86_64", "it is for cp312-cp312, not cp313-cp313"),
            (&musl, "cp314-abi3-musllinux_1_2_x86_64", "it is for cp314, not cp313"),
            (&musl, "cp313-cp313t-musllinux_1_2_x86_64", "it is for cp313-cp313t, not cp313-cp313"),
            (
                &musl,
                "cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64",
                "it is for manylinux_2_17_x86_64.manylinux2014_x86_64, not musllinux_1_2_x86_64",
            ),
            (&musl, "py2-none-any", "it is for py2, not cp313"),
            (
                &musl,
                "pp310-pypy310_pp73-win_amd64",
                "it is for win_amd64, not musllinux_1_2_x86_64",
            ),
            (
                &old,
                "cp36-cp36m-musllinux_1_2_x86_64",
                "it is for musllinux_1_2_x86_64, not musllinux_1_1_x86_64",
            ),
            (&old, "cp36-cp36-musllinux_1_1_x86_64", "it is for cp36-cp36, not cp36-cp36m"),
            (
                &glibc,
                "cp312-cp312-manylinux_2_34_aarch64",
                "it is for manylinux_2_34_aarch64, not manylinux_2_31_aarch64",
            ),
            (
                &glibc,
                "cp312-cp312-manylinux1_aarch64",
                "it is for manylinux1_aarch64, not manylinux_2_31_aarch64",
            ),
        ] {
            let wheel = wheel(triple);
            assert_eq!(tags.priority(&wheel), None, "{triple}");
            assert_eq!(tags.reject_reason(&wheel).as_deref(), Some(reason));
        }
        assert_eq!(musl.reject_reason(&wheel("py3-none-any")), None);
        assert_eq!(musl.describe(), "cp313/musllinux_1_2_x86_64");
    }

    #[test]
    fn the_best_tag_of_a_compressed_set_counts() {
        let musl = tags("3.13", "alpine3.24", "linux/amd64");
        assert_eq!(
            priority(&musl, "cp36.cp313-abi3-musllinux_1_1_x86_64.musllinux_1_2_x86_64"),
            priority(&musl, "cp313-abi3-musllinux_1_2_x86_64"),
        );
    }
}
