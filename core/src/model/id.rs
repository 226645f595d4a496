//! Identifiers and secrets, from the operating system's random source.

use std::fmt::Write as _;

/// 16 random bytes, fit to be a secret.
///
/// # Panics
///
/// If the operating system has no random source: there is nothing safe to fall back to.
#[must_use]
pub fn random_token() -> [u8; 16] {
    let mut bytes = [0; 16];
    if let Err(error) = getrandom::fill(&mut bytes) {
        panic!("the operating system's random source failed: {error}");
    }
    bytes
}

/// A new random UUID (RFC 9562, version 4) as text: 36 characters, lower case.
///
/// # Panics
///
/// If the operating system has no random source.
///
/// # Examples
///
/// ```
/// let id = dwcp::model::new_uuid();
/// assert_eq!(id.len(), 36);
/// assert_ne!(id, dwcp::model::new_uuid());
/// ```
#[must_use]
pub fn new_uuid() -> String {
    let mut bytes = random_token();
    // Version and variant bits, RFC 9562 sections 4.1 and 4.2.
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_has_the_shape_of_version_4() {
        for _ in 0..100 {
            let id = new_uuid();
            let groups: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
            assert_eq!(id.as_bytes()[14], b'4', "{id}");
            assert!(b"89ab".contains(&id.as_bytes()[19]), "{id}");
            assert!(
                id.bytes()
                    .all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            );
        }
    }

    #[test]
    fn tokens_differ() {
        assert_ne!(random_token(), random_token());
    }
}
