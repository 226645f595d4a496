//! A kernel as an image: from its files to the entries of the vCPUs.
#![forbid(unsafe_code)]

use super::file::BootFile;
use super::linux::Told;
use super::plan::{Plan, Start};
use super::{Hardware, acpi, bzimage, cmdline, elf, linux, pvh, reset_vector};
use crate::error::Result;
use crate::hypervisor::Entry;
use crate::memory::{GuestRam, Layout};

/// A kernel, and what it is started with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KernelImage {
    kernel: BootFile,
    initrd: Option<BootFile>,
    cmdline: String,
}

impl KernelImage {
    /// A kernel (a bzImage, or an ELF file) with an initial RAM disk and a command line. Without one,
    /// the kernel is told [`cmdline::DEFAULT`]; one that is given stands for all of it.
    ///
    /// # Errors
    ///
    /// `invalid_config` for a command line that cannot be given to a kernel. The files are looked at
    /// when they are loaded; [`check`](Self::check) does it earlier.
    pub(crate) fn new(
        kernel: BootFile,
        initrd: Option<BootFile>,
        cmdline: Option<&str>,
    ) -> Result<Self> {
        let cmdline = cmdline.unwrap_or(cmdline::DEFAULT).to_owned();
        cmdline::check(&cmdline)?;
        Ok(Self {
            kernel,
            initrd,
            cmdline,
        })
    }

    /// Whether a VM with so much memory can be started with it.
    ///
    /// # Errors
    ///
    /// As those of loading it: `invalid_config` with what is wrong with which of its files.
    pub(crate) fn check(&self, memory: u64) -> Result<()> {
        let (plan, _) = self.plan(&Layout::new(memory)?)?;
        cmdline::check_fits(&self.cmdline, plan.cmdline_max)
    }

    /// What goes where: the kernel's plan, and the address of the initial RAM disk.
    fn plan(&self, layout: &Layout) -> Result<(Plan, Option<u64>)> {
        let plan = plan(&self.kernel, layout)?;
        let initrd = self.initrd.as_ref();
        let initrd = initrd.map(|initrd| plan.place_initrd(layout, initrd));
        Ok((plan, initrd.transpose()?))
    }

    /// Loads it; where each vCPU begins: the first at the kernel's entry, the others when it says so.
    pub(super) fn load(&self, ram: &GuestRam, hardware: &Hardware<'_>) -> Result<Vec<Entry>> {
        let (plan, address) = self.plan(ram.layout())?;
        plan.load(ram, &self.kernel)?;
        cmdline::write(ram, &self.cmdline, plan.cmdline_max)?;
        acpi::write(ram, hardware)?;
        reset_vector::write(ram)?;
        let mut told = Told {
            initrd: None,
            // Checked: it is short.
            cmdline: u32::try_from(self.cmdline.len()).unwrap_or(0),
        };
        if let (Some(initrd), Some(address)) = (&self.initrd, address) {
            initrd.copy_to(ram, address, 0, initrd.size())?;
            told.initrd = Some((address, initrd.size()));
        }
        let first = match &plan.start {
            Start::Linux64 { entry, header } => linux::write(ram, *entry, header, &told)?,
            Start::Pvh { entry } => pvh::write(ram, *entry, &told)?,
        };
        let mut entries = vec![first];
        entries.resize(hardware.cpus as usize, Entry::WaitForStartup);
        Ok(entries)
    }
}

/// The plan of a kernel of either form.
pub(super) fn plan(kernel: &BootFile, layout: &Layout) -> Result<Plan> {
    if elf::is_one(kernel) {
        elf::plan(kernel, layout)
    } else if bzimage::is_one(kernel) {
        bzimage::plan(kernel, layout)
    } else {
        Err(kernel.wrong("neither a bzImage nor an ELF file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;

    fn image(kernel: Vec<u8>) -> KernelImage {
        let kernel = BootFile::from_bytes("kernel", kernel);
        let initrd = BootFile::from_bytes("initrd", vec![0x1d; 5000]);
        KernelImage::new(kernel, Some(initrd), Some("quiet")).unwrap()
    }

    #[test]
    fn all_is_in_memory_and_the_other_vcpus_wait() {
        let samples = [
            bzimage::tests::sample(),
            elf::tests::sample(None),
            elf::tests::sample(Some(&[0x80, 0, 0, 1])),
        ];
        for sample in samples {
            let ram = GuestRam::allocate(128 << 20, Backing::Memfd).unwrap();
            let hardware = Hardware {
                cpus: 3,
                tsc_khz: 0,
                virtio: &[0],
            };
            let image = image(sample.clone());
            image.check(128 << 20).unwrap();
            let entries = image.load(&ram, &hardware).unwrap();
            assert_eq!(entries[1..], [Entry::WaitForStartup; 2]);
            let mut initrd = [0; 5000];
            ram.read((128 << 20) - 8192, &mut initrd).unwrap();
            assert_eq!(initrd, [0x1d; 5000]);
            let mut text = [0; 6];
            ram.read(0x2_0000, &mut text).unwrap();
            assert_eq!(text, *b"quiet\0");
            let mut root = [0; 8];
            ram.read(0xe_0000, &mut root).unwrap();
            assert_eq!(root, *b"RSD PTR ");
            let mut code = [0; 6];
            ram.read(0xf_fff0, &mut code).unwrap();
            assert_eq!(code, [0xba, 0x00, 0x06, 0xb0, 0x01, 0xee]);
            assert!(!ram.is_zero(0x100_0000 / 4096));
            assert_eq!(image.load(&ram, &hardware), Ok(entries), "and again");
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused_by_name() {
        let error = image(vec![0; 5000]).check(128 << 20).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid config: kernel: neither a bzImage nor an ELF file"
        );
        let error = image(bzimage::tests::sample()).check(1 << 20).unwrap_err();
        assert!(error.to_string().contains("give it more"), "{error}");
        let kernel = BootFile::from_bytes("kernel", []);
        assert!(KernelImage::new(kernel, None, Some("\n")).is_err());
    }
}
