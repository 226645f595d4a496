//! The suite's command line.

use std::path::PathBuf;

use crate::scenarios::Scenario;

pub(crate) const HELP: &str = "\
Plays scenarios with real Linux guests on this host's KVM.

Usage: dwcp-e2e --image DIR --scratch DIR [OPTIONS]

Options:
  --image DIR      the image that guests boot, as examples/debian_image makes it
  --scratch DIR    where nodes keep what is theirs; on a file system with holes
  --only NAME      play this scenario alone; may be given several times
  --list           list the scenarios
  --verbose        show what guests print
  -h, --help       show this
";

/// What it was asked.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) image: PathBuf,
    pub(crate) scratch: PathBuf,
    pub(crate) only: Vec<String>,
    pub(crate) list: bool,
    pub(crate) verbose: bool,
}

impl Options {
    /// `None` when help is all that was asked for.
    pub(crate) fn parse(
        mut words: impl Iterator<Item = String>,
    ) -> Result<Option<Options>, String> {
        let mut options = Options::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "-h" | "--help" => return Ok(None),
                "--image" => options.image = value()?.into(),
                "--scratch" => options.scratch = value()?.into(),
                "--only" => options.only.push(value()?),
                "--list" => options.list = true,
                "--verbose" => options.verbose = true,
                other => return Err(format!("{other} is not an option; see --help")),
            }
        }
        if !options.list
            && (options.image.as_os_str().is_empty() || options.scratch.as_os_str().is_empty())
        {
            return Err("--image and --scratch are needed; see --help".into());
        }
        Ok(Some(options))
    }

    /// Whether a scenario is to be played.
    pub(crate) fn wants(&self, scenario: &Scenario) -> bool {
        match self.only.is_empty() {
            true => scenario.open.is_none(),
            false => self.only.iter().any(|only| only == scenario.name),
        }
    }
}
