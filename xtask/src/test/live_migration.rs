//! The step that runs the example of the README: a VM moved, live, between two nodes on this host.

use serde_json::Value;

/// The example's name.
pub(super) const EXAMPLE: &str = "live_migration";

/// How it is run: small enough for any host, and with a guest that writes memory all the while.
pub(super) const COMMAND: &[&str] = &[
    "run",
    "--release",
    "-p",
    "dwcp",
    "--example",
    EXAMPLE,
    "--",
    "--json",
    "--memory",
    "256M",
    "--fill",
    "128M",
    "--working-set",
    "16M",
    "--dirty-pages-per-second",
    "20000",
];

/// Whether the output of `cargo metadata --no-deps` names the example as a target of the library.
///
/// # Errors
///
/// When the output is not what cargo is documented to write.
pub(super) fn is_declared(metadata: &str) -> Result<bool, String> {
    let metadata: Value =
        serde_json::from_str(metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata names no packages")?;
    Ok(packages
        .iter()
        .filter(|package| package["name"] == "dwcp")
        .any(|package| {
            let targets = package["targets"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            targets.iter().any(|target| {
                let kinds = target["kind"]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                target["name"] == EXAMPLE && kinds.iter().any(|kind| kind == "example")
            })
        }))
}

/// Checks the report, the last line of the example's output, and says in a few words what it shows.
///
/// # Errors
///
/// What of the report is not as it must be.
pub(super) fn check(stdout: &str, kvm_is_usable: bool) -> Result<String, String> {
    let line = stdout
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .ok_or("it printed nothing")?;
    let report: Value = serde_json::from_str(line)
        .map_err(|error| format!("its last line is not JSON ({error}): {line}"))?;
    if !report.is_object() {
        return Err(format!("its last line is not a JSON object: {line}"));
    }
    let mut wanted = vec![
        ("status", Value::from("completed")),
        ("memory_verified", Value::from(true)),
    ];
    if kvm_is_usable {
        wanted.push(("backend", Value::from("kvm")));
    }
    for (name, value) in wanted {
        if report[name] != value {
            return Err(format!(
                "its report says \"{name}\": {}, not {value}",
                report[name]
            ));
        }
    }
    let backend = report["backend"].as_str().unwrap_or("unnamed");
    Ok(format!("back end {backend}, memory verified"))
}

#[cfg(test)]
mod tests {
    use super::{check, is_declared};

    const GOOD: &str = r#"{"status":"completed","memory_verified":true,"backend":"kvm"}"#;

    #[test]
    fn a_completed_and_verified_move_is_good() {
        let output = format!("moving\n{GOOD}\n\n");
        assert_eq!(
            check(&output, true).unwrap(),
            "back end kvm, memory verified"
        );
    }

    #[test]
    fn anything_else_is_not() {
        for output in [
            "",
            "done",
            "[]",
            "null",
            "{}",
            r#"{"status":"failed","memory_verified":true,"backend":"kvm"}"#,
            r#"{"status":"completed","memory_verified":false,"backend":"kvm"}"#,
            r#"{"status":"completed","memory_verified":"true","backend":"kvm"}"#,
            r#"{"status":"completed","backend":"kvm"}"#,
        ] {
            assert!(check(output, true).is_err(), "{output:?}");
            assert!(check(output, false).is_err(), "{output:?}");
        }
        assert!(check(&format!("{GOOD}\nthen it crashed"), true).is_err());
    }

    #[test]
    fn a_host_with_kvm_must_use_it() {
        let simulated = GOOD.replace("kvm", "sim");
        assert!(check(&simulated, true).unwrap_err().contains("backend"));
        assert!(check(&simulated, false).unwrap().contains("sim"));
    }

    #[test]
    fn only_an_example_of_the_library_declares_it() {
        let metadata = |package: &str, kind: &str, name: &str| {
            format!(
                r#"{{"packages":[{{"name":"{package}","targets":[{{"name":"{name}","kind":["{kind}"]}}]}}]}}"#
            )
        };
        assert_eq!(
            is_declared(&metadata("dwcp", "example", "live_migration")),
            Ok(true)
        );
        assert_eq!(
            is_declared(&metadata("dwcp", "test", "live_migration")),
            Ok(false)
        );
        assert_eq!(
            is_declared(&metadata("dwcp", "example", "other")),
            Ok(false)
        );
        assert_eq!(
            is_declared(&metadata("xtask", "example", "live_migration")),
            Ok(false)
        );
        assert!(is_declared("").is_err());
        assert!(is_declared("{}").is_err());
    }
}
