//! Questions that have an answer.

#![expect(clippy::needless_raw_string_hashes, reason = "snapbox writes them")]

use snapbox::{assert_data_eq, str};

use super::index::{check, compiler};

#[tokio::test]
async fn the_newest_versions_that_fit_together() {
    let index = "
a-1.0-py3-none-any.whl
  requires c<2
a-2.0-py3-none-any.whl
  requires c>=2
b-1.0-py3-none-any.whl
  requires c<3
c-1.0-py3-none-any.whl
c-2.0-py3-none-any.whl
c-3.0-py3-none-any.whl
";
    assert_data_eq!(
        check(index, &["a", "b"]).await,
        str![[r#"
a 2.0 → c | -py3-none-any.whl
b 1.0 → c | -py3-none-any.whl
c 2.0 | -py3-none-any.whl

"#]]
    );
    assert_data_eq!(
        check(index, &["a", "b", "--constraint c<2"]).await,
        str![[r#"
a 1.0 → c | -py3-none-any.whl
b 1.0 → c | -py3-none-any.whl
c 1.0 | -py3-none-any.whl

"#]]
    );
    assert_data_eq!(
        check(index, &["a", "b", "--prefer a==1.0", "--prefer b==7"]).await,
        str![[r#"
a 1.0 → c | -py3-none-any.whl
b 1.0 → c | -py3-none-any.whl
c 1.0 | -py3-none-any.whl

"#]]
    );
}

#[tokio::test]
async fn backtracking_finds_the_version_far_below() {
    // Only the oldest `web` goes with `base<1`; each newer one requires a newer base.
    let newer: Vec<String> = (1..60)
        .map(|minor| {
            format!(
                "
base-1.{minor}-py3-none-any.whl
other-3.{minor}-py3-none-any.whl
web-2.{minor}-py3-none-any.whl
  requires base==1.{minor}
  requires other
"
            )
        })
        .collect();
    let index = newer.concat()
        + "
base-0.9-py3-none-any.whl
web-2.0-py3-none-any.whl
  requires base
";
    assert_data_eq!(
        check(&index, &["web", "base<1"]).await,
        str![[r#"
base 0.9 | -py3-none-any.whl
web 2.0 → base | -py3-none-any.whl

"#]]
    );
}

#[tokio::test]
async fn pre_releases_are_for_those_who_name_one_or_have_no_choice() {
    let index = "
a-1.0-py3-none-any.whl
a-1.1a1-py3-none-any.whl
b-2.0rc1-py3-none-any.whl
c-1.0-py3-none-any.whl
  requires a<2.0dev
d-1.0-py3-none-any.whl
  requires a>1.0
";
    // `<2.0dev` is a pre-release, but nobody asked for one directly.
    assert_data_eq!(
        check(index, &["c"]).await,
        str![[r#"
a 1.0 | -py3-none-any.whl
c 1.0 → a | -py3-none-any.whl

"#]]
    );
    assert_data_eq!(
        check(index, &["a>=1.0a0"]).await,
        str![[r#"
a 1.1a1 | -py3-none-any.whl

"#]]
    );
    assert_data_eq!(
        check(index, &["b"]).await,
        str![[r#"
b 2.0rc1 | -py3-none-any.whl

"#]]
    );
    assert_data_eq!(
        check(index, &["d"]).await,
        str![[r#"
a 1.1a1 | -py3-none-any.whl
d 1.0 → a | -py3-none-any.whl

"#]]
    );
}

#[tokio::test]
async fn yanked_versions_are_for_those_who_pin_them() {
    let index = "
a-1.0-py3-none-any.whl
a-1.1-py3-none-any.whl
  yanked breaks on mondays
b-1.0-py3-none-any.whl
  requires a==1.1
";
    assert_data_eq!(
        check(index, &["a"]).await,
        str![[r#"
a 1.0 | -py3-none-any.whl

"#]]
    );
    assert_data_eq!(
        check(index, &["a==1.1"]).await,
        str![[r#"
a 1.1 | -py3-none-any.whl
notice: `a` 1.1 is yanked: breaks on mondays

"#]]
    );
    assert_data_eq!(
        check(index, &["a", "--constraint a==1.1"]).await,
        str![[r#"
a 1.1 | -py3-none-any.whl
notice: `a` 1.1 is yanked: breaks on mondays

"#]]
    );
    // A pin that is found on the way counts as well, though `a` was decided before.
    assert_data_eq!(
        check(index, &["a", "b"]).await,
        str![[r#"
error: no set of versions fits python 3.13.1 (cp313/musllinux_1_2_x86_64):
  you require `b`
  `b` 1.0 requires `a==1.1`
  `a` 1.1: yanked: breaks on mondays
hint: a yanked version counts if a requirement or constraint of yours pins it with `==`

"#]]
    );
    assert_data_eq!(
        check(index, &["a", "--prefer a==1.1"]).await,
        str![[r#"
a 1.1 | -py3-none-any.whl
notice: `a` 1.1 is yanked: breaks on mondays

"#]]
    );
}

#[tokio::test]
async fn extras_are_parts_of_their_project() {
    let index = "
a-1.0-py3-none-any.whl
  extra all
  extra fast
  extra pretty
  requires base
  requires a[fast,pretty]; extra == 'all'
  requires speed>=1; extra == 'fast'
  requires colour; extra == 'pretty' and sys_platform == 'win32'
a-2.0-py3-none-any.whl
  extra fast
  requires base
  requires speed>=2; extra == 'fast'
base-1-py3-none-any.whl
speed-1-py3-none-any.whl
colour-1-py3-none-any.whl
";
    assert_data_eq!(
        check(index, &["a"]).await,
        str![[r#"
a 2.0 → base | -py3-none-any.whl
base 1 | -py3-none-any.whl

"#]]
    );
    // a 2.0's extra has no solution, so that the project is older, too.
    assert_data_eq!(
        check(index, &["a[fast]"]).await,
        str![[r#"
a 1.0 → base speed | -py3-none-any.whl
base 1 | -py3-none-any.whl
speed 1 | -py3-none-any.whl

"#]]
    );
    assert_data_eq!(
        check(index, &["a[all]==1.0"]).await,
        str![[r#"
a 1.0 → base speed | -py3-none-any.whl
base 1 | -py3-none-any.whl
speed 1 | -py3-none-any.whl

"#]]
    );
    assert_data_eq!(
        check(index, &["a[slow]"]).await,
        str![[r#"
a 2.0 → base | -py3-none-any.whl
base 1 | -py3-none-any.whl
notice: `a` 2.0 has no extra `slow`: ignored

"#]]
    );
}

#[tokio::test]
async fn one_version_and_the_best_file_for_each_target() {
    let index = "
a-1.0-cp313-cp313-musllinux_1_2_x86_64.whl
  requires b; platform_machine == 'aarch64'
a-1.0-cp313-cp313-musllinux_1_2_aarch64.whl
  requires b; platform_machine == 'aarch64'
  requires only-arm
a-1.0-cp313-cp313-manylinux_2_17_x86_64.whl
a-1.0-py3-none-any.whl
a-2.0-cp313-cp313-musllinux_1_2_x86_64.whl
b-1.0-py3-none-musllinux_1_1_aarch64.whl
b-1.0-1-py3-none-musllinux_1_1_aarch64.whl
only_arm-1.0-py3-none-any.whl
";
    // 2.0 would do for one of the two.
    assert_data_eq!(
        check(index, &["a", "--both"]).await,
        str![[r#"
a 1.0 → b only-arm | -cp313-cp313-musllinux_1_2_aarch64.whl [linux/arm64] | -cp313-cp313-musllinux_1_2_x86_64.whl [linux/amd64]
b 1.0 | -1-py3-none-musllinux_1_1_aarch64.whl [linux/arm64]
only-arm 1.0 | only_arm-1.0-py3-none-any.whl [linux/arm64]

"#]]
    );
    assert_data_eq!(
        check(index, &["a"]).await,
        str![[r#"
a 2.0 | -cp313-cp313-musllinux_1_2_x86_64.whl

"#]]
    );
}

#[tokio::test]
async fn requires_python_counts_with_its_upper_bounds() {
    let index = "
a-1.0-py3-none-any.whl
  requires-python >=3.6
a-2.0-py3-none-any.whl
  requires-python >=3.6,<3.13
a-3.0-py3-none-any.whl
  needs-python >=3.14
";
    assert_data_eq!(
        check(index, &["a"]).await,
        str![[r#"
a 1.0 | -py3-none-any.whl

"#]]
    );
    assert_data_eq!(
        check(index, &["a", "--python 3.8.18"]).await,
        str![[r#"
a 2.0 | -py3-none-any.whl

"#]]
    );
}

#[tokio::test]
async fn the_date_limit_hides_files() {
    let index = "
a-1.0-py3-none-any.whl
  uploaded 2023-01-01
a-1.0.tar.gz
  uploaded 2023-01-01
  static
a-1.1.tar.gz
  uploaded 2023-02-01
  static
a-1.1-py3-none-any.whl
  uploaded 2025-01-01
a-1.2-py3-none-any.whl
a-2.0-py3-none-any.whl
  uploaded 2025-01-01
b-1.0-py3-none-any.whl
  local
";
    // 1.1's wheel came late: its sdist is taken. Nobody knows when 1.2 came; `b` is the user's own.
    assert_data_eq!(
        check(index, &["a", "b", "--exclude-newer 2024-01-01"]).await,
        str![[r#"
a 1.1 | .tar.gz
b 1.0 | -py3-none-any.whl

"#]]
    );
    assert_data_eq!(
        check(index, &["a"]).await,
        str![[r#"
a 2.0 | -py3-none-any.whl

"#]]
    );
}

#[tokio::test]
async fn overrides_replace_and_drop() {
    let index = "
a-1.0-py3-none-any.whl
  requires b<2
  requires c
b-1.0-py3-none-any.whl
b-2.0-py3-none-any.whl
";
    assert_data_eq!(
        check(index, &["a", "--override b==2.0", "--drop c"]).await,
        str![[r#"
a 1.0 → b | -py3-none-any.whl
b 2.0 | -py3-none-any.whl

"#]]
    );
}

#[tokio::test]
async fn sdists_come_with_what_their_build_needs() {
    let index = "
old-1.0.tar.gz
  requires dep
  build setuptools
old-1.0-cp27-none-win32.whl
  requires dep>=1
older-1.0.tar.gz
  build setuptools
  requires dep
oldest-1.0.tar.gz
  bare
  build setuptools
modern-1.0.tar.gz
  static
  requires dep
  build flit-core>=3
  backend flit_core.buildapi
modern-1.0.zip
  static
dep-1-py3-none-any.whl
  unidentified
setuptools-59.6.0-py3-none-any.whl
  requires-python >=3.6
setuptools-80-py3-none-any.whl
  requires-python >=3.9
wheel-0.37.1-py3-none-any.whl
flit_core-3.9-py3-none-any.whl
  requires-python >=3.6
  requires tomli; python_version < '3.11'
tomli-1.2-py3-none-any.whl
";
    let question = ["old", "older", "oldest", "modern"];
    assert_data_eq!(
        check(index, &question).await,
        str![[r#"
dep 1 | -py3-none-any.whl
modern 1.0 → dep | .tar.gz (flit-core 3.9)
old 1.0 → dep | .tar.gz (setuptools 80)
older 1.0 → dep | .tar.gz (setuptools 80)
oldest 1.0 | .tar.gz (setuptools 80)
notice: the requirements of `older` 1.0 were read from its sdist, which is too old to vouch for them
notice: the sdist of `oldest` 1.0 names no requirements: assumed to have none

"#]]
    );
    // An old Python gets an old setuptools, which cannot do without `wheel`.
    let question = ["old", "modern", "--python 3.6.15"];
    assert_data_eq!(
        check(index, &question).await,
        str![[r#"
dep 1 | -py3-none-any.whl
modern 1.0 → dep | .tar.gz (flit-core 3.9, tomli 1.2)
old 1.0 → dep | .tar.gz (setuptools 59.6.0, wheel 0.37.1)

"#]]
    );
}

#[tokio::test]
async fn the_date_limit_is_lifted_for_a_build_that_cannot_be_otherwise() {
    let index = "
old-1.0.tar.gz
  uploaded 2015-01-01
  static
  build setuptools>=40.8
setuptools-59.6.0-py3-none-any.whl
  uploaded 2021-12-12
setuptools-59.5.0-py3-none-any.whl
  uploaded 2021-11-30
setuptools-65.0-py3-none-any.whl
  uploaded 2022-08-14
wheel-0.24.0-py3-none-any.whl
  uploaded 2014-07-06
wheel-0.37.1-py3-none-any.whl
  uploaded 2021-12-22
";
    // What came soonest after the limit; `wheel` has a version within it.
    let question = ["old", "--exclude-newer 2015-06-01", "--python 3.6.15"];
    assert_data_eq!(
        check(index, &question).await,
        str![[r#"
old 1.0 | .tar.gz (setuptools 59.5.0, wheel 0.24.0)
notice: what the build of `old-1.0.tar.gz` needs is newer than the date limit

"#]]
    );
}

#[tokio::test]
async fn the_compiler_is_for_those_who_build() {
    let index = "
zig-0.12-py3-none-musllinux_1_1_x86_64.whl
  uploaded 2024-01-01
zig-0.12-py3-none-musllinux_1_1_aarch64.whl
  uploaded 2024-01-01
zig-0.14-py3-none-musllinux_1_1_x86_64.whl
  uploaded 2025-03-01
zig-0.14-py3-none-musllinux_1_1_aarch64.whl
  uploaded 2025-03-01
zig-0.17-py3-none-musllinux_1_1_x86_64.whl
  uploaded 2026-10-01
zig-0.17-py3-none-musllinux_1_1_aarch64.whl
  uploaded 2026-10-01
zig-0.18-py3-none-musllinux_1_1_x86_64.whl
  uploaded 2026-11-01
zig-0.19.tar.gz
";
    // For both machines that builds run on, whichever the cell is for; never from source.
    let newest = compiler(index, &["a"]).await;
    assert_data_eq!(
        &newest,
        str![[r#"
zig 0.17 | -py3-none-musllinux_1_1_aarch64.whl [linux/arm64] | -py3-none-musllinux_1_1_x86_64.whl [linux/amd64]

"#]]
    );
    assert_eq!(compiler(index, &["a", "--both"]).await, newest);
    for (option, version, notice) in [
        ("--constraint zig<0.15", "zig 0.14 ", ""),
        ("--constraint other<0.15", "zig 0.17 ", ""),
        ("--prefer zig==0.14", "zig 0.14 ", ""),
        ("--drop zig", "zig 0.17 ", ""),
        ("--exclude-newer 2025-06-01", "zig 0.14 ", ""),
        ("--exclude-newer 2024-06-01", "zig 0.17 ", "is newer than the date limit"),
        ("--constraint zig>1", "error: ", ""),
    ] {
        let told = compiler(index, &["a", option]).await;
        assert!(told.starts_with(version), "{option}: {told}");
        assert_eq!(told.contains("notice"), !notice.is_empty(), "{option}: {told}");
        assert!(told.contains(notice), "{option}: {told}");
    }
}
