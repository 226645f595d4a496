//! The project's own commands: `cargo xtask build`, `test`, `bench`, `dist`, `e2e`.
//!
//! This file reads the command line and hands over to the module of the command.

#![forbid(unsafe_code)]

mod bench;
mod build_cmd;
mod dist;
mod e2e;
mod install;
mod process;
mod screen;
mod table;
mod test;

use std::{env, ffi::OsString, process::ExitCode};

use bench::{BENCHES, Bench, BenchOptions};
use dist::DistOptions;
use e2e::E2eOptions;
use test::TestOptions;

/// The exit status for a command line that cannot be understood.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    match parse(env::args_os().skip(1)) {
        Ok(Invocation::Help(topic)) => {
            screen::Screen::Output.write(&help(topic));
            ExitCode::SUCCESS
        }
        Ok(Invocation::Build) => build_cmd::run(),
        Ok(Invocation::Test(options)) => test::run(&options),
        Ok(Invocation::Bench(options)) => bench::run(&options),
        Ok(Invocation::Dist(options)) => dist::run(&options),
        Ok(Invocation::E2e(options)) => e2e::run(&options),
        Err(UsageError(message)) => {
            eprintln!("error: {message}\n\nSee `cargo xtask --help`.");
            ExitCode::from(BAD_USAGE)
        }
    }
}

/// A command line, understood.
#[derive(Debug, PartialEq, Eq)]
enum Invocation {
    Help(Topic),
    Build,
    Test(TestOptions),
    Bench(BenchOptions),
    Dist(DistOptions),
    E2e(E2eOptions),
}

/// What help is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topic {
    Commands,
    Build,
    Test,
    Bench,
    Dist,
    E2e,
}

/// What of a command line is still to be read.
type Words = std::vec::IntoIter<String>;

/// What is wrong with a command line.
#[derive(Debug, PartialEq, Eq)]
struct UsageError(String);

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let words: Result<Vec<String>, OsString> =
        arguments.into_iter().map(OsString::into_string).collect();
    let mut words = match words {
        Ok(words) => words.into_iter(),
        Err(word) => {
            return Err(UsageError(format!(
                "'{}' is not valid Unicode",
                word.display()
            )));
        }
    };
    match words.next().as_deref() {
        None => Err(UsageError(
            "a command is missing: build, test, bench, dist or e2e".into(),
        )),
        Some("help" | "--help" | "-h") => match words.next().as_deref() {
            None => Ok(Invocation::Help(Topic::Commands)),
            Some(command) => topic(command).map(Invocation::Help),
        },
        Some("build") => parse_build(words),
        Some("test") => parse_test(words),
        Some("bench") => parse_bench(words),
        Some("dist") => parse_dist(words),
        Some("e2e") => parse_e2e(words),
        Some(other) => Err(unknown_command(other)),
    }
}

fn topic(command: &str) -> Result<Topic, UsageError> {
    match command {
        "build" => Ok(Topic::Build),
        "test" => Ok(Topic::Test),
        "bench" => Ok(Topic::Bench),
        "dist" => Ok(Topic::Dist),
        "e2e" => Ok(Topic::E2e),
        other => Err(unknown_command(other)),
    }
}

fn unknown_command(name: &str) -> UsageError {
    UsageError(format!(
        "there is no command '{name}'; there are build, test, bench, dist and e2e"
    ))
}

fn unknown_argument(command: &str, argument: &str) -> UsageError {
    UsageError(format!("`{command}` does not know '{argument}'"))
}

fn parse_build(mut words: Words) -> Result<Invocation, UsageError> {
    match words.next().as_deref() {
        None => Ok(Invocation::Build),
        Some("--help" | "-h") => Ok(Invocation::Help(Topic::Build)),
        Some(other) => Err(unknown_argument("build", other)),
    }
}

