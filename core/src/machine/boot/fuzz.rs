//! The entry of fuzzing, and of a test that does the same with fewer bytes.
#![forbid(unsafe_code)]

use super::file::BootFile;
use super::kernel::plan;
use super::low;
use super::plan::{Start, low_ram_end};
use crate::memory::Layout;

/// Takes the bytes behind the first one, which chooses the size of the VM, for a kernel. What is
/// planned stays within the file and the VM's memory.
///
/// # Panics
///
/// Where that is not so.
pub(crate) fn fuzz_kernel(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let Ok(layout) = Layout::new((u64::from(choice) + 1) << 24) else {
        return;
    };
    let kernel = BootFile::from_bytes("kernel", bytes);
    let Ok(plan) = plan(&kernel, &layout) else {
        return;
    };
    let ram = low_ram_end(&layout);
    for segment in &plan.segments {
        assert!(segment.gpa >= low::HIGH);
        assert!(segment.file_size <= segment.memory_size);
        assert!(segment.offset + segment.file_size <= bytes.len() as u64);
        assert!(segment.gpa + segment.memory_size <= plan.end);
        assert!(segment.gpa + segment.memory_size <= ram);
    }
    let initrd = BootFile::from_bytes("initrd", bytes);
    if let Ok(at) = plan.place_initrd(&layout, &initrd) {
        assert!(at >= plan.end && at + initrd.size() <= ram.min(plan.initrd_end));
    }
    if let Start::Linux64 { header, .. } = &plan.start {
        assert!(header.len() <= 0x290 - 0x1f1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{bzimage, elf};
    use super::*;

    #[test]
    fn the_samples_pass() {
        for sample in [bzimage::tests::sample(), elf::tests::sample(None)] {
            fuzz_kernel(&[&[15], &sample[..]].concat());
        }
    }

    proptest! {
        #[test]
        fn no_change_of_a_kernel_makes_it_panic(
            elf in any::<bool>(),
            choice in any::<u8>(),
            changes in proptest::collection::vec((0usize..0x400, any::<u8>()), 0..8),
            cut in 0usize..0x900,
        ) {
            let mut bytes = if elf {
                elf::tests::sample(Some(&[0x80, 0, 0, 1]))
            } else {
                bzimage::tests::sample()
            };
            for (at, value) in changes {
                bytes[at] = value;
            }
            bytes.truncate(bytes.len().saturating_sub(cut / 4 * usize::from(cut % 4 == 0)));
            fuzz_kernel(&[&[choice], &bytes[..]].concat());
        }
    }
}
