//! Keeps the house as it is drawn in CONTRIBUTING.md: imports run downwards only, and unsafe code stays in its homes.
//!
//! The sources are read as tokens, without comments and literals, and every path that starts with `crate`, `self` or
//! `super` is resolved to the module at the top of the crate that it leads to. Macros are not expanded: what a macro
//! says is held against the file it is written in.

#![allow(clippy::expect_used, reason = "a helper of tests fails the test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The modules at the top of the crate, each with its row in the house. A module may use every row below its own.
const ROWS: &[(&str, u8)] = &[
    ("client", 6),
    ("node", 6),
    ("migration", 5),
    ("snapshot", 5),
    ("machine", 4),
    ("hypervisor", 3),
    ("guest", 3),
    ("memory", 3),
    ("storage", 3),
    ("transport", 3),
    ("wire", 2),
    ("action", 1),
    ("model", 0),
    ("error", 0),
];

/// Who may use whom within a row; the other way round stays closed.
const SIDEWAYS: &[(&str, &str)] = &[
    ("node", "client"),
    ("hypervisor", "guest"),
    ("hypervisor", "memory"),
    ("guest", "memory"),
    ("model", "error"),
];

/// Helpers of the unit tests, which any of them may use.
const TEST_SUPPORT: &str = "test_support";

/// The modules that may hold unsafe code, each block with its proof.
const UNSAFE_HOMES: &[&[&str]] = &[
    &["memory"],
    &["hypervisor", "kvm"],
    &["machine", "vcpu"],
    &["guest"],
    &["transport", "unix"],
];

#[test]
fn imports_run_downwards() {
    assert_none(sources().iter().flat_map(layer_faults).collect());
}

#[test]
fn unsafe_code_stays_in_its_homes() {
    assert_none(unsafe_faults(&sources()));
}

#[track_caller]
fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

// ---- the rules ----

/// A source file of the library.
struct Source {
    /// Its path below `src`, for messages.
    path: String,
    /// The module it holds: `["machine", "vcpu"]` for `machine/vcpu.rs` and `machine/vcpu/mod.rs`, none for `lib.rs`.
    module: Vec<String>,
    tokens: Vec<Token>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            module: module_of(path),
            tokens: tokens(text),
        }
    }
}

/// What in this file leads upwards or sideways. `lib.rs`, which joins everything, is free.
fn layer_faults(source: &Source) -> Vec<String> {
    let Some(from) = source.module.first() else {
        return Vec::new();
    };
    if from == TEST_SUPPORT {
        return Vec::new();
    }
    if row(from).is_none() {
        return vec![format!(
            "{}: the module `{from}` {NOT_IN_TABLE}",
            source.path
        )];
    }
    paths(source)
        .into_iter()
        .filter_map(|found| {
            let place = format!("{}:{}", source.path, found.line);
            match found.path.first().map(String::as_str) {
                None | Some("*") => Some(format!("{place}: imports the whole crate: name the module")),
                Some(to) if to == from || to == TEST_SUPPORT || may_use(from, to) => None,
                Some(to) if row(to).is_some() => Some(format!("{place}: `{from}` must not use `{to}`")),
                Some(to) => Some(format!("{place}: `crate::{to}`: name an item by its module; a module `{to}` {NOT_IN_TABLE}")),
            }
        })
        .collect()
}

const NOT_IN_TABLE: &str = "is not in the table: add it to ROWS in core/tests/layers.rs and to the house in CONTRIBUTING.md";

fn row(module: &str) -> Option<u8> {
    ROWS.iter()
        .find(|(name, _)| *name == module)
        .map(|(_, row)| *row)
}

fn may_use(from: &str, to: &str) -> bool {
    let downwards = row(from).zip(row(to)).is_some_and(|(from, to)| from > to);
    downwards || SIDEWAYS.contains(&(from, to))
}

