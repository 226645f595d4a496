//! Whose turn it is, and what comes of it.

use std::time::Instant;

use dwcp_benches::{
    Failure,
    report::{Bound, Report},
};
use serde_json::{Map, Value, json};

use crate::{
    cases::{
        self, BEAT_HZ, CONNECTIONS, Case, DOWNTIME_MS, Engine, LOADS, Load, Mode, Sizes, TIMEOUT_S,
    },
    ours,
    outcome::{Entry, Outcome},
    qemu, raw,
};

/// The words of its own: the example's program, the peer's, why that is missing, what of the cases is asked for, and
/// the size of the guest.
pub(crate) const WORDS: &[&str] = &[EXAMPLE, PEER_QEMU, MISSING, "--only", "--memory", "--fill"];
const EXAMPLE: &str = "--example";
const PEER_QEMU: &str = "--peer-qemu";
const MISSING: &str = "--missing";

/// Runs, where nothing else is asked.
const RUNS: u32 = 5;
/// The load that the goals of pre-copy and post-copy are set for.
const GOAL_LOAD: &str = "64m-100k";

/// What was asked.
#[derive(Default)]
struct Request {
    example: String,
    peer_qemu: Option<String>,
    missing: Vec<String>,
    only: Vec<String>,
    sizes: Sizes,
}

/// Measures, and prints the report.
pub(crate) fn run(runs: Option<u32>, words: &[(&str, String)]) -> Result<(), Failure> {
    let runs = runs.unwrap_or(RUNS);
    let request = read(words)?;
    let only: Vec<&str> = request.only.iter().map(String::as_str).collect();
    let mut selected = cases::select(&only)?;
    let mut report = Report::new("migration");
    if request.peer_qemu.is_none() && selected.iter().any(|case| case.engine == Engine::Qemu) {
        selected.retain(|case| case.engine != Engine::Qemu);
        let mut missing = request.missing.iter().cloned();
        let note = missing.next_back().unwrap_or_else(|| {
            "qemu is missing: name its script with --peer-qemu SCRIPT".to_owned()
        });
        if selected.is_empty() {
            return Err(note.into());
        }
        report.notes.push(note);
    }
    if ours::backend() == "sim" {
        let note =
            "no usable /dev/kvm: the VMs are simulated, and the figures are the simulation's";
        report.notes.push(note.to_owned());
    }
    let mut entries: Vec<Entry> = selected.iter().copied().map(Entry::new).collect();

    // Memory that the host has never touched costs more at its first use, whoever comes first.
    for engine in [Engine::Dwcp, Engine::Qemu, Engine::Raw] {
        if let Some(case) = selected.iter().find(|case| case.engine == engine) {
            eprintln!("migration: warming up: {case}");
            turn(*case, &request)?;
        }
    }
    for run in 0..runs {
        // Each run begins with another, so that nobody always follows the same.
        entries.rotate_left(1);
        for entry in entries.iter_mut().filter(|entry| !entry.is_unsupported) {
            let began = Instant::now();
            let outcome = turn(entry.case, &request)?;
            let took = began.elapsed().as_secs_f64();
            let (case, words) = (entry.case, words_for(&outcome));
            eprintln!(
                "migration: run {} of {runs}: {case}: {words} ({took:.1} s in all)",
                run + 1
            );
            entry.add(outcome);
        }
    }
    let turns = runs as usize % entries.len().max(1);
    entries.rotate_right(turns);
    for samples in entries.iter().flat_map(Entry::samples) {
        report.add(samples);
    }
    judge(&mut report, &selected);
    describe(&mut report, &request, &selected);
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Understands the words.
fn read(words: &[(&str, String)]) -> Result<Request, Failure> {
    let mut request = Request::default();
    for (word, value) in words {
        match *word {
            EXAMPLE => request.example.clone_from(value),
            PEER_QEMU => request.peer_qemu = Some(value.clone()),
            MISSING => request.missing.push(value.clone()),
            "--only" => request.only.push(value.clone()),
            "--memory" => request.sizes.memory = cases::size(word, value)?,
            "--fill" => request.sizes.fill = cases::size(word, value)?,
            other => return Err(format!("{other} is not known").into()),
        }
    }
    if request.example.is_empty() {
        return Err(format!("{EXAMPLE} must name the program of live_migration").into());
    }
    Ok(request)
}

/// One run of one case.
fn turn(case: Case, request: &Request) -> Result<Outcome, Failure> {
    match (case.engine, &request.peer_qemu) {
        (Engine::Dwcp, _) => ours::run(&request.example, case, request.sizes),
        (Engine::Raw, _) => raw::run(case, request.sizes),
        (Engine::Qemu, Some(script)) => qemu::run(script, case, request.sizes),
        (Engine::Qemu, None) => Err("there is no script for QEMU".into()),
    }
}

/// An outcome for who watches.
fn words_for(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Measured(figures) => {
            let silence = figures.downtime_seen_ms.map_or_else(
                || "no heartbeat".to_owned(),
                |silence| format!("silent for {silence:.1} ms"),
            );
            format!("{:.0} ms, {silence}", figures.total_ms)
        }
        Outcome::Failed(why) => format!("failed: {why}"),
        Outcome::Unsupported(why) => why.clone(),
    }
}

