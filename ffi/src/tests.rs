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
