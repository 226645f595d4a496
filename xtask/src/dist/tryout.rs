//! Where packages are tried: folders that hold nothing, and commands that find nothing but what is given to them.
//!
//! A package that works only beside the sources it was made of is what this is to find. So each is unpacked under the
//! folder for temporary files, and no variable of the caller says where else to look.

#![forbid(unsafe_code)]

use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{install, process};

/// The variables by which compilers, loaders and languages find what is elsewhere.
const LEADING_ELSEWHERE: &[&str] = &[
    "CFLAGS",
    "CGO_CFLAGS",
    "CGO_LDFLAGS",
    "CPATH",
    "C_INCLUDE_PATH",
    "GOFLAGS",
    "GOPATH",
    "GOWORK",
    "LDFLAGS",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LIBRARY_PATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PKG_CONFIG_LIBDIR",
    "PKG_CONFIG_PATH",
    "PYTHONHOME",
    "PYTHONPATH",
    "VIRTUAL_ENV",
];

/// How much of what a command said is told when it fails, in lines.
const TOLD: usize = 40;

/// A folder for temporary files; it is removed with this value.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes a folder of a new name.
    ///
    /// # Errors
    ///
    /// When the folder for temporary files cannot be written to.
    pub(super) fn create(name: &str) -> io::Result<Self> {
        /// Tells apart the folders of one process.
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        for attempt in 0_u32.. {
            let path = env::temp_dir().join(format!(
                "dwcp-{name}-{}-{number}-{attempt}",
                std::process::id()
            ));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Where the folder is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A new folder in it.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is in the folder for temporary files: what cannot be removed is removed by others.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A command in that folder, to which nothing says where else to look.
pub(super) fn command(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    for name in LEADING_ELSEWHERE {
        command.env_remove(name);
    }
    command
}

/// Runs a command, which must succeed, and gives what it wrote to its standard output.
///
/// # Errors
///
/// The command, how it ended, and the end of what it said.
pub(super) fn run(command: &mut Command) -> Result<String, String> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    let what = format!("`{}`", words.join(" "));
    let finished =
        process::run(command, None).map_err(|error| format!("cannot run {what}: {error}"))?;
    if finished.success {
        Ok(finished.stdout)
    } else {
        let lines: Vec<&str> = finished.transcript.lines().collect();
        let told = lines[lines.len().saturating_sub(TOLD)..].join("\n");
        Err(format!("{what}: {}\n{told}", finished.status))
    }
}

/// What runs the VMs of the examples here.
pub(super) fn backend() -> &'static str {
    if install::kvm_is_usable() {
        "kvm"
    } else {
        "sim"
    }
}

/// Runs a whole program of `examples`: it must end well, and say so in its last line.
///
/// # Errors
///
/// What of that is not so.
pub(super) fn story(program: &mut Command) -> Result<(), String> {
    let said = run(program.env("DWCP_BACKEND", backend()))?;
    if said.trim_end().ends_with("story: ok") {
        Ok(())
    } else {
        let name = program.get_program().display();
        Err(format!("{name} did not end with `story: ok`:\n{said}"))
    }
}

/// Unpacks a `.tar.gz` into a new folder, and gives the one folder in it.
///
/// # Errors
///
/// When it cannot be unpacked, or is not one folder.
pub(super) fn unpack(archive: &Path, scratch: &Scratch, name: &str) -> Result<PathBuf, String> {
    let folder = scratch.folder(name)?;
    run(command("tar", &folder).arg("-xzf").arg(archive))?;
    let entries: Result<Vec<_>, _> = fs::read_dir(&folder)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("{}: {error}", folder.display()));
    match &entries?[..] {
        [top] => Ok(top.path()),
        several => Err(format!(
            "{} holds {} things at its top, not one folder",
            archive.display(),
            several.len()
        )),
    }
}

/// Compares a version that a package says with that of the workspace.
///
/// # Errors
///
/// Who says what.
pub(super) fn same_version(who: &str, said: &str, version: &str) -> Result<(), String> {
    if said.trim() == version {
        Ok(())
    } else {
        Err(format!(
            "{who} says it is version {}, and the workspace {version}",
            said.trim()
        ))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{fs, path::Path};

    use super::{Scratch, command, run, same_version, story, unpack};
    use crate::dist::archive::{Entry, tar_gz};

    fn shell(script: &str) -> std::process::Command {
        let mut shell = command("sh", Path::new("/"));
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn a_folder_goes_with_its_value() {
        let scratch = Scratch::create("tryout").unwrap();
        let path = scratch.path().to_owned();
        fs::write(scratch.folder("a/b").unwrap().join("c"), "c").unwrap();
        assert!(path.is_dir());
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn a_failure_says_what_was_run_and_what_it_said() {
        assert_eq!(run(&mut shell("echo well")).unwrap(), "well\n");
        let failed = run(&mut shell("seq 1000; exit 7")).unwrap_err();
        assert!(
            failed.starts_with("`sh -c seq 1000; exit 7`: exit status: 7\n"),
            "{failed}"
        );
        assert!(failed.ends_with("\n1000") && !failed.contains("\n900\n"));
    }

    #[test]
    fn a_story_has_an_end() {
        assert_eq!(story(&mut shell("echo story: ok")), Ok(()));
        assert!(story(&mut shell("echo story: ok; echo more")).is_err());
        assert!(story(&mut shell("echo story: ok; exit 1")).is_err());
    }

    #[test]
    fn an_archive_is_one_folder() {
        let scratch = Scratch::create("tryout").unwrap();
        let archive = scratch.path().join("a.tar.gz");
        fs::write(&archive, tar_gz(&[Entry::file("one/a", "a")]).unwrap()).unwrap();
        let top = unpack(&archive, &scratch, "good").unwrap();
        assert_eq!(fs::read(top.join("a")).unwrap(), b"a");
        let two = [Entry::file("one/a", "a"), Entry::file("b", "b")];
        fs::write(&archive, tar_gz(&two).unwrap()).unwrap();
        assert!(unpack(&archive, &scratch, "bad").unwrap_err().contains('2'));
    }

    #[test]
    fn versions_are_the_same_or_are_told() {
        assert_eq!(same_version("it", "3.0.0\n", "3.0.0"), Ok(()));
        let other = same_version("it", "3.0.1", "3.0.0").unwrap_err();
        assert!(other.contains("3.0.1") && other.contains("3.0.0"));
    }
}
