//! What the measurement of the language packages needs: each package, and a program that calls it.

use std::{path::Path, process::Stdio};

use super::BenchOptions;
use crate::{
    install::{self, NODE, Need, PYTHON},
    process,
    screen::Screen,
    test::bindings::{built, command},
};

/// The packages whose libraries are built with the measurement.
pub(super) const PACKAGES: &[&str] = &[
    "--package=dwcp-ffi",
    "--package=dwcp-python",
    "--package=dwcp-node",
    "--lib",
];

/// A language, as the rows call it.
struct Language {
    name: &'static str,
    /// The file that its package's crate is built into.
    library: &'static str,
    needs: &'static [Need],
}

const LANGUAGES: &[Language] = &[
    Language {
        name: "python",
        library: "lib_dwcp.so",
        needs: &[PYTHON],
    },
    Language {
        name: "node",
        library: "libdwcp_node.so",
        needs: &[NODE],
    },
    Language {
        name: "go",
        library: "libdwcp.a",
        // It comes as a package of Python's.
        needs: &[PYTHON],
    },
    Language {
        name: "c",
        library: "libdwcp.a",
        needs: &[],
    },
];

/// The words for the measurement, from what cargo says it built: the program of each language, or why it has none.
///
/// # Errors
///
/// When cargo built no library of a language.
pub(super) fn words(messages: &str, _options: &BenchOptions) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    for language in LANGUAGES {
        let library = built(messages, language.library)?;
        let name = language.name;
        Screen::Error.line(&format!("preparing {name}"));
        let (word, what) = match prepare(language, &library) {
            Ok(program) => ("--program", program),
            Err(why) => ("--missing", why),
        };
        words.extend([word.to_owned(), format!("{name}={what}")]);
    }
    Ok(words)
}

/// Builds the program of a language; its path.
fn prepare(language: &Language, library: &Path) -> Result<String, String> {
    install::provide(language.needs, Screen::Error)?;
    // Beside the library, which is in `<target>/<profile>`.
    let folder = library.with_file_name("bench-bindings").join(language.name);
    let script = "benches/bindings/prepare.sh";
    let mut prepare = command("sh");
    prepare
        .args([script, language.name])
        .args([library, &folder]);
    let finished = process::run(prepare.stdin(Stdio::null()), None)
        .map_err(|error| format!("cannot run {script}: {error}"))?;
    if !finished.success {
        Screen::Error.write(&finished.transcript);
        return Err(format!("{script}: {}", finished.status));
    }
    Ok(folder.join("run").display().to_string())
}
