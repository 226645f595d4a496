//! The suite's program: how it is built and run, and what it says.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{process, screen::Screen};

/// What cargo builds for the suite.
const BUILD: &[&str] = &[
    "build",
    "--locked",
    "--message-format=json-render-diagnostics",
    "--package=dwcp-e2e",
    "--package=dwcp",
    "--bin=dwcp-e2e",
    "--example=debian_image",
];

/// What it builds for the guests, which have no libraries.
const BUILD_CHECKS: &[&str] = &[
    "rustc",
    "--locked",
    "--message-format=json-render-diagnostics",
    "--package=dwcp-e2e-guest",
    "--bin=checks",
    "--",
    "-Ctarget-feature=+crt-static",
    "-Cstrip=symbols",
];

/// The programs, and the folder for what is made with them.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) program: PathBuf,
    pub(crate) debian_image: PathBuf,
    /// What guests run inside.
    pub(crate) checks: PathBuf,
    pub(crate) folder: PathBuf,
}

/// What the suite said.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Scenarios that passed.
    pub(crate) passed: u64,
    /// Those that did not, and why.
    pub(crate) failed: Vec<String>,
    /// All that was printed.
    pub(crate) transcript: String,
    /// Where it ran.
    pub(crate) place: &'static str,
    /// What is to be known of how it came to its end, if it had to be begun anew.
    pub(crate) again: Option<String>,
}

impl Report {
    /// Reads what the suite printed: a line `ok NAME …` or `FAILED NAME …` for each scenario, `end` after the last.
    ///
    /// # Errors
    ///
    /// When it did not come to its end.
    pub(super) fn read(transcript: &str, place: &'static str) -> Result<Self, String> {
        if transcript.lines().any(|line| line.trim_end() == "end") {
            return Ok(Self::of_lines(transcript, place));
        }
        Err(format!(
            "the suite did not come to its end ({place}):\n{}",
            transcript.trim_end()
        ))
    }

    /// What the lines tell, whether or not they came to an end.
    pub(super) fn of_lines(transcript: &str, place: &'static str) -> Self {
        let mut report = Self {
            transcript: transcript.to_owned(),
            place,
            ..Self::default()
        };
        for line in transcript.lines().map(str::trim_end) {
            if line.starts_with("ok ") {
                report.passed += 1;
            } else if let Some(what) = line.strip_prefix("FAILED ") {
                report.failed.push(what.to_owned());
            }
        }
        report
    }

    /// The scenarios that it said the end of.
    pub(super) fn told(transcript: &str) -> Vec<String> {
        let lines = transcript.lines().map(str::trim_end);
        let names = lines.filter_map(|line| {
            let rest = line
                .strip_prefix("ok ")
                .or_else(|| line.strip_prefix("FAILED "))?;
            let name = rest.split([' ', ':']).next()?;
            Some(name.to_owned())
        });
        names.collect()
    }

    /// What this one said first, and then another one.
    pub(super) fn followed_by(mut self, rest: Self) -> Self {
        self.passed += rest.passed;
        self.failed.extend(rest.failed);
        self.transcript.push_str(&rest.transcript);
        self
    }

    /// Notes how many virtual hosts stood still before the suite came to its end.
    pub(super) fn begun_anew(mut self, times: usize) -> Self {
        self.again = (times > 0).then(|| {
            let hosts = if times == 1 { "host" } else { "hosts" };
            format!("{times} virtual {hosts} stood still; what had not been told was begun anew")
        });
        self
    }

    /// The same for machines.
    pub(super) fn json(&self) -> Value {
        json!({
            "place": self.place,
            "passed": self.passed,
            "failed": self.failed,
            "again": self.again,
        })
    }
}

/// Builds the programs.
///
/// # Errors
///
/// What cargo says when it cannot.
pub(super) fn build(echo: Option<Screen>) -> Result<Built, String> {
    if let Some(screen) = echo {
        screen.line("building the suite …");
    }
    let cargo = |arguments: &[&str]| {
        let finished = process::run(&mut process::cargo(arguments), None)
            .map_err(|error| format!("cannot run cargo: {error}"))?;
        match finished.success {
            true => Ok(finished.stdout),
            false => Err(finished.transcript),
        }
    };
    let messages = cargo(BUILD)?;
    let checks = executable(&cargo(BUILD_CHECKS)?, "checks")?;
    let program = executable(&messages, "dwcp-e2e")?;
    // The program is in `<target>/<profile>`.
    let target = program
        .ancestors()
        .nth(2)
        .ok_or("cargo builds in no folder")?;
    let folder = target.join("e2e");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(Built {
        debian_image: executable(&messages, "debian_image")?,
        checks,
        program,
        folder,
    })
}

/// The program with that name among those that cargo says it built.
fn executable(messages: &str, name: &str) -> Result<PathBuf, String> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .find(|path| path.file_name().is_some_and(|file| file == name))
        .ok_or_else(|| format!("cargo built no {name}"))
}

/// The arguments that tell the suite what to boot and where to write.
pub(super) fn places(image: &Path, scratch: &Path) -> Vec<String> {
    vec![
        "--image".into(),
        image.display().to_string(),
        "--scratch".into(),
        scratch.display().to_string(),
    ]
}

/// Runs the suite on this host.
///
/// # Errors
///
/// When it cannot be started, or does not come to its end.
pub(super) fn run_here(
    built: &Built,
    arguments: &[String],
    echo: Option<Screen>,
) -> Result<Report, String> {
    let finished = process::run(Command::new(&built.program).args(arguments), echo)
        .map_err(|error| format!("cannot run {}: {error}", built.program.display()))?;
    Report::read(&finished.stdout, "this host")
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn a_report_that_is_cut_short_is_followed_by_another() {
        let first = "noise\nok boot (4 s) up\nFAILED disk (9 s): lost\n";
        assert_eq!(Report::told(first), ["boot", "disk"]);
        assert!(Report::read(first, "x").is_err());
        let first = Report::of_lines(first, "x");
        let rest = Report::read("ok clocks (1 s)\nend\n", "x").unwrap();
        let both = first.followed_by(rest).begun_anew(1);
        assert_eq!((both.passed, both.failed.len()), (2, 1));
        assert!(both.again.unwrap().starts_with("1 virtual host stood"));
    }

    #[test]
    fn a_report_counts_scenarios_and_needs_an_end() {
        let report =
            Report::read("ok boot 9 s\nnoise\r\nFAILED disk: lost\r\nend\r\n", "x").unwrap();
        assert_eq!((report.passed, report.failed.len()), (1, 1));
        assert_eq!(report.failed[0], "disk: lost");
        let why = Report::read("ok boot\n", "a virtual host").unwrap_err();
        assert!(
            why.contains("a virtual host") && why.contains("ok boot"),
            "{why}"
        );
    }
}
