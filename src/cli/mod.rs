//! Chapter 0: what the user typed, what the user sees. Only this room prints or reads the
//! environment.

mod args;
mod cells;
mod check;
mod convert;
mod environment;
mod error;
mod locked;
mod login;
mod matrix;
mod network;
mod progress;
mod report;
mod size;
mod table;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser as _;
use pep508_rs::PackageName;
use serde::Serialize;

use self::args::{Arguments, Assemble, Command, Shared};
use self::environment::Environment;
use self::error::Error;
use self::locked::{Locked, Locks};
use self::progress::Terminal;
use crate::assemble::{self, Assembled, LockOptions};
use crate::error::{Doing, Result};
use crate::recipe::{Cell, Exceptions, Lock, Recipe};
use crate::world::World;

/// How long files that are being written get to be finished after Ctrl-C.
const LAST_WRITES: Duration = Duration::from_secs(20);

/// Runs the command line and returns its exit code.
///
/// Results go to standard output; progress, notices and errors go to standard error.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no failures; clap knows which stream and code each has.
            let _closed = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let begin = Instant::now();
    let terminal = Arc::new(Terminal::new(arguments.shared.quiet));
    let outcome = run(&arguments, &terminal);
    terminal.clear();
    if arguments.shared.timings {
        let _closed = write!(std::io::stderr(), "{}", terminal.timings(begin.elapsed()));
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "{}", report::error(&error));
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn run(arguments: &Arguments, terminal: &Arc<Terminal>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::Disk)
        .doing(|| "start".into())?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = command(arguments, terminal) => outcome,
            _ = tokio::signal::ctrl_c() => Err(Error::Interrupted).doing(|| "finish".into()),
        }
    });
    if outcome.is_ok() {
        // Nothing is under way that anybody waits for.
        runtime.shutdown_background();
    } else {
        // Files are written on blocking threads: each is finished and renamed, or removed.
        runtime.shutdown_timeout(LAST_WRITES);
    }
    outcome
}

async fn command(arguments: &Arguments, terminal: &Arc<Terminal>) -> Result<()> {
    let Arguments { shared, assemble, command } = arguments;
    let environment = Environment::of_process();
    if let Some(command) = command {
        let name = match command {
            Command::Lock(_) => "lock",
            Command::Plan(_) => "plan",
            Command::New(_) => "new",
            Command::Login(_) => "login",
            Command::Logout(_) => "logout",
            Command::Matrix(_) => "matrix",
            Command::Size(_) => "size",
            Command::Check(_) => "check",
            Command::Index(_) => "index",
        };
        if !assemble.cells.is_empty() {
            return Err(Error::CellsBeforeCommand(name))
                .doing(|| "understand the command line".into());
        }
    }
    // Logging in needs neither.
    let open = || -> Result<(World, Recipe)> {
        let mut world = convert::world(shared, &environment, terminal.clone())?;
        let recipe = Recipe::open(&shared.root).doing(|| "read the recipe".into())?;
        let settings = &recipe.matrix.settings;
        world.wheel_cache = network::wheel_cache(shared, &environment, settings, &world.registry)?;
        Ok((world, recipe))
    };
    match command {
        None => {
            let (world, recipe) = open()?;
            let requests = convert::requests(&recipe, assemble, &environment)?;
            assemble_cells(requests, assemble, shared, &world, terminal).await
        }
        Some(Command::Login(flags)) => login::login(flags, shared, &environment, &**terminal).await,
        Some(Command::Logout(flags)) => login::logout(flags, &environment, &**terminal).await,
        Some(Command::Index(flags)) => {
            let (world, recipe) = open()?;
            let requests = convert::index_requests(&recipe, &flags.assemble, &environment)?;
            assemble_cells(requests, &flags.assemble, shared, &world, terminal).await
        }
        Some(Command::Plan(flags)) => {
            let (world, recipe) = open()?;
            let requests = convert::requests(&recipe, &flags.assemble, &environment)?;
            let mut plans = Vec::new();
            for (_cell, request) in requests {
                plans.extend(assemble::plan(&request?, &world).await?);
            }
            print(shared, &plans, |plans| plans.iter().map(report::plan).collect())
        }
        Some(Command::Lock(flags)) => {
            let (world, recipe) = open()?;
            lock_cells(recipe, flags, shared, world, terminal).await
        }
        Some(Command::New(flags)) => {
            let (world, recipe) = open()?;
            let locked = [new_cell(&recipe, flags, &world).await?];
            print(shared, &Locks { locks: &locked, failed: Vec::new() }, |_| String::new())
        }
        Some(Command::Matrix(flags)) => {
            let (world, recipe) = open()?;
            matrix::run(&recipe, flags, shared, &world).await
        }
        Some(Command::Size(flags)) => {
            let (world, recipe) = open()?;
            Box::pin(size::run(&recipe, flags, shared, &environment, &world)).await
        }
        Some(Command::Check(flags)) => {
            let (world, recipe) = open()?;
            let checked = check::run(&recipe, flags, &environment, &world).await?;
            print(shared, &checked, |checked| checked.iter().map(report::checked).collect())
        }
    }
}

