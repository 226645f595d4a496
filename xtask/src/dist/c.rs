//! The C package: header, libraries, and what says where they are, in one folder that may lie anywhere.

#![forbid(unsafe_code)]

use std::{fs, path::Path, process::Command};

use super::{
    archive::{Entry, tar_gz},
    linked::Linked,
    project::Project,
    tryout::{self, Scratch, command, run},
};

/// What a static library of Rust needs of the system.
const SYSTEM: &[&str] = &["-lm", "-ldl", "-lpthread"];
/// How its users may compile the example.
const STRICT: &[&str] = &[
    "-std=c11",
    "-D_DEFAULT_SOURCE",
    "-Wall",
    "-Wextra",
    "-Werror",
];
/// A program that says which version it runs with.
const VERSION_PROGRAM: &str = "\
#include <dwcp.h>
#include <stdio.h>

int main(void)
{
    return puts(dwcp_version()) < 0;
}
";

/// Makes the archive, and gives its name and its bytes.
///
/// # Errors
///
/// What is wrong with the sources or the libraries.
pub(super) fn pack(project: &Project, scratch: &Scratch) -> Result<(String, Vec<u8>), String> {
    let (shared, linked) = project.shared(&project.libraries.shared, scratch)?;
    let archive = project.archive(&project.libraries.archive, scratch)?;
    let soname = linked
        .soname
        .as_deref()
        .ok_or("libdwcp.so has no SONAME: see ffi/build.rs")?;
    let pc = filled(project, &project.text("ffi/package/dwcp.pc.in")?, &linked)?;
    let readme = filled(project, &project.text("ffi/package/README.md")?, &linked)?;

    let top = top(project);
    let file = format!("libdwcp.so.{}", project.version);
    let at = |path: &str| format!("{top}/{path}");
    let entries = [
        Entry::file(at("LICENSE"), project.read("LICENSE")?),
        Entry::file(at("README.md"), readme),
        Entry::file(at("examples/story.c"), project.read("examples/c/story.c")?),
        Entry::file(at("include/dwcp.h"), project.read("include/dwcp.h")?),
        Entry::file(at("lib/libdwcp.a"), archive),
        Entry::program(at(&format!("lib/{file}")), shared),
        Entry::link(at(&format!("lib/{soname}")), file),
        Entry::link(at("lib/libdwcp.so"), soname),
        Entry::file(at("lib/pkgconfig/dwcp.pc"), pc),
    ];
    let name = name(project);
    let bytes = tar_gz(&entries).map_err(|error| format!("{name}: {error}"))?;
    Ok((name, bytes))
}

/// The archive's name.
pub(super) fn name(project: &Project) -> String {
    format!("{}.tar.gz", top(project))
}

/// The folder that it unpacks to.
fn top(project: &Project) -> String {
    format!("dwcp-{}-linux-x86_64", project.version)
}

/// Unpacks the archive where nothing else is, and compiles and runs the example by pkg-config and by hand.
///
/// # Errors
///
/// What did not work.
pub(super) fn try_out(
    project: &Project,
    package: &Path,
    scratch: &Scratch,
) -> Result<String, String> {
    let top = tryout::unpack(package, scratch, "c")?;
    let pkg_config = |arguments: &[&str]| run(pkg_config(&top, &top).args(arguments).arg("dwcp"));
    let said = pkg_config(&["--modversion"])?;
    tryout::same_version("dwcp.pc", &said, &project.version)?;
    let flags = pkg_config(&["--cflags", "--libs"])?;
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let by_hand = ["-Iinclude", "lib/libdwcp.a"];
    let by_hand: Vec<&str> = by_hand.iter().chain(SYSTEM).copied().collect();

    let version = top.join("version.c");
    fs::write(&version, VERSION_PROGRAM)
        .map_err(|error| format!("{}: {error}", version.display()))?;
    for (how, flags, needs) in [
        ("shared", &flags, &["libdwcp.so.1"][..]),
        ("static", &by_hand, &[]),
    ] {
        let build = |source: &str, program: &str| {
            let mut cc = command("cc", &top);
            cc.args(STRICT)
                .arg(source)
                .args(flags)
                .args(["-o", program]);
            run(&mut cc)
        };
        let program = |name: &str| {
            let mut program = command(top.join(name), &top);
            if !needs.is_empty() {
                program.env("LD_LIBRARY_PATH", top.join("lib"));
            }
            program
        };
        let (version, story) = (format!("version-{how}"), format!("story-{how}"));
        build("version.c", &version)?;
        let said = run(&mut program(&version))?;
        tryout::same_version(&format!("the {how} C library"), &said, &project.version)?;
        build("examples/story.c", &story)?;
        Linked::of(&top.join(&story))?.needs_only(needs)?;
        tryout::story(&mut program(&story))?;
    }
    visible(&top.join("lib/libdwcp.so"))?;
    Ok(format!(
        "story.c by pkg-config and by hand, loaded with libc and libgcc alone, on {}",
        tryout::backend()
    ))
}

