//! Whether memory that asks for huge pages can get any on this host.
//!
//! Linux `Documentation/admin-guide/mm/transhuge.rst`: one setting for all sizes, since 6.8 one for each size
//! that may defer to it, and a switch of the process.

use std::fs;

/// Settings of the host, and what a process says of itself.
const ALL_SIZES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
const OF_2_MIB: &str = "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled";
const PROCESS: &str = "/proc/self/status";

/// Whether [`Backing::AnonymousHuge`](super::Backing) means something here.
pub(crate) fn has_huge_pages() -> bool {
    let read = |path| fs::read_to_string(path).ok();
    allowed(
        read(ALL_SIZES).as_deref(),
        read(OF_2_MIB).as_deref(),
        read(PROCESS).as_deref(),
    )
}

fn allowed(all_sizes: Option<&str>, of_2_mib: Option<&str>, process: Option<&str>) -> bool {
    // The setting that holds is in brackets: `always [madvise] never`.
    let setting = |text: &str| {
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    };
    // A kernel without huge pages has none of the files.
    let Some(general) = all_sizes.and_then(setting) else {
        return false;
    };
    let own = of_2_mib.and_then(setting);
    let holds = match own.as_deref() {
        Some("inherit") | None => &general,
        Some(own) => own,
    };
    let switched_off = process.is_some_and(|status| {
        let mut lines = status.lines();
        lines.any(|line| {
            line.strip_prefix("THP_enabled:")
                .is_some_and(|value| value.trim() == "0")
        })
    });
    matches!(holds, "always" | "madvise") && !switched_off
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_understood() {
        let (on, never) = ("always [madvise] never\n", "always madvise [never]\n");
        let [own, inherit, own_never] = [
            "[always] inherit madvise never\n",
            "always [inherit] madvise never\n",
            "always inherit madvise [never]\n",
        ];
        for (all_sizes, of_2_mib, process, huge) in [
            (None, None, None, false),
            (Some(on), None, None, true),
            (Some(never), None, None, false),
            (Some(never), Some(inherit), None, false),
            (Some(never), Some(own), None, true),
            (Some(on), Some(inherit), None, true),
            (Some(on), Some(own_never), None, false),
            (Some(on), None, Some("Name:\tx\nTHP_enabled:\t1\n"), true),
            (Some(on), None, Some("Name:\tx\nTHP_enabled:\t0\n"), false),
            (Some("what"), None, None, false),
        ] {
            let is = allowed(all_sizes, of_2_mib, process);
            assert_eq!(is, huge, "{all_sizes:?} {of_2_mib:?} {process:?}");
        }
    }
}
