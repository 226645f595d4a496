//! The command line of `debian_image`.

use std::path::PathBuf;

pub(crate) const HELP: &str = "\
Makes the image debian-12-mini: Debian's cloud kernel, BusyBox and the modules for virtio.

Usage: debian_image [OPTIONS]

Options:
  --out DIR        where to write it             [default: ./debian-12-mini]
  --name NAME      what nodes will call it       [default: debian-12-mini]
  --kernel FILE    a kernel /boot/vmlinuz-…      [default: the newest cloud kernel]
  --disk SIZE      a root disk as well, of that size: 64M, 1G (needs mkfs.ext4)
  --program FILE   a program for the guest's /bin, linked statically; may be given several times
  -h, --help       show this

Needs Debian's packages linux-image-cloud-amd64 and busybox-static, and e2fsprogs for a disk.
";

/// What it was asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) out: PathBuf,
    pub(crate) name: String,
    pub(crate) kernel: Option<PathBuf>,
    /// Bytes of the root disk; 0 for none.
    pub(crate) disk: u64,
    /// More programs for the guest.
    pub(crate) programs: Vec<PathBuf>,
}

impl Options {
    /// `None` when help is all that was asked for.
    pub(crate) fn parse(
        mut words: impl Iterator<Item = String>,
    ) -> Result<Option<Options>, String> {
        let mut options = Options {
            out: "debian-12-mini".into(),
            name: "debian-12-mini".into(),
            kernel: None,
            disk: 0,
            programs: Vec::new(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "-h" | "--help" => return Ok(None),
                "--out" => options.out = value()?.into(),
                "--name" => options.name = value()?,
                "--kernel" => options.kernel = Some(value()?.into()),
                "--disk" => options.disk = size(&value()?)?,
                "--program" => options.programs.push(value()?.into()),
                other => return Err(format!("{other} is not an option; see --help")),
            }
        }
        Ok(Some(options))
    }
}

/// A size as people write it.
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| format!("--disk takes a size like 64M or 1G, not {text}"))
}
