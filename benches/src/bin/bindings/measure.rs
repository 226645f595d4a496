//! Whose turn it is, and what comes of it.

use dwcp_benches::{
    Failure,
    figures::Samples,
    report::{Bound, Report},
};
use serde_json::{Map, Value};

use crate::programs::{MISSING, PROGRAM, Program, Work};

/// Runs, where nothing else is asked.
const RUNS: u32 = 10;
/// What each language does in a run.
const WORKS: [Work; 5] = [
    Work {
        name: "seq",
        count: 2_000,
        block: 100,
    },
    Work {
        name: "500",
        count: 5_000,
        block: 500,
    },
    Work {
        name: "stream-item",
        count: 4_000,
        block: 1_000,
    },
    Work {
        name: "seq-whole",
        count: 1_000,
        block: 100,
    },
    Work {
        name: "stream-item-whole",
        count: 2_000,
        block: 1_000,
    },
];
/// Events that a node keeps: more than any work makes, so that none is lost.
const EVENTS: u32 = 10_000;
/// What a language may take beyond Rust, in microseconds: for `seq`, `500` and `stream-item`.
const GOALS: [(&str, [f64; 3]); 3] = [
    ("python", [35.0, 8.0, 2.0]),
    ("node", [25.0, 8.0, 2.0]),
    ("go", [30.0, 3.0, 2.0]),
];
/// The language that the others are compared with.
const BASE: &str = "rust";

/// A language, and what was measured of it: one for each of [`WORKS`].
struct Entry {
    program: Program,
    samples: [Samples; WORKS.len()],
}

impl Entry {
    fn new(program: Program) -> Entry {
        let samples =
            WORKS.map(|work| Samples::new(format!("{}/{}", program.language, work.name), "us"));
        Entry { program, samples }
    }
}

/// Measures, and prints the report. `words` are the programs, and the languages that have none.
pub(crate) fn run(runs: Option<u32>, words: &[(&str, String)]) -> Result<(), Failure> {
    let runs = runs.unwrap_or(RUNS);
    let mut report = Report::new("bindings");
    let mut entries = vec![Entry::new(Program::rust(EVENTS)?)];
    for (word, value) in words {
        let (language, what) = value
            .split_once('=')
            .ok_or_else(|| format!("{word} takes LANGUAGE=…, not '{value}'"))?;
        match *word {
            PROGRAM => entries.push(Entry::new(Program::of(language, what, EVENTS)?)),
            MISSING => report.notes.push(format!("{language} is missing: {what}")),
            other => return Err(format!("{other} is not known").into()),
        }
    }
    eprintln!("bindings: warming up");
    for entry in &mut entries {
        for work in &WORKS {
            entry.program.run(work)?;
        }
    }
    for run in 0..runs {
        eprintln!("bindings: run {} of {runs}", run + 1);
        // Each run begins with another, so that nobody always follows the same.
        entries.rotate_left(1);
        for (index, work) in WORKS.iter().enumerate() {
            for entry in &mut entries {
                let times = entry.program.run(work)?;
                entry.samples[index].add_run(times);
            }
        }
    }
    let turns = runs as usize % entries.len();
    entries.rotate_right(turns);
    for index in 0..WORKS.len() {
        for entry in &entries {
            report.add(&entry.samples[index]);
        }
    }
    judge(&mut report, &entries);
    let version = |entry: &Entry| {
        let program = &entry.program;
        (program.language.clone(), program.version.clone().into())
    };
    let versions: Map<String, Value> = entries.iter().skip(1).map(version).collect();
    report.set("versions", versions);
    report.set("backend", "sim");
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Compares each language with Rust, and looks at the goals.
fn judge(report: &mut Report, entries: &[Entry]) {
    for work in &WORKS {
        for entry in entries {
            let language = &entry.program.language;
            if language != BASE {
                let name = work.name;
                report.compare(&format!("{language}/{name}"), &format!("{BASE}/{name}"));
            }
        }
    }
    for (language, bounds) in GOALS {
        for (work, most) in WORKS.iter().zip(bounds) {
            let (row, base) = (
                format!("{language}/{}", work.name),
                format!("{BASE}/{}", work.name),
            );
            let beyond = report.p50(&row).zip(report.p50(&base));
            let beyond = beyond.map(|(row, base)| row - base);
            report.goal(
                format!("p50 of {row} beyond {base}, us"),
                Bound::AtMost(most),
                beyond,
            );
        }
    }
}
