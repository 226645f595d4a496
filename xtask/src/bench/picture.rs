//! The picture of a measurement of migrations: the p50 of the totals and of the downtimes as bars, in groups by load.
//!
//! It is drawn from the same report as the table, and readable on light and dark pages. What has no figures stands
//! there with the reason. Nothing in it names the host but what bears on figures.

use std::{fmt::Write, path::Path};

use serde_json::Value;

/// Width of the picture, and of what surrounds it.
const WIDTH: u32 = 960;
const MARGIN: u32 = 20;
/// From one bar to the next, and how thick a bar is.
const STEP: u32 = 20;
const BAR: u32 = 13;
/// Where the columns begin, and how long their longest bar is.
const COLUMNS: [(&str, &str, u32); 2] = [
    ("total-ms", "total, ms", 140),
    (
        "downtime-seen-ms",
        "longest silence of the guest's heartbeat, ms",
        560,
    ),
];
const LONGEST: u32 = 300;
/// The most letters of a reason: what fits into a column.
const REASON: usize = 48;

const STYLE: &str = "\
text{font:12px system-ui,sans-serif;fill:#1f2328}\
.page{fill:#ffffff}.head{font-weight:600}.small{font-size:11px;fill:#59636e}.none{font-style:italic;fill:#59636e}\
.dwcp{fill:#1f6feb}.qemu{fill:#d4813a}.raw{fill:#8c959f}.spread{stroke:#1f2328;stroke-width:1}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.small,.none{fill:#9198a1}\
.spread{stroke:#e6edf3}}";

/// Writes the picture of a report, and the folders it stands in.
///
/// # Errors
///
/// When the report has no rows to draw, or it cannot be written.
pub(super) fn write(report: &Value, path: &Path) -> Result<(), String> {
    let picture = draw(report)?;
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(path, picture).map_err(failed)
}

/// One line of the picture: a case, and its cell in each column.
struct Line<'r> {
    load: &'r str,
    engine: &'r str,
    mode: &'r str,
    cells: [Option<&'r Value>; COLUMNS.len()],
}

/// The lines, in the order of the rows. The guest of `raw` stays where it is, and has no downtime.
fn lines(report: &Value) -> Vec<Line<'_>> {
    let mut lines: Vec<Line> = Vec::new();
    for row in report["rows"].as_array().into_iter().flatten() {
        let parts: Vec<&str> = row["name"]
            .as_str()
            .unwrap_or_default()
            .split('/')
            .collect();
        let [engine, load, mode, figure] = parts[..] else {
            continue;
        };
        let column = COLUMNS.iter().position(|(name, ..)| *name == figure);
        let Some(column) = column.filter(|column| *column == 0 || engine != "raw") else {
            continue;
        };
        let known = lines
            .iter()
            .position(|line| (line.engine, line.load, line.mode) == (engine, load, mode));
        let index = known.unwrap_or_else(|| {
            lines.push(Line {
                load,
                engine,
                mode,
                cells: [None; COLUMNS.len()],
            });
            lines.len() - 1
        });
        lines[index].cells[column] = Some(row);
    }
    // Within a load by engine: the rows are in the order of the turns.
    let place = |line: &Line| {
        let first = |of: fn(&Line) -> String| {
            let mut all = report["rows"].as_array().into_iter().flatten();
            let wanted = of(line);
            all.position(|row| {
                row["name"]
                    .as_str()
                    .is_some_and(|name| name.contains(&wanted))
            })
        };
        let load = first(|line| format!("/{}/", line.load));
        let engine = first(|line| format!("{}/", line.engine));
        (load, engine)
    };
    lines.sort_by_key(place);
    lines
}

fn draw(report: &Value) -> Result<String, String> {
    let lines = lines(report);
    if lines.is_empty() {
        return Err("there is nothing to draw: the report has no totals".into());
    }
    let mut body = String::new();
    let mut y = MARGIN + STEP;
    for (_, heading, x) in COLUMNS {
        text(&mut body, x, y, "head", heading);
    }
    for group in lines.chunk_by(|one, other| one.load == other.load) {
        y += STEP + STEP / 2;
        let load = group[0].load;
        let what = report["setting"]["loads"][load].as_str();
        let heading = what.map_or_else(|| load.to_owned(), |what| format!("{load}: {what}"));
        text(&mut body, MARGIN, y, "head", &heading);
        for line in group {
            y += STEP;
            let label = format!("{} {}", line.engine, line.mode);
            text(&mut body, MARGIN, y, "", &label);
            for (column, (_, _, x)) in COLUMNS.iter().enumerate() {
                let greatest = group
                    .iter()
                    .filter_map(|line| line.cells[column]?["max"].as_f64())
                    .fold(f64::MIN_POSITIVE, f64::max);
                if let Some(row) = line.cells[column] {
                    cell(&mut body, *x, y, line.engine, row, greatest);
                }
            }
        }
    }
    y += STEP / 2;
    for line in caption(report) {
        y += STEP;
        text(&mut body, MARGIN, y, "small", &line);
    }
    let height = y + MARGIN;
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>How long it takes to move a running VM</title>\n\
         <style>{STYLE}</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n{body}</svg>\n"
    ))
}