/// Unsafe code outside its homes, and files outside them that do not forbid it.
///
/// A file may leave the forbidding to a file above it. The modules around a home cannot forbid it, for that would
/// reach into the home; they, and files without any code, only must not hold any.
fn unsafe_faults(sources: &[Source]) -> Vec<String> {
    let forbidding: Vec<&[String]> = sources
        .iter()
        .filter(|source| forbids_unsafe(&source.tokens))
        .map(|source| &source.module[..])
        .collect();
    let mut faults = Vec::new();
    for source in sources.iter().filter(|source| !is_home(&source.module)) {
        for token in source.tokens.iter().filter(|token| token.text == "unsafe") {
            faults.push(format!(
                "{}:{}: unsafe code outside its homes",
                source.path, token.line
            ));
        }
        let forbids = forbidding
            .iter()
            .any(|above| source.module.starts_with(above));
        if !forbids && !surrounds_a_home(&source.module) && !source.tokens.is_empty() {
            faults.push(format!(
                "{}: `#![forbid(unsafe_code)]` is missing at the top",
                source.path
            ));
        }
    }
    faults
}

fn is_home(module: &[String]) -> bool {
    UNSAFE_HOMES
        .iter()
        .any(|home| home.len() <= module.len() && home.iter().zip(module).all(|(a, b)| a == b))
}

fn surrounds_a_home(module: &[String]) -> bool {
    UNSAFE_HOMES
        .iter()
        .any(|home| module.len() < home.len() && home.iter().zip(module).all(|(a, b)| a == b))
}

/// Whether `#![forbid(unsafe_code)]` is among the attributes that a file begins with.
fn forbids_unsafe(tokens: &[Token]) -> bool {
    let mut rest = tokens;
    while let [hash, bang, bracket, inner @ ..] = rest
        && (&*hash.text, &*bang.text, &*bracket.text) == ("#", "!", "[")
    {
        let end = inner
            .iter()
            .position(|token| token.text == "]")
            .unwrap_or(inner.len());
        let (attribute, behind) = inner.split_at(end);
        if attribute
            .first()
            .is_some_and(|token| token.text == "forbid")
            && attribute.iter().any(|token| token.text == "unsafe_code")
        {
            return true;
        }
        rest = behind.get(1..).unwrap_or_default();
    }
    false
}

// ---- reading the sources ----

/// Every source file of the library.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let sources: Vec<Source> = files
        .iter()
        .map(|file| {
            let path = file
                .strip_prefix(&root)
                .expect("a file below src")
                .to_string_lossy()
                .replace('\\', "/");
            Source::new(&path, &fs::read_to_string(file).expect("a source file"))
        })
        .collect();
    assert!(
        sources.iter().any(|source| source.path == "lib.rs"),
        "no sources in {}",
        root.display()
    );
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry of a folder").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn module_of(path: &str) -> Vec<String> {
    let mut module: Vec<String> = path
        .trim_end_matches(".rs")
        .split('/')
        .map(String::from)
        .collect();
    if path == "lib.rs" || module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// A path in the code, from the top of the crate: `["wire", "frame", "Frame"]`.
#[derive(Debug)]
struct Found {
    path: Vec<String>,
    line: usize,
}

