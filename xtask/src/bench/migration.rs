//! What the measurement of migrations needs: the example that moves a VM, and the script of the peer.

use super::{BenchOption, BenchOptions};
use crate::{
    install::{self, CC, PYTHON, QEMU},
    screen::Screen,
    test::bindings::built,
};

/// The example that our side is measured by.
const EXAMPLE: &str = "live_migration";

/// What is built with the measurement.
pub(super) const PACKAGES: &[&str] = &["--package=dwcp", "--example=live_migration"];

const PEER_QEMU: &str = "--peer-qemu";
/// Where to write the picture, which is drawn here, from the report.
pub(super) const SVG: &str = "--svg";

/// The options that this measurement alone takes.
pub(super) const OPTIONS: &[BenchOption] = &[
    BenchOption {
        name: PEER_QEMU,
        value: "SCRIPT",
        about: "move a guest between two QEMU processes beside ours, by this program (benches/README.md)",
    },
    BenchOption {
        name: "--only",
        value: "WORD",
        about: "only what has this in its name, such as dwcp/idle or /precopy; may be given several times",
    },
    BenchOption {
        name: "--memory",
        value: "SIZE",
        about: "memory of the guest, such as 512MiB [2GiB]",
    },
    BenchOption {
        name: "--fill",
        value: "SIZE",
        about: "memory that it fills [1GiB]",
    },
    BenchOption {
        name: SVG,
        value: "FILE",
        about: "also draw a picture of the p50",
    },
];

/// The words for the measurement, from what cargo says it built and what was asked: the example, the peer's script or
/// why there is none, and the rest as it was given.
///
/// # Errors
///
/// When cargo built no example, or the script's path cannot be made out.
pub(super) fn words(messages: &str, options: &BenchOptions) -> Result<Vec<String>, String> {
    let example = built(messages, EXAMPLE)?.display().to_string();
    let mut words = vec!["--example".to_owned(), example];
    let own = options.own.iter().filter(|(option, _)| *option != SVG);
    for (option, value) in own {
        let (option, value) = if *option == PEER_QEMU {
            peer(value)?
        } else {
            (*option, value.clone())
        };
        words.extend([option.to_owned(), value]);
    }
    Ok(words)
}

/// The word for the script, and its path, which is that of who called us: measurements run in another folder. What
/// the script needs is installed.
fn peer(script: &str) -> Result<(&'static str, String), String> {
    let path = std::path::absolute(script).map_err(|error| format!("{PEER_QEMU}: {error}"))?;
    if !path.is_file() {
        return Err(format!("{PEER_QEMU}: there is no file {}", path.display()));
    }
    Ok(match install::provide(&[QEMU, CC, PYTHON], Screen::Error) {
        Ok(()) => (PEER_QEMU, path.display().to_string()),
        Err(why) => ("--missing", format!("qemu is missing: {why}")),
    })
}

#[cfg(test)]
mod tests {
    use super::{BenchOptions, words};

    const BUILT: &str = r#"{"reason":"compiler-artifact","filenames":["/t/examples/live_migration"],"executable":null}"#;

    fn options(own: &[(&'static str, &str)]) -> BenchOptions {
        BenchOptions {
            name: "migration".into(),
            own: own
                .iter()
                .map(|(option, value)| (*option, (*value).to_owned()))
                .collect(),
            ..BenchOptions::default()
        }
    }

    #[test]
    fn the_example_comes_first_and_the_rest_as_given() {
        let options = options(&[
            ("--only", "idle"),
            ("--svg", "a.svg"),
            ("--only", "raw/"),
            ("--fill", "64M"),
        ]);
        assert_eq!(
            words(BUILT, &options).unwrap(),
            [
                "--example",
                "/t/examples/live_migration",
                "--only",
                "idle",
                "--only",
                "raw/",
                "--fill",
                "64M"
            ]
        );
        assert!(words("", &options).unwrap_err().contains("live_migration"));
    }

    #[test]
    fn a_script_that_is_not_there_is_refused_by_its_path() {
        let why = words(BUILT, &options(&[("--peer-qemu", "no/such.py")])).unwrap_err();
        assert!(
            why.starts_with("--peer-qemu: ") && why.ends_with("/no/such.py"),
            "{why}"
        );
    }
}
