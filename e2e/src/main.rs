//! The suite with real Linux guests: a program that uses the library as its users do, and prints a line `ok …` or
//! `FAILED …` for each scenario, and `end` after the last.
//!
//! `cargo xtask e2e` builds it and what its guests boot, and runs it where there is a stock KVM: here, or in a virtual
//! host. `options` is its command line, `guest` a Linux guest that is talked to over its console, `scenarios` what is
//! tried, `serve` a node in another process, `lock` watches who may write a disk, `vmlinux` unpacks a kernel, `watchdog`
//! sees to it that a scenario's limit is kept even by a runtime that stands still.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program: it talks to people"
)]

mod guest;
mod lock;
mod options;
mod scenarios;
mod serve;
mod vmlinux;
mod watchdog;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use self::options::{HELP, Options};
use self::scenarios::SCENARIOS;
use self::watchdog::Watchdog;

/// How long a scenario may take on a host whose processors are emulated.
const LIMIT: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name, dir] = &words[..]
        && first == "serve"
    {
        return match serve::serve(name, dir.as_ref()).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the node {name}: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let options = match Options::parse(words.into_iter()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if options.list {
        for scenario in SCENARIOS {
            let open = scenario.open.map(|what| format!(" (open: {what})"));
            println!(
                "{:<10} {}{}",
                scenario.name,
                scenario.about,
                open.unwrap_or_default()
            );
        }
        println!("end");
        return ExitCode::SUCCESS;
    }
    let mut status = ExitCode::SUCCESS;
    for scenario in SCENARIOS.iter().filter(|one| options.wants(one)) {
        let start = Instant::now();
        let watchdog = Watchdog::of(scenario.name, LIMIT);
        let played = tokio::time::timeout(LIMIT, (scenario.play)(&options)).await;
        drop(watchdog);
        let took = start.elapsed().as_secs_f64();
        let name = scenario.name;
        match played.unwrap_or_else(|_| Err(format!("was not over after {LIMIT:?}"))) {
            Ok(note) => println!("ok {name} ({took:.1} s) {note}"),
            Err(why) => {
                println!(
                    "FAILED {name} ({took:.1} s): {}",
                    why.replace('\n', "\n    ")
                );
                status = ExitCode::FAILURE;
            }
        }
    }
    println!("end");
    status
}
