//! What a process holds, so that it can be compared with what it held before.

use std::collections::BTreeMap;

/// How many of each kind.
pub type Held = BTreeMap<String, usize>;

/// Threads and files of a process by their kinds, without the threads of the runtime, which come and go.
pub fn threads_and_files(process: u32) -> Held {
    let mut all = Held::new();
    let mut count = |what: String| *all.entry(what).or_default() += 1;
    // What ends while it is looked at is not there.
    for task in std::fs::read_dir(format!("/proc/{process}/task"))
        .unwrap()
        .flatten()
    {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if !name.is_empty() && !name.starts_with("tokio") {
            count(format!("thread {}", name.trim()));
        }
    }
    for file in std::fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .flatten()
    {
        if let Ok(link) = std::fs::read_link(file.path()) {
            let link = link.to_string_lossy().into_owned();
            let kind = link.split(":[").next().unwrap_or_default();
            count(format!("file {kind}"));
        }
    }
    all
}

/// Mappings of a process by what is mapped: all of memory that has no name are of one kind.
pub fn mappings(process: u32) -> Held {
    let mut all = Held::new();
    for line in std::fs::read_to_string(format!("/proc/{process}/maps"))
        .unwrap()
        .lines()
    {
        // Five columns, and then the name, which may have blanks in it.
        let name = line.splitn(6, ' ').nth(5).unwrap_or_default().trim();
        let name = if name.is_empty() { "no name" } else { name };
        *all.entry(format!("mapping of {name}")).or_default() += 1;
    }
    all
}
