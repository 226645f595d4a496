//! A virtual host with a stock KVM: QEMU emulates processors that have virtualisation, and Debian's kernel on them has
//! the KVM that everybody has. Nothing about its speed means anything.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    cpio::Archive,
    modules::{self, Modules},
    pulse::Pulse,
    suite::{self, Built, Report},
};
use crate::{install, process, screen::Screen};

/// Processors with virtualisation, less what the emulator would say on each start that it does not do.
const CPU: &str = "EPYC,+svm,+npt,-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext,-nrip-save,-xsavec";
/// Memory of the virtual host: three guests of 256 MiB and all that is copied of them.
const MEMORY: &str = "4096";
/// Size of the disk that the suite writes to.
const SCRATCH: u64 = 4 << 30;
/// What its kernel needs: KVM, its own disk, and what guests are given.
const MODULES: [&str; 5] = ["kvm_amd", "virtio_pci", "virtio_blk", "ext4", "tun"];
const BUSYBOX: &str = "/bin/busybox";

/// Whether this host's own KVM is one that stock kernels boot on: it is built on the processor's virtualisation.
pub(super) fn has_stock_kvm() -> bool {
    let by_the_processor = ["kvm_intel", "kvm_amd"]
        .iter()
        .any(|module| Path::new("/sys/module").join(module).exists());
    by_the_processor && install::kvm_is_usable()
}

/// How a suite ended in a virtual host.
pub(super) enum Attempt {
    Whole(Report),
    /// The host stood still, or fell: what the suite had told by then, and what there is to say of it.
    CutShort {
        told: Report,
        why: String,
    },
}

/// Boots a virtual host that runs the suite, and waits for its end.
///
/// # Errors
///
/// When it cannot be made.
pub(super) fn run(
    built: &Built,
    image: &Path,
    arguments: &[String],
    echo: Option<Screen>,
) -> Result<Attempt, String> {
    if let Some(screen) = echo {
        screen.line("booting a virtual host …");
    }
    let kernel = image.join("vmlinuz");
    let initrd = built.folder.join("host.img");
    let (release, content) = first_root(built, image, arguments)?;
    fs::write(&initrd, content).map_err(at(&initrd))?;
    let scratch = built.folder.join("scratch.img");
    make_scratch(&scratch)?;
    let mut pulse = Pulse::of(built);
    let disk = format!(
        "file={},if=virtio,format=raw,cache=unsafe",
        scratch.display()
    );
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg,thread=multi"])
        // With two processors about every third guest of 4 vCPUs hung or crashed, and once the host itself did, which
        // is QEMU 7.2's doing; with one, 12 of 12 came up.
        .args(["-cpu", CPU, "-smp", "1", "-m", MEMORY])
        .args(["-display", "none", "-no-reboot", "-nic", "none"])
        .args(["-drive", &disk])
        .arg("-monitor")
        .arg(format!("unix:{},server,nowait", pulse.monitor.display()))
        // Its kernel talks to the first port, where its pulse is, and the suite to the second, where it is
        // poked.
        .arg("-serial")
        .arg(format!("file:{}", pulse.log.display()))
        .args(["-serial", "stdio", "-append", "console=ttyS0 panic=-1"])
        .arg("-kernel")
        .arg(&kernel)
        .arg("-initrd")
        .arg(&initrd);
    let finished = process::run_watched(&mut command, echo, |port| pulse.beats(port))
        .map_err(|error| format!("cannot run qemu-system-x86_64: {error}"))?;
    let place = "a virtual host with a stock KVM";
    Ok(match Report::read(&finished.stdout, place) {
        Ok(report) => Attempt::Whole(report),
        Err(reason) => Attempt::CutShort {
            told: Report::of_lines(&finished.stdout, place),
            why: format!(
                "{reason}\nThe virtual host ({release}) ended with {}. {}",
                finished.status,
                pulse.last_words()
            ),
        },
    })
}

