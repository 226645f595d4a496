//! What is shown to be let in: to the bulk channels, and to the memory of a VM on one host.
#![forbid(unsafe_code)]

use subtle::ConstantTimeEq;

use crate::model::random_token;

/// A token that nobody knows yet, in hexadecimal digits.
pub(super) fn new_token() -> String {
    random_token().iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether what is shown is the token, without telling by the time it takes where the difference is.
pub(super) fn is_token(shown: &[u8], token: &str) -> bool {
    shown.ct_eq(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_it() {
        let token = new_token();
        assert_eq!(token.len(), 32);
        assert!(is_token(token.as_bytes(), &token));
        let longer = format!("{token}0");
        for other in [&new_token(), "", &token[..31], &longer] {
            assert!(!is_token(other.as_bytes(), &token), "{other}");
        }
    }
}
