//! The entry of fuzzing, and of a test that does the same with fewer bytes.

use super::channel::{
    CHUNK_PAGES, DESCRIPTOR, DISK_BYTES, HEADER, Header, Kind, PACKED_PAGES, decode_disk_runs,
    decode_runs, decode_set, encode_disk_runs, encode_runs, encode_set, set_length,
};
use super::compression::unpack;
use super::link::Greeting;
use super::offer::Offer;
use super::protocol::message::Body;
use crate::hypervisor;
use crate::memory::{Layout, PAGE_BYTES};
use crate::wire::frame::{Frame, FrameType};

/// A page, less than a chunk, many chunks, and one with memory above 4 GiB.
const SIZES: [u64; 4] = [4096, 1 << 20, 64 << 20, 5 << 30];

/// Reads the bytes behind the first one, which chooses, as what a peer sends on a bulk channel, or as
/// what it begins a connection with. What is accepted lies in the guest's memory, and is written as it
/// came.
///
/// # Panics
///
/// Where that is not so.
pub(crate) fn fuzz_migration(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    match SIZES.get(usize::from(choice % 5)) {
        Some(&size) => {
            if let Ok(layout) = Layout::new(size) {
                bulk(&layout, bytes);
            }
        }
        None => greeting(bytes),
    }
}

/// Messages, one behind the other. The contents of pages are left out: nobody reads them here, but for
/// those that are compressed.
fn bulk(layout: &Layout, mut bytes: &[u8]) {
    while let Some((start, rest)) = bytes.split_first_chunk::<HEADER>() {
        bytes = rest;
        let Ok(header) = Header::decode(start) else {
            return;
        };
        assert_eq!(header.encode(), *start, "a header is written as it came");
        match header.kind {
            Kind::Pages | Kind::Zeros | Kind::Packed | Kind::Want => {
                let length = DESCRIPTOR * header.runs as usize;
                let (descriptors, rest) = bytes.split_at(length.min(bytes.len()));
                bytes = rest;
                let Ok(runs) = decode_runs(layout, &header, descriptors) else {
                    return;
                };
                let pages: u64 = runs.iter().map(|run| run.end - run.start).sum();
                assert!((1..=CHUNK_PAGES).contains(&pages), "{pages} pages");
                assert!(runs.iter().all(|run| run.end <= layout.pages()), "{runs:?}");
                let mut written = Vec::new();
                let done = encode_runs(layout, &runs, &mut written);
                assert_eq!((done, written.as_slice()), (Ok(()), descriptors));
                if header.kind == Kind::Packed {
                    assert!(pages <= PACKED_PAGES, "{pages} compressed pages");
                    let length = usize::try_from(header.payload).unwrap_or(usize::MAX);
                    let (packed, rest) = bytes.split_at(length.min(bytes.len()));
                    bytes = rest;
                    let mut contents = [0; PACKED_PAGES as usize * PAGE_BYTES];
                    // What it is not, it says.
                    let _ = unpack(packed, &mut contents[..pages as usize * PAGE_BYTES]);
                }
            }
            Kind::Disk | Kind::DiskZeros => {
                let length = DESCRIPTOR * header.runs as usize;
                let (descriptors, rest) = bytes.split_at(length.min(bytes.len()));
                bytes = rest;
                // Of a disk as large as the memory.
                let size = layout.pages() * PAGE_BYTES as u64;
                let Ok(runs) = decode_disk_runs(size, &header, descriptors) else {
                    return;
                };
                let total: u64 = runs.iter().map(|run| run.end - run.start).sum();
                assert!((1..=DISK_BYTES).contains(&total), "{total} bytes");
                assert!(runs.iter().all(|run| run.end <= size), "{runs:?}");
                let mut written = Vec::new();
                encode_disk_runs(&runs, &mut written);
                assert_eq!(written.as_slice(), descriptors);
            }
            Kind::Missing => {
                let Ok(length) = set_length(layout, &header) else {
                    return;
                };
                let (words, rest) = bytes.split_at(length.min(bytes.len()));
                bytes = rest;
                let sealed = Header {
                    checksum: Some(crc32c::crc32c(words)),
                    ..header
                };
                if let Ok(set) = decode_set(layout, &sealed, words) {
                    let (header, words) = encode_set(&set);
                    assert_eq!(decode_set(layout, &header, &words), Ok(set));
                }
            }
            Kind::State => return state(bytes),
            Kind::RoundEnd | Kind::Ack => {}
        }
    }
}

/// A machine's state, with the checksum that belongs to it.
fn state(bytes: &[u8]) {
    let sealed = [bytes, &crc32c::crc32c(bytes).to_le_bytes()].concat();
    if let Ok(sections) = hypervisor::decode(&sealed) {
        let again = hypervisor::decode(&hypervisor::encode(&sections));
        assert_eq!(again, Ok(sections));
    }
}

fn greeting(bytes: &[u8]) {
    let frame = |payload: &[u8]| Frame {
        frame_type: FrameType::Migration,
        timestamp: 0,
        id: "1".into(),
        payload: payload.to_vec(),
    };
    match Greeting::parse(&frame(bytes)) {
        Ok(Greeting::Control(envelope)) => {
            if let Body::Prepare(prepare) = &envelope.message.body {
                offer(&prepare.payload);
            }
            let written = serde_json::to_vec(&envelope).unwrap_or_default();
            let again = Greeting::parse(&frame(&written));
            assert!(
                matches!(&again, Ok(Greeting::Control(again)) if *again == envelope),
                "{envelope:?} is read as {again:?}"
            );
        }
        Ok(Greeting::Bulk(attach)) => {
            let written = serde_json::to_vec(&attach).unwrap_or_default();
            let again = Greeting::parse(&frame(&written));
            assert!(
                matches!(&again, Ok(Greeting::Bulk(again)) if *again == attach),
                "{attach:?} is read as {again:?}"
            );
        }
        Ok(Greeting::Whereabouts(question)) => {
            let written = serde_json::to_vec(&question).unwrap_or_default();
            let again = Greeting::parse(&frame(&written));
            assert!(
                matches!(&again, Ok(Greeting::Whereabouts(again)) if *again == question),
                "{question:?} is read as {again:?}"
            );
        }
        Ok(Greeting::Probe(question)) => {
            offer(&question.payload);
            let written = serde_json::to_vec(&question).unwrap_or_default();
            let again = Greeting::parse(&frame(&written));
            assert!(
                matches!(&again, Ok(Greeting::Probe(again)) if *again == question),
                "{question:?} is read as {again:?}"
            );
        }
        Err(_) => {
            if let Ok(text) = str::from_utf8(bytes) {
                offer(text);
            }
        }
    }
}

fn offer(text: &str) {
    if let Ok(offer) = Offer::decode(text) {
        let again = offer.encode().and_then(|text| Offer::decode(&text));
        assert_eq!(again, Ok(offer));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fuzz_migration;

    proptest! {
        #[test]
        fn what_a_peer_sends_is_checked(
            choice: u8,
            kind in 0_u8..12,
            runs in 0_u8..4,
            page in 0_u64..300,
            body in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut data = vec![choice];
            data.extend(&body);
            fuzz_migration(&data);

            let mut data = vec![choice, b'D', b'W', b'C', b'B', kind, 0, 0, 0, runs, 0, 0, 0];
            data.extend([0; 20]);
            data[19] = runs * 16;
            for run in 0..u64::from(runs) {
                data.extend(((page + run * 2) * 4096).to_le_bytes());
                data.extend(4096_u64.to_le_bytes());
            }
            data.extend(&body);
            fuzz_migration(&data);
        }
    }
}
