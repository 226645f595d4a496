//! The image that the suite's guests boot: what `examples/debian_image` makes.

use std::path::PathBuf;

use super::suite::Built;
use crate::process;

/// Size of its root disk.
const DISK: &str = "64M";

/// Makes it anew; its folder.
///
/// # Errors
///
/// What the example says when it cannot.
pub(super) fn make(built: &Built) -> Result<PathBuf, String> {
    let folder = built.folder.join("debian-12-mini");
    let mut command = std::process::Command::new(&built.debian_image);
    command.arg("--out").arg(&folder).args(["--disk", DISK]);
    command.arg("--program").arg(&built.checks);
    let finished = process::run(&mut command, None)
        .map_err(|error| format!("cannot run {}: {error}", built.debian_image.display()))?;
    if finished.success {
        Ok(folder)
    } else {
        Err(format!(
            "the image could not be made: {}",
            finished.transcript.trim()
        ))
    }
}