/// Compares the rows of what was selected, and looks at the goals.
fn judge(report: &mut Report, selected: &[Case]) {
    let is_selected = |engine, load, mode| selected.contains(&Case { engine, load, mode });
    for load in LOADS {
        let ours = [Mode::Precopy, Mode::Parallel]
            .into_iter()
            .filter(|mode| is_selected(Engine::Dwcp, load, *mode));
        let ours: Vec<Mode> = ours.collect();
        let peer = best_precopy(report, Engine::Qemu, load);
        for mode in &ours {
            let row = name(Engine::Dwcp, load, *mode, "total-ms");
            if let Some((peer, _)) = &peer {
                report.compare(&row, peer);
            }
            let rate = |engine| name(engine, load, *mode, "first-round-mb-s");
            report.compare(&rate(Engine::Dwcp), &rate(Engine::Raw));
        }
        for mode in [Mode::Postcopy, Mode::SameHost] {
            if is_selected(Engine::Dwcp, load, mode) {
                judge_downtime(report, load, mode);
            }
        }
        if load.name != GOAL_LOAD || ours.is_empty() {
            continue;
        }
        let best = best_precopy(report, Engine::Dwcp, load).zip(peer);
        let ratio = best.map(|((_, ours), (_, peer))| ours / peer);
        report.goal(
            format!(
                "p50 of total-ms, best pre-copy, by that of qemu, {}",
                load.name
            ),
            Bound::AtMost(0.4),
            ratio,
        );
        for mode in &ours {
            let rate = |engine| report.p50(&name(engine, load, *mode, "first-round-mb-s"));
            let share = rate(Engine::Dwcp).zip(rate(Engine::Raw));
            let share = share.map(|(ours, raw)| ours / raw);
            let row = name(Engine::Dwcp, load, *mode, "first-round-mb-s");
            report.goal(
                format!("p50 of {row} by that of raw"),
                Bound::AtLeast(0.6),
                share,
            );
            judge_downtime(report, load, *mode);
        }
    }
}

/// The goal of a downtime, where there is one: of what hands memory over it is the same whatever the guest does.
fn judge_downtime(report: &mut Report, load: Load, mode: Mode) {
    let most = match mode {
        Mode::SameHost => 3.0,
        Mode::Postcopy if load.name == GOAL_LOAD => 5.0,
        Mode::Precopy | Mode::Parallel if load.name == GOAL_LOAD => 8.0,
        _ => return,
    };
    let row = name(Engine::Dwcp, load, mode, "downtime-seen-ms");
    let value = report.p50(&row);
    report.goal(format!("p50 of {row}"), Bound::AtMost(most), value);
}

/// The name of a row.
fn name(engine: Engine, load: Load, mode: Mode, figure: &str) -> String {
    format!("{}/{figure}", Case { engine, load, mode })
}

/// The row of the total of whichever pre-copy was faster, and its p50.
fn best_precopy(report: &Report, engine: Engine, load: Load) -> Option<(String, f64)> {
    let rows = [Mode::Precopy, Mode::Parallel]
        .into_iter()
        .filter_map(|mode| {
            let row = name(engine, load, mode, "total-ms");
            let p50 = report.p50(&row)?;
            Some((row, p50))
        });
    rows.min_by(|one, other| one.1.total_cmp(&other.1))
}

