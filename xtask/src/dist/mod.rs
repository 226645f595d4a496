//! `cargo xtask dist`: the packages that are handed out, each installed and tried where nothing else is.
//!
//! `wheel`, `npm`, `c` and `go` are siblings: each packs one, and tries it. `project` is what they are made from,
//! `archive` writes them, `linked` knows which systems they load on, `tryout` is where they are tried, and `report`
//! says what came of it. The tests do the same with what they built ([`pack_and_try`]).

#![forbid(unsafe_code)]

mod archive;
mod c;
mod go;
mod linked;
mod npm;
mod project;
mod report;
mod tryout;
mod wheel;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Instant,
};

pub(crate) use self::{project::Libraries, report::Report};
use self::{
    project::Project,
    report::{Packed, SUMS},
    tryout::Scratch,
};
use crate::{
    install::{self, BINUTILS, CC, NODE, Need, PKG_CONFIG, PYTHON},
    process,
    screen::Screen,
    test,
};

/// What packing and trying cannot do without. Go is fetched by its own script, with Python.
pub(crate) const NEEDS: &[Need] = &[CC, BINUTILS, PKG_CONFIG, PYTHON, NODE];

/// What help says.
pub(crate) const HELP: &str = "\
Packs what is handed out, optimised: a C archive, a Python wheel, an npm archive, a Go module. Installs each into an
empty environment and runs its example there. Ends with tables of what was packed and what was tried.

Usage: cargo xtask dist [OPTIONS]

Options:
  --out DIR       where the packages go (target/dist)
  --json          print one JSON object on standard output, and the rest on standard error
  -h, --help      show this
";

/// The call of cargo that builds what is packed.
const BUILD: &[&str] = &[
    "build",
    "--release",
    "--locked",
    "--message-format=json-render-diagnostics",
    "--package=dwcp-ffi",
    "--package=dwcp-python",
    "--package=dwcp-node",
    "--lib",
];
/// A folder of its own: the flags that keep this machine's folders out of the libraries are not those of other builds.
const BUILD_FOLDER: &str = "target/packages";
/// What separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\x1f";

/// What `cargo xtask dist` was asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DistOptions {
    /// Where the packages go, where that is not the usual place.
    pub(crate) out: Option<PathBuf>,
    /// Print one JSON object on standard output.
    pub(crate) json: bool,
}

/// Makes a package: its name and its bytes.
type Pack = fn(&Project, &Scratch) -> Result<(String, Vec<u8>), String>;
/// Installs a package and uses it; says in a few words what was tried.
type TryOut = fn(&Project, &Path, &Scratch) -> Result<String, String>;

/// All packages. The C package comes before that of Go, which is tried with it too.
const PACKAGES: &[(&str, Pack, TryOut)] = &[
    ("c", c::pack, c::try_out),
    ("python", wheel::pack, wheel::try_out),
    ("typescript", npm::pack, npm::try_out),
    ("go", go::pack, go::try_out),
];

