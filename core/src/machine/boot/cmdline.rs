//! The kernel's command line.
#![forbid(unsafe_code)]

use super::low;
use crate::error::{DWCPError, Result};
use crate::memory::GuestRam;

/// What a kernel is told by somebody who says nothing: print where the console of the VM is, and after
/// a panic start anew at once instead of hanging (the VM says `reset` then).
pub(crate) const DEFAULT: &str = "console=ttyS0 panic=-1";

/// Longest command line, without its end, of a kernel that names none (`COMMAND_LINE_SIZE` of Linux
/// `arch/x86/include/asm/setup.h`).
pub(super) const LENGTH_MAX: usize = 2047;

/// A command line with words that one VM adds to those of its image.
///
/// # Errors
///
/// `invalid_config` when the whole cannot be given to a kernel.
pub(crate) fn with_words(own: Option<&str>, words: &str) -> Result<String> {
    let own = own.unwrap_or(DEFAULT);
    let all = match words.trim() {
        "" => own.to_owned(),
        words => format!("{own} {words}"),
    };
    check(&all)?;
    Ok(all)
}

/// A command line that can be given to any kernel.
///
/// # Errors
///
/// `invalid_config` when it is too long, or has other characters than printable ASCII.
pub(super) fn check(text: &str) -> Result<()> {
    let wrong = |why: String| Err(DWCPError::Config(format!("cmdline: {why}")));
    if text.len() > LENGTH_MAX {
        return wrong(format!(
            "{} bytes, where at most {LENGTH_MAX} fit",
            text.len()
        ));
    }
    match text.chars().find(|c| !matches!(c, ' '..='~')) {
        Some(bad) => wrong(format!(
            "{bad:?} is not allowed, only printable ASCII characters are"
        )),
        None => Ok(()),
    }
}

/// Whether a kernel that takes `longest` bytes can be given it.
///
/// # Errors
///
/// `invalid_config` with both lengths.
pub(super) fn check_fits(text: &str, longest: usize) -> Result<()> {
    if text.len() <= longest {
        return Ok(());
    }
    Err(DWCPError::Config(format!(
        "cmdline: {} bytes, where this kernel takes at most {longest}",
        text.len()
    )))
}

/// Writes a command line that was checked, for a kernel that takes `longest` bytes of it.
pub(super) fn write(ram: &GuestRam, text: &str, longest: usize) -> Result<()> {
    check_fits(text, longest)?;
    ram.write(low::CMDLINE, text.as_bytes())?;
    ram.write(low::CMDLINE + text.len() as u64, &[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;

    #[test]
    fn what_is_allowed() {
        check("").unwrap();
        check(DEFAULT).unwrap();
        check(&"x".repeat(LENGTH_MAX)).unwrap();
        for (text, why) in [
            ("x".repeat(LENGTH_MAX + 1), "2048 bytes"),
            ("a\nb".into(), "'\\n'"),
            ("a\0".into(), "'\\0'"),
            ("ä".into(), "'ä'"),
        ] {
            let error = check(&text).unwrap_err().to_string();
            assert!(
                error.contains("cmdline: ") && error.contains(why),
                "{error}"
            );
        }
    }

    #[test]
    fn words_are_added_at_the_end() {
        for (own, words, all) in [
            (Some("quiet"), "", "quiet"),
            (Some("quiet"), " single root=x ", "quiet single root=x"),
            (None, "quiet", "console=ttyS0 panic=-1 quiet"),
        ] {
            assert_eq!(with_words(own, words).as_deref(), Ok(all));
        }
        assert!(with_words(Some("quiet"), &"x".repeat(LENGTH_MAX - 5)).is_err());
        assert!(with_words(None, "a\tb").is_err());
    }

    #[test]
    fn it_is_written_with_its_end() {
        let ram = GuestRam::allocate(2 << 20, Backing::Memfd).unwrap();
        ram.write(low::CMDLINE, &[0xff; 8]).unwrap();
        write(&ram, "abc", 3).unwrap();
        let mut back = [0; 5];
        ram.read(low::CMDLINE, &mut back).unwrap();
        assert_eq!(back, *b"abc\0\xff");
        let error = write(&ram, "abcd", 3).unwrap_err().to_string();
        assert!(error.contains("at most 3"), "{error}");
    }
}
