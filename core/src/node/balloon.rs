//! The balloon: memory that a VM lends to its host, by its annotation `dwcp.memory/balloon`.
//!
//! A guest with a driver for it gives so many bytes back as it can spare, and gets them again when the
//! annotation is changed. It is a wish and no limit: the VM keeps its `memory`.

use std::collections::BTreeMap;

use super::Shared;
use super::images::Boots;
use crate::error::{DWCPError, Result};
use crate::machine::Machine;
use crate::memory::PAGE_SIZE;
use crate::model::VM;

/// The annotation: bytes.
const BALLOON: &str = "dwcp.memory/balloon";

/// Bytes that a VM with these annotations is asked to lend.
///
/// # Errors
///
/// `invalid_config` naming the annotation, where it is no number of bytes that a guest with so much
/// memory could lend, or the guest has no balloon.
pub(super) fn wanted(
    annotations: &BTreeMap<String, String>,
    memory: u64,
    boots: &Boots,
) -> Result<u64> {
    let Some(text) = annotations.get(BALLOON) else {
        return Ok(0);
    };
    let wrong = |why: String| Err(DWCPError::Config(format!("{BALLOON}: {why}")));
    let Ok(bytes) = text.parse::<u64>() else {
        return wrong(format!("must be a number of bytes, not {text:?}"));
    };
    if !bytes.is_multiple_of(PAGE_SIZE) || bytes >= memory {
        return wrong(format!(
            "must be a multiple of {PAGE_SIZE} below the memory of the VM, {memory}, not {bytes}"
        ));
    }
    if bytes > 0 && matches!(boots, Boots::BuiltIn) {
        return wrong("the built-in guest has no balloon".into());
    }
    Ok(bytes)
}

impl Shared {
    /// Asks the guest of a VM for what its annotations want.
    pub(super) fn set_balloon(&self, vm: &VM, machine: &Machine) -> Result<()> {
        let boots = self.boots(&vm.config.image, vm.config.memory, &vm.annotations)?;
        let bytes = wanted(&vm.annotations, vm.config.memory, &boots)?;
        machine.borrow_memory(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_guest_could_lend_is_refused_by_name() {
        let ask = |text: &str| {
            let annotations = [(BALLOON.to_owned(), text.to_owned())].into();
            wanted(&annotations, 64 << 20, &Boots::BuiltIn).map_err(|error| error.to_string())
        };
        assert_eq!(wanted(&BTreeMap::new(), 0, &Boots::BuiltIn), Ok(0));
        assert_eq!(ask("0"), Ok(0));
        for (text, why) in [
            ("", "must be a number"),
            ("-1", "must be a number"),
            ("1M", "not \"1M\""),
            ("4097", "a multiple of 4096"),
            ("67108864", "below the memory of the VM"),
            ("4096", "has no balloon"),
        ] {
            let error = ask(text).unwrap_err();
            assert!(error.contains(BALLOON) && error.contains(why), "{error}");
        }
    }
}