fn parse_test(mut words: Words) -> Result<Invocation, UsageError> {
    let mut options = TestOptions::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(Invocation::Help(Topic::Test)),
            "--long" => options.long = true,
            "--require-all" => options.require_all = true,
            "--list" => options.list = true,
            "--json" => options.json = true,
            "--verbose" | "-v" => options.verbose = true,
            "--only" => {
                let name = value_of("--only", &mut words)?;
                if !test::step_names().any(|known| known == name) {
                    let known: Vec<&str> = test::step_names().collect();
                    return Err(UsageError(format!(
                        "there is no step '{name}'; there are {}",
                        known.join(", ")
                    )));
                }
                options.only.push(name);
            }
            other => return Err(unknown_argument("test", other)),
        }
    }
    Ok(Invocation::Test(options))
}

fn parse_bench(mut words: Words) -> Result<Invocation, UsageError> {
    let mut name = None;
    let mut runs = None;
    let mut json = false;
    let mut against = None;
    let mut own = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(Invocation::Help(Topic::Bench)),
            "--json" => json = true,
            "--against" => against = Some(value_of("--against", &mut words)?),
            "--runs" => {
                let value = value_of("--runs", &mut words)?;
                match value.parse::<u32>() {
                    Ok(count) if count > 0 => runs = Some(count),
                    _ => {
                        return Err(UsageError(format!(
                            "--runs takes a whole number from 1, not '{value}'"
                        )));
                    }
                }
            }
            option if option.starts_with('-') => {
                let mut known = BENCHES.iter().flat_map(|bench| bench.options);
                let known = known.find(|known| known.name == option);
                let known = known.ok_or_else(|| unknown_argument("bench", option))?;
                own.push((known.name, value_of(known.name, &mut words)?));
            }
            _ if name.is_some() => return Err(UsageError("`bench` takes one NAME".into())),
            known if BENCHES.iter().any(|bench| bench.name == known) => name = Some(word),
            other => {
                let known: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
                return Err(UsageError(format!(
                    "there is no bench '{other}'; there are {}",
                    known.join(", ")
                )));
            }
        }
    }
    let name = name.ok_or_else(|| UsageError("`bench` needs a NAME".into()))?;
    // Only now, for the name may stand behind the options.
    let takes = |option: &str| {
        let mut bench = BENCHES.iter().filter(|bench| bench.name == name);
        bench.any(|bench| bench.options.iter().any(|known| known.name == option))
    };
    if let Some((option, _)) = own.iter().find(|(option, _)| !takes(option)) {
        return Err(unknown_argument(&format!("bench {name}"), option));
    }
    Ok(Invocation::Bench(BenchOptions {
        name,
        runs,
        json,
        against,
        own,
    }))
}

fn parse_dist(mut words: Words) -> Result<Invocation, UsageError> {
    let mut options = DistOptions::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(Invocation::Help(Topic::Dist)),
            "--json" => options.json = true,
            "--out" => options.out = Some(value_of("--out", &mut words)?.into()),
            other => return Err(unknown_argument("dist", other)),
        }
    }
    Ok(Invocation::Dist(options))
}

fn parse_e2e(mut words: Words) -> Result<Invocation, UsageError> {
    let mut options = E2eOptions::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(Invocation::Help(Topic::E2e)),
            "--list" => options.list = true,
            "--json" => options.json = true,
            "--verbose" | "-v" => options.verbose = true,
            "--only" => options.only.push(value_of("--only", &mut words)?),
            other => return Err(unknown_argument("e2e", other)),
        }
    }
    Ok(Invocation::E2e(options))
}

/// The word behind an option that takes a value.
fn value_of(option: &str, words: &mut Words) -> Result<String, UsageError> {
    match words.next() {
        Some(value) if !value.starts_with('-') => Ok(value),
        _ => Err(UsageError(format!("{option} needs a value"))),
    }
}

fn help(topic: Topic) -> String {
    match topic {
        Topic::Commands => COMMANDS_HELP.into(),
        Topic::Build => BUILD_HELP.into(),
        Topic::Test => {
            let steps: String = test::step_lines();
            format!("{TEST_HELP}\nSteps, in order:\n{steps}")
        }
        Topic::Bench => {
            let benches: String = BENCHES
                .iter()
                .map(|bench| format!("  {:<12} {}\n", bench.name, bench.about))
                .collect();
            let own: String = BENCHES
                .iter()
                .filter(|bench| !bench.options.is_empty())
                .map(own_options)
                .collect();
            format!("{BENCH_HELP}\nNames:\n{benches}{own}")
        }
        Topic::Dist => dist::HELP.into(),
        Topic::E2e => E2E_HELP.into(),
    }
}

