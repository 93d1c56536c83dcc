//! Questions without an answer, and what the user reads then.

#![expect(clippy::needless_raw_string_hashes, reason = "snapbox writes them")]

use snapbox::{assert_data_eq, str};

use super::index::check;

#[tokio::test]
async fn requirements_that_contradict_each_other() {
    let index = "
a-1.0-py3-none-any.whl
  requires c<2
b-1.0-py3-none-any.whl
  requires c>=2
b-1.1-py3-none-any.whl
  requires c>=3
c-1.0-py3-none-any.whl
c-2.0-py3-none-any.whl
c-3.0-py3-none-any.whl
";
    assert_data_eq!(
        check(index, &["a==1.0", "b"]).await,
        str![[r#"
error: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64):
  you require `a==1.0`
  you require `b`
  `a` 1.0 requires `c<2`
  `b` 1.1 requires `c>=3`
  `b` 1.0 requires `c>=2`

"#]]
    );
    assert_data_eq!(
        check(index, &["b", "--constraint c<3", "--constraint c>2.5"]).await,
        str![[r#"
error: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64):
  you require `b`
  `b` 1.1 requires `c>=3`
  `b` 1.0 requires `c>=2`
  your constraint `c<3` leaves other versions out
  your constraint `c>2.5` leaves other versions out
  `c` has no such version: the package index has 1.0 to 3.0

"#]]
    );
}

#[tokio::test]
async fn no_file_for_the_target() {
    let index = "
deep-1.0-py3-none-any.whl
  requires native>=1.5
native-1.4-py3-none-any.whl
native-1.5-cp313-cp313-manylinux_2_17_x86_64.whl
native-1.6-cp313-cp313-manylinux_2_17_x86_64.whl
native-1.7-cp313-cp313-manylinux_2_17_x86_64.whl
native-1.8-cp314-cp314-musllinux_1_2_x86_64.whl
  requires-python >=3.14
native-1.9-py3-none-any.whl
  requires-python >=3.14
native-2.0-py3-none-any.whl
  requires-python >=3.14
native-2.1-py3-none-any.whl
  yanked it was a mistake
";
    assert_data_eq!(
        check(index, &["deep"]).await,
        str![[r#"
error: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64):
  you require `deep`
  `deep` 1.0 requires `native>=1.5`
  `native` 2.1: yanked: it was a mistake
  `native` 1.9 and 2.0: needs python >=3.14, not 3.13.1
  `native` 1.5 to 1.8 (4 versions): no wheel for cp313/musllinux_1_2_x86_64 and no sdist
hint: a yanked version counts if a requirement or constraint of yours pins it with `==`
another base may have wheels, or an override can put another project in
a cell with another python may fit

"#]]
    );
}

#[tokio::test]
async fn unknown_names_and_versions() {
    let index = "
a-1.0-py3-none-any.whl
  requires missing
b-1.0-py3-none-any.whl
b-1.1-py3-none-any.whl
";
    assert_data_eq!(
        check(index, &["a"]).await,
        str![[r#"
error: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64):
  you require `a`
  `a` 1.0 requires `missing`
  `missing` is not on the package index

"#]]
    );
    assert_data_eq!(
        check(index, &["b>=2"]).await,
        str![[r#"
error: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64):
  you require `b>=2`
  `b` has no such version: the package index has 1.0 to 1.1

"#]]
    );
    assert_data_eq!(
        check(index, &["b<1,>1"]).await,
        str![[r#"
error: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64):
  you require `b` in versions that exclude each other

"#]]
    );
}

#[tokio::test]
async fn everything_is_too_new() {
    let index = "
a-1.0-py3-none-any.whl
  uploaded 2024-05-01
a-1.1-py3-none-any.whl
  uploaded 2024-06-01
a-1.2-py3-none-any.whl
";
    assert_data_eq!(
        check(index, &["a", "--exclude-newer 2024-01-01"]).await,
        str![[r#"
error: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64):
  you require `a`
  `a` 1.2: its upload time is not known, and a limit is set
  `a` 1.0 and 1.1: uploaded after 2024-01-01T00:00:00Z
hint: a later --exclude-newer would admit more versions

"#]]
    );
}

#[tokio::test]
async fn metadata_that_cannot_be_used() {
    let index = "
a-1.0-py3-none-any.whl
  needs-python >=3.14
a-1.1-py3-none-any.whl
  broken
a-1.2-py3-none-any.whl
  requires b @ https://user:secret@host.invalid/b.whl
a-1.3-py3-none-any.whl
  requires a==1.2
";
    assert_data_eq!(
        check(index, &["a"]).await,
        str![[r#"
error: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64):
  you require `a`
  `a` 1.3: requires itself, in another version: ==1.2
  `a` 1.2: its metadata is unusable: it requires an address: `b`
  `a` 1.1: its metadata is unusable: it is that of `broken`
  `a` 1.0: needs python >=3.14, not 3.13.1
hint: a cell with another python may fit

"#]]
    );
}

#[tokio::test]
async fn targets_that_want_different_versions() {
    let index = "
a-1.0-py3-none-any.whl
  requires b<2; platform_machine == 'x86_64'
  requires b>=2; platform_machine == 'aarch64'
b-1.0-py3-none-any.whl
b-2.0-py3-none-any.whl
c-1.0-py3-none-musllinux_1_2_x86_64.whl
c-2.0-py3-none-musllinux_1_2_aarch64.whl
";
    assert_data_eq!(
        check(index, &["a", "--both"]).await,
        str![[r#"
error: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64, cp313/musllinux_1_2_aarch64):
  you require `a`
  `a` 1.0 requires `b<2` on linux/amd64
  `a` 1.0 requires `b>=2` on linux/arm64

"#]]
    );
    assert_data_eq!(
        check(index, &["c", "--both"]).await,
        str![[r#"
error: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64, cp313/musllinux_1_2_aarch64):
  you require `c`
  `c` 2.0: no wheel for cp313/musllinux_1_2_x86_64 and no sdist
  `c` 1.0: no wheel for cp313/musllinux_1_2_aarch64 and no sdist
hint: another base may have wheels, or an override can put another project in

"#]]
    );
}

#[tokio::test]
async fn extras_that_do_not_fit() {
    let index = "
a-1.0-py3-none-any.whl
  extra x
  requires c<2; extra == 'x'
c-2.0-py3-none-any.whl
";
    assert_data_eq!(
        check(index, &["a[x]>=1"]).await,
        str![[r#"
error: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64):
  you require `a[x]>=1`
  `a[x]` 1.0 requires `c<2`
  `c` has no such version: the package index has only 2.0

"#]]
    );
}

#[tokio::test]
async fn a_build_that_needs_what_has_no_wheel() {
    let index = "
old-1.0.tar.gz
  static
  build builder
builder-1.0.tar.gz
  static
";
    assert_data_eq!(
        check(index, &["old"]).await,
        str![[r#"
error: `old-1.0.tar.gz` has to be built, and what its build needs does not fit
cause: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64):
  you require `builder`
  `builder` 1.0: no wheel for cp313/musllinux_1_2_x86_64, and a build needs wheels
hint: another base may have wheels, or an override can put another project in

"#]]
    );
}

#[tokio::test]
async fn many_versions_stay_readable() {
    let top: Vec<String> = (0..40)
        .map(|minor| format!("top-1.{minor}-py3-none-any.whl\n  requires low>=2.{minor}\n"))
        .collect();
    let index = top.concat() + "low-1.0-py3-none-any.whl\n";
    assert_data_eq!(
        check(&index, &["top", "low"]).await,
        str![[r#"
error: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64):
  you require `top`
  `top` 1.39 requires `low>=2.39`
  `top` 1.0 to 1.39 (40 versions): each requires a part of `low>=2.0`
  `low` has no such version: the package index has only 1.0

"#]]
    );
}

#[tokio::test]
async fn addresses_are_refused() {
    let question = ["a @ https://user:secret@host.invalid/a.whl"];
    assert_data_eq!(
        check("", &question).await,
        str![[r#"
error: requirement names an address, which a lock cannot hold: `a`
hint: require a version of it, and put the file in a --find-links folder

"#]]
    );
}
