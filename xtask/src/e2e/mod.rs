//! `cargo xtask e2e`: what can only be seen with real Linux guests, on a stock KVM.
//!
//! The suite is a program of its own (`e2e/`), which uses the library as its users do. A host whose processors do
//! virtualisation runs it as it is; elsewhere `host` boots a virtual host, whose processors are emulated, and runs it
//! there: slow, but the KVM in it is an ordinary one. `image` is the guest that it boots.

mod host;
mod image;
mod pulse;
mod suite;
// The example makes the guest's image of the same parts as the virtual host is made of.
#[path = "../../../examples/debian_image/cpio.rs"]
mod cpio;
#[path = "../../../examples/debian_image/modules.rs"]
mod modules;

use std::{path::Path, process::ExitCode};

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

/// How many virtual hosts are tried.
const HOSTS: usize = 5;

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
    play_in_hosts(&built, &image, options, echo)
}

/// Plays the suite in a virtual host. An emulated processor stands still now and then, and its host with it; what the
/// library does wrong ends by a scenario's own limit, which the suite tells. So what a host that stood still had not told
/// is begun anew in another one, and the report says so.
fn play_in_hosts(
    built: &suite::Built,
    image: &Path,
    options: &E2eOptions,
    echo: Option<Screen>,
) -> Result<Report, String> {
    let mut only = options.only.clone();
    let mut before: Option<Report> = None;
    let mut reasons: Vec<String> = Vec::new();
    while reasons.len() < HOSTS {
        let attempt = host::run(built, image, &arguments(&only, options), echo)?;
        let (report, why) = match attempt {
            Attempt::Whole(report) => (report, None),
            Attempt::CutShort { told, why } => (told, Some(why)),
        };
        let told = Report::told(&report.transcript);
        let whole = match before.take() {
            Some(first) => first.followed_by(report),
            None => report,
        };
        let Some(why) = why else {
            return Ok(whole.begun_anew(reasons.len()));
        };
        only = left(built, &only, &told)?;
        if only.is_empty() {
            return Err(why);
        }
        if let Some(screen) = echo {
            screen.line(&format!(
                "{why}\nanother virtual host, for {}",
                only.join(", ")
            ));
        }
        reasons.push(why);
        before = Some(whole);
    }
    Err(reasons.join("\nand once more: "))
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
fn left(built: &suite::Built, only: &[String], told: &[String]) -> Result<Vec<String>, String> {
    let listed = suite::run_here(built, &["--list".to_owned()], None)?;
    let names = listed.transcript.lines().filter(|line| *line != "end");
    let names = names.filter_map(|line| line.split_whitespace().next());
    let asked = |name: &&str| only.is_empty() || only.iter().any(|own| own == name);
    let left = names.filter(asked).map(str::to_owned);
    Ok(left.filter(|name| !told.contains(name)).collect())
}
