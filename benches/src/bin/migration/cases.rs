//! What there is to measure.

use std::fmt;

use dwcp_benches::Failure;

/// Beats of the guest in a second: its silence is known to a millisecond.
pub(crate) const BEAT_HZ: u32 = 1_000;
/// What the downtime is limited to, in milliseconds: QEMU's own default, asked of both.
pub(crate) const DOWNTIME_MS: u32 = 300;
/// What a migration is given, in seconds.
pub(crate) const TIMEOUT_S: u32 = 60;
/// Connections of the mode that has several: what QEMU is asked for, which also the first round of `raw` has.
pub(crate) const CONNECTIONS: u32 = 2;

const MIB: u64 = 1 << 20;

/// Who copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Dwcp,
    Qemu,
    Raw,
}

/// How it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Memory first, over one connection.
    Precopy,
    /// The same over [`CONNECTIONS`].
    Parallel,
    /// The switch first, then the rest of the memory.
    Postcopy,
    /// Memory is handed over.
    SameHost,
    /// Over one connection into memory that nobody has touched; of `raw`, which else touches it before.
    Cold,
}

/// What the guest does meanwhile, beside keeping its processor busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    /// Bytes that it keeps writing.
    pub(crate) working_set: u64,
    /// Pages that it writes a second.
    pub(crate) rate: u32,
}

/// The loads. The idle guest writes a few pages: to 0 both guests would write as fast as they can.
pub(crate) const LOADS: [Load; 3] = [
    Load {
        name: "idle",
        working_set: MIB,
        rate: 10,
    },
    Load {
        name: "64m-100k",
        working_set: 64 * MIB,
        rate: 100_000,
    },
    Load {
        name: "256m-1m",
        working_set: 256 * MIB,
        rate: 1_000_000,
    },
];

/// In the order of a turn: who is compared stands side by side.
const WAYS: [(Engine, Mode); 10] = [
    (Engine::Dwcp, Mode::Precopy),
    (Engine::Qemu, Mode::Precopy),
    (Engine::Raw, Mode::Precopy),
    (Engine::Dwcp, Mode::Parallel),
    (Engine::Qemu, Mode::Parallel),
    (Engine::Raw, Mode::Parallel),
    (Engine::Dwcp, Mode::Postcopy),
    (Engine::Qemu, Mode::Postcopy),
    (Engine::Dwcp, Mode::SameHost),
    (Engine::Raw, Mode::Cold),
];

/// One thing to measure: three parts of the name of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) engine: Engine,
    pub(crate) load: Load,
    pub(crate) mode: Mode,
}

/// How large the guest is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Its memory.
    pub(crate) memory: u64,
    /// What it fills of that.
    pub(crate) fill: u64,
}

impl Engine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dwcp => "dwcp",
            Self::Qemu => "qemu",
            Self::Raw => "raw",
        }
    }
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Precopy => "precopy",
            Self::Parallel => "parallel",
            Self::Postcopy => "postcopy",
            Self::SameHost => "same-host",
            Self::Cold => "cold",
        }
    }

    /// Connections that page data has.
    pub(crate) fn connections(self) -> u32 {
        match self {
            Self::Precopy | Self::Cold => 1,
            Self::Parallel | Self::Postcopy | Self::SameHost => CONNECTIONS,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (engine, load, mode) = (self.engine.name(), self.load.name, self.mode.name());
        write!(f, "{engine}/{load}/{mode}")
    }
}

impl Sizes {
    /// What a load writes of this guest: no more than it fills.
    pub(crate) fn working_set(self, load: Load) -> u64 {
        load.working_set.min(self.fill)
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            memory: 2048 * MIB,
            fill: 1024 * MIB,
        }
    }
}

/// All there is.
fn all() -> Vec<Case> {
    let of = |load| WAYS.map(|(engine, mode)| Case { engine, load, mode });
    LOADS.into_iter().flat_map(of).collect()
}

/// The cases whose names have one of these words in them; all where there is none.
///
/// # Errors
///
/// For a word that is in no name, with the names there are.
pub(crate) fn select(words: &[&str]) -> Result<Vec<Case>, Failure> {
    let mut cases = all();
    for word in words {
        if !cases.iter().any(|case| case.to_string().contains(word)) {
            let names: Vec<String> = cases.iter().map(Case::to_string).collect();
            return Err(
                format!("no name has '{word}' in it; there are {}", names.join(", ")).into(),
            );
        }
    }
    if !words.is_empty() {
        cases.retain(|case| words.iter().any(|word| case.to_string().contains(word)));
    }
    Ok(cases)
}

/// Whole MiB in bytes, from `512M`, `512MiB`, `2G` or `2GiB`.
///
/// # Errors
///
/// For anything else, naming the option.
pub(crate) fn size(option: &str, text: &str) -> Result<u64, Failure> {
    let units = [("MiB", 20), ("GiB", 30), ("M", 20), ("G", 30)];
    let parts = units.iter().find_map(|(unit, shift)| {
        let number: u32 = text.strip_suffix(unit)?.parse().ok()?;
        u64::from(number).checked_mul(1 << shift)
    });
    parts
        .filter(|size| *size > 0)
        .ok_or_else(|| format!("{option} takes a size such as 512MiB or 2GiB, not '{text}'").into())
}

#[cfg(test)]
mod tests {
    use super::{LOADS, MIB, Sizes, all, select, size};

    fn names(words: &[&str]) -> Vec<String> {
        let cases = select(words).unwrap();
        cases.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_a_word_all_is_measured_once() {
        let mut names = names(&[]);
        assert_eq!(names.len(), all().len());
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 30);
    }

    #[test]
    fn a_word_selects_what_has_it_in_its_name() {
        assert_eq!(
            names(&["dwcp/idle", "raw/64m-100k/cold"]),
            [
                "dwcp/idle/precopy",
                "dwcp/idle/parallel",
                "dwcp/idle/postcopy",
                "dwcp/idle/same-host",
                "raw/64m-100k/cold",
            ]
        );
    }

    #[test]
    fn a_word_that_selects_nothing_is_refused_with_the_names() {
        let error = select(&["idle", "idel"]).unwrap_err().to_string();
        assert!(error.contains("'idel'"), "{error}");
        for case in all() {
            assert!(error.contains(&case.to_string()), "{case}: {error}");
        }
    }

    #[test]
    fn sizes_are_whole_mib() {
        for (text, mib) in [("64M", 64), ("128MiB", 128), ("2G", 2048), ("1GiB", 1024)] {
            assert_eq!(size("--fill", text).unwrap(), mib * MIB, "{text}");
        }
        for text in ["", "64", "0M", "64K", "1.5G", "-1M", "99999999999G", "M"] {
            let error = size("--fill", text).unwrap_err().to_string();
            assert!(error.starts_with("--fill takes"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_small_guest_has_a_small_working_set() {
        let sizes = Sizes {
            memory: 128 * MIB,
            fill: 64 * MIB,
        };
        let sets = LOADS.map(|load| sizes.working_set(load) / MIB);
        assert_eq!(sets, [1, 64, 64]);
    }
}