/// Builds, packs and tries. The exit status is 0 if all of it worked.
pub(crate) fn run(options: &DistOptions) -> ExitCode {
    let screen = Screen::beside_json(options.json);
    let root = process::workspace_root();
    let out = match &options.out {
        Some(out) => std::path::absolute(out).map_err(|error| format!("--out: {error}")),
        None => Ok(root.join("target/dist")),
    };
    let report = out.and_then(|out| {
        install::provide(NEEDS, screen)?;
        let libraries = build(&root, screen)?;
        pack_and_try(libraries, &out, Some(screen))
    });
    match report {
        Ok(report) => {
            if options.json {
                Screen::Output.line(&report.json().to_string());
            }
            screen.write(&format!("\n{}", report.text()));
            if report.failed() == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(why) => {
            eprintln!("error: dist: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Packs and tries everything, telling on the screen, if there is one, what is under way. What fails stops nothing
/// else, and is told in the report.
///
/// # Errors
///
/// Why it could not begin.
pub(crate) fn pack_and_try(
    libraries: Libraries,
    out: &Path,
    screen: Option<Screen>,
) -> Result<Report, String> {
    let show = |text: &str| {
        if let Some(screen) = screen {
            screen.write(text);
        }
    };
    let project = Project::open(process::workspace_root(), libraries)?;
    let told = |error| format!("{}: {error}", out.display());
    fs::create_dir_all(out).map_err(told)?;
    // What an earlier run left would be taken for what this one made.
    for name in fs::read_to_string(out.join(SUMS))
        .map(|sums| report::names(&sums))
        .unwrap_or_default()
    {
        let _ = fs::remove_file(out.join(name));
    }

    let mut report = Report::new(&project.version, out);
    let begin = Instant::now();
    let versions = project.check_versions();
    report.add("one version in all sources", begin, versions);
    for (language, pack, try_out) in PACKAGES {
        let scratch = Scratch::create("dist").map_err(|error| {
            format!("cannot make a folder for temporary files ({error}): set TMPDIR to one")
        })?;
        show(&format!("packing {language} ... "));
        let begin = Instant::now();
        let packed = pack(&project, &scratch).and_then(|(name, bytes)| {
            let path = out.join(&name);
            fs::write(&path, &bytes).map_err(|error| format!("{}: {error}", path.display()))?;
            Ok(Packed::new(language, &name, &bytes))
        });
        let file = match packed {
            Ok(packed) => {
                show(&format!("{}\ntrying {language} ... ", packed.file));
                let file = out.join(&packed.file);
                report.packages.push(packed);
                file
            }
            Err(reason) => {
                show("FAILED\n");
                report.add(&format!("packing {language}"), begin, Err(reason));
                continue;
            }
        };
        let begin = Instant::now();
        let tried = try_out(&project, &file, &scratch);
        show(if tried.is_ok() { "ok\n" } else { "FAILED\n" });
        report.add(language, begin, tried);
    }
    fs::write(out.join(SUMS), report.sums()).map_err(told)?;
    Ok(report)
}

/// Builds the libraries, with cargo's own output on the terminal.
fn build(root: &Path, screen: Screen) -> Result<Libraries, String> {
    screen.line("building, optimised; the first time takes minutes");
    let mut cargo = process::cargo(BUILD);
    cargo.args(["--target-dir", BUILD_FOLDER]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(root));
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err("cargo could not build the libraries: it says above why".into());
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let libraries = Libraries::find(|name| test::built(&messages, name))?;
    let private = places(root).into_iter().map(|(place, _)| place).collect();
    Ok(Libraries {
        private,
        ..libraries
    })
}

/// The folders of this machine that must not be in what is handed out, and what is written in their place.
fn places(root: &Path) -> Vec<(PathBuf, &'static str)> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let mut places = vec![(root.to_owned(), "/dwcp")];
    places.extend(home.map(|home| (home, "/cargo")));
    places
}

/// The flags of the caller, and those that keep [`places`] out.
fn flags(root: &Path) -> OsString {
    let mut flags: Vec<OsString> = match env::var_os("CARGO_ENCODED_RUSTFLAGS") {
        Some(encoded) => vec![encoded],
        None => env::var("RUSTFLAGS")
            .unwrap_or_default()
            .split_whitespace()
            .map(OsString::from)
            .collect(),
    };
    flags.retain(|flag| !flag.is_empty());
    for (place, name) in places(root) {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(place);
        flag.push("=");
        flag.push(name);
        flags.push(flag);
    }
    flags.join(FLAG_SEPARATOR.as_ref())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::flags;

    #[test]
    fn the_flags_put_other_names_for_this_machines_folders() {
        let flags = flags(Path::new("/some/where")).into_string().unwrap();
        let ours = "--remap-path-prefix=/some/where=/dwcp";
        assert!(flags.split('\x1f').any(|flag| flag == ours), "{flags:?}");
        assert!(!flags.starts_with('\x1f'), "{flags:?}");
    }
}
