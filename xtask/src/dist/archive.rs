//! Archives that hold what is put in and nothing of when or where: no clock, no owner, no order of a folder.
//!
//! The same files make the same bytes, so that a package can be made again and compared.

#![forbid(unsafe_code)]

use std::io::{self, Write};

use flate2::{Compression, Crc, GzBuilder, write::DeflateEncoder};

/// The time of every file: 1980-01-01, the first that a zip can say.
const TIME: u64 = 315_532_800;
/// The same day as a zip writes it.
const DOS_DATE: u16 = 0x21;
/// The version of the format that deflates, and what its writer is: 3 is Unix, whose modes are kept.
const ZIP_VERSION: u16 = 20;
const ZIP_UNIX: u16 = 3 << 8 | ZIP_VERSION;
/// Names are UTF-8.
const ZIP_FLAGS: u16 = 1 << 11;
const ZIP_DEFLATED: u16 = 8;

/// A file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path, with `/` between its parts.
    pub(super) path: String,
    pub(super) content: Content,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A file to read.
    File(Vec<u8>),
    /// A file to run or to load.
    Program(Vec<u8>),
    /// Another name of a file in the same folder.
    Link(String),
}

impl Entry {
    /// A file to read.
    pub(super) fn file(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        let content = Content::File(bytes.into());
        Self {
            path: path.into(),
            content,
        }
    }

    /// A file to run or to load.
    pub(super) fn program(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        let content = Content::Program(bytes.into());
        Self {
            path: path.into(),
            content,
        }
    }

    /// Another name of a file in the same folder.
    pub(super) fn link(path: impl Into<String>, to: impl Into<String>) -> Self {
        let content = Content::Link(to.into());
        Self {
            path: path.into(),
            content,
        }
    }
}

impl Content {
    fn mode(&self) -> u32 {
        match self {
            Self::File(_) => 0o644,
            Self::Program(_) | Self::Link(_) => 0o755,
        }
    }
}

/// A tar of these files, compressed by gzip.
///
/// # Errors
///
/// When a path does not fit into a tar.
pub(super) fn tar_gz(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let gzip = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::best());
    let mut tar = tar::Builder::new(gzip);
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(entry.content.mode());
        header.set_mtime(TIME);
        header.set_uid(0);
        header.set_gid(0);
        match &entry.content {
            Content::File(bytes) | Content::Program(bytes) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, &entry.path, bytes.as_slice())?;
            }
            Content::Link(to) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, &entry.path, to)?;
            }
        }
    }
    tar.into_inner()?.finish()
}

/// A zip of these files.
///
/// # Errors
///
/// When there is a link among them, or more than a zip without extensions holds: 65,535 files, 4 GiB.
pub(super) fn zip(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut zip = Vec::new();
    let mut directory = Vec::new();
    for entry in entries {
        let (Content::File(bytes) | Content::Program(bytes)) = &entry.content else {
            return Err(io::Error::other(format!(
                "{}: a zip has no links",
                entry.path
            )));
        };
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::best());
        deflate.write_all(bytes)?;
        let packed = deflate.finish()?;
        let mut crc = Crc::new();
        crc.update(bytes);

        // What stands before the file and again in the directory at the end.
        let mut common = Vec::new();
        for half in [ZIP_VERSION, ZIP_FLAGS, ZIP_DEFLATED, 0, DOS_DATE] {
            common.extend(half.to_le_bytes());
        }
        for word in [crc.sum(), fit(packed.len())?, fit(bytes.len())?] {
            common.extend(word.to_le_bytes());
        }
        common.extend(fit::<u16>(entry.path.len())?.to_le_bytes());
        // No extensions.
        common.extend(0_u16.to_le_bytes());

        directory.extend(b"PK\x01\x02");
        directory.extend(ZIP_UNIX.to_le_bytes());
        directory.extend(&common);
        // No comment, the first disk, and bytes as opposed to text.
        directory.extend([0; 6]);
        // A regular file, with its mode.
        let mode = 0o100_000 | entry.content.mode();
        directory.extend((mode << 16).to_le_bytes());
        directory.extend(fit::<u32>(zip.len())?.to_le_bytes());
        directory.extend(entry.path.as_bytes());

        zip.extend(b"PK\x03\x04");
        zip.extend(common);
        zip.extend(entry.path.as_bytes());
        zip.extend(packed);
    }
    let count: u16 = fit(entries.len())?;
    let (start, size): (u32, u32) = (fit(zip.len())?, fit(directory.len())?);
    zip.extend(directory);
    zip.extend(b"PK\x05\x06");
    // This disk, and the one where the directory begins.
    zip.extend([0; 4]);
    zip.extend(count.to_le_bytes());
    zip.extend(count.to_le_bytes());
    zip.extend(size.to_le_bytes());
    zip.extend(start.to_le_bytes());
    // No comment.
    zip.extend([0; 2]);
    Ok(zip)
}

