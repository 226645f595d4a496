//! The processes that call, one for each language.

use std::{
    env,
    io::{BufRead, BufReader, Lines, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use dwcp_benches::Failure;
use serde_json::Value;

/// The word before a language and its program: `python=/path/of/program`.
pub(crate) const PROGRAM: &str = "--program";
/// The word before a language and why it has none: `go=needs go`.
pub(crate) const MISSING: &str = "--missing";

/// What a process does: the rows of its language.
pub(crate) struct Work {
    /// Behind the language in the name of the row.
    pub(crate) name: &'static str,
    /// How many calls or items a run has.
    pub(crate) count: u32,
    /// So many of them are timed together.
    pub(crate) block: u32,
}

/// A process. It ends when its input does, and so with this.
pub(crate) struct Program {
    /// The language, as rows begin.
    pub(crate) language: String,
    /// What it runs on, such as `Python 3.11.7`.
    pub(crate) version: String,
    child: Child,
    /// `None` once it is to end.
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// The process of Rust: this program, with a word of its own.
    pub(crate) fn rust(events: u32) -> Result<Program, Failure> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--helper", "rust"]);
        Self::start("rust", command, events)
    }

    /// That of another language, by its program.
    pub(crate) fn of(language: &str, path: &str, events: u32) -> Result<Program, Failure> {
        Self::start(language, Command::new(path), events)
    }

    fn start(language: &str, mut command: Command, events: u32) -> Result<Program, Failure> {
        let mut child = command
            .arg(events.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{language}: {error}"))?;
        let output = child.stdout.take().ok_or("it has no output")?;
        let mut program = Program {
            language: language.to_owned(),
            version: String::new(),
            input: child.stdin.take(),
            output: BufReader::new(output).lines(),
            child,
        };
        let version = program.answer()?["version"].as_str().map(str::to_owned);
        program.version = version.ok_or_else(|| format!("{language} does not say its version"))?;
        Ok(program)
    }

    /// One run; how many microseconds each call took, on average over each block.
    pub(crate) fn run(&mut self, work: &Work) -> Result<Vec<f64>, Failure> {
        let input = self.input.as_mut().ok_or("it has no input")?;
        writeln!(input, "{} {} {}", work.name, work.count, work.block)?;
        input.flush()?;
        let times: Vec<f64> = serde_json::from_value(self.answer()?)?;
        if times.len() != (work.count / work.block) as usize {
            let why = format!("{}: {} blocks and not as asked", self.language, times.len());
            return Err(why.into());
        }
        Ok(times)
    }

    fn answer(&mut self) -> Result<Value, Failure> {
        let line = self.output.next();
        let line = line.ok_or_else(|| format!("the program of {} has ended", self.language))?;
        Ok(serde_json::from_str(&line?)?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.input = None;
        if let Err(error) = self.child.wait() {
            eprintln!("bindings: {}: {error}", self.language);
        }
    }
}