/// The first file system of the host, with all that the suite needs in it, and the release of its kernel.
fn first_root(
    built: &Built,
    image: &Path,
    arguments: &[String],
) -> Result<(String, Vec<u8>), String> {
    let release = modules::release(&modules::newest_kernel()?)?;
    let modules = Modules::read(&release)?;
    let mut archive = Archive::default();
    for folder in [
        "bin", "data", "dev", "image", "modules", "proc", "sys", "tmp",
    ] {
        archive.folder(folder);
    }
    let mut made = Vec::new();
    for path in libraries(&built.program)? {
        add_with_folders(&mut archive, &mut made, &path)?;
    }
    archive.file("bin/busybox", 0o755, &read(Path::new(BUSYBOX))?);
    archive.file("bin/dwcp-e2e", 0o755, &stripped(built)?);
    for entry in fs::read_dir(image).map_err(at(image))? {
        let path = entry.map_err(at(image))?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            archive.file(&format!("image/{name}"), 0o644, &read(&path)?);
        }
    }
    let mut order = String::new();
    for module in modules.in_order(&MODULES)? {
        let name = &module.name;
        archive.file(&format!("modules/{name}.ko"), 0o644, &module.content()?);
        order.push_str(&format!("{name}\n"));
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    archive.device("dev/console", 5, 1);
    let mut words = suite::places(Path::new("/image"), Path::new("/data"));
    words.extend_from_slice(arguments);
    let init = format!(
        "{INIT}/bin/dwcp-e2e {}\nsync\npoweroff -f\n",
        words.join(" ")
    );
    archive.file("init", 0o755, init.as_bytes());
    Ok((release, archive.end()))
}

/// The first program of the host, up to the suite.
const INIT: &str = "\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM=linux RUST_BACKTRACE=1
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
while read -r module; do insmod /modules/$module.ko; done </modules/order
mount -t ext4 /dev/vda /data
ifconfig lo 127.0.0.1 up
stty -F /dev/ttyS1 raw -echo
while sleep 5; do read -r up idle </proc/uptime; echo \"beat $up\" >/dev/ttyS0; done &
exec </dev/null >/dev/ttyS1 2>&1
";

/// The shared libraries of a program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let finished = process::run(Command::new("ldd").arg(program), None)
        .map_err(|error| format!("cannot run ldd: {error}"))?;
    let paths = finished.stdout.split_whitespace();
    let paths = paths.filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

fn add_with_folders(
    archive: &mut Archive,
    made: &mut Vec<String>,
    path: &Path,
) -> Result<(), String> {
    let name = path.display().to_string();
    let name = name.trim_start_matches('/');
    for (end, _) in name.match_indices('/') {
        let folder = name[..end].to_owned();
        if folder != "bin" && !made.contains(&folder) {
            archive.folder(&folder);
            made.push(folder);
        }
    }
    archive.file(name, 0o755, &read(path)?);
    Ok(())
}

/// The suite without what a debugger would want, which is most of it.
fn stripped(built: &Built) -> Result<Vec<u8>, String> {
    let to = built.folder.join("dwcp-e2e");
    let mut strip = Command::new("strip");
    strip
        .arg("--strip-debug")
        .arg("-o")
        .arg(&to)
        .arg(&built.program);
    let finished =
        process::run(&mut strip, None).map_err(|error| format!("cannot run strip: {error}"))?;
    if !finished.success {
        return Err(format!("strip: {}", finished.transcript.trim()));
    }
    read(&to)
}

/// An empty file system.
fn make_scratch(path: &Path) -> Result<(), String> {
    let file = fs::File::create(path).map_err(at(path))?;
    file.set_len(SCRATCH).map_err(at(path))?;
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F"]).arg(path);
    match process::run(&mut command, None) {
        Ok(finished) if finished.success => Ok(()),
        Ok(finished) => Err(format!("mkfs.ext4: {}", finished.transcript.trim())),
        Err(error) => Err(format!("cannot run mkfs.ext4: {error}")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(at(path))
}

/// What goes wrong with a file, with its path.
fn at(path: &Path) -> impl FnOnce(std::io::Error) -> String {
    let path = path.display().to_string();
    move |error| format!("{path}: {error}")
}
