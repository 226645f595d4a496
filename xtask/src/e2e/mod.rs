//! `cargo xtask e2e`: what can only be seen with real Linux guests, on a stock KVM.
//!
//! The suite is a program of its own (`e2e/`), which uses the library as its users do. A host whose processors do
//! virtualisation runs it as it is; elsewhere `host` boots a virtual host, whose processors are emulated, and runs it
//! there: slow, but the KVM in it is an ordinary one. `image` is the guest that it boots.

mod host;
mod image;
mod suite;
// The example makes the guest's image of the same parts as the virtual host is made of.
#[path = "../../../examples/debian_image/cpio.rs"]
mod cpio;
#[path = "../../../examples/debian_image/modules.rs"]
mod modules;

use std::process::ExitCode;

use crate::{
    install::{self, BUSYBOX, CC, CLOUD_KERNEL, E2FSPROGS, Need, QEMU},
    screen::Screen,
};

use self::host::Attempt;
pub(crate) use self::suite::Report;

/// What `cargo xtask e2e` was asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct E2eOptions {
    /// Run these scenarios alone; all of them if empty.
    pub(crate) only: Vec<String>,
    /// List the scenarios and run nothing.
    pub(crate) list: bool,
    /// Print one JSON object on standard output.
    pub(crate) json: bool,
    /// Show what the scenarios say while they run.
    pub(crate) verbose: bool,
}

/// What it cannot do without, wherever it runs.
pub(crate) const NEEDS: &[Need] = &[CC, CLOUD_KERNEL, BUSYBOX, E2FSPROGS, QEMU];

/// Runs the suite as a command. The exit status is 0 if nothing failed.
pub(crate) fn run(options: &E2eOptions) -> ExitCode {
    let screen = Screen::beside_json(options.json);
    if let Err(reason) = install::provide(NEEDS, screen) {
        screen.line(&format!("error: {reason}"));
        return ExitCode::FAILURE;
    }
    let report = match play(options, Some(screen)) {
        Ok(report) => report,
        Err(reason) => {
            screen.line(&format!("error: {reason}"));
            return ExitCode::FAILURE;
        }
    };
    if options.json {
        Screen::Output.line(&report.json().to_string());
    }
    if report.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Builds what is needed and plays the suite; the lines it prints go to `echo` as they come.
///
/// # Errors
///
/// Why it could not be played to its end.
pub(crate) fn play(options: &E2eOptions, echo: Option<Screen>) -> Result<Report, String> {
    let built = suite::build(echo)?;
    if options.list {
        return suite::run_here(&built, &["--list".to_owned()], echo);
    }
    let image = image::make(&built)?;
    if host::has_stock_kvm() {
        let scratch = built.folder.join("scratch");
        std::fs::create_dir_all(&scratch)
            .map_err(|error| format!("{}: {error}", scratch.display()))?;
        let mut arguments = arguments(&options.only, options);
        arguments.extend(suite::places(&image, &scratch));
        return suite::run_here(&built, &arguments, echo);
    }
    let (transcript, why) =
        match host::run(&built, &image, &arguments(&options.only, options), echo)? {
            Attempt::Whole(report) => return Ok(report),
            Attempt::CutShort { transcript, why } => (transcript, why),
        };
    // An emulated processor stands still now and then, and its host with it. What the library does wrong ends by a
    // scenario's own limit, which the suite tells; so what it had not told yet is begun anew, once.
    let left = left(&built, options, &Report::told(&transcript))?;
    if left.is_empty() {
        return Err(why);
    }
    let names = left.join(", ");
    if let Some(screen) = echo {
        screen.line(&format!("{why}\nanother virtual host, for {names}"));
    }
    match host::run(&built, &image, &arguments(&left, options), echo)? {
        Attempt::Whole(rest) => {
            let first = Report::read(&format!("{transcript}\nend\n"), rest.place)?;
            let why = format!("begun anew with {names}, for the host stood still");
            Ok(first.followed_by(rest, why))
        }
        Attempt::CutShort { why: again, .. } => Err(format!("{why}\nand once more: {again}")),
    }
}

/// What the suite is told, to play these scenarios.
fn arguments(only: &[String], options: &E2eOptions) -> Vec<String> {
    let mut arguments: Vec<String> = Vec::new();
    for name in only {
        arguments.extend(["--only".to_owned(), name.clone()]);
    }
    if options.verbose {
        arguments.push("--verbose".into());
    }
    arguments
}

/// The scenarios that were asked for and have not told their end.
fn left(
    built: &suite::Built,
    options: &E2eOptions,
    told: &[String],
) -> Result<Vec<String>, String> {
    let listed = suite::run_here(built, &["--list".to_owned()], None)?;
    let names = listed.transcript.lines().filter(|line| *line != "end");
    let names = names.filter_map(|line| line.split_whitespace().next());
    let asked = |name: &&str| options.only.is_empty() || options.only.iter().any(|own| own == name);
    let left = names.filter(asked).map(str::to_owned);
    Ok(left.filter(|name| !told.contains(name)).collect())
}