/// Locks the selected cells, several at once.
async fn lock_cells(
    recipe: Recipe,
    flags: &args::Lock,
    shared: &Shared,
    world: World,
    terminal: &Terminal,
) -> Result<()> {
    let understand = || "understand the command line".to_owned();
    let cells = recipe.matrix.select(&flags.cells).doing(|| "select cells".into())?;
    let upgrade_packages = flags
        .upgrade_package
        .iter()
        .map(|name| name.parse().map_err(|_ignored| Error::ProjectName(name.clone())))
        .collect::<std::result::Result<Vec<PackageName>, _>>()
        .doing(understand)?;
    let exclude_newer =
        flags.exclude_newer.as_deref().map(convert::end_of).transpose().doing(understand)?;
    let cells: Vec<_> = cells.into_iter().map(|cell| (cell.path.clone(), cell.clone())).collect();
    let (recipe, parallel) = (Arc::new(recipe), world.parallel);
    let check = flags.check;
    // Whoever only checks wants to hear of every lock that would change.
    let outcomes = cells::each(cells, parallel, flags.keep_going || check, |cell: Cell| {
        let (recipe, world) = (Arc::clone(&recipe), world.clone());
        let options = LockOptions {
            older: None,
            upgrade: flags.upgrade,
            upgrade_packages: upgrade_packages.clone(),
            exclude_newer,
            pin_base: flags.base,
        };
        async move {
            let older = convert::older_lock(&recipe, &cell)?;
            lock_cell(&recipe, &cell, &LockOptions { older, ..options }, check, &world).await
        }
    })
    .await;
    // What was locked is said as it is done; this is for programs.
    terminal.clear();
    let locks = Locks { locks: &outcomes.done, failed: outcomes.failures() };
    print(shared, &locks, |_| String::new())?;
    outcomes.verdict("lock the matrix", terminal)
}

/// Makes a cell that was not there and locks it. A cell that cannot be locked leaves nothing behind.
async fn new_cell(recipe: &Recipe, flags: &args::New, world: &World) -> Result<Locked> {
    let doing = || format!("make {}", flags.cell);
    let path = flags.cell.strip_prefix("./").unwrap_or(&flags.cell).trim_end_matches('/');
    let path = path.strip_prefix("matrix/").unwrap_or(path);
    let cell = recipe.matrix.cell(path, Exceptions::default()).doing(doing)?;
    if let Some(twin) = recipe.matrix.cells.iter().find(|twin| twin.reference == cell.reference) {
        return Err(Error::CellExists { path: twin.path.clone() }).doing(doing);
    }
    let options = LockOptions { pin_base: flags.base, ..LockOptions::default() };
    lock_cell(recipe, &cell, &options, false, world).await
}

