//! What a library asks of the system that loads it: other libraries, and how new a C library.
//!
//! It is read from `objdump -p`, which comes with the linker. A package that needs more than what every Linux with the
//! GNU C library has is refused here, so that none is handed out that does not load elsewhere.

#![forbid(unsafe_code)]

use std::{path::Path, process::Command};

use crate::process;

/// What may be needed: the C library in its parts, and what unwinds. The `manylinux` tags allow all of these.
const SYSTEM: &[&str] = &[
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
];

/// The oldest C library that Rust itself supports; the tags begin there too.
const OLDEST: (u32, u32) = (2, 17);
/// The newest generation of `libgcc_s` that the tag of [`OLDEST`] allows.
const NEWEST_GCC: (u32, u32) = (4, 8);
/// A feature of the loader that has a name and no number: the C library that brought it.
const RELATIVE_RELOCATIONS: (&str, (u32, u32)) = ("GLIBC_ABI_DT_RELR", (2, 36));

/// What a shared library, or a program, says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Linked {
    /// The name by which programs look for it.
    pub(super) soname: Option<String>,
    /// The libraries that it is loaded with.
    pub(super) needed: Vec<String>,
    /// The oldest GNU C library that has all it uses.
    pub(super) glibc: (u32, u32),
}

impl Linked {
    /// Reads it from a file.
    ///
    /// # Errors
    ///
    /// When the file is none that is loaded, or uses something of which nobody knows where it is.
    pub(super) fn of(file: &Path) -> Result<Self, String> {
        let mut objdump = Command::new("objdump");
        objdump.arg("-p").arg(file).env("LC_ALL", "C");
        let finished = process::run(&mut objdump, None)
            .map_err(|error| format!("cannot run objdump ({error}): install binutils"))?;
        if !finished.success {
            return Err(finished.transcript);
        }
        Self::parse(&finished.stdout).map_err(|reason| format!("{}: {reason}", file.display()))
    }

    /// Reads it from what `objdump -p` prints.
    fn parse(text: &str) -> Result<Self, String> {
        let mut linked = Self {
            soname: None,
            needed: Vec::new(),
            glibc: OLDEST,
        };
        let mut references = false;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["NEEDED", library] => linked.needed.push(library.to_owned()),
                ["SONAME", name] => linked.soname = Some(name.to_owned()),
                ["Version", "References:"] => references = true,
                // A hash, flags, a number, and the name.
                [_, _, _, version] if references => linked.use_version(version)?,
                _ => {}
            }
        }
        if linked.needed.is_empty() {
            return Err("it is loaded with no library: it is not linked as expected".into());
        }
        Ok(linked)
    }

    fn use_version(&mut self, name: &str) -> Result<(), String> {
        if let Some(numbers) = name.strip_prefix("GLIBC_").and_then(numbers) {
            self.glibc = self.glibc.max(numbers);
        } else if name == RELATIVE_RELOCATIONS.0 {
            self.glibc = self.glibc.max(RELATIVE_RELOCATIONS.1);
        } else if name
            .strip_prefix("GCC_")
            .and_then(numbers)
            .is_none_or(|numbers| numbers > NEWEST_GCC)
        {
            return Err(format!(
                "it uses {name}, and no manylinux tag says which systems have that: build it with an older toolchain"
            ));
        }
        Ok(())
    }

    /// Sees to it that nothing is needed but the system, and `ours`.
    ///
    /// # Errors
    ///
    /// The libraries that are needed beyond that.
    pub(super) fn needs_only(&self, ours: &[&str]) -> Result<(), String> {
        let foreign: Vec<&str> = self
            .needed
            .iter()
            .map(String::as_str)
            .filter(|library| !SYSTEM.contains(library) && !ours.contains(library))
            .collect();
        if foreign.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "it needs {} at run time, and packages have no dependencies: link that statically, or do without",
                foreign.join(", ")
            ))
        }
    }

    /// The tag of wheels for the systems that can load it.
    pub(super) fn manylinux(&self) -> String {
        let (major, minor) = self.glibc;
        format!("manylinux_{major}_{minor}_x86_64")
    }
}

/// The first two numbers of `2.34` or `4.2.0`.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::Linked;

    const TEXT: &str = "
libdwcp.so:     file format elf64-x86-64

Program Header:
    LOAD off    0x0000000000000000 vaddr 0x0000000000000000 paddr 0x0000000000000000 align 2**12

Dynamic Section:
  NEEDED               libgcc_s.so.1
  NEEDED               libc.so.6
  SONAME               libdwcp.so.1
  INIT                 0x000000000006d000

Version References:
  required from libgcc_s.so.1:
    0x0b792650 0x00 09 GCC_3.0
    0x0b792652 0x00 07 GCC_3.3
  required from libc.so.6:
    0x06969194 0x00 12 GLIBC_2.14
    0x069691b4 0x00 03 GLIBC_2.34
    0x09691a75 0x00 02 GLIBC_2.2.5
";

    #[test]
    fn the_newest_thing_that_is_used_says_which_systems_have_it() {
        let linked = Linked::parse(TEXT).unwrap();
        assert_eq!(linked.soname.as_deref(), Some("libdwcp.so.1"));
        assert_eq!(linked.needed, ["libgcc_s.so.1", "libc.so.6"]);
        assert_eq!(linked.manylinux(), "manylinux_2_34_x86_64");
        assert_eq!(linked.needs_only(&[]), Ok(()));
    }

    #[test]
    fn no_tag_is_older_than_what_rust_supports() {
        let old = TEXT.replace("GLIBC_2.34", "GLIBC_2.3");
        assert_eq!(
            Linked::parse(&old).unwrap().manylinux(),
            "manylinux_2_17_x86_64"
        );
    }

    #[test]
    fn a_feature_of_the_loader_counts() {
        let new = TEXT.replace("GLIBC_2.34", "GLIBC_ABI_DT_RELR");
        assert_eq!(
            Linked::parse(&new).unwrap().manylinux(),
            "manylinux_2_36_x86_64"
        );
    }

    #[test]
    fn what_not_every_system_has_is_refused() {
        for (old, new) in [
            ("GLIBC_2.34", "GLIBC_PRIVATE"),
            ("GCC_3.3", "GCC_13.0.0"),
            ("GCC_3.3", "CXXABI_1.3"),
        ] {
            let refused = Linked::parse(&TEXT.replace(old, new)).unwrap_err();
            assert!(refused.contains(new), "{refused}");
        }
        let foreign = Linked::parse(&TEXT.replace("libgcc_s.so.1\n", "libssl.so.3\n")).unwrap();
        assert!(foreign.needs_only(&[]).unwrap_err().contains("libssl.so.3"));
        assert_eq!(foreign.needs_only(&["libssl.so.3"]), Ok(()));
    }

    #[test]
    fn a_file_that_is_not_loaded_is_refused() {
        assert!(Linked::parse("").is_err());
        assert!(Linked::of(std::path::Path::new(file!())).is_err());
    }
}
