//! The steps that try the C ABI and the language packages.
//!
//! What is built is the library as cargo makes it for tests; each language then has a list of commands, which count
//! as one test each. What a language's own tools need (interpreters, compilers, packages) its own script gets.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::process;

/// A command that counts as one test.
#[derive(Debug)]
pub(super) struct Check {
    /// What it is called when it fails.
    pub(super) name: String,
    pub(super) command: Command,
    /// What its output has to hold for it to have passed, beside a status of 0.
    pub(super) says: &'static str,
}

/// The arguments of the call of cargo that builds what all these steps try, and says where. All at once: cargo builds
/// what they share anew for each choice of packages.
pub(super) const BUILD: &[&str] = &[
    "build",
    "--locked",
    "--message-format=json-render-diagnostics",
    "--package=dwcp",
    "--package=dwcp-ffi",
    "--package=dwcp-python",
    "--package=dwcp-node",
    "--package=dwcp-conformance",
    "--lib",
    "--bins",
    "--example=story",
];

/// The file with that name among those that cargo says it built: a library or a program.
///
/// # Errors
///
/// When there is none.
pub(crate) fn built(messages: &str, name: &str) -> Result<PathBuf, String> {
    let files = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .flat_map(|message| {
            let mut files = message["filenames"].as_array().cloned().unwrap_or_default();
            files.push(message["executable"].clone());
            files
        });
    let mut paths = files.filter_map(|file| file.as_str().map(PathBuf::from));
    paths
        .find(|path| path.file_name().is_some_and(|file| file == name))
        .ok_or_else(|| format!("cargo built no {name}"))
}

/// The folder for what the steps of a language make.
///
/// # Errors
///
/// When it cannot be made.
pub(super) fn folder(library: &Path, language: &str) -> Result<PathBuf, String> {
    // The library is in `<target>/<profile>`.
    let target = library
        .ancestors()
        .nth(2)
        .ok_or("cargo builds in no folder")?;
    let folder = target.join("bindings").join(language);
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// A command in the folder of the workspace.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(process::workspace_root());
    command
}

/// A language package, and what tries it.
#[derive(Debug)]
pub(super) struct Language {
    pub(super) name: &'static str,
    /// The file that its crate is built into.
    pub(super) library: &'static str,
    /// The command that prepares what the language needs and runs all its tests; the library is its last argument.
    script: &'static [&'static str],
    /// The commands of its testee and its story, which work once the script has run.
    testee: &'static str,
    story: &'static str,
}

/// All of them but C and Rust, which need no preparing.
pub(super) const LANGUAGES: &[Language] = &[
    Language {
        name: "python",
        library: "lib_dwcp.so",
        script: &["sh", "bindings/python/tests/run.sh"],
        testee: "target/python-tests/venv/bin/python bindings/conformance/testees/python/testee.py",
        story: "target/python-tests/venv/bin/python examples/python/story.py",
    },
    Language {
        name: "typescript",
        library: "libdwcp_node.so",
        script: &["node", "bindings/node/test/run.mjs"],
        testee: "node bindings/conformance/testees/typescript/testee.mjs",
        story: "node target/typescript/examples/story.js",
    },
    Language {
        name: "go",
        library: "libdwcp.a",
        script: &["sh", "bindings/go/test.sh"],
        testee: "target/go/testee",
        story: "target/go/story",
    },
];

impl Language {
    /// Its own tests.
    pub(super) fn check(&self, library: &Path) -> Check {
        let (program, arguments) = self.script.split_first().unwrap_or((&"false", &[]));
        let mut command = command(program);
        // Not what a caller may use cargo with: the scripts know one place.
        command.env_remove("CARGO_TARGET_DIR");
        command.args(arguments).arg(library);
        Check {
            name: self.name.to_owned(),
            command,
            says: "",
        }
    }
}

/// The judge, with everybody.
pub(super) fn conformance(judge: &Path, testee: &Path, story: &Path, c: &Path) -> Command {
    let mut command = command(judge);
    let ours = [
        (
            "rust",
            testee.display().to_string(),
            story.display().to_string(),
        ),
        (
            "c",
            c.join("testee-shared").display().to_string(),
            c.join("story-shared").display().to_string(),
        ),
    ];
    let others = LANGUAGES.iter().map(|language| {
        (
            language.name,
            language.testee.to_owned(),
            language.story.to_owned(),
        )
    });
    // Where Python finds its package.
    command.env(
        "PYTHONPATH",
        process::workspace_root().join("bindings/python"),
    );
    for (name, testee, story) in ours.into_iter().chain(others) {
        command.args(["--testee", &format!("{name}={testee}")]);
        command.args(["--story", &format!("{name}={story}")]);
    }
    command
}

/// How many passed and failed, as the judge says in its last line.
pub(super) fn verdict(output: &str) -> Option<(u64, u64)> {
    let line = output.lines().rev().find(|line| !line.trim().is_empty())?;
    let (passed, failed) = line.split_once(" passed, ")?;
    let failed = failed.strip_suffix(" failed")?;
    Some((passed.parse().ok()?, failed.parse().ok()?))
}