/// Locks one cell and writes the lock beside the old one, then renames it; or checks it.
async fn lock_cell(
    recipe: &Recipe,
    cell: &Cell,
    options: &LockOptions,
    check: bool,
    world: &World,
) -> Result<Locked> {
    let doing = || format!("lock {}", cell.path);
    world.progress.step(&format!("locking {}", cell.path));
    let lock = assemble::lock(cell, &recipe.layers, options, world).await?;
    let text = convert::lock_text(&lock).doing(doing)?;
    let path = recipe.lock_path(cell);
    let changes = lock_changes(options.older.as_ref(), &lock);
    let locked = Locked::of(cell, options.older.as_ref(), &lock);
    if check {
        return match changes.first() {
            None => Ok(locked),
            Some(change) => {
                let change = change.clone();
                Err(Error::LockWouldChange { cell: cell.path.clone(), change }).doing(doing)
            }
        };
    }
    convert::write_beside(&path, text.as_bytes()).map_err(Error::Disk).doing(doing)?;
    let changes = if options.older.is_some() { changes } else { Vec::new() };
    for change in &changes {
        world.progress.notice(&format!("{}: {change}", cell.path));
    }
    let sdists = lock.distributions.iter().flat_map(|d| &d.files).filter(|f| !f.is_wheel()).count();
    world.progress.step(&format!(
        "locked {}: {} distributions, {sdists} of them from source",
        cell.path,
        lock.distributions.len(),
    ));
    Ok(locked)
}

/// What a new lock changes, one line each.
fn lock_changes(older: Option<&Lock>, lock: &Lock) -> Vec<String> {
    let Some(older) = older else { return vec!["there was no lock".to_owned()] };
    let mut changes = older.inputs.differences(&lock.inputs);
    let version = |lock: &Lock, name: &PackageName| {
        lock.distributions.iter().find(|d| d.name == *name).map(|d| d.version.to_string())
    };
    let mut names: Vec<_> =
        older.distributions.iter().chain(&lock.distributions).map(|d| &d.name).collect();
    names.sort();
    names.dedup();
    for name in names {
        match (version(older, name), version(lock, name)) {
            (Some(old), Some(new)) if old == new => {}
            (Some(old), Some(new)) => changes.push(format!("{name} {old} → {new}")),
            (Some(old), None) => changes.push(format!("{name} {old} is gone")),
            (None, new) => changes.push(format!("{name} {} is new", new.unwrap_or_default())),
        }
    }
    if let Some(pin) = lock.base.as_ref().filter(|pin| older.base.as_ref() != Some(*pin)) {
        changes.push(format!("the base is pinned to {}", pin.digest));
    }
    if changes.is_empty() && older != lock {
        changes.push("files of the same versions".to_owned());
    }
    changes
}

/// The default command.
async fn assemble_cells(
    requests: convert::CellRequests,
    flags: &Assemble,
    shared: &Shared,
    world: &World,
    terminal: &Terminal,
) -> Result<()> {
    let several = requests.len() > 1;
    let outcomes = cells::each(requests, world.parallel, flags.keep_going, |request| {
        let world = world.clone();
        async move { assemble::assemble(&request?, &world).await }
    })
    .await;
    if let (Some(path), [only]) = (&flags.digest_file, outcomes.done.as_slice()) {
        convert::write_beside(path, only.digest.to_string().as_bytes())
            .map_err(Error::Disk)
            .doing(|| "write the digest".into())?;
    }
    let result = Results {
        images: &outcomes.done,
        failed: outcomes.failures(),
        cost: world.registry.cost(),
    };
    if several || !outcomes.done.is_empty() {
        terminal.clear();
        print(shared, &result, |result| {
            let images = if several {
                report::summary(&outcomes)
            } else {
                result.images.iter().map(report::assembled).collect()
            };
            images + &report::cost(&result.cost)
        })?;
    }
    outcomes.verdict("assemble all cells", terminal)
}

/// What `--json` prints for the default command.
#[derive(Serialize)]
struct Results<'a> {
    images: &'a [Assembled],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<cells::Failed>,
    cost: crate::registry::Cost,
}

/// Prints a result to standard output, as JSON or as text.
fn print<T: Serialize>(shared: &Shared, value: &T, text: impl Fn(&T) -> String) -> Result<()> {
    let doing = || "print the result".to_owned();
    let text = if shared.json {
        let json = serde_json::to_string_pretty(value).map_err(std::io::Error::other);
        json.map_err(Error::Disk).doing(doing)? + "\n"
    } else {
        text(value)
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::Disk).doing(doing)
}
