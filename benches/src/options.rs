//! The command line of a measurement.

use std::{env, ffi::OsString};

use crate::Failure;

/// What a measurement was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// To measure, in that many runs, where not left to it.
    Measure {
        /// How many runs, at least 1.
        runs: Option<u32>,
    },
    /// To be the other process of a measurement under way.
    Helper {
        /// What for: the word behind `--helper`.
        role: String,
        /// The words behind that.
        arguments: Vec<String>,
    },
}

/// Reads the command line of this process.
///
/// # Errors
///
/// For a word that is not known, a value that is missing, not Unicode, or no number from 1.
pub fn read() -> Result<Invocation, Failure> {
    let words: Result<Vec<String>, OsString> =
        env::args_os().skip(1).map(OsString::into_string).collect();
    let words = words.map_err(|word| format!("'{}' is not valid Unicode", word.display()))?;
    parse(words)
}

fn parse(words: Vec<String>) -> Result<Invocation, Failure> {
    let mut words = words.into_iter();
    let mut runs = None;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--runs" => {
                let value = words.next().ok_or("--runs needs a value")?;
                match value.parse::<u32>() {
                    Ok(count) if count > 0 => runs = Some(count),
                    _ => {
                        let why = format!("--runs takes a whole number from 1, not '{value}'");
                        return Err(why.into());
                    }
                }
            }
            "--helper" => {
                let role = words.next().ok_or("--helper needs a value")?;
                let arguments = words.collect();
                return Ok(Invocation::Helper { role, arguments });
            }
            other => return Err(format!("'{other}' is not known; there is --runs N").into()),
        }
    }
    Ok(Invocation::Measure { runs })
}

#[cfg(test)]
mod tests {
    use super::Invocation;

    fn parse(line: &str) -> Result<Invocation, String> {
        let words = line.split_whitespace().map(str::to_owned).collect();
        super::parse(words).map_err(|error| error.to_string())
    }

    #[test]
    fn runs_and_helpers_are_understood() {
        assert_eq!(parse(""), Ok(Invocation::Measure { runs: None }));
        assert_eq!(parse("--runs 3"), Ok(Invocation::Measure { runs: Some(3) }));
        assert_eq!(
            parse("--helper serve a b"),
            Ok(Invocation::Helper {
                role: "serve".into(),
                arguments: vec!["a".into(), "b".into()],
            })
        );
    }

    #[test]
    fn wrong_lines_are_refused_with_the_word_that_is_wrong() {
        for (line, word) in [
            ("--runs", "needs a value"),
            ("--runs 0", "'0'"),
            ("--runs many", "'many'"),
            ("--helper", "needs a value"),
            ("--fast", "--fast"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(word), "{line:?}: {error}");
        }
    }
}
