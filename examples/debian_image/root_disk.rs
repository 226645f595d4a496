//! A root disk: an ext4 file system with BusyBox.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::{BUSYBOX, at};

/// Makes it, sparse.
pub(crate) fn make(path: &Path, bytes: u64) -> Result<(), String> {
    let tree = path.with_extension("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).map_err(at(&tree))?;
    }
    for folder in [
        "bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "var",
    ] {
        let folder = tree.join(folder);
        fs::create_dir_all(&folder).map_err(at(&folder))?;
    }
    let busybox = tree.join("bin/busybox");
    fs::copy(BUSYBOX, &busybox).map_err(at(&busybox))?;
    let listed = Command::new(BUSYBOX).arg("--list").output();
    let listed = listed.map_err(|error| format!("{BUSYBOX}: {error}"))?;
    for applet in String::from_utf8_lossy(&listed.stdout).lines() {
        let link = tree.join("bin").join(applet);
        if !link.exists() {
            symlink("busybox", &link).map_err(at(&link))?;
        }
    }
    let file = fs::File::create(path).map_err(at(path))?;
    file.set_len(bytes).map_err(at(path))?;
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-L", "root", "-d"])
        .arg(&tree)
        .arg(path)
        .output()
        .map_err(|error| format!("mkfs.ext4: {error}; apt-get install e2fsprogs"))?;
    fs::remove_dir_all(&tree).map_err(at(&tree))?;
    if made.status.success() {
        Ok(())
    } else {
        Err(format!(
            "mkfs.ext4: {}: {}",
            made.status,
            String::from_utf8_lossy(&made.stderr).trim()
        ))
    }
}
