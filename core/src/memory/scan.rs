//! Finding pages that hold only zeros.

use std::arch::x86_64::{
    __m128i, _mm_cmpeq_epi8, _mm_load_si128, _mm_movemask_epi8, _mm_or_si128, _mm_setzero_si128,
};

use super::PAGE_BYTES;

/// Whether the page at `page` holds only zeros. Stops at the first cache line that does not, so a
/// page with data costs one line and only empty pages are read to the end.
///
/// A running guest may write the page meanwhile. Then the answer is that of some moment in between,
/// which is all that a caller may rely on: it has cleared the page's dirty bit before it looks, so a
/// write that the look misses brings the page back.
///
/// # Safety
///
/// `page` is aligned to a page and readable for `PAGE_BYTES` bytes.
pub(super) unsafe fn is_zero_page(page: *const u8) -> bool {
    const LINE: usize = 64;
    let lines = PAGE_BYTES / LINE;
    let mut at = page.cast::<__m128i>();
    for _ in 0..lines {
        // SAFETY: `at` walks the page line by line (four 16-byte lanes each) and stops at its end;
        // the caller vouches for the page and its alignment. SSE2 is part of x86-64. No reference
        // to the memory is formed, so nothing is assumed about its not changing.
        let clean = unsafe {
            let line = _mm_or_si128(
                _mm_or_si128(_mm_load_si128(at), _mm_load_si128(at.add(1))),
                _mm_or_si128(_mm_load_si128(at.add(2)), _mm_load_si128(at.add(3))),
            );
            at = at.add(4);
            _mm_movemask_epi8(_mm_cmpeq_epi8(line, _mm_setzero_si128())) == 0xffff
        };
        if !clean {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u8; PAGE_BYTES]);

    #[test]
    fn every_single_byte_counts() {
        let mut page = Box::new(Page([0; PAGE_BYTES]));
        // SAFETY: a whole, aligned page that nothing else refers to.
        let scan = |page: &Page| unsafe { is_zero_page(page.0.as_ptr()) };
        assert!(scan(&page));
        for i in 0..page.0.len() {
            page.0[i] = 1;
            assert!(!scan(&page), "byte {i}");
            page.0[i] = 0;
        }
        assert!(scan(&page));
    }
}
