//! The same kernel, unpacked, is booted by its PVH entry, and again after a reset in the middle of its work.

use std::fs;
use std::path::Path;
use std::time::Instant;

use dwcp::{VMConfig, VMState};

use super::{Played, node};
use crate::guest::{Guest, config, text};
use crate::options::Options;
use crate::vmlinux;

/// What Linux calls the loader of a kernel that was entered so (`arch/x86/platform/pvh/enlighten.c`): "other", version 0.
const LOADER: &str = "176";
const NAME: &str = "debian-12-mini-pvh";

pub(super) async fn play(options: &Options) -> Played {
    let node = node("pvh", options).await?;
    let folder = options.scratch.join("pvh-image");
    make(&options.image, &folder)?;
    let path = folder.display().to_string();
    let vms = node.client().vm();
    vms.import_image(&path, None).await.map_err(text)?;

    let began = Instant::now();
    let config = VMConfig {
        image: NAME.into(),
        ..config("linux", 1)
    };
    let mut guest = Guest::boot(&node.client(), config, options).await?;
    let up = began.elapsed();
    entered(&mut guest).await?;

    guest.type_in("while :; do :; done\n").await?;
    guest.vms.reset(&guest.vm.id).await.map_err(text)?;
    guest.wait_up().await?;
    entered(&mut guest).await?;
    guest.type_in("poweroff -f\n").await?;
    guest.wait_state(VMState::Stopped).await?;
    Ok(format!("up after {:.1} s", up.as_secs_f64()))
}

/// It came by the entry.
async fn entered(guest: &mut Guest) -> Result<(), String> {
    let loader = guest.run("cat /proc/sys/kernel/bootloader_type").await?;
    match loader.trim() {
        LOADER => Ok(()),
        other => Err(format!("it was booted by the loader {other}")),
    }
}

/// Makes an image of the unpacked kernel of another.
fn make(from: &Path, folder: &Path) -> Result<(), String> {
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| format!("{path}: {error}")
    };
    fs::create_dir_all(folder).map_err(at(folder))?;
    let bzimage = from.join("vmlinuz");
    let kernel = vmlinux::of(&fs::read(&bzimage).map_err(at(&bzimage))?)?;
    let manifest = format!(
        "format = 1\nname = \"{NAME}\"\ncmdline = \"console=ttyS0\"\n\
         [kernel]\nfile = \"vmlinux\"\n[initrd]\nfile = \"initrd.img\"\n"
    );
    for (name, content) in [("vmlinux", kernel), ("image.toml", manifest.into_bytes())] {
        let to = folder.join(name);
        fs::write(&to, content).map_err(at(&to))?;
    }
    let initrd = from.join("initrd.img");
    fs::copy(&initrd, folder.join("initrd.img"))
        .map(drop)
        .map_err(at(&initrd))
}
