//! What a step needs of this host, and how to get it.
//!
//! Rust is the only precondition. Programs that Debian has are installed when we are root; everything else that is
//! missing makes a step skip, with a reason that says what to do.

use std::{env, fs::OpenOptions, path::Path, process::Command, sync::OnceLock};

use crate::{process, screen::Screen};

/// Something a step cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// A program on the search path, and the Debian package that brings it.
    Program {
        /// The program's name.
        name: &'static str,
        /// The package.
        package: &'static str,
    },
    /// A kernel of Debian's, which is no program.
    Kernel {
        /// How its release ends.
        flavour: &'static str,
        /// The package.
        package: &'static str,
    },
    /// A part of the Rust toolchain that cargo finds as a subcommand.
    Component {
        /// The cargo subcommand.
        subcommand: &'static str,
        /// The component that brings it.
        component: &'static str,
    },
}

/// The linker that rustc calls.
pub(crate) const CC: Need = Need::Program {
    name: "cc",
    package: "gcc",
};
/// The compiler of the parts that are in C++.
pub(crate) const CXX: Need = Need::Program {
    name: "c++",
    package: "g++",
};
/// Python, with what makes environments of its own.
pub(crate) const PYTHON: Need = Need::Program {
    name: "python3",
    package: "python3-venv",
};
/// Node.js; its packages come with npm.
pub(crate) const NODE: Need = Need::Program {
    name: "npm",
    package: "npm",
};
/// The checker of memory.
pub(crate) const VALGRIND: Need = Need::Program {
    name: "valgrind",
    package: "valgrind",
};
/// What looks into libraries and takes out of them what only debuggers read.
pub(crate) const BINUTILS: Need = Need::Program {
    name: "objdump",
    package: "binutils",
};
/// What says where an installed library is.
pub(crate) const PKG_CONFIG: Need = Need::Program {
    name: "pkg-config",
    package: "pkg-config",
};
/// The emulator in which a virtual host boots, and that our figures are compared with.
pub(crate) const QEMU: Need = Need::Program {
    name: "qemu-system-x86_64",
    package: "qemu-system-x86",
};
/// A userland in one file.
pub(crate) const BUSYBOX: Need = Need::Program {
    name: "busybox",
    package: "busybox-static",
};
/// What makes file systems.
pub(crate) const E2FSPROGS: Need = Need::Program {
    name: "mkfs.ext4",
    package: "e2fsprogs",
};
/// The kernel that guests boot.
pub(crate) const CLOUD_KERNEL: Need = Need::Kernel {
    flavour: "-cloud-amd64",
    package: "linux-image-cloud-amd64",
};
/// `cargo fmt`.
pub(crate) const RUSTFMT: Need = Need::Component {
    subcommand: "fmt",
    component: "rustfmt",
};
/// `cargo clippy`.
pub(crate) const CLIPPY: Need = Need::Component {
    subcommand: "clippy",
    component: "clippy",
};