/// The options that one measurement alone takes.
fn own_options(bench: &Bench) -> String {
    let lines = bench.options.iter().map(|option| {
        let words = format!("{} {}", option.name, option.value);
        format!("  {words:<19} {}\n", option.about)
    });
    format!(
        "\nOptions of {} alone:\n{}",
        bench.name,
        lines.collect::<String>()
    )
}

const COMMANDS_HELP: &str = "\
The project's own commands.

Usage: cargo xtask COMMAND [OPTIONS]

Commands:
  build   build everything that is handed out, optimised
  test    install what the tests need, run everything, say what ran and what did not
  bench   measure, beside a peer doing the same work
  dist    pack what is handed out, and try each package where nothing else is
  e2e     try real Linux guests, on this host's KVM or on an emulated host with a stock one
  help    show this, or the help of a command

`cargo xtask COMMAND --help` shows the options of a command.
Exit status: 0 done, 1 failed, 2 the command line is wrong, 3 not built yet.
";

const BUILD_HELP: &str = "\
Builds the workspace in release mode.

Usage: cargo xtask build
";

const TEST_HELP: &str = "\
Runs every step and stops at none; ends with a table of what ran, what was skipped and why, and the line
`N passed, N failed, N skipped`, which counts each test, and each step that is not made of tests as one.

Usage: cargo xtask test [OPTIONS]

Options:
  --long          run more and longer: seeded random runs, soak (the tests see DWCP_LONG=1)
  --require-all   count what is skipped as failed
  --only STEP     run this step alone; may be given several times
  --list          list the steps and run nothing
  --json          print one JSON object on standard output, and the rest on standard error
  -v, --verbose   show the output of every step while it runs, not only of those that fail
  -h, --help      show this
";

const BENCH_HELP: &str = "\
Measures our side and its peers in the same run. Goals are reported as met or not; the exit status does not tell.

Usage: cargo xtask bench NAME [OPTIONS]

Options:
  --runs N        how many times each side runs
  --json          print one JSON object and not a table
  --against REV   build this revision beside the work tree, and compare the two (not built yet)
  -h, --help      show this
";

const E2E_HELP: &str = "\
Plays scenarios with real Linux guests: on this host where its processors do virtualisation, else on a virtual host
whose processors are emulated. Makes what it needs from Debian's packages, which it installs when it runs as root.

Usage: cargo xtask e2e [OPTIONS]

Options:
  --only NAME     play this scenario alone; may be given several times
  --list          list the scenarios and play nothing
  --json          print one JSON object on standard output, and the rest on standard error
  -v, --verbose   show what the guests print
  -h, --help      show this
