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
        /// The words of its own: each with its value, in the order they were given.
        words: Vec<(&'static str, String)>,
    },
    /// To be the other process of a measurement under way.
    Helper {
        /// What for: the word behind `--helper`.
        role: String,
        /// The words behind that.
        arguments: Vec<String>,
    },
}

/// Reads the command line of this process. `own` are the words, each with a value, that only this measurement takes.
///
/// # Errors
///
/// For a word that is not known, a value that is missing, not Unicode, or no number from 1.
pub fn read(own: &[&'static str]) -> Result<Invocation, Failure> {
    let words: Result<Vec<String>, OsString> =
        env::args_os().skip(1).map(OsString::into_string).collect();
    let words = words.map_err(|word| format!("'{}' is not valid Unicode", word.display()))?;
    parse(own, words)
}

fn parse(own: &[&'static str], words: Vec<String>) -> Result<Invocation, Failure> {
    let mut words = words.into_iter();
    let mut runs = None;
    let mut found = Vec::new();
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
            other => {
                let Some(known) = own.iter().find(|known| **known == other) else {
                    return Err(format!("'{other}' is not known; there is --runs N").into());
                };
                let value = words
                    .next()
                    .ok_or_else(|| format!("{known} needs a value"))?;
                found.push((*known, value));
            }
        }
    }
    Ok(Invocation::Measure { runs, words: found })
}

#[cfg(test)]
mod tests {
    use super::Invocation;

    fn parse(line: &str) -> Result<Invocation, String> {
        let words = line.split_whitespace().map(str::to_owned).collect();
        super::parse(&["--program"], words).map_err(|error| error.to_string())
    }

    #[test]
    fn runs_and_helpers_are_understood() {
        let measure = |runs, words| Ok(Invocation::Measure { runs, words });
        assert_eq!(parse(""), measure(None, vec![]));
        assert_eq!(parse("--runs 3"), measure(Some(3), vec![]));
        let words = vec![
            ("--program", "a=b".to_owned()),
            ("--program", "c".to_owned()),
        ];
        assert_eq!(
            parse("--program a=b --runs 3 --program c"),
            measure(Some(3), words)
        );
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
            ("--program", "needs a value"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(word), "{line:?}: {error}");
        }
    }
}
