//! The Go package: the module's folder with the archive in it, for programs that name it with `replace`.
//!
//! There is no zip for a module proxy: the module's path has no major version in it, and Go takes none above 1 for such
//! a path.

#![forbid(unsafe_code)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    archive::{Entry, tar_gz},
    c,
    linked::Linked,
    project::Project,
    tryout::{self, Scratch, command, run},
};

const FOLDER: &str = "bindings/go";
const NAME: &str = "github.com/novacron/dwcp-sdk-go";
/// Where `link_static.go` looks for the archive.
const ARCHIVE: &str = "lib/linux_amd64/libdwcp.a";
/// A program that says which version it runs with.
const VERSION_PROGRAM: &str = "\
package main

import (
	\"fmt\"

	\"github.com/novacron/dwcp-sdk-go\"
)

func main() { fmt.Println(dwcp.Version()) }
";

/// Makes the archive, and gives its name and its bytes.
///
/// # Errors
///
/// What is wrong with the sources or the library.
pub(super) fn pack(project: &Project, scratch: &Scratch) -> Result<(String, Vec<u8>), String> {
    let archive = project.archive(&project.libraries.archive, scratch)?;
    let top = format!("dwcp-sdk-go-{}", project.version);
    let mut entries = Vec::new();
    for name in project.files(FOLDER, is_packed)? {
        let bytes = project.read(&format!("{FOLDER}/{name}"))?;
        entries.push(Entry::file(format!("{top}/{name}"), bytes));
    }
    entries.push(Entry::file(format!("{top}/{ARCHIVE}"), archive));
    let name = format!("{top}-linux-amd64.tar.gz");
    let bytes = tar_gz(&entries).map_err(|error| format!("{name}: {error}"))?;
    Ok((name, bytes))
}

/// Unpacks the archive beside an empty module, which builds and runs the story with it; then once more with the C
/// package, which stands beside it, by pkg-config.
///
/// # Errors
///
/// What did not work.
pub(super) fn try_out(
    project: &Project,
    package: &Path,
    scratch: &Scratch,
) -> Result<String, String> {
    let top = tryout::unpack(package, scratch, "go")?;
    let module = scratch.folder("go-module")?;
    let put = |path: &str, text: &str| {
        let path = module.join(path);
        let folder = path.parent().unwrap_or(&module);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| format!("{}: {error}", path.display()))
    };
    let requires = format!(
        "require {NAME} v0.0.0\n\nreplace {NAME} => {}\n",
        top.display()
    );
    put("go.mod", &format!("module empty\n\ngo 1.21\n\n{requires}"))?;
    put("version/main.go", VERSION_PROGRAM)?;
    put("story/main.go", &project.text("examples/go/story/main.go")?)?;

    let root = root(project)?;
    let go = || go(project, &root, &module);
    let listed = run(go().args(["list", "-m", "all"]))?;
    only(&listed)?;
    run(go().args(["build", "-o", "static/", "./version", "./story"]))?;
    Linked::of(&module.join("static/story"))?.needs_only(&[])?;
    let said = run(&mut command(module.join("static/version"), &module))?;
    tryout::same_version("the Go package", &said, &project.version)?;
    tryout::story(&mut command(module.join("static/story"), &module))?;

    let beside = package.with_file_name(c::name(project));
    let prefix = tryout::unpack(&beside, scratch, "go-c")?;
    let mut build = go();
    build.args([
        "build",
        "-tags",
        "dwcp_pkgconfig",
        "-o",
        "shared/",
        "./version",
    ]);
    run(build.env("PKG_CONFIG_LIBDIR", prefix.join("lib/pkgconfig")))?;
    let program = module.join("shared/version");
    Linked::of(&program)?.needs_only(&["libdwcp.so.1"])?;
    let said = run(command(program, &module).env("LD_LIBRARY_PATH", prefix.join("lib")))?;
    tryout::same_version("the Go package over the C library", &said, &project.version)?;
    Ok(format!(
        "main.go of the story in an empty module on {}, and the C package by pkg-config",
        tryout::backend()
    ))
}

/// What of the module's folder is packed: what its users build, and no tests.
fn is_packed(name: &str) -> bool {
    let source = name.ends_with(".go") && !name.ends_with("_test.go");
    source || ["LICENSE", "README.md", "dwcp.h", "go.mod"].contains(&name)
}

/// Where the Go is that the package is tested with; it is fetched if it is not there yet.
fn root(project: &Project) -> Result<PathBuf, String> {
    let mut fetch = Command::new("sh");
    // As where the package is tested: the scripts know one place.
    fetch.env_remove("CARGO_TARGET_DIR");
    let root = run(fetch.arg(project.path(&format!("{FOLDER}/toolchain.sh"))))?;
    Ok(PathBuf::from(root.trim()))
}

/// `go` in a folder. What it compiled before is used again, and nothing is fetched.
fn go(project: &Project, root: &Path, folder: &Path) -> Command {
    let mut go = command(root.join("bin/go"), folder);
    go.env("GOROOT", root)
        .env("GOCACHE", project.path("target/go-cache"))
        .env("GOPATH", folder.join("path"))
        .env("GOFLAGS", "-mod=mod")
        .env("CGO_ENABLED", "1");
    for (name, off) in [
        ("GOPROXY", "off"),
        ("GOTELEMETRY", "off"),
        ("GOTOOLCHAIN", "local"),
    ] {
        go.env(name, off);
    }
    go
}

/// Sees to it that a module, as `go list -m all` lists it, needs ours and nothing else.
fn only(listed: &str) -> Result<(), String> {
    let modules: Vec<&str> = listed.lines().collect();
    match modules[..] {
        ["empty", ours] if ours.starts_with(&format!("{NAME} ")) => Ok(()),
        _ => Err(format!(
            "the module has other packages than {NAME}:\n{listed}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{ARCHIVE, FOLDER, NAME, VERSION_PROGRAM, is_packed, only};
    use crate::dist::project::tests::project;

    #[test]
    fn what_is_built_is_packed_and_its_tests_are_not() {
        let files = project().files(FOLDER, is_packed).unwrap();
        for name in [
            "LICENSE",
            "README.md",
            "client.go",
            "dwcp.h",
            "go.mod",
            "link_static.go",
        ] {
            assert!(files.iter().any(|file| file == name), "{name}: {files:?}");
        }
        for name in ["client_test.go", "test.sh", "toolchain.sh", ".gitignore"] {
            assert!(files.iter().all(|file| file != name), "{name}");
        }
    }

    #[test]
    fn names_are_those_of_the_module() {
        let project = project();
        let module = project.text("bindings/go/go.mod").unwrap();
        assert!(module.contains(&format!("module {NAME}\n")), "{module}");
        let link = project.text("bindings/go/link_static.go").unwrap();
        assert!(link.contains(&format!("${{SRCDIR}}/{ARCHIVE} ")), "{link}");
        assert!(VERSION_PROGRAM.contains(NAME));
    }

    #[test]
    fn a_module_has_our_package_and_nothing_else() {
        let alone = "empty\ngithub.com/novacron/dwcp-sdk-go v0.0.0 => /somewhere\n";
        assert_eq!(only(alone), Ok(()));
        for listed in ["empty\n", &format!("{alone}example.org/other v1.0.0\n")] {
            assert!(only(listed).is_err(), "{listed}");
        }
    }
}
