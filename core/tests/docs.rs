//! Holds the pages in `docs` to what they promise: each test that one names as the proof of a claim exists.

#![allow(clippy::expect_used, reason = "a helper of tests fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The tests that are named in brackets, each in backticks: ``[`a_test`, `another_test`]``. What links
/// somewhere is no such bracket.
fn named(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("[`") {
        let Some((inside, left)) = after.split_once("`]") else {
            break;
        };
        rest = left;
        if left.starts_with('(') {
            continue;
        }
        let names = inside.split("`,").map(|name| name.trim().trim_matches('`'));
        found.extend(names.map(str::to_owned));
    }
    found
}

/// The names of the tests in a source: of functions right below an attribute that ends in `test`.
fn tests(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if let Some(attribute) = line.strip_prefix("#[") {
            let name = attribute.split(['(', ']']).next().unwrap_or_default();
            is_test |= name == "test" || name.ends_with("::test");
        } else if let Some((_, after)) = line.split_once("fn ").filter(|_| is_test) {
            let name = after.split(['(', '<']).next().unwrap_or_default();
            found.push(name.to_owned());
            is_test = false;
        } else if !line.is_empty() && !line.starts_with("//") {
            is_test = false;
        }
    }
    found
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_test_that_a_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("tests"), &mut files);
    let known: BTreeSet<String> = files
        .iter()
        .flat_map(|file| tests(&fs::read_to_string(file).expect("a source")))
        .collect();
    let page = root.join("../docs/migration.md");
    let named = named(&fs::read_to_string(&page).expect("the page"));
    // A page that names none would pass whatever it says.
    assert!(named.len() > 30, "{} names only {named:?}", page.display());
    let missing: Vec<_> = named.iter().filter(|name| !known.contains(*name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

#[test]
fn every_option_of_a_migration_is_in_the_table_with_a_test() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/migration.md");
    let page = fs::read_to_string(page).expect("the page");
    let (_, table) = page.split_once("| asked for |").expect("the table");
    let rows: Vec<&str> = table.lines().skip(2).collect();
    let rows = rows.split(|line| line.is_empty()).next().expect("rows");
    let options = serde_json::to_value(dwcp::MigrationOptions::default()).expect("options");
    for name in options.as_object().expect("an object").keys() {
        let asked = format!("| `{name}`");
        let of_it: Vec<_> = rows.iter().filter(|row| row.starts_with(&asked)).collect();
        assert!(!of_it.is_empty(), "{name} is not in the table");
        for row in of_it {
            assert!(!named(row).is_empty(), "no test: {row}");
        }
    }
}

#[test]
fn names_are_found_in_pages_and_sources() {
    let page = "One [`a_b`]. Two [`c`,\n`d`], and [`a link`](x.md) [no code].";
    assert_eq!(named(page), ["a_b", "c", "d"]);
    let source = "#[test]\nfn a() {}\n\n/// Doc.\n#[tokio::test(flavor = \"x\")]\n#[cfg(unix)]\nasync fn b() {}\n\
                  fn c() {}\n#[cfg(test)]\nmod x {}\n    #[test]\n    fn d<T>() {}\nproptest! {\n    #[test]\n    \
                  fn e(x in 0..1) {}\n}";
    assert_eq!(tests(source), ["a", "b", "d", "e"]);
}