";

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::{
        BenchOptions, DistOptions, E2eOptions, Invocation, TestOptions, Topic, UsageError, help,
    };

    fn parse(line: &str) -> Result<Invocation, UsageError> {
        super::parse(line.split_whitespace().map(OsString::from))
    }

    #[track_caller]
    fn assert_refused(line: &str, message: &str) {
        match parse(line) {
            Err(UsageError(said)) => assert!(said.contains(message), "{line:?}: {said}"),
            Ok(understood) => panic!("{line:?} was understood as {understood:?}"),
        }
    }

    #[test]
    fn test_takes_its_options() {
        assert_eq!(parse("test"), Ok(Invocation::Test(TestOptions::default())));
        assert_eq!(
            parse("test --long --require-all --only fmt --only doc --list --json -v"),
            Ok(Invocation::Test(TestOptions {
                long: true,
                require_all: true,
                only: vec!["fmt".into(), "doc".into()],
                list: true,
                json: true,
                verbose: true,
            }))
        );
    }

    #[test]
    fn bench_takes_its_options() {
        assert_eq!(
            parse("bench --runs 5 migration --json --against HEAD~1"),
            Ok(Invocation::Bench(BenchOptions {
                name: "migration".into(),
                runs: Some(5),
                json: true,
                against: Some("HEAD~1".into()),
                own: vec![],
            }))
        );
    }

    #[test]
    fn a_bench_takes_options_of_its_own_and_no_other_does() {
        assert_eq!(
            parse("bench --only idle migration --peer-qemu move.py --only raw/ --svg a.svg"),
            Ok(Invocation::Bench(BenchOptions {
                name: "migration".into(),
                own: [
                    ("--only", "idle"),
                    ("--peer-qemu", "move.py"),
                    ("--only", "raw/"),
                    ("--svg", "a.svg"),
                ]
                .map(|(option, value)| (option, value.to_owned()))
                .to_vec(),
                ..BenchOptions::default()
            }))
        );
        assert_refused(
            "bench --only idle rpc",
            "`bench rpc` does not know '--only'",
        );
        assert_refused("bench migration --only", "--only needs a value");
    }

    #[test]
    fn dist_takes_its_options() {
        assert_eq!(parse("dist"), Ok(Invocation::Dist(DistOptions::default())));
        assert_eq!(
            parse("dist --json --out packages"),
            Ok(Invocation::Dist(DistOptions {
                out: Some("packages".into()),
                json: true,
            }))
        );
        assert_refused("dist --out", "--out needs a value");
        assert_refused("dist all", "all");
    }

    #[test]
    fn e2e_takes_its_options() {
        assert_eq!(
            parse("e2e --only boot --list --json -v"),
            Ok(Invocation::E2e(E2eOptions {
                only: vec!["boot".into()],
                list: true,
                json: true,
                verbose: true,
            }))
        );
        assert_refused("e2e boot", "boot");
    }

    #[test]
    fn build_takes_none() {
        assert_eq!(parse("build"), Ok(Invocation::Build));
        assert_refused("build --fast", "--fast");
    }

    #[test]
    fn help_is_found_in_every_place() {
        for line in ["--help", "-h", "help"] {
            assert_eq!(parse(line), Ok(Invocation::Help(Topic::Commands)), "{line}");
        }
        assert_eq!(parse("help bench"), Ok(Invocation::Help(Topic::Bench)));
        assert_eq!(
            parse("test --long --help"),
            Ok(Invocation::Help(Topic::Test))
        );
        assert_eq!(parse("bench --help"), Ok(Invocation::Help(Topic::Bench)));
        assert_eq!(parse("dist --json -h"), Ok(Invocation::Help(Topic::Dist)));
        assert_eq!(parse("build -h"), Ok(Invocation::Help(Topic::Build)));
    }

    #[test]
    fn help_lists_commands_steps_and_benches() {
        for command in ["build", "test", "bench", "dist", "e2e"] {
            assert!(help(Topic::Commands).contains(command));
        }
        for step in super::test::step_names() {
            assert!(help(Topic::Test).contains(step), "{step}");
        }
        for bench in super::BENCHES {
            assert!(help(Topic::Bench).contains(bench.name), "{}", bench.name);
            for option in bench.options {
                let help = help(Topic::Bench);
                assert!(help.contains(option.name), "{}", option.name);
            }
        }
    }

    #[test]
    fn wrong_lines_are_refused_with_the_word_that_is_wrong() {
        assert_refused("", "a command is missing");
        assert_refused("tset", "tset");
        assert_refused("help tset", "tset");
        assert_refused("test --quick", "--quick");
        assert_refused("test fmt", "fmt");
        assert_refused("test --only", "--only needs a value");
        assert_refused("test --only --json", "--only needs a value");
        assert_refused("test --only nothing", "no step 'nothing'");
        assert_refused("bench", "needs a NAME");
        assert_refused("bench nothing", "no bench 'nothing'");
        assert_refused("bench migration migration", "one NAME");
        assert_refused("bench migration --fast", "--fast");
        for runs in ["0", "many", "1.5", "99999999999"] {
            assert_refused(
                &format!("bench migration --runs {runs}"),
                "--runs takes a whole number",
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_word_that_is_not_unicode_is_refused() {
        use std::os::unix::ffi::OsStringExt;

        let word = OsString::from_vec(vec![b't', 0xff]);
        assert!(super::parse([word]).is_err());
    }
}
