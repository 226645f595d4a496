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

use std::{process::ExitCode, time::Instant};

use serde_json::json;

use self::{
    steps::STEPS,
    summary::{Done, Summary, seconds},
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
    for step in STEPS.iter().filter(|step| options.wants(step.name)) {
        screen.write(&format!("{} ... ", step.name));
        if options.verbose {
            screen.line("");
        }
        let start = Instant::now();
        let outcome = step.run(options, screen);
        let done = Done {
            name: step.name,
            outcome,
            time: start.elapsed(),
        };
        let label = if options.verbose {
            format!("{} ... ", step.name)
        } else {
            String::new()
        };
        screen.line(&format!(
            "{label}{} ({})",
            summary.result(&done),
            seconds(done.time)
        ));
        if !options.verbose && !done.outcome.transcript.is_empty() {
            screen.line(&format!("\n{}", done.outcome.transcript.trim_end()));
            screen.line(&format!("\n(end of the output of {})\n", step.name));
        }
        summary.steps.push(done);
    }
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