/// Every path that starts with `crate`, `self` or `super`, resolved; the paths of a `{…}` group one by one.
fn paths(source: &Source) -> Vec<Found> {
    let tokens = &source.tokens;
    let text = |index: usize| tokens.get(index).map_or("", |token| &*token.text);
    let mut found = Vec::new();
    let mut module = source.module.clone();
    // For each module written within the file, the depth of braces inside it.
    let mut inner: Vec<usize> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while at < tokens.len() {
        match text(at) {
            "{" => depth += 1,
            "}" => {
                if inner.last() == Some(&depth) {
                    inner.pop();
                    module.pop();
                }
                depth = depth.saturating_sub(1);
            }
            "mod" if text(at + 2) == "{" => {
                module.push(text(at + 1).to_owned());
                inner.push(depth + 1);
            }
            "crate" | "self" | "super"
                if matches!(text(at + 1), "::" | "as") && (at == 0 || text(at - 1) != "::") =>
            {
                let mut written = Vec::new();
                at = read_path(tokens, at, &[], &mut written);
                found.extend(written.into_iter().map(|path| Found {
                    path: resolve(&module, &path.path),
                    ..path
                }));
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads one path, or one tree of paths, as written, and gives back where it ends.
fn read_path(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Found>) -> usize {
    let text = |index: usize| tokens.get(index).map_or("", |token| &*token.text);
    let mut path = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    loop {
        match text(at) {
            "{" => {
                at += 1;
                while !matches!(text(at), "}" | "") {
                    let end = read_path(tokens, at, &path, found);
                    // What is no path (a comma, or something we do not know) is passed over.
                    at = end.max(at + 1);
                }
                return at + 1;
            }
            "*" => {
                path.push("*".into());
                at += 1;
                break;
            }
            segment if segment.starts_with(is_word) => {
                path.push(segment.to_owned());
                at += 1;
            }
            // A generic argument (`Vec::<u8>`), a comma: the path has ended.
            _ => break,
        }
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    if text(at) == "as" {
        at += 2;
    }
    if path.len() > prefix.len() {
        found.push(Found { path, line });
    }
    at
}

/// A path as written in a module, from the top of the crate.
fn resolve(module: &[String], written: &[String]) -> Vec<String> {
    let mut path = match written.first().map(String::as_str) {
        Some("crate") => Vec::new(),
        _ => module.to_vec(),
    };
    for segment in written {
        match segment.as_str() {
            "crate" | "self" => {}
            "super" => {
                path.pop();
            }
            name => path.push(name.to_owned()),
        }
    }
    path
}

/// A word, `::`, or a single sign.
#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The tokens of a source text; comments are left out, and so are literals and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let mut cursor = Cursor {
        rest: text,
        line: 1,
    };
    let mut tokens = Vec::new();
    while let Some(first) = cursor.rest.chars().next() {
        let line = cursor.line;
        if cursor.rest.starts_with("//") {
            cursor.skip(cursor.rest.find('\n').unwrap_or(cursor.rest.len()));
        } else if cursor.rest.starts_with("/*") {
            cursor.skip_block_comment();
        } else if first == '"' {
            cursor.skip_quoted('"');
        } else if first == '\'' {
            cursor.skip_character_or_lifetime();
        } else if is_word(first) {
            let end = cursor
                .rest
                .find(|character| !is_word(character))
                .unwrap_or(cursor.rest.len());
            let word = &cursor.rest[..end];
            cursor.skip(end);
            if !cursor.skip_literal_behind(word) {
                tokens.push(Token {
                    text: word.to_owned(),
                    line,
                });
            }
        } else if cursor.rest.starts_with("::") {
            cursor.skip(2);
            tokens.push(Token {
                text: "::".into(),
                line,
            });
        } else {
            cursor.skip(first.len_utf8());
            if !first.is_whitespace() {
                tokens.push(Token {
                    text: first.into(),
                    line,
                });
            }
        }
    }
    tokens
}

struct Cursor<'a> {
    rest: &'a str,
    line: usize,
}

impl Cursor<'_> {
    fn skip(&mut self, length: usize) {
        let (skipped, rest) = self.rest.split_at(length);
        self.line += skipped.matches('\n').count();
        self.rest = rest;
    }

    /// Block comments nest.
    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        while let Some(first) = self.rest.chars().next() {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
                if depth == 0 {
                    break;
                }
            } else {
                self.skip(first.len_utf8());
            }
        }
    }

    /// From a quote to the next one that is not escaped.
    fn skip_quoted(&mut self, quote: char) {
        let mut escaped = false;
        let end = self.rest.char_indices().skip(1).find(|&(_, character)| {
            let closes = character == quote && !escaped;
            escaped = character == '\\' && !escaped;
            closes
        });
        self.skip(end.map_or(self.rest.len(), |(index, _)| index + 1));
    }

    /// `'a'` and `'\n'` are characters, `'a` is a lifetime.
    fn skip_character_or_lifetime(&mut self) {
        let mut ahead = self.rest.chars().skip(1);
        if ahead.next() == Some('\\') || ahead.next() == Some('\'') {
            self.skip_quoted('\'');
        } else {
            let name = &self.rest[1..];
            self.skip(
                1 + name
                    .find(|character| !is_word(character))
                    .unwrap_or(name.len()),
            );
        }
    }

    /// Skips the literal that a word is the prefix of: `b"…"`, `c"…"`, `b'…'`, `r"…"`, `br##"…"##`. The `r` of a raw
    /// name (`r#type`) is skipped too, which leaves the name. Tells whether the word was such a prefix.
    fn skip_literal_behind(&mut self, word: &str) -> bool {
        let raw = matches!(word, "r" | "br" | "cr");
        let hashes = self.rest.len() - self.rest.trim_start_matches('#').len();
        if raw && self.rest[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let inside = &self.rest[hashes + 1..];
            self.skip(
                hashes
                    + 1
                    + inside
                        .find(&end)
                        .map_or(inside.len(), |index| index + end.len()),
            );
        } else if word == "r" && hashes == 1 && self.rest[1..].starts_with(is_word) {
            self.skip(1);
        } else if matches!(word, "b" | "c") && self.rest.starts_with('"') {
            self.skip_quoted('"');
        } else if word == "b" && self.rest.starts_with('\'') {
            self.skip_quoted('\'');
        } else {
            return false;
        }
        true
    }
}

