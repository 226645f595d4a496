//! Makes the image `debian-12-mini` from what Debian's packages left on this host: its cloud kernel, a userland of
//! BusyBox, and the modules for virtio. `cargo run --release --example debian_image -- --help`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program: it talks to people"
)]

mod cpio;
mod modules;
mod options;
mod root_disk;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::cpio::Archive;
use self::modules::Modules;
use self::options::{HELP, Options};

/// What the kernel needs for its devices, for the power button, and to tell of a panic, which comes first. What is built
/// into the kernel is left out by itself.
const MODULES: [&str; 9] = [
    "pvpanic_mmio",
    "virtio_mmio",
    "virtio_blk",
    "virtio_rng",
    "virtio_balloon",
    "virtio_net",
    "ext4",
    "button",
    "evdev",
];

const BUSYBOX: &str = "/bin/busybox";

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match make(&options) {
        Ok(()) => {
            println!(
                "{}: an image of Debian's kernel and BusyBox.\nImport it into a node: vms.import_image(\"{}\")",
                options.out.display(),
                options.out.display(),
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the image's folder.
fn make(options: &Options) -> Result<(), String> {
    let kernel = match &options.kernel {
        Some(kernel) => kernel.clone(),
        None => modules::newest_kernel()?,
    };
    let release = modules::release(&kernel)?;
    let modules = Modules::read(&release)?;

    fs::create_dir_all(&options.out).map_err(at(&options.out))?;
    let to = options.out.join("vmlinuz");
    fs::copy(&kernel, &to).map_err(at(&kernel))?;
    let to = options.out.join("initrd.img");
    fs::write(&to, initrd(&modules, &options.programs)?).map_err(at(&to))?;
    let disk = match options.disk {
        0 => "",
        bytes => {
            root_disk::make(&options.out.join("root.img"), bytes)?;
            "\n[disk]\nfile = \"root.img\"\n"
        }
    };
    let manifest = format!(
        "# {release}, with BusyBox.\nformat = 1\nname = \"{}\"\ncmdline = \"console=ttyS0\"\n\n\
         [kernel]\nfile = \"vmlinuz\"\n\n[initrd]\nfile = \"initrd.img\"\n{disk}",
        options.name
    );
    let to = options.out.join("image.toml");
    fs::write(&to, manifest).map_err(at(&to))
}

/// The first file system: BusyBox and other programs, the modules with the order to load them in, and what runs
/// first.
fn initrd(modules: &Modules, programs: &[PathBuf]) -> Result<Vec<u8>, String> {
    let busybox = fs::read(BUSYBOX)
        .map_err(|error| format!("{BUSYBOX}: {error}; apt-get install busybox-static"))?;
    let mut archive = Archive::default();
    for folder in [
        "bin",
        "dev",
        "etc",
        "etc/acpi",
        "etc/acpi/PWRF",
        "modules",
        "mnt",
        "proc",
        "root",
        "run",
        "sys",
        "tmp",
    ] {
        archive.folder(folder);
    }
    archive.file("bin/busybox", 0o755, &busybox);
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let content = fs::read(program).map_err(at(program))?;
        archive.file(&format!("bin/{name}"), 0o755, &content);
    }
    archive.file("init", 0o755, include_bytes!("init.sh"));
    archive.file(
        "etc/acpi/PWRF/00000080",
        0o755,
        include_bytes!("power_button.sh"),
    );
    // What prints before the first program runs, and what that reads and writes by itself.
    archive.device("dev/console", 5, 1);
    let mut order = String::new();
    for module in modules.in_order(&MODULES)? {
        archive.file(
            &format!("modules/{}.ko", module.name),
            0o644,
            &module.content()?,
        );
        order.push_str(&format!("{}\n", module.name));
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive.end())
}

/// What goes wrong with a file, with its path.
fn at(path: &Path) -> impl FnOnce(std::io::Error) -> String {
    let path = path.display().to_string();
    move |error| format!("{path}: {error}")
}