/// Says what it was measured with.
fn describe(report: &mut Report, request: &Request, selected: &[Case]) {
    let sizes = request.sizes;
    report.set("backend", ours::backend());
    if let Some(version) = qemu::version().filter(|_| request.peer_qemu.is_some()) {
        report.set("qemu", version);
    }
    report.set("memory_mib", sizes.memory >> 20);
    report.set("filled_mib", sizes.fill >> 20);
    let loads = LOADS.into_iter().map(|load| {
        let set = sizes.working_set(load) >> 20;
        let words = format!("{set} MiB at {} pages/s", load.rate);
        (load.name.to_owned(), words.into())
    });
    report.set("loads", loads.collect::<Map<String, Value>>());
    report.set(
        "guest",
        json!({"vcpus": 1, "spins": true, "beats_per_second": BEAT_HZ}),
    );
    report.set("downtime_limit_ms", DOWNTIME_MS);
    report.set("time_limit_s", TIMEOUT_S);
    report.set("connections_of_parallel", CONNECTIONS);
    if selected.iter().any(|case| case.engine == Engine::Qemu) {
        let note =
            "QEMU's script tells neither the rate of a round nor what its guest wrote: no rows";
        report.notes.push(note.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use dwcp_benches::figures::Samples;

    use super::{Engine, LOADS, Report, best_precopy, cases, judge, read};

    const SIZES: [(&str, &str); 3] = [
        ("--example", "/x"),
        ("--memory", "128MiB"),
        ("--fill", "64M"),
    ];

    fn report(rows: &[(&str, f64)]) -> Report {
        let mut report = Report::new("migration");
        for (name, value) in rows {
            let mut samples = Samples::new(*name, "ms");
            samples.add_run([*value]);
            report.add(&samples);
        }
        report
    }

    #[test]
    fn the_words_are_understood() {
        let words = SIZES.map(|(word, value)| (word, value.to_owned()));
        let request = read(&words).unwrap();
        assert_eq!(request.example, "/x");
        assert_eq!(request.sizes.memory, 128 << 20);
        assert_eq!(request.sizes.fill, 64 << 20);
        assert!(read(&words[1..]).is_err());
        assert!(read(&[("--fill", "little".to_owned())]).is_err());
    }

    #[test]
    fn the_best_of_the_peer_is_compared_with() {
        let mut report = report(&[
            ("dwcp/64m-100k/precopy/total-ms", 900.0),
            ("dwcp/64m-100k/parallel/total-ms", 800.0),
            ("qemu/64m-100k/precopy/total-ms", 2500.0),
            ("qemu/64m-100k/parallel/total-ms", 2000.0),
            // Faster, and no pre-copy.
            ("qemu/64m-100k/postcopy/total-ms", 1400.0),
            ("dwcp/64m-100k/precopy/first-round-mb-s", 1300.0),
            ("raw/64m-100k/precopy/first-round-mb-s", 2000.0),
        ]);
        let best = best_precopy(&report, Engine::Qemu, LOADS[1]);
        assert_eq!(
            best,
            Some(("qemu/64m-100k/parallel/total-ms".into(), 2000.0))
        );
        judge(&mut report, &cases::select(&[]).unwrap());
        let value = |name: &str| {
            let goal = report.goals.iter().find(|goal| goal.name.starts_with(name));
            let goal = goal.unwrap_or_else(|| panic!("{name} in {:?}", report.goals));
            (goal.value, goal.met)
        };
        assert_eq!(value("p50 of total-ms"), (Some(0.4), true));
        assert_eq!(
            value("p50 of dwcp/64m-100k/precopy/first-round-mb-s"),
            (Some(0.65), true)
        );
        let missing = value("p50 of dwcp/64m-100k/parallel/first-round-mb-s");
        assert_eq!(missing, (None, false));
        assert_eq!(value("p50 of dwcp/idle/same-host"), (None, false));
        let ratio = report
            .ratios
            .iter()
            .find(|ratio| ratio.of.contains("precopy/total"));
        assert_eq!(ratio.map(|ratio| ratio.value), Some(0.45));
    }

    #[test]
    fn what_was_not_selected_has_no_goal() {
        let mut report = report(&[]);
        judge(
            &mut report,
            &cases::select(&["raw/", "dwcp/idle/precopy"]).unwrap(),
        );
        assert!(report.goals.is_empty(), "{:?}", report.goals);
    }
}