/// The matrix in what the judge prints.
pub(super) fn matrix(output: &str) -> String {
    output
        .lines()
        .filter(|line| line.starts_with('|'))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The C ABI: the header in every standard, the programs of `ffi/tests-c` and `examples/c` against the shared and the
/// static library, with a checker of memory and without.
pub(super) mod c {
    use super::{Check, Path, PathBuf, command};

    /// The standards a program may be written in, with the compiler's word for each.
    const C: &[&str] = &["c99", "c11", "c17", "c2x"];
    const CXX: &[&str] = &["c++11", "c++17", "c++20"];
    /// What the header must not cause.
    const STRICT: &[&str] = &["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
    /// What a static library of Rust needs of the system.
    const SYSTEM: &[&str] = &["-lm", "-ldl", "-lpthread"];
    const VALGRIND: &[&str] = &[
        "--quiet",
        "--error-exitcode=9",
        "--leak-check=full",
        "--show-leak-kinds=definite,indirect",
        "--errors-for-leak-kinds=definite,indirect",
    ];

    /// Everything, in order: what is run was compiled before.
    pub(in super::super) fn checks(shared: &Path, archive: &Path, folder: &Path) -> Vec<Check> {
        let mut checks = header(folder);
        let soname = folder.join("libdwcp.so.1");
        checks.push(named(shared, &soname));
        for (name, source) in [
            ("abi", "ffi/tests-c/abi.c"),
            ("story", "examples/c/story.c"),
            ("testee", "bindings/conformance/testees/c/testee.c"),
        ] {
            for (kind, library) in [("shared", shared), ("static", archive)] {
                checks.push(compile(
                    source,
                    &folder.join(format!("{name}-{kind}")),
                    library,
                    &[],
                ));
            }
        }
        let asan = folder.join("abi-asan");
        let sanitized = ["-fsanitize=address,undefined"];
        checks.push(compile("ffi/tests-c/abi.c", &asan, shared, &sanitized));
        let unload = folder.join("unload");
        checks.push(compile("ffi/tests-c/unload.c", &unload, shared, &[]));

        let run = |name: &str, says: &'static str, arguments: &[&str]| {
            check(name, says, folder.join(name), |program| {
                program.args(arguments);
            })
        };
        let abi = "checks passed";
        checks.push(run("abi-shared", abi, &[]));
        checks.push(run("abi-static", abi, &[]));
        checks.push(run("abi-asan", abi, &["--no-fork"]));
        checks.push(check("unload", "loaded three times", &unload, |program| {
            program.arg(shared);
        }));
        checks.push(run("story-shared", "story: ok", &[]));
        checks.push(run("story-static", "story: ok", &[]));
        for (name, program, says, arguments) in [
            ("abi, valgrind", "abi-shared", abi, &["--no-fork"][..]),
            ("story, valgrind", "story-shared", "story: ok", &[]),
        ] {
            checks.push(check(name, says, "valgrind", |valgrind| {
                valgrind.args(VALGRIND).arg(folder.join(program));
                // A checker of memory runs the host's code only.
                valgrind.args(arguments).env("DWCP_BACKEND", "sim");
            }));
        }
        checks.push(check("symbols", "", "sh", |sh| {
            // Fails where anything else than ours is visible.
            let list = "! nm -D --defined-only \"$1\" | awk '{print $3}' | grep -v '^dwcp_'";
            sh.args(["-c", list, "symbols"]).arg(shared);
        }));
        checks
    }

    /// The library under the name by which programs look for it.
    fn named(shared: &Path, soname: &Path) -> Check {
        check("the name of the library", "", "ln", |ln| {
            ln.arg("-sf").arg(shared).arg(soname);
        })
    }

    /// The header alone, as the first and only thing that a program includes.
    fn header(folder: &Path) -> Vec<Check> {
        let standards = C.iter().map(|standard| ("cc", "c", *standard));
        let standards = standards.chain(CXX.iter().map(|standard| ("c++", "c++", *standard)));
        standards
            .map(|(compiler, language, standard)| {
                let name = format!("dwcp.h in {standard}");
                check(&name, "", compiler, |compiler| {
                    compiler.arg(format!("-std={standard}")).args(STRICT);
                    compiler.args(["-x", language, "-c", "include/dwcp.h", "-o"]);
                    compiler.arg(folder.join("header.o"));
                })
            })
            .collect()
    }

    fn compile(source: &str, program: &Path, library: &Path, more: &[&str]) -> Check {
        let folder = program
            .parent()
            .map_or_else(PathBuf::new, Path::to_path_buf);
        let file = program.file_name().unwrap_or_default().display();
        check(&format!("{file} compiles"), "", "cc", |cc| {
            cc.args(["-std=c11", "-D_DEFAULT_SOURCE", "-g", "-Iinclude"]);
            cc.args(STRICT).args(more).arg(source);
            cc.arg("-o").arg(program).arg(library).args(SYSTEM);
            cc.arg(format!("-Wl,-rpath,{}", folder.display()));
        })
    }

    fn check(
        name: &str,
        says: &'static str,
        program: impl AsRef<std::ffi::OsStr>,
        fill: impl FnOnce(&mut std::process::Command),
    ) -> Check {
        let mut command = command(program);
        fill(&mut command);
        Check {
            name: name.to_owned(),
            command,
            says,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{built, matrix, verdict};

    #[test]
    fn the_judge_says_how_many() {
        let output =
            "| a | rust |\n|---|---|\n| b | yes |\nstory, rust: ok\n\n27 passed, 1 failed\n";
        assert_eq!(verdict(output), Some((27, 1)));
        assert_eq!(verdict("killed"), None);
        assert_eq!(matrix(output), "| a | rust |\n|---|---|\n| b | yes |");
    }

    #[test]
    fn cargo_says_what_it_built() {
        let messages = "{\"reason\":\"compiler-artifact\",\"filenames\":[\"/t/debug/libdwcp.so\",\"/t/debug/libdwcp.a\"]}\n\
                        not json\n{\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(
            built(messages, "libdwcp.a").unwrap().to_str(),
            Some("/t/debug/libdwcp.a")
        );
        assert!(
            built(messages, "libother.a")
                .unwrap_err()
                .contains("libother.a")
        );
    }
}
