//! `cargo xtask test`: every step is run, none stops another, and the end says what ran and what did not.
//!
//! `steps` is the list of steps and how each is run, `libtest` and `skips` know what tests say of themselves,
//! `live_migration` what the example must report, `bindings` what is tried of the C ABI and the language packages, `fuzz`
//! how the fuzzers are built and called, `summary` adds up and writes it down.

pub(crate) mod bindings;
mod fuzz;
mod libtest;
mod live_migration;
mod skips;
mod steps;
mod summary;

pub(crate) use self::bindings::built;

use std::{process::ExitCode, thread, time::Instant};

use serde_json::json;

use self::{
    steps::STEPS,
    summary::{Done, Outcome, Summary, seconds},
};
use crate::screen::Screen;

/// What `cargo xtask test` was asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TestOptions {
    /// Run more and longer.
    pub(crate) long: bool,
    /// What is skipped has failed.
    pub(crate) require_all: bool,
    /// Run these steps alone; all of them if empty.
    pub(crate) only: Vec<String>,
    /// List the steps and run nothing.
    pub(crate) list: bool,
    /// Print one JSON object on standard output.
    pub(crate) json: bool,
    /// Show the output of every step while it runs.
    pub(crate) verbose: bool,
}

impl TestOptions {
    fn wants(&self, step: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == step)
    }
}

/// The names of all steps, in order.
pub(crate) fn step_names() -> impl Iterator<Item = &'static str> {
    STEPS.iter().map(|step| step.name)
}

/// The steps, a line each.
pub(crate) fn step_lines() -> String {
    STEPS
        .iter()
        .map(|step| format!("  {:<18} {}\n", step.name, step.about))
        .collect()
}

/// Runs the steps. The exit status is 0 if nothing failed.
pub(crate) fn run(options: &TestOptions) -> ExitCode {
    if options.list {
        list(options);
        return ExitCode::SUCCESS;
    }
    let screen = Screen::beside_json(options.json);
    let mut summary = Summary {
        steps: Vec::new(),
        require_all: options.require_all,
    };
    thread::scope(|scope| {
        let mut beside = Vec::new();
        for step in STEPS.iter().filter(|step| options.wants(step.name)) {
            let start = Instant::now();
            if step.runs_beside && !options.verbose {
                // Packages are installed by one at a time.
                let missing = step.provide(screen);
                let run = move || match missing {
                    Ok(()) => step.run(options, screen),
                    Err(reason) => Outcome::skipped(reason),
                };
                screen.line(&format!("{} ... goes on beside the others", step.name));
                beside.push((step, start, scope.spawn(run)));
                continue;
            }
            screen.write(&format!("{} ... ", step.name));
            if options.verbose {
                screen.line("");
            }
            let outcome = step.run(options, screen);
            let label = if options.verbose { step.name } else { "" };
            summary.add(step.name, label, outcome, start, options, screen);
        }
        for (step, start, running) in beside {
            let outcome = running
                .join()
                .unwrap_or_else(|_| Outcome::failed("it panicked".into(), ""));
            summary.add(step.name, step.name, outcome, start, options, screen);
        }
    });
    if options.json {
        Screen::Output.line(&summary.json().to_string());
    }
    screen.line(&format!("\n{}", summary.text()));
    screen.line(&summary.last_line());
    if summary.totals().failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl Summary {
    /// Takes down what came of a step, and shows it behind `label`.
    fn add(
        &mut self,
        name: &'static str,
        label: &str,
        outcome: Outcome,
        start: Instant,
        options: &TestOptions,
        screen: Screen,
    ) {
        let done = Done {
            name,
            outcome,
            time: start.elapsed(),
        };
        let label = match label {
            "" => String::new(),
            name => format!("{name} ... "),
        };
        screen.line(&format!(
            "{label}{} ({})",
            self.result(&done),
            seconds(done.time)
        ));
        if !options.verbose && !done.outcome.transcript.is_empty() {
            screen.line(&format!("\n{}", done.outcome.transcript.trim_end()));
            screen.line(&format!("\n(end of the output of {name})\n"));
        }
        self.steps.push(done);
    }
}

fn list(options: &TestOptions) {
    let steps = STEPS.iter().filter(|step| options.wants(step.name));
    if options.json {
        let steps: Vec<_> = steps
            .map(|step| json!({"name": step.name, "about": step.about}))
            .collect();
        Screen::Output.line(&json!({ "steps": steps }).to_string());
    } else {
        for step in steps {
            Screen::Output.line(&format!("{:<18} {}", step.name, step.about));
        }
    }
}
