//! How a test tells us that this host cannot run it.
//!
//! libtest has no way for a running test to say "skipped": it returns, and counts as passed. So the runner names a
//! file in the environment variable [`VARIABLE`], and a test that cannot run appends one line to it, in one write:
//! its name, a tab, the reason. Without the variable a test prints `SKIPPED <name>: <reason>` for the person who
//! called it. Either way it returns at once, and reports once.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// The environment variable that names the file.
pub(super) const VARIABLE: &str = "DWCP_SKIP_LOG";

/// A test, or a step, that did not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Skip {
    /// Its name.
    pub(super) name: String,
    /// Why it did not run.
    pub(super) reason: String,
}

/// The file that tests write to; it is removed with this value.
#[derive(Debug)]
pub(super) struct SkipLog {
    path: PathBuf,
}

impl SkipLog {
    /// Makes an empty file of a new name.
    ///
    /// # Errors
    ///
    /// When the folder for temporary files cannot be written to.
    pub(super) fn create() -> io::Result<Self> {
        /// Tells apart the files of one process.
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir();
        for attempt in 0_u32.. {
            let path = folder.join(format!("dwcp-skips-{}-{number}-{attempt}", process::id()));
            match File::create_new(&path) {
                Ok(_) => return Ok(Self { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the tests wrote.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(super) fn read(&self) -> io::Result<Vec<Skip>> {
        Ok(parse(&String::from_utf8_lossy(&fs::read(&self.path)?)))
    }
}

impl Drop for SkipLog {
    fn drop(&mut self) {
        // A file left in the folder for temporary files harms nobody.
        let _ = fs::remove_file(&self.path);
    }
}

/// Each line that is not empty is one test; a line without a tab is a name without a reason.
fn parse(text: &str) -> Vec<Skip> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let (name, reason) = line.split_once('\t').unwrap_or((line, "no reason given"));
            Skip {
                name: name.trim().to_owned(),
                reason: reason.trim().to_owned(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write};

    use super::{Skip, SkipLog, parse};

    #[test]
    fn a_line_is_a_name_a_tab_and_a_reason() {
        let skip = |name: &str, reason: &str| Skip {
            name: name.into(),
            reason: reason.into(),
        };
        assert_eq!(
            parse("kvm::boots\tno /dev/kvm\n\nodd\nlast\ta\tb\n"),
            [
                skip("kvm::boots", "no /dev/kvm"),
                skip("odd", "no reason given"),
                skip("last", "a\tb")
            ]
        );
        assert_eq!(parse(""), []);
    }

    #[test]
    fn what_is_appended_is_read_and_the_file_goes_away() {
        let log = SkipLog::create().unwrap();
        let other = SkipLog::create().unwrap();
        assert_ne!(log.path(), other.path());
        let mut file = OpenOptions::new().append(true).open(log.path()).unwrap();
        file.write_all(b"one\tbecause\n").unwrap();
        assert_eq!(
            log.read().unwrap(),
            [Skip {
                name: "one".into(),
                reason: "because".into()
            }]
        );
        assert_eq!(other.read().unwrap(), []);
        let path = log.path().to_owned();
        drop(log);
        assert!(!path.exists());
    }
}
