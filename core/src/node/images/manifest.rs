//! `image.toml`: what an image is made of.
//!
//! ```toml
//! format = 1
//! name = "debian-12-mini"
//! cmdline = "console=ttyS0"
//!
//! [kernel]
//! file = "vmlinuz"
//! sha256 = "…"            # optional where it is imported from, always there in the store
//!
//! [initrd]                # optional
//! file = "initrd.img"
//!
//! [disk]                  # optional: each VM gets a copy
//! file = "root.img"
//! ```

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{DWCPError, Result};
use crate::model::limits::{CMDLINE_LEN_MAX, DISK_MAX};
use crate::model::validate;

/// Its name in an image's folder.
pub(super) const FILE: &str = "image.toml";
/// Longest that is read, in bytes: a page of text.
pub(super) const LONGEST: u64 = 64 << 10;
/// Longest kernel in bytes. With everything built in and symbols it is some hundred MiB.
const KERNEL_MAX: u64 = 1 << 30;
/// Longest initial RAM disk in bytes: it lies in the guest's memory below 4 GiB.
const INITRD_MAX: u64 = 2 << 30;

/// The version of the form.
const FORMAT: u32 = 1;

/// An `image.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: u32,
    pub(super) name: String,
    #[serde(default)]
    pub(super) cmdline: String,
    pub(super) kernel: Part,
    pub(super) initrd: Option<Part>,
    pub(super) disk: Option<Part>,
}

/// A file of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub(super) file: String,
    /// In hex.
    pub(super) sha256: Option<String>,
}

/// A file of an image with what it is.
pub(super) struct Known<'a> {
    /// What it is called in messages, and in the store.
    pub(super) role: &'static str,
    pub(super) part: &'a mut Part,
    /// Most bytes.
    pub(super) longest: u64,
}

impl Manifest {
    /// Reads and checks one.
    ///
    /// # Errors
    ///
    /// `invalid_config` naming the field.
    pub(super) fn decode(bytes: &[u8]) -> Result<Manifest> {
        let wrong = |why: &dyn std::fmt::Display| DWCPError::Config(format!("{FILE}: {why}"));
        let text = std::str::from_utf8(bytes).map_err(|_| wrong(&"is not UTF-8"))?;
        let manifest: Manifest = toml::from_str(text).map_err(|error| wrong(&error.message()))?;
        if manifest.format != FORMAT {
            let why = format!("format {} is not known, only {FORMAT} is", manifest.format);
            return Err(wrong(&why));
        }
        manifest.check().map_err(|error| wrong(&error.message()))?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        validate::name("name", &self.name)?;
        validate::text("cmdline", &self.cmdline, CMDLINE_LEN_MAX)?;
        let parts = [
            ("kernel", Some(&self.kernel)),
            ("initrd", self.initrd.as_ref()),
            ("disk", self.disk.as_ref()),
        ];
        for (role, part) in parts {
            let Some(part) = part else { continue };
            // A plain name, so that it stays in the folder.
            validate::name(&format!("{role}.file"), &part.file)?;
            if part.file.starts_with('.') || part.file == FILE {
                return validate::wrong(&format!("{role}.file"), "cannot be called so");
            }
            if let Some(sum) = &part.sha256
                && !(sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit()))
            {
                return validate::wrong(&format!("{role}.sha256"), "must be 64 hex digits");
            }
        }
        Ok(())
    }

    /// Its files.
    pub(super) fn parts(&mut self) -> Vec<Known<'_>> {
        let kernel = Known {
            role: "kernel",
            part: &mut self.kernel,
            longest: KERNEL_MAX,
        };
        let initrd = self.initrd.as_mut().map(|part| Known {
            role: "initrd",
            part,
            longest: INITRD_MAX,
        });
        let disk = self.disk.as_mut().map(|part| Known {
            role: "disk",
            part,
            longest: DISK_MAX,
        });
        std::iter::once(kernel).chain(initrd).chain(disk).collect()
    }

    /// Writes it.
    pub(super) fn encode(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| DWCPError::Internal(format!("{FILE}: {error}")))
    }

    /// One sum over all that decides what a guest boots, whatever its files and itself are called.
    pub(super) fn digest(&self) -> String {
        let sum = |part: Option<&Part>| {
            part.and_then(|part| part.sha256.clone())
                .unwrap_or_default()
                .to_lowercase()
        };
        let all = format!(
            "kernel {}\ninitrd {}\ndisk {}\ncmdline {}\n",
            sum(Some(&self.kernel)),
            sum(self.initrd.as_ref()),
            sum(self.disk.as_ref()),
            self.cmdline
        );
        hex(&Sha256::digest(all))
    }
}

/// Bytes in hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "format = 1\nname = \"mini\"\ncmdline = \"quiet\"\n[kernel]\nfile = \"k\"\n[initrd]\nfile = \"i\"\n";

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let mut manifest = Manifest::decode(WHOLE.as_bytes()).unwrap();
        assert_eq!(manifest.parts().len(), 2);
        manifest.kernel.sha256 = Some("0a".repeat(32));
        let again = Manifest::decode(manifest.encode().unwrap().as_bytes()).unwrap();
        assert_eq!(again, manifest);
    }

    #[test]
    fn the_digest_is_of_what_boots_and_not_of_names() {
        let manifest = Manifest::decode(WHOLE.as_bytes()).unwrap();
        let mut other = manifest.clone();
        other.name = "other".into();
        other.kernel.file = "vmlinuz".into();
        assert_eq!(other.digest(), manifest.digest());
        other.cmdline = "quiet splash".into();
        assert_ne!(other.digest(), manifest.digest());
        let mut other = manifest.clone();
        other.kernel.sha256 = Some("0a".repeat(32));
        assert_ne!(other.digest(), manifest.digest());
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, names) in [
            ("format = 1", "format = 2", "format 2"),
            ("name = \"mini\"", "name = \"../mini\"", "name: "),
            ("file = \"k\"", "file = \"../k\"", "kernel.file: "),
            ("file = \"i\"", "file = \".i\"", "initrd.file: "),
            ("file = \"k\"", "file = \"image.toml\"", "kernel.file: "),
            (
                "file = \"k\"",
                "file = \"k\"\nsha256 = \"12\"",
                "kernel.sha256: ",
            ),
            ("[kernel]", "[colour]", "colour"),
            ("quiet", "a\\nb", "cmdline: "),
        ] {
            let text = WHOLE.replacen(from, to, 1);
            let error = Manifest::decode(text.as_bytes()).unwrap_err();
            assert!(
                error.message().starts_with("image.toml: ") && error.message().contains(names),
                "{to}: {error}"
            );
        }
        assert!(Manifest::decode(b"\xff").is_err());
    }
}
