//! What can be typed: the flags, their help, and nothing about what they mean.
#![expect(clippy::doc_markdown, reason = "these comments are the text of --help, not rustdoc")]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Assembles OCI images from a base, a locked Python tree and files: no daemon, no root, no Python.
#[derive(Debug, Parser)]
#[command(
    name = "assemble",
    version,
    about,
    long_about = "Assembles OCI images from a base image, a locked Python tree and files: no daemon, \
                  no root, no Python on this machine.\n\nWithout a command it assembles the given \
                  cells of the matrix; without a cell, all of them.",
    subcommand_precedence_over_arg = true,
    after_help = EXIT_CODES
)]
pub(super) struct Arguments {
    /// Of every command.
    #[command(flatten)]
    pub shared: Shared,
    /// Of the default command.
    #[command(flatten)]
    pub assemble: Assemble,
    /// Another command than the default one.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Shown below the flags; the README's table says the same and is tested.
const EXIT_CODES: &str = "\
Examples:
  assemble lock 2.47.0            resolve for the Python of each of these images, write the locks
  assemble plan 2.47.0            print what would be done
  assemble 2.47.0 -o out/         one archive for each, for docker load and every OCI tool
  assemble --push                 every cell of the matrix, to the registry

Exit codes:
    0  done
    1  unexpected: disk full, a bug
    2  usage, or a bad file below matrix/ or layers/
    3  unsatisfiable: no resolution, no wheel for the target, no such platform
    4  remote: a registry or package index refused or did not answer
    5  integrity: a digest, size or RECORD mismatch, a hostile archive
    6  drift: the lock does not match what it was made from
  130  interrupted";

/// Flags of every command.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct Shared {
    /// The folder that holds matrix/ and layers/
    #[arg(long, global = true, value_name = "DIR", default_value = ".", help_heading = "Places")]
    pub root: PathBuf,
    /// The cache [default: $ASSEMBLE_CACHE_DIR, or assemble below $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Places")]
    pub cache_dir: Option<PathBuf>,
    /// Use the cache only; nothing is asked of any server
    #[arg(long, global = true, help_heading = "Places")]
    pub offline: bool,

    /// Pull HOST's images from MIRROR first [also: $ASSEMBLE_MIRRORS, comma-separated]
    #[arg(long = "mirror", global = true, value_name = "HOST=MIRROR", help_heading = "Registries")]
    pub mirrors: Vec<String>,
    /// Read this base from an OCI layout on disk: a folder, or a tar of one
    #[arg(long = "base-layout", global = true, value_name = "REF=PATH")]
    #[arg(help_heading = "Registries")]
    pub base_layouts: Vec<String>,
    /// Speak plain HTTP to this registry (loopback needs no flag)
    #[arg(long = "plain-http", global = true, value_name = "HOST", help_heading = "Registries")]
    pub plain_http: Vec<String>,
    /// Trust the authorities in this PEM file too [$SSL_CERT_FILE replaces the system's]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Registries")]
    pub ca_bundle: Option<PathBuf>,

    /// Look here for wheels that others built from sdists; `none`: nowhere
    /// [also: $ASSEMBLE_WHEEL_CACHE, `wheels` in matrix.toml]
    #[arg(long, global = true, value_name = "REPOSITORY", help_heading = "Registries")]
    pub wheel_cache: Option<String>,
    /// Put wheels there that it lacks
    #[arg(long, global = true, help_heading = "Registries")]
    pub push_wheels: bool,

    /// The package index [also: $UV_DEFAULT_INDEX, $PIP_INDEX_URL, pip.conf; default: public PyPI]
    #[arg(long, global = true, value_name = "URL", help_heading = "Package indexes")]
    pub index_url: Option<String>,
    /// A further package index
    #[arg(long, global = true, value_name = "URL", help_heading = "Package indexes")]
    pub extra_index_url: Vec<String>,
    /// A folder of wheels and sdists
    #[arg(long, global = true, value_name = "DIR", help_heading = "Package indexes")]
    pub find_links: Vec<PathBuf>,
    /// Use --find-links folders only
    #[arg(long, global = true, help_heading = "Package indexes")]
    pub no_index: bool,

    /// How many files are moved or made at once [default: the number of processors]
    #[arg(short, long, global = true, value_name = "N", help_heading = "Output")]
    pub jobs: Option<usize>,
    /// Results as JSON on standard output
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Say where the time went
    #[arg(long, global = true, help_heading = "Output")]
    pub timings: bool,
    /// Say nothing but results and errors
    #[arg(short, long, global = true, help_heading = "Output")]
    pub quiet: bool,
}

/// Flags of the default command.
#[derive(Debug, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Assemble {
    /// Which cells: a path below matrix/, a tag, or a prefix of either [default: all]
    #[arg(value_name = "CELL")]
    pub cells: Vec<String>,
    /// Push to the registry under the cell's tag
    #[arg(long)]
    pub push: bool,
    /// Where to write: a file ending in .tar, a layout, or a folder [default: the working directory]
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// What to write; with --push nothing is written unless this or --output is given
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Only these of the cell's platforms
    #[arg(long = "platform", value_name = "OS/ARCH")]
    pub platforms: Vec<String>,
    /// A further annotation and label
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub annotations: Vec<String>,
    /// Write the digest to this file (one cell only)
    #[arg(long, value_name = "FILE")]
    pub digest_file: Option<PathBuf>,
    /// Go on with the other cells when one fails
    #[arg(long)]
    pub keep_going: bool,
    /// See that the image starts, even if its base must be fetched for that
    #[arg(long, conflicts_with = "no_check")]
    pub check: bool,
    /// Leave out the start check, and say so in a label; every ELF file is checked nevertheless
    #[arg(long)]
    pub no_check: bool,
}