/// A bar with its figure behind it and a line from the least to the greatest; or why there is none.
fn cell(body: &mut String, x: u32, y: u32, engine: &str, row: &Value, greatest: f64) {
    let length = |name: &str| {
        let figure = row[name].as_f64()?;
        Some(figure / greatest * f64::from(LONGEST))
    };
    let (Some(p50), Some(min), Some(max)) = (length("p50"), length("min"), length("max")) else {
        let note = row["note"].as_str().unwrap_or("not measured");
        text(body, x, y, "none", &shortened(note));
        return;
    };
    let (left, top) = (f64::from(x), y - BAR + 2);
    let middle = top + BAR / 2;
    // Writing to a text cannot fail.
    let _ = writeln!(
        body,
        "<rect class=\"{}\" x=\"{x}\" y=\"{top}\" width=\"{p50:.1}\" height=\"{BAR}\"/>\n\
         <line class=\"spread\" x1=\"{:.1}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\"/>",
        escaped(engine),
        left + min,
        left + max,
    );
    let figure = row["p50"].as_f64().unwrap_or_default();
    let digits = usize::from(figure < 100.0);
    let failed = row["note"].as_str().map(shortened).unwrap_or_default();
    // As above.
    let _ = writeln!(
        body,
        "<text x=\"{:.1}\" y=\"{y}\">{figure:.digits$} <tspan class=\"none\">{}</tspan></text>",
        left + max + 6.0,
        escaped(&failed)
    );
}

/// What it was measured on and with.
fn caption(report: &Value) -> [String; 3] {
    let (host, setting) = (&report["host"], &report["setting"]);
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    };
    let runs = report["rows"].as_array().into_iter().flatten();
    let runs = runs.filter_map(|row| row["runs"].as_u64()).max();
    let qemu = setting["qemu"].as_str();
    let qemu = qemu.map_or_else(String::new, |version| format!(", QEMU {version}"));
    let commit: String = word(&report["commit"]).chars().take(12).collect();
    [
        format!(
            "The p50, with a line from the least to the greatest; runs of each: {}. Each group has scales of its own. \
             raw: the filled memory, copied beside such a guest.",
            runs.unwrap_or_default()
        ),
        format!(
            "A guest with {} MiB, of which it fills {} MiB, and one vCPU that is always busy; source, target and \
             guest share the host.",
            word(&setting["memory_mib"]),
            word(&setting["filled_mib"]),
        ),
        format!(
            "{} cores ({}), {} MiB, Linux {}, {}{qemu}; {}, {commit}",
            word(&host["cores"]),
            word(&host["cpu"]),
            word(&host["memory_mib"]),
            word(&host["kernel"]),
            word(&setting["backend"]),
            word(&report["date"]),
        ),
    ]
}

/// A reason that fits into a column. What is not built says no more than that.
fn shortened(note: &str) -> String {
    if note.starts_with("unsupported") {
        return "unsupported".to_owned();
    }
    if note.chars().count() <= REASON {
        return note.to_owned();
    }
    let start: String = note.chars().take(REASON - 1).collect();
    format!("{start}…")
}

fn text(body: &mut String, x: u32, y: u32, class: &str, words: &str) {
    // As above.
    let _ = writeln!(
        body,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>",
        escaped(words)
    );
}