/// Sees to it that every need is met, installing what can be installed.
///
/// # Errors
///
/// The reason why a step with these needs must be skipped.
pub(crate) fn provide(needs: &[Need], screen: Screen) -> Result<(), String> {
    for need in needs {
        match *need {
            Need::Program { name, package } => provide_program(name, package, screen)?,
            Need::Kernel { flavour, package } => {
                let found = || has_kernel(flavour);
                provide_package(&format!("a kernel …{flavour}"), package, &found, screen)?;
            }
            Need::Component {
                subcommand,
                component,
            } => {
                let found = process::run(&mut process::cargo(&[subcommand, "--version"]), None);
                if !found.is_ok_and(|finished| finished.success) {
                    return Err(format!(
                        "needs the {component} component: rustup component add {component}"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Whether this host lets us open `/dev/kvm` for reading and writing.
pub(crate) fn kvm_is_usable() -> bool {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

/// What to do about a program.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Install,
    Skip(String),
}

fn plan(name: &str, package: &str, found: bool, may_install: bool) -> Plan {
    if found {
        Plan::Nothing
    } else if may_install {
        Plan::Install
    } else {
        Plan::Skip(format!("needs {name}: apt-get install {package}, as root"))
    }
}

fn provide_program(name: &str, package: &str, screen: Screen) -> Result<(), String> {
    provide_package(name, package, &|| on_path(name), screen)
}

fn provide_package(
    what: &str,
    package: &str,
    is_there: &dyn Fn() -> bool,
    screen: Screen,
) -> Result<(), String> {
    let may_install = || on_path("apt-get") && we_are_root();
    let found = is_there();
    match plan(what, package, found, !found && may_install()) {
        Plan::Nothing => Ok(()),
        Plan::Skip(reason) => Err(reason),
        Plan::Install => {
            screen.write(&format!("[installing {package}] "));
            install(package)?;
            if is_there() {
                Ok(())
            } else {
                Err(format!(
                    "needs {what}, which package {package} did not bring"
                ))
            }
        }
    }
}

/// Whether a kernel with its modules is installed.
fn has_kernel(flavour: &str) -> bool {
    let names = |folder: &str| {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
    };
    names("/boot").any(|name| {
        let release = name.strip_prefix("vmlinuz-");
        release.is_some_and(|release| {
            release.ends_with(flavour) && names("/lib/modules").any(|folder| folder == release)
        })
    })
}

/// The lists of packages are fetched once per run, and what came of it is kept.
static LISTS: OnceLock<Result<(), String>> = OnceLock::new();

fn install(package: &str) -> Result<(), String> {
    LISTS.get_or_init(|| apt_get(&["update"])).clone()?;
    apt_get(&["install", "-y", "--no-install-recommends", package])
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    let what = format!("apt-get {}", arguments.join(" "));
    match process::run(&mut command, None) {
        Ok(finished) if finished.success => Ok(()),
        Ok(finished) => Err(format!(
            "`{what}` failed: {}",
            last_line(&finished.transcript)
        )),
        Err(error) => Err(format!("cannot run `{what}`: {error}")),
    }
}

fn last_line(text: &str) -> &str {
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing")
}

fn we_are_root() -> bool {
    let mut command = Command::new("id");
    command.arg("-u");
    process::run(&mut command, None)
        .is_ok_and(|finished| finished.success && finished.stdout.trim() == "0")
}

fn on_path(program: &str) -> bool {
    let Some(path) = env::var_os("PATH") else {
        return false;
    };
    env::split_paths(&path).any(|folder| is_program(&folder.join(program)))
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    path.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file() || path.with_extension(env::consts::EXE_EXTENSION).is_file()
}

#[cfg(test)]
mod tests {
    use super::{Need, Plan, last_line, plan};
    use crate::screen::Screen;

    #[test]
    fn what_is_there_is_left_alone_and_what_is_missing_is_installed_or_named() {
        assert_eq!(plan("cc", "gcc", true, true), Plan::Nothing);
        assert_eq!(plan("cc", "gcc", true, false), Plan::Nothing);
        assert_eq!(plan("cc", "gcc", false, true), Plan::Install);
        let Plan::Skip(reason) = plan("cc", "gcc", false, false) else {
            panic!("not skipped")
        };
        assert!(
            reason.contains("cc") && reason.contains("apt-get install gcc"),
            "{reason}"
        );
    }

    #[test]
    fn a_component_that_is_missing_is_named() {
        let need = Need::Component {
            subcommand: "no-such-subcommand",
            component: "nothing",
        };
        let reason = super::provide(&[need], Screen::Error).unwrap_err();
        assert!(reason.contains("rustup component add nothing"), "{reason}");
    }

    #[cfg(unix)]
    #[test]
    fn programs_are_files_that_can_be_executed() {
        assert!(super::on_path("sh"));
        assert!(!super::on_path("no-such-program-anywhere"));
        assert!(!super::is_program(std::path::Path::new("/")));
    }

    #[test]
    fn the_last_line_that_says_something_is_the_reason() {
        assert_eq!(
            last_line("first\nE: no such package\n\n"),
            "E: no such package"
        );
        assert_eq!(last_line("\n"), "it said nothing");
    }
}