fn fit<T: TryFrom<usize>>(length: usize) -> io::Result<T> {
    T::try_from(length).map_err(|_| io::Error::other("it is more than a zip can hold"))
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::{Entry, tar_gz, zip};
    use crate::{dist::tryout::Scratch, process};

    fn entries() -> Vec<Entry> {
        vec![
            Entry::file("top/words.txt", "words ".repeat(1000)),
            Entry::file("top/empty", ""),
            Entry::program("top/bin/run", "#!/bin/sh\necho ran\n"),
        ]
    }

    #[test]
    fn the_same_files_make_the_same_bytes() {
        assert_eq!(zip(&entries()).unwrap(), zip(&entries()).unwrap());
        assert_eq!(tar_gz(&entries()).unwrap(), tar_gz(&entries()).unwrap());
        assert!(
            zip(&entries()).unwrap().len() < 1000,
            "it does not compress"
        );
    }

    #[test]
    fn tar_unpacks_what_was_packed() {
        let scratch = Scratch::create("archive").unwrap();
        let archive = scratch.path().join("a.tar.gz");
        let mut entries = entries();
        entries.push(Entry::link("top/bin/again", "run"));
        fs::write(&archive, tar_gz(&entries).unwrap()).unwrap();
        let mut tar = Command::new("tar");
        tar.current_dir(scratch.path()).args(["-xzf", "a.tar.gz"]);
        let finished = process::run(&mut tar, None).unwrap();
        assert!(finished.success, "{}", finished.transcript);

        let top = scratch.path().join("top");
        let words = fs::read_to_string(top.join("words.txt")).unwrap();
        assert_eq!(words, "words ".repeat(1000));
        assert_eq!(fs::read(top.join("empty")).unwrap(), b"");
        let ran = process::run(&mut Command::new(top.join("bin/again")), None).unwrap();
        assert_eq!(ran.stdout, "ran\n");
    }

    #[test]
    fn a_zip_is_laid_out_as_its_readers_expect() {
        let zip = zip(&entries()).unwrap();
        let end = zip.len() - 22;
        assert_eq!(&zip[end..end + 4], b"PK\x05\x06");
        let half = |at: usize| u16::from_le_bytes([zip[at], zip[at + 1]]);
        let word = |at: usize| usize::from(half(at)) | usize::from(half(at + 2)) << 16;
        assert_eq!((half(end + 8), half(end + 10)), (3, 3));
        let (size, mut at) = (word(end + 12), word(end + 16));
        assert_eq!(at + size, end);

        for entry in entries() {
            assert_eq!(&zip[at..at + 4], b"PK\x01\x02");
            let length = usize::from(half(at + 28));
            let name = &zip[at + 46..at + 46 + length];
            assert_eq!(name, entry.path.as_bytes());
            let local = word(at + 42);
            assert_eq!(&zip[local..local + 4], b"PK\x03\x04");
            assert_eq!(&zip[local + 30..local + 30 + length], name);
            // Sizes and checksum stand in both places.
            assert_eq!(zip[local + 4..local + 30], zip[at + 6..at + 32]);
            at += 46 + length;
        }
        assert_eq!(at, end);
    }

    #[test]
    fn a_zip_takes_no_link() {
        let refused = zip(&[Entry::link("a", "b")]).unwrap_err().to_string();
        assert!(refused.contains("no links"), "{refused}");
    }
}
