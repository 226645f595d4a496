use proptest::prelude::*;

use super::*;

/// The vector of the protocol's description.
#[test]
fn the_vector_is_kept() {
    let frame = Frame {
        frame_type: FrameType::Auth,
        timestamp: 1_700_000_000,
        id: "00000000-0000-4000-8000-000000000000".into(),
        payload: br#"{"api_key":"k","version":3}"#.to_vec(),
    };
    let hex = "0000004f0301000000006553f1000024\
        30303030303030302d303030302d343030302d383030302d303030303030303030303030\
        0000001b7b226170695f6b6579223a226b222c2276657273696f6e223a337d";
    let bytes: Vec<u8> = (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    assert_eq!(frame.encode(LENGTH_MAX).unwrap(), bytes);
    let (prefix, body) = bytes.split_first_chunk::<4>().unwrap();
    assert_eq!(Frame::length(*prefix, LENGTH_MAX).unwrap(), body.len());
    assert_eq!(Frame::decode(body).unwrap(), frame);
}

#[test]
fn limits_are_errors() {
    assert!(Frame::length([0, 0, 0, 15], LENGTH_MAX).is_err());
    assert!(Frame::length([1, 0, 0, 1], LENGTH_MAX).is_err());
    assert!(Frame::length([0xff; 4], LENGTH_MAX).is_err());
    let long = |id: usize, payload| Frame {
        frame_type: FrameType::Ok,
        timestamp: 0,
        id: "x".repeat(id),
        payload: vec![0; payload],
    };
    assert!(long(ID_MAX, 0).encode(LENGTH_MAX).is_ok());
    assert!(long(ID_MAX + 1, 0).encode(LENGTH_MAX).is_err());
    assert!(long(0, 100).encode(115).is_err());
    assert!(long(0, 100).encode(116).is_ok());
}

proptest! {
    #[test]
    fn round_trip(id in "[a-z0-9]{0,40}", timestamp: u64, payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let frame = Frame { frame_type: FrameType::Migration, timestamp, id, payload };
        let bytes = frame.encode(LENGTH_MAX).unwrap();
        prop_assert_eq!(Frame::decode(&bytes[4..]).unwrap(), frame);
        // Cut anywhere, or with more behind it, it is no frame.
        for cut in 4..bytes.len() {
            prop_assert!(Frame::decode(&bytes[4..cut]).is_err());
        }
        let mut more = bytes;
        more.push(0);
        prop_assert!(Frame::decode(&more[4..]).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = Frame::decode(&body);
    }
}
