//! The kernel inside of a bzImage, as the ELF file that it was before it was packed: what is booted by its PVH entry.

/// Number of the setup sectors in the header, less one; 0 stands for 4 (Linux `Documentation/arch/x86/boot.rst`).
const SETUP_SECTORS: usize = 0x1f1;
/// Where the packed kernel is, counted from the end of those sectors, and its length (from protocol 2.08 on).
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// What packed data of LZ4's "legacy frame" begins with: blocks follow, each with its length before it. It is how the
/// kernel of Debian's cloud images is packed.
const LZ4_LEGACY: &[u8] = &0x184c_2102_u32.to_le_bytes();
/// Most bytes that such a block unpacks to.
const BLOCK_MAX: usize = 8 << 20;
/// Behind the packed data: the length that it unpacks to.
const TRAILER: usize = 4;

/// Unpacks it.
///
/// # Errors
///
/// What is not as it should be.
pub(crate) fn of(bzimage: &[u8]) -> Result<Vec<u8>, String> {
    let short = || "the kernel is cut off".to_owned();
    let setup = match bzimage.get(SETUP_SECTORS).ok_or_else(short)? {
        0 => 4,
        sectors => usize::from(*sectors),
    };
    let start = (setup + 1) * SECTOR + number(bzimage, PAYLOAD_OFFSET)?;
    let end = start + number(bzimage, PAYLOAD_LENGTH)?;
    let payload = bzimage.get(start..end).ok_or_else(short)?;
    let packed = payload.strip_prefix(LZ4_LEGACY).ok_or_else(|| {
        format!(
            "the kernel is not packed by LZ4, it begins with {:x?}: this suite unpacks no other",
            &payload[..payload.len().min(4)]
        )
    })?;
    let packed_end = packed.len().checked_sub(TRAILER).ok_or_else(short)?;
    let whole = number(packed, packed_end)?;
    let mut rest = &packed[..packed_end];
    let mut kernel = Vec::with_capacity(whole);
    while !rest.is_empty() {
        let length = number(rest, 0)?;
        let block = rest.get(4..4 + length).ok_or_else(short)?;
        let unpacked = lz4_flex::block::decompress(block, BLOCK_MAX)
            .map_err(|error| format!("the packed kernel: {error}"))?;
        kernel.extend(unpacked);
        rest = &rest[4 + length..];
    }
    match kernel.len() == whole {
        true => Ok(kernel),
        false => Err(format!(
            "the kernel has {} bytes in place of {whole}",
            kernel.len()
        )),
    }
}

/// A number of four bytes.
fn number(bytes: &[u8], at: usize) -> Result<usize, String> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    found
        .and_then(|found| usize::try_from(u32::from_le_bytes(*found)).ok())
        .ok_or_else(|| "the kernel is cut off".to_owned())
}