// ---- the rules hold what they should ----

mod rules {
    use super::{ROWS, Source, layer_faults, may_use, module_of, paths, tokens, unsafe_faults};

    fn words(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|token| token.text).collect()
    }

    fn found(path: &str, text: &str) -> Vec<String> {
        paths(&Source::new(path, text))
            .into_iter()
            .map(|found| found.path.join("::"))
            .collect()
    }

    fn faults(path: &str, text: &str) -> Vec<String> {
        layer_faults(&Source::new(path, text))
    }

    fn unsafe_in(files: &[(&str, &str)]) -> Vec<String> {
        unsafe_faults(
            &files
                .iter()
                .map(|(path, text)| Source::new(path, text))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = r###"
            // crate::node
            /// crate::node
            /* crate::node /* nested */ crate::node */
            a("crate::node \" crate::node", b"x\\", c"y", r"\", r#"crate::node " "#, br##"x"# y"##);
            b('"', '\'', b'"', '\\', 'é', &'static str, 'a: loop {});
            r#type
        "###;
        let expected = "a ( , , , , , ) ; b ( , , , , , & str , : loop { } ) ; type";
        assert_eq!(words(text).join(" "), expected);
    }

    #[test]
    fn lines_are_counted_through_comments_and_literals() {
        let tokens = tokens("/*\n*/ a \"\n\\\n\" b // c\nd r#\"\n\"# e");
        let lines: Vec<_> = tokens
            .iter()
            .map(|token| (&*token.text, token.line))
            .collect();
        assert_eq!(lines, [("a", 2), ("b", 4), ("d", 5), ("e", 6)]);
    }

    #[test]
    fn a_file_is_a_module() {
        assert_eq!(module_of("lib.rs"), [""; 0]);
        assert_eq!(module_of("action.rs"), ["action"]);
        assert_eq!(module_of("wire/mod.rs"), ["wire"]);
        assert_eq!(module_of("machine/vcpu/run.rs"), ["machine", "vcpu", "run"]);
    }

    #[test]
    fn paths_are_found_in_uses_and_in_expressions() {
        assert_eq!(found("wire/mod.rs", "use crate::model::VM;"), ["model::VM"]);
        assert_eq!(found("wire/mod.rs", "use crate::model as m;"), ["model"]);
        assert_eq!(
            found("wire/mod.rs", "pub(crate) use crate::model::*;"),
            ["model::*"]
        );
        assert_eq!(
            found("wire/mod.rs", "pub(in crate::wire) fn f() {}"),
            ["wire"]
        );
        assert_eq!(
            found(
                "wire/mod.rs",
                "fn f(x: &crate::model::VM<crate::error::E>) { $crate::action::go::<u8>() }"
            ),
            ["model::VM", "error::E", "action::go"]
        );
        assert_eq!(
            found(
                "wire/mod.rs",
                "self.x; self; pub(super) fn f() {} model::crate_name();"
            ),
            [""; 0]
        );
    }

    #[test]
    fn groups_are_taken_apart() {
        let text = "use crate::{\n    self as root,\n    model::{self, vm::{VM, State as S}},\n    node::*,\n    r#error,\n};\nuse {super::client, crate::wire};";
        assert_eq!(
            found("machine/mod.rs", text),
            [
                "",
                "model",
                "model::vm::VM",
                "model::vm::State",
                "node::*",
                "error",
                "client",
                "wire"
            ]
        );
        let lines: Vec<_> = paths(&Source::new("machine/mod.rs", text))
            .iter()
            .map(|found| found.line)
            .collect();
        assert_eq!(lines, [2, 3, 3, 3, 4, 5, 7, 7]);
    }

    #[test]
    fn super_is_resolved_by_the_depth_of_the_file_and_of_modules_within() {
        assert_eq!(found("action.rs", "use super::node::Node;"), ["node::Node"]);
        assert_eq!(
            found("wire/mod.rs", "use super::node::Node;"),
            ["node::Node"]
        );
        assert_eq!(
            found("wire/frame.rs", "use super::limits;"),
            ["wire::limits"]
        );
        assert_eq!(found("wire/frame.rs", "use super::super::node;"), ["node"]);
        assert_eq!(
            found("wire/frame.rs", "use self::super::{super::node, limits};"),
            ["node", "wire::limits"]
        );
        assert_eq!(
            found(
                "wire/frame.rs",
                "mod tests { use super::super::limits; fn f() { super::super::super::node::f() } } use super::a;"
            ),
            ["wire::limits", "node::f", "wire::a"]
        );
        assert_eq!(
            found(
                "wire/mod.rs",
                "mod a { mod b { use super::x; } use super::y; }"
            ),
            ["wire::a::x", "wire::y"]
        );
    }

    #[test]
    fn the_rows_are_those_of_the_house() {
        // Who may use whom, in full: a change of the tables is a change of this picture.
        let house = [
            (
                "client",
                "migration snapshot machine hypervisor guest memory storage transport wire action model error",
            ),
            (
                "node",
                "client migration snapshot machine hypervisor guest memory storage transport wire action model error",
            ),
            (
                "migration",
                "machine hypervisor guest memory storage transport wire action model error",
            ),
            (
                "snapshot",
                "machine hypervisor guest memory storage transport wire action model error",
            ),
            (
                "machine",
                "hypervisor guest memory storage transport wire action model error",
            ),
            ("hypervisor", "guest memory wire action model error"),
            ("guest", "memory wire action model error"),
            ("memory", "wire action model error"),
            ("storage", "wire action model error"),
            ("transport", "wire action model error"),
            ("wire", "action model error"),
            ("action", "model error"),
            ("model", "error"),
            ("error", ""),
        ];
        assert_eq!(house.len(), ROWS.len());
        for (from, below) in house {
            let used: Vec<&str> = ROWS
                .iter()
                .map(|(to, _)| *to)
                .filter(|to| may_use(from, to))
                .collect();
            assert_eq!(used.join(" "), below, "{from}");
        }
    }

    #[test]
    fn an_import_upwards_or_sideways_is_caught() {
        for (path, text) in [
            ("wire/frame.rs", "use crate::node::Node;"),
            ("wire/frame.rs", "use super::super::node::Node;"),
            (
                "wire/frame.rs",
                "#[cfg(test)] mod tests { use crate::{model, transport::Pair}; }",
            ),
            ("model/vm.rs", "fn f() -> crate::wire::Frame { todo() }"),
            ("error.rs", "use crate::model::VMState;"),
            ("error.rs", "use super::model::VMState;"),
            (
                "client/mod.rs",
                "use crate::{\n    model::VM,\n    node,\n};",
            ),
            ("memory/dirty.rs", "use crate::hypervisor::Slot;"),
            ("transport/tcp.rs", "use crate::memory::Region;"),
            ("guest/mod.rs", "use crate::machine::Boot;"),
            ("migration/source.rs", "use crate::snapshot::Section;"),
        ] {
            let faults = faults(path, text);
            assert_eq!(faults.len(), 1, "{path}: {text}: {faults:?}");
            assert!(
                faults[0].contains("must not use") && faults[0].starts_with(path),
                "{faults:?}"
            );
        }
        assert!(
            faults(
                "client/mod.rs",
                "use crate::{\n    model::VM,\n    node,\n};"
            )[0]
            .starts_with("client/mod.rs:3:")
        );
    }

    #[test]
    fn an_import_downwards_or_at_home_is_not() {
        for (path, text) in [
            (
                "wire/frame.rs",
                "use crate::{model::VM, error::DWCPError, action, wire::limits};",
            ),
            (
                "wire/frame.rs",
                "// use crate::node;\nconst A: &str = \"crate::node\";",
            ),
            ("node/mod.rs", "use crate::client::Client;"),
            ("machine/boot.rs", "use crate::guest::IMAGE;"),
            ("hypervisor/kvm/mod.rs", "use crate::memory::GuestMemory;"),
            (
                "model/vm.rs",
                "use crate::error::DWCPError; use super::state; use super::super::error;",
            ),
            (
                "lib.rs",
                "pub use crate::node::Node; pub use client::Client; use crate::anything;",
            ),
        ] {
            assert_eq!(faults(path, text), [""; 0], "{path}: {text}");
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_named() {
        assert!(faults("helpers.rs", "")[0].contains("`helpers` is not in the table"));
        assert!(faults("wire/mod.rs", "use crate::helpers::x;")[0].contains("add it to ROWS"));
        assert!(faults("wire/mod.rs", "use crate::VMConfig;")[0].contains("by its module"));
        for text in [
            "use crate::*;",
            "use crate as dwcp;",
            "use super::*;",
            "use crate::{self as dwcp};",
        ] {
            assert!(
                faults("wire/mod.rs", text)[0].contains("whole crate"),
                "{text}"
            );
        }
    }

    const FORBID: &str = "//! Doc.\n#![forbid(unsafe_code)]\nfn f() {}";

    #[test]
    fn a_module_outside_the_homes_forbids_unsafe_code() {
        assert_eq!(unsafe_in(&[("action.rs", FORBID)]), [""; 0]);
        assert_eq!(
            unsafe_in(&[("wire/mod.rs", FORBID), ("wire/frame.rs", "fn f() {}")]),
            [""; 0]
        );
        assert_eq!(
            unsafe_in(&[(
                "wire/mod.rs",
                "#![allow(x)]\n#![forbid(y, unsafe_code)]\nfn f() {}"
            )]),
            [""; 0]
        );
        for text in [
            "fn f() {}",
            "// #![forbid(unsafe_code)]\nfn f() {}",
            "#![deny(unsafe_code)]\nfn f() {}",
            "#![forbid(missing_docs)]\nfn f() {}",
            "mod inner { #![forbid(unsafe_code)] }",
            "#[forbid(unsafe_code)]\nfn f() {}",
        ] {
            assert_eq!(unsafe_in(&[("wire/mod.rs", text)]).len(), 1, "{text}");
        }
        assert_eq!(
            unsafe_in(&[("wire/mod.rs", "fn f() {}"), ("wire/frame.rs", FORBID)]).len(),
            1
        );
    }

    #[test]
    fn the_parts_beside_a_home_forbid_it_each() {
        let home = [
            ("hypervisor/mod.rs", "mod kvm; mod sim;"),
            ("hypervisor/kvm/mod.rs", "fn f() { unsafe {} }"),
            ("hypervisor/kvm/slots.rs", "fn f() { unsafe {} }"),
        ];
        assert_eq!(unsafe_in(&home), [""; 0]);
        for part in [
            "hypervisor/sim.rs",
            "hypervisor/sim/mod.rs",
            "hypervisor/kvm_clock.rs",
        ] {
            assert_eq!(
                unsafe_in(&[home[0], (part, "fn f() {}")]).len(),
                1,
                "{part}"
            );
            assert_eq!(unsafe_in(&[home[0], (part, FORBID)]), [""; 0], "{part}");
        }
        assert_eq!(
            unsafe_in(&[("hypervisor/mod.rs", "fn f() { unsafe {} }")]).len(),
            1
        );
    }

    #[test]
    fn unsafe_code_is_seen_outside_the_homes_only() {
        for path in [
            "memory/mod.rs",
            "memory/map.rs",
            "guest/mod.rs",
            "machine/vcpu.rs",
            "transport/unix.rs",
        ] {
            assert_eq!(unsafe_in(&[(path, "unsafe fn f() {}")]), [""; 0], "{path}");
        }
        for path in [
            "lib.rs",
            "wire/mod.rs",
            "machine/mod.rs",
            "machine/boot.rs",
            "transport/tcp.rs",
        ] {
            let faults = unsafe_in(&[(
                path,
                "#![forbid(unsafe_code)]\n#[unsafe(no_mangle)] fn f() {}",
            )]);
            assert_eq!(faults, [format!("{path}:2: unsafe code outside its homes")]);
        }
        assert_eq!(
            unsafe_in(&[(
                "action.rs",
                "#![forbid(unsafe_code)] // unsafe\nconst A: &str = \"unsafe\";"
            )]),
            [""; 0]
        );
    }
}