/// `pkg-config` in a folder, which finds nothing but what was unpacked at `top`.
pub(super) fn pkg_config(top: &Path, folder: &Path) -> Command {
    let mut pkg_config = command("pkg-config", folder);
    pkg_config.env("PKG_CONFIG_LIBDIR", top.join("lib/pkgconfig"));
    pkg_config
}

/// Sees to it that the shared library shows what the header has, and nothing else.
fn visible(library: &Path) -> Result<(), String> {
    let mut nm = Command::new("nm");
    let listed = run(nm
        .args(["-D", "--defined-only", "--format=posix"])
        .arg(library))?;
    let others = strangers(&listed);
    match others[..] {
        [] if listed.contains("dwcp_version ") => Ok(()),
        [] => Err(format!("{} does not show dwcp_version", library.display())),
        _ => Err(format!(
            "{} shows what is not of the C ABI: {}",
            library.display(),
            others.join(", ")
        )),
    }
}

/// The names in what `nm` lists that are not ours.
fn strangers(listed: &str) -> Vec<&str> {
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !name.starts_with("dwcp_"))
        .collect()
}

/// A text with what is known only now.
///
/// # Errors
///
/// When it asks for something that is not known.
fn filled(project: &Project, text: &str, linked: &Linked) -> Result<String, String> {
    let (major, minor) = linked.glibc;
    let text = text
        .replace("@VERSION@", &project.version)
        .replace("@REPOSITORY@", &project.says("repository")?)
        .replace("@SONAME@", linked.soname.as_deref().unwrap_or_default())
        .replace("@GLIBC@", &format!("{major}.{minor}"));
    match text.split('@').nth(1) {
        None => Ok(text),
        Some(name) => Err(format!("nobody knows what @{name}@ is: see {}", file!())),
    }
}

#[cfg(test)]
mod tests {
    use super::{filled, strangers};
    use crate::dist::{linked::Linked, project::tests::project};

    fn linked() -> Linked {
        Linked {
            soname: Some("libdwcp.so.1".into()),
            needed: vec!["libc.so.6".into()],
            glibc: (2, 34),
        }
    }

    #[test]
    fn the_texts_of_the_package_are_filled() {
        let project = project();
        let text = |path: &str| filled(&project, &project.text(path).unwrap(), &linked()).unwrap();
        let pc = text("ffi/package/dwcp.pc.in");
        let version = format!("Version: {}", project.version);
        assert!(pc.lines().any(|line| line == version), "{pc}");
        assert!(pc.starts_with("prefix=${pcfiledir}/"), "{pc}");
        let readme = text("ffi/package/README.md");
        assert!(readme.contains("2.34 or newer") && readme.contains("`libdwcp.so.1`"));
    }

    #[test]
    fn what_cannot_be_filled_is_named() {
        let refused = filled(&project(), "a @COLOUR@", &linked()).unwrap_err();
        assert!(refused.contains("@COLOUR@"), "{refused}");
    }

    #[test]
    fn names_that_are_not_ours_are_strangers() {
        let listed = "dwcp_version T 1 2\nrust_eh_personality T 3 4\n";
        assert_eq!(strangers(listed), ["rust_eh_personality"]);
    }
}
