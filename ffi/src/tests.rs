//! What the header says is what the library does.

use dwcp_bindings_support::Code;

use crate::client::dwcp_client_options;
use crate::cq::dwcp_completion;
use crate::error;
use crate::reply::dwcp_reply_to;
use crate::version::DWCP_ABI_VERSION;

#[test]
fn the_committed_header_is_the_one_of_this_library() {
    let made = std::fs::read_to_string(env!("DWCP_HEADER")).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../include/dwcp.h");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        made == committed,
        "include/dwcp.h is not the header of this library: copy {} over it",
        env!("DWCP_HEADER")
    );
}

#[test]
fn every_code_has_its_constant() {
    let header = std::fs::read_to_string(env!("DWCP_HEADER")).unwrap();
    for code in Code::all() {
        let (name, number) = (code.name().to_uppercase(), code.number());
        let line = header.lines().find_map(|line| {
            let value = line.strip_prefix(&format!("#define DWCP_ERR_{name} "))?;
            match value.trim().strip_prefix("0x") {
                Some(hex) => i32::from_str_radix(hex, 16).ok(),
                None => value.trim().parse().ok(),
            }
        });
        assert_eq!(line, Some(number), "DWCP_ERR_{name}");
    }
    assert_eq!(error::DWCP_ERR_INTERNAL, 0x10ff);
}

/// What programs have compiled into them: only ever made longer, at the end.
#[test]
fn structures_have_the_sizes_they_had() {
    assert_eq!(size_of::<dwcp_client_options>(), 120);
    assert_eq!(size_of::<dwcp_reply_to>(), 48);
    assert_eq!(size_of::<dwcp_completion>(), 56);
}

#[test]
fn the_soname_is_the_generation() {
    assert_eq!(env!("DWCP_SONAME_ABI"), DWCP_ABI_VERSION.to_string());
}

/// The functions as C calls them.
mod ended {
    use std::mem::MaybeUninit;

    use crate::args::dwcp_bytes;
    use crate::client::{dwcp_client, dwcp_client_call_async, dwcp_client_subscribe_async};
    use crate::cq::{dwcp_completion, dwcp_cq, dwcp_cq_new, dwcp_cq_next};
    use crate::document::{dwcp_document, dwcp_document_parse};
    use crate::error::{DWCP_END, DWCP_ERR_TIMEOUT, DWCP_OK, DWCP_PENDING};
    use crate::node::{dwcp_node_client, dwcp_node_start};
    use crate::reply::{dwcp_op, dwcp_reply_to};
    use crate::request::{dwcp_request_health, dwcp_request_new_stream};
    use crate::stream::{dwcp_stream_close, dwcp_stream_next_async};

    /// What a function gives through `out`.
    fn given<T>(make: impl FnOnce(&mut MaybeUninit<Option<Box<T>>>) -> i32) -> Box<T> {
        let mut out = MaybeUninit::uninit();
        assert_eq!(make(&mut out), DWCP_OK);
        // SAFETY: it was written, for the status is `DWCP_OK`.
        unsafe { out.assume_init() }.unwrap()
    }

    fn client() -> Box<dwcp_client> {
        let options = dwcp_bytes::of(br#"{"name":"a","backend":"sim"}"#);
        let options: Box<dwcp_document> =
            given(|out| dwcp_document_parse(options, Some(out), None));
        let node = given(|out| dwcp_node_start(Some(&options), Some(out), None));
        let client = given(|out| dwcp_node_client(Some(&node), Some(out), None));
        // It ends with the process.
        std::mem::forget(node);
        client
    }

    fn next(cq: &dwcp_cq, timeout_ms: u64) -> Result<dwcp_completion, i32> {
        let (mut out, mut count) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: there is room for one.
        let status =
            unsafe { dwcp_cq_next(Some(cq), timeout_ms, out.as_mut_ptr(), 1, Some(&mut count)) };
        // SAFETY: it was written where the status is `DWCP_OK`.
        (status == DWCP_OK)
            .then(|| unsafe { out.assume_init() })
            .ok_or(status)
    }

    #[test]
    fn what_has_nothing_to_wait_for_is_told_once_during_the_call() {
        let client = client();
        let cq: Box<dwcp_cq> = given(|out| dwcp_cq_new(Some(out), None));
        let mut ended = MaybeUninit::<dwcp_completion>::uninit();
        let mut reply_to = dwcp_reply_to {
            struct_size: size_of::<dwcp_reply_to>(),
            cq: &raw const *cq,
            tag: 7,
            callback: None,
            user_data: std::ptr::null_mut(),
            ended: ended.as_mut_ptr(),
        };
        let mut op = MaybeUninit::<Option<Box<dwcp_op>>>::uninit();
        let status = dwcp_client_call_async(
            Some(&client),
            dwcp_request_health(),
            Some(&reply_to),
            Some(&mut op),
            None,
        );
        assert_eq!(status, DWCP_OK);
        // SAFETY: both were written, for the status is `DWCP_OK`.
        let (told, op) = unsafe { (ended.assume_init_ref(), op.assume_init()) };
        assert_eq!((told.tag, told.status), (7, DWCP_OK));
        assert!(op.is_none() && !told.document.is_null());
        // SAFETY: whoever receives a document frees it.
        drop(unsafe { Box::from_raw(told.document) });
        assert_eq!(next(&cq, 0).unwrap_err(), DWCP_ERR_TIMEOUT);

        // A stream without an item yet waits.
        let request = dwcp_request_new_stream(c"watch".as_ptr(), dwcp_bytes::of(b"{}"));
        reply_to.tag = 8;
        let status =
            dwcp_client_subscribe_async(Some(&client), request, Some(&reply_to), None, None);
        assert_eq!(status, DWCP_OK);
        // SAFETY: it was written, for the status is `DWCP_OK`.
        let mut opened = unsafe { ended.assume_init_read() };
        if opened.status == DWCP_PENDING {
            opened = next(&cq, 10_000).unwrap();
        }
        assert_eq!((opened.tag, opened.status), (8, DWCP_OK));
        // SAFETY: whoever receives a stream owns it.
        let stream = unsafe { Box::from_raw(opened.stream) };
        reply_to.tag = 9;
        let status = dwcp_stream_next_async(Some(&stream), 1, Some(&reply_to), None, None);
        assert_eq!(status, DWCP_OK);
        // SAFETY: it was written, for the status is `DWCP_OK`.
        let told = unsafe { ended.assume_init_ref() };
        assert_eq!((told.tag, told.status), (9, DWCP_PENDING));
        dwcp_stream_close(Some(&stream));
        let end = next(&cq, 10_000).unwrap();
        assert_eq!((end.tag, end.status), (9, DWCP_END));
    }
}