/// What is written to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One tar for `docker load`, podman, skopeo and containerd
    Tar,
    /// An OCI image layout directory
    Oci,
}

/// The other commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Resolve for the image's Python and write the lock
    Lock(Lock),
    /// Print what would be done, and do nothing
    Plan(Plan),
    /// Make a cell and lock it
    New(New),
    /// Keep a registry's credentials, once it has taken them
    Login(Login),
    /// Forget a registry's credentials
    Logout(Logout),
    /// Show how every cell stands, or give them to a CI system as jobs
    Matrix(Matrix),
    /// Show what an image's bytes are: by distribution, or as a page to explore
    Size(Size),
    /// Assemble and push, adding to the index that the tag names: for platforms made elsewhere
    Index(Index),
    /// See that images start: cells, files that were written, images in a registry
    Check(Check),
}

/// Flags of `matrix`.
#[derive(Debug, Args)]
pub(super) struct Matrix {
    /// Which cells [default: all]
    #[arg(value_name = "CELL")]
    pub cells: Vec<String>,
    /// Ask the registry what the cells' tags name now
    #[arg(long)]
    pub published: bool,
    /// Only cells of this kind; several must all hold
    #[arg(long, value_enum, value_name = "KIND")]
    pub only: Vec<Only>,
    /// Print the cells as jobs of a CI system
    #[arg(long, value_enum)]
    pub format: Option<MatrixFormat>,
}

/// Which cells `matrix` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Only {
    /// The lock fits the recipe
    Locked,
    /// The recipe has changed since the lock was made
    Stale,
    /// There is no lock
    NoLock,
    /// The lock does not pin the base
    Unpinned,
    /// The registry has no such tag (asks it)
    Unpublished,
}

/// Who is to run the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum MatrixFormat {
    /// One line of JSON for `strategy: matrix: ${{ fromJSON(…) }}`
    Github,
    /// YAML with a hidden job `.cells` for a child pipeline
    Gitlab,
}

/// Flags of `size`.
#[derive(Debug, Args)]
pub(super) struct Size {
    /// Which cell (one)
    #[arg(value_name = "CELL")]
    pub cell: String,
    /// Which of the cell's platforms [default: its first]
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Write a page with a treemap to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Flags of `index`.
#[derive(Debug, Args)]
pub(super) struct Index {
    /// As for assembling.
    #[command(flatten)]
    pub assemble: Assemble,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// An archive or layout, a cell, or a reference with a registry
    #[arg(value_name = "CELL|FILE|REFERENCE", required = true)]
    pub what: Vec<String>,
    /// Only this platform [default of a reference: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
}

/// Flags of `lock`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct Lock {
    /// Which cells [default: all]
    #[arg(value_name = "CELL")]
    pub cells: Vec<String>,
    /// Take the newest versions, whatever the old lock says
    #[arg(long)]
    pub upgrade: bool,
    /// Take the newest version of this project
    #[arg(long, value_name = "NAME")]
    pub upgrade_package: Vec<String>,
    /// Ignore files uploaded after this moment (RFC 3339, or a date: its end in UTC); recorded
    #[arg(long, value_name = "DATE")]
    pub exclude_newer: Option<String>,
    /// Write nothing; exit with 6 if a lock is missing or would change
    #[arg(long)]
    pub check: bool,
    /// Pin the base image too: its tag's digest now
    #[arg(long)]
    pub base: bool,
    /// Go on with the other cells when one fails
    #[arg(long)]
    pub keep_going: bool,
}

/// Flags of `plan`.
#[derive(Debug, Args)]
pub(super) struct Plan {
    /// As for assembling.
    #[command(flatten)]
    pub assemble: Assemble,
}

/// Flags of `new`.
#[derive(Debug, Args)]
pub(super) struct New {
    /// The cell's path below matrix/
    #[arg(value_name = "CELL")]
    pub cell: String,
    /// Pin the base image too: its tag's digest now
    #[arg(long)]
    pub base: bool,
}

/// Flags of `login`.
#[derive(Debug, Args)]
pub(super) struct Login {
    /// A registry, or a part of one: ghcr.io, quay.io/team
    #[arg(value_name = "REGISTRY")]
    pub registry: String,
    /// The user name
    #[arg(short, long, value_name = "NAME")]
    pub username: String,
    /// Read the password or access token from standard input: there is no other way to give it
    #[arg(long, required = true)]
    pub password_stdin: bool,
}

/// Flags of `logout`.
#[derive(Debug, Args)]
pub(super) struct Logout {
    /// The registry, as it was given to login
    #[arg(value_name = "REGISTRY")]
    pub registry: String,
}
