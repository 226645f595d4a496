//! The judge: `judge [--only SCENARIO] [--testee NAME=COMMAND ...] [--story NAME=COMMAND ...]` has each
//! testee play every scenario, and prints who did as it must. A story is a program that is run twice: with
//! nodes of its own, and against two of the judge's, over TLS.
//!
//! A testee is a small program in one of the languages, which does what lines of JSON on its standard input
//! ask (`testee`), by that language's own idiom. `scenario` reads what is to happen from `scenarios/*.json`
//! and holds what came against it (`pattern`); `world` has what the testees talk to: two nodes, and an
//! `oracle`, which answers with whatever error is asked for, or not at all.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program: it talks to people"
)]

mod oracle;
mod pattern;
mod scenario;
mod story;
mod testee;
mod world;

use std::collections::BTreeMap;
use std::process::ExitCode;

use self::scenario::Scenario;
use self::testee::Testee;
use self::world::World;

/// What went wrong, in words.
type Fault = String;

/// A program by its name.
type Program = (String, String);

#[derive(Debug, Default)]
struct Options {
    only: Vec<String>,
    testees: Vec<Program>,
    stories: Vec<Program>,
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Options, Fault> {
    let mut options = Options::default();
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--only" => options.only.push(value),
            "--testee" => options.testees.push(program(&value)?),
            "--story" => options.stories.push(program(&value)?),
            _ => return Err(format!("{arg} is not known")),
        }
    }
    if options.testees.is_empty() && options.stories.is_empty() {
        return Err("who plays? --testee NAME=COMMAND or --story NAME=COMMAND".into());
    }
    Ok(options)
}

fn program(value: &str) -> Result<Program, Fault> {
    let (name, command) = value
        .split_once('=')
        .ok_or_else(|| format!("{value}: NAME=COMMAND is needed"))?;
    Ok((name.to_owned(), command.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(fault) => {
            eprintln!("{fault}");
            return ExitCode::from(2);
        }
    };
    match judge(&options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

/// Plays everything; whether all went well.
async fn judge(options: &Options) -> Result<bool, Fault> {
    let scenarios = scenario::all()?;
    let wanted =
        |scenario: &&Scenario| options.only.is_empty() || options.only.contains(&scenario.name);
    let scenarios: Vec<&Scenario> = scenarios.iter().filter(wanted).collect();
    let mut faults: BTreeMap<(&str, &str), Fault> = BTreeMap::new();
    for scenario in &scenarios {
        // All at once: each has a world of its own, and most of the time is waiting.
        let plays = options
            .testees
            .iter()
            .map(|(_, command)| play(scenario, command));
        let played = futures::future::join_all(plays).await;
        for ((name, _), played) in options.testees.iter().zip(played) {
            if let Err(fault) = played {
                eprintln!("{}, {name}: {fault}", scenario.name);
                faults.insert((&scenario.name, name), fault);
            }
        }
    }
    if !options.testees.is_empty() {
        print_matrix(&scenarios, &options.testees, &faults);
    }
    let mut told_badly = 0;
    for (name, command) in &options.stories {
        match story::tell(command).await {
            Ok(()) => println!("story, {name}: ok"),
            Err(fault) => {
                println!("story, {name}: {fault}");
                told_badly += 1;
            }
        }
    }
    let all = scenarios.len() * options.testees.len() + options.stories.len();
    let failed = faults.len() + told_badly;
    println!("\n{} passed, {failed} failed", all - failed);
    Ok(failed == 0 && all > 0)
}

/// Plays a scenario with a testee of its own, in a world of its own.
async fn play(scenario: &Scenario, command: &str) -> Result<(), Fault> {
    let mut world = World::new().await?;
    let testee = Testee::start(command).await?;
    let played = scenario.play(&mut world, &testee).await;
    let ended = testee.end().await;
    world.end().await?;
    played.and(ended)
}

/// As a table that can be put into a README.
fn print_matrix(
    scenarios: &[&Scenario],
    testees: &[Program],
    faults: &BTreeMap<(&str, &str), Fault>,
) {
    let names: Vec<&str> = testees.iter().map(|(name, _)| name.as_str()).collect();
    println!("| scenario | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    for scenario in scenarios {
        let cells: Vec<&str> = names
            .iter()
            .map(|name| match faults.get(&(scenario.name.as_str(), *name)) {
                None => "yes",
                Some(_) => "NO",
            })
            .collect();
        println!("| {} | {} |", scenario.about, cells.join(" | "));
    }
}
