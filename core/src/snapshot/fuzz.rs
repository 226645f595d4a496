//! The entry of fuzzing, and of a test that does the same with fewer bytes.

use super::index::Index;
use super::manifest::{Manifest, seal};
use super::state::State;

/// Reads the bytes behind the first one, which chooses as what, as a file of a snapshot: as they are,
/// and with the checksum that belongs to them. What can be read is the same when it is written and
/// read again.
///
/// # Panics
///
/// Where that is not so.
pub(crate) fn fuzz_snapshot(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let sealed = [bytes, &crc32c::crc32c(bytes).to_le_bytes()].concat();
    match choice % 3 {
        0 => [bytes, &sealed].into_iter().for_each(index),
        1 => [bytes, &sealed].into_iter().for_each(state),
        _ => manifest(bytes),
    }
}

/// Every memory has exactly one index.
fn index(file: &[u8]) {
    if let Ok(index) = Index::decode(file) {
        assert_eq!(index.encode(), file);
    }
}

fn state(file: &[u8]) {
    if let Ok(state) = State::decode(file) {
        let again = state.encode().and_then(|file| State::decode(&file));
        assert_eq!(again, Ok(state));
    }
}

fn manifest(bytes: &[u8]) {
    let Ok(body) = str::from_utf8(bytes) else {
        return;
    };
    for text in [body.to_owned(), format!("{body}{}", seal(body))] {
        if let Ok(manifest) = Manifest::decode(text.as_bytes()) {
            let again = manifest.encode().and_then(|file| Manifest::decode(&file));
            assert_eq!(again, Ok(manifest));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fuzz_snapshot;

    proptest! {
        #[test]
        fn no_file_makes_it_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz_snapshot(&data);
        }
    }
}