/// Text as it may stand between tags, and within quotes.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{draw, shortened};

    fn row(name: &str, p50: f64) -> Value {
        json!({"name": name, "unit": "ms", "runs": 5, "min": p50 * 0.9, "p50": p50, "max": p50 * 1.1})
    }

    fn report() -> Value {
        json!({
            "commit": "0123456789abcdef",
            "date": "2024-02-29",
            "host": {"cpu": "A <fast> \"one\" & more", "cores": 2, "memory_mib": 24105, "kernel": "6.1", "kvm": true},
            "setting": {
                "backend": "kvm", "qemu": "7.2.22", "memory_mib": 2048, "filled_mib": 1024,
                "loads": {"idle": "1 MiB at 10 pages/s"},
            },
            "rows": [
                row("dwcp/idle/precopy/total-ms", 800.0),
                row("dwcp/idle/precopy/downtime-seen-ms", 4.25),
                row("dwcp/idle/precopy/dirty-achieved", 77_777.0),
                row("qemu/idle/precopy/total-ms", 2400.0),
                row("raw/idle/precopy/total-ms", 650.0),
                row("raw/idle/precopy/downtime-seen-ms", 55_555.0),
                row("dwcp/idle/parallel/total-ms", 700.0),
                {
                    "name": "dwcp/idle/same-host/total-ms", "unit": "ms", "runs": 0, "min": null, "p50": null,
                    "max": null, "note": "unsupported: same_host, which is not built yet",
                },
                {
                    "name": "dwcp/256m-1m/precopy/total-ms", "unit": "ms", "runs": 4, "min": 2900.0, "p50": 3000.0,
                    "max": 3100.0, "note": "1 of 5 runs: not over after 60 s",
                },
            ],
        })
    }

    /// The names of all elements in the order they begin; fails where one is not closed, or closed by another.
    fn elements(svg: &str) -> Vec<String> {
        let (mut all, mut open) = (Vec::new(), Vec::new());
        let mut rest = svg;
        while let Some(start) = rest.find('<') {
            assert!(
                !rest[..start].contains('>'),
                "a stray > before {}",
                &rest[start..]
            );
            let end = start + rest[start..].find('>').unwrap();
            let tag = &rest[start + 1..end];
            assert!(!tag.contains('<'), "{tag}");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            let name = tag.trim_matches('/').split_whitespace().next().unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
            } else {
                all.push(name.to_owned());
                if !tag.ends_with('/') {
                    open.push(name.to_owned());
                }
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty(), "still open: {open:?}");
        assert_eq!(rest.trim(), "");
        all
    }

    #[test]
    fn every_element_is_closed_and_every_figure_has_a_bar() {
        let svg = draw(&report()).unwrap();
        let elements = elements(&svg);
        assert_eq!(elements[0], "svg");
        let bars = elements.iter().filter(|name| *name == "rect").count();
        // Five totals, one downtime, and the page.
        assert_eq!(bars, 7, "{svg}");
    }

    #[test]
    fn the_figures_and_what_they_come_from_are_there() {
        let svg = draw(&report()).unwrap();
        for part in [
            ">800 <",
            ">4.2 <",
            ">2400 <",
            ">1 of 5 runs: not over after 60 s</tspan>",
            ">dwcp same-host</text>",
            ">unsupported</text>",
            ">idle: 1 MiB at 10 pages/s</text>",
            ">256m-1m</text>",
            "runs of each: 5.",
            "2 cores (A &lt;fast&gt; &quot;one&quot; &amp; more), 24105 MiB, Linux 6.1, kvm, QEMU 7.2.22; 2024-02-29, 0123456789ab<",
            "prefers-color-scheme:dark",
        ] {
            assert!(svg.contains(part), "{part:?} is not in\n{svg}");
        }
        // What is no time, and the silence of a guest that stays.
        for part in ["77777", "55555"] {
            assert!(!svg.contains(part), "{part:?} is in\n{svg}");
        }
    }

    #[test]
    fn an_engine_s_modes_stand_together() {
        let svg = draw(&report()).unwrap();
        let place = |label: &str| svg.find(&format!(">{label}</text>")).unwrap();
        assert!(place("dwcp precopy") < place("dwcp parallel"));
        assert!(place("dwcp same-host") < place("qemu precopy"));
        assert!(place("qemu precopy") < place("raw precopy"));
    }

    #[test]
    fn a_report_without_totals_is_not_drawn() {
        let mut report = report();
        report["rows"] = json!([row("raw/seq", 1.0)]);
        assert!(draw(&report).unwrap_err().contains("no totals"));
    }

    #[test]
    fn a_long_reason_is_cut() {
        assert_eq!(shortened("not over after 60 s"), "not over after 60 s");
        let cut = shortened(&"a reason ".repeat(20));
        assert_eq!(cut.chars().count(), super::REASON);
        assert!(cut.ends_with('…'));
    }
}
