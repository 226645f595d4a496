//! A set of pages.

use super::PageRange;

/// One bit for each page of RAM, owned by one consumer of the dirty harvest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageBitmap {
    words: Vec<u64>,
    pages: u64,
}

impl PageBitmap {
    /// An empty set over `pages` pages.
    pub(crate) fn new(pages: u64) -> Self {
        let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            words: vec![0; words],
            pages,
        }
    }

    /// The set of all pages.
    pub(crate) fn full(pages: u64) -> Self {
        let mut all = Self::new(pages);
        all.words.fill(u64::MAX);
        all.trim();
        all
    }

    /// How many pages there are, set or not.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// How many pages are in the set.
    pub(crate) fn count(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    pub(crate) fn contains(&self, page: u64) -> bool {
        page < self.pages && self.words[word_index(page)] >> (page % 64) & 1 == 1
    }

    #[cfg(test)]
    pub(crate) fn insert(&mut self, page: u64) {
        assert!(page < self.pages);
        self.words[(page / 64) as usize] |= 1 << (page % 64);
    }

    /// Adds a run of pages, or takes it out.
    ///
    /// # Panics
    ///
    /// For pages that there are not.
    pub(crate) fn set_run(&mut self, run: &PageRange, value: bool) {
        assert!(run.end <= self.pages);
        let mut page = run.start;
        while page < run.end {
            let end = (page / 64 + 1) * 64;
            let bits = u64::MAX >> (64 - (end.min(run.end) - page)) << (page % 64);
            let word = &mut self.words[word_index(page)];
            *word = if value { *word | bits } else { *word & !bits };
            page = end;
        }
    }

    /// Takes all pages of another set over as many pages out.
    pub(crate) fn remove(&mut self, other: &Self) {
        for (own, gone) in self.words.iter_mut().zip(&other.words) {
            *own &= !gone;
        }
    }

    /// Whether no page is in the set.
    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Adds the pages of `words`, whose first bit is page `first` (a multiple of 64).
    pub(crate) fn merge_words(&mut self, first: u64, words: &[u64]) {
        let start = word_index(first);
        for (own, new) in self.words[start..].iter_mut().zip(words) {
            *own |= new;
        }
        self.trim();
    }

    /// Adds the pages of another set over as many pages.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, new) in self.words.iter_mut().zip(&other.words) {
            *own |= new;
        }
    }

    /// The words that hold the pages from `range.start` (a multiple of 64) to `range.end`.
    pub(crate) fn words(&self, range: &PageRange) -> &[u64] {
        &self.words[word_index(range.start)..word_index(range.end.min(self.pages) + 63)]
    }

    /// Whether any page of `range` (which starts at a multiple of 64) is in the set.
    pub(crate) fn any_in(&self, range: &PageRange) -> bool {
        self.words(range).iter().any(|&w| w != 0)
    }

    /// The maximal runs of consecutive pages of the set within `range`, in order.
    pub(crate) fn runs(&self, range: PageRange) -> Runs<'_> {
        Runs {
            words: &self.words,
            at: range.start,
            end: range.end.min(self.pages),
        }
    }

    fn trim(&mut self) {
        let spare = self.pages % 64;
        if spare != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << spare) - 1;
        }
    }
}

/// Page numbers are bounded by the host memory that the bitmap was allocated for.
fn word_index(page: u64) -> usize {
    usize::try_from(page / 64).unwrap_or(usize::MAX)
}

/// See [`PageBitmap::runs`].
#[derive(Debug)]
pub(crate) struct Runs<'a> {
    words: &'a [u64],
    at: u64,
    end: u64,
}

impl Runs<'_> {
    /// The first page at or after `from` whose bit differs from `value`'s complement.
    fn find_page(&self, from: u64, value: bool) -> u64 {
        let mut page = from;
        while page < self.end {
            let word = self.words[word_index(page)];
            let word = if value { word } else { !word } >> (page % 64);
            if word != 0 {
                return (page + u64::from(word.trailing_zeros())).min(self.end);
            }
            page = (page / 64 + 1) * 64;
        }
        self.end
    }
}

impl Iterator for Runs<'_> {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        let start = self.find_page(self.at, true);
        if start >= self.end {
            return None;
        }
        let end = self.find_page(start, false);
        self.at = end;
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn full_has_no_pages_beyond_the_end() {
        let all = PageBitmap::full(70);
        assert_eq!(all.count(), 70);
        assert_eq!(all.runs(0..1000).collect::<Vec<_>>(), vec![0..70]);
    }

    #[test]
    fn merging_words_ignores_bits_beyond_the_end() {
        let mut set = PageBitmap::new(70);
        set.merge_words(64, &[u64::MAX]);
        assert_eq!(set.count(), 6);
    }

    proptest! {
        #[test]
        fn runs_are_the_set(pages in proptest::collection::btree_set(0u64..300, 0..200), from in 0u64..300, len in 0u64..300) {
            let mut set = PageBitmap::new(300);
            for &p in &pages {
                set.insert(p);
            }
            let end = (from + len).min(300);
            let listed: Vec<u64> = set.runs(from..end).flatten().collect();
            let expected: Vec<u64> = pages.iter().copied().filter(|p| (from..end).contains(p)).collect();
            prop_assert_eq!(listed, expected);
            // Maximal: two runs never touch.
            let runs: Vec<_> = set.runs(from..end).collect();
            prop_assert!(runs.windows(2).all(|w| w[0].end < w[1].start));
        }
    }
}
