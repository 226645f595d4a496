//! The report of a measurement, for people.

use serde_json::Value;

use crate::table::Table;

/// A report as tables: the host, the rows, how they compare, and the goals.
///
/// # Errors
///
/// When a part that every report has is missing, by its name.
pub(super) fn text(report: &Value) -> Result<String, String> {
    let mut text = heading(report)?;
    for block in [rows(report)?, ratios(report)?, goals(report)?]
        .into_iter()
        .flatten()
    {
        text.push('\n');
        text.push_str(&block);
    }
    let notes = report["notes"].as_array().into_iter().flatten();
    for (number, note) in notes.filter_map(Value::as_str).enumerate() {
        if number == 0 {
            text.push('\n');
        }
        text.push_str(&format!("note: {note}\n"));
    }
    Ok(text)
}

fn heading(report: &Value) -> Result<String, String> {
    let host = &report["host"];
    let kvm = match host["kvm"].as_bool() {
        Some(true) => "KVM",
        Some(false) => "no KVM",
        None => return Err("the report has no host.kvm".into()),
    };
    let cores = host["cores"]
        .as_u64()
        .ok_or("the report has no host.cores")?;
    let mut text = format!(
        "{} at {}",
        string(report, "bench")?,
        string(report, "commit")?
    );
    if let Some(date) = report["date"].as_str() {
        text.push_str(&format!(", {date}"));
    }
    text.push_str(&format!("\n{}, {cores} cores", string(host, "cpu")?));
    if let Some(memory) = host["memory_mib"].as_u64() {
        text.push_str(&format!(", {memory} MiB"));
    }
    text.push_str(&format!(", Linux {}, {kvm}", string(host, "kernel")?));
    if let Some(load) = host["load"].as_f64() {
        text.push_str(&format!(", load {load}"));
    }
    text.push('\n');
    for (name, value) in report["setting"].as_object().into_iter().flatten() {
        text.push_str(&format!("{}: {}\n", name.replace('_', " "), plain(value)));
    }
    Ok(text)
}

fn rows(report: &Value) -> Result<Option<String>, String> {
    let mut table = Table::new(&["row", "unit", "runs", "min", "p50", "p99", "max", "note"]);
    for column in 2..=6 {
        table = table.align_right(column);
    }
    let rows = list(report, "rows")?;
    for row in rows {
        table.row([
            string(row, "name")?.to_owned(),
            string(row, "unit")?.to_owned(),
            row["runs"].to_string(),
            figure(row, "min")?,
            figure(row, "p50")?,
            figure(row, "p99")?,
            figure(row, "max")?,
            row["note"].as_str().unwrap_or_default().to_owned(),
        ]);
    }
    Ok((!rows.is_empty()).then(|| table.to_string()))
}

fn ratios(report: &Value) -> Result<Option<String>, String> {
    let mut table = Table::new(&["p50 of", "to that of", "ratio"]).align_right(2);
    let ratios = list(report, "ratios")?;
    for ratio in ratios {
        table.row([
            string(ratio, "of")?.to_owned(),
            string(ratio, "to")?.to_owned(),
            number(ratio, "value")?,
        ]);
    }
    Ok((!ratios.is_empty()).then(|| table.to_string()))
}

fn goals(report: &Value) -> Result<Option<String>, String> {
    let mut table = Table::new(&["goal", "bound", "value", "met"]).align_right(2);
    let goals = list(report, "goals")?;
    for goal in goals {
        let value = if goal["value"].is_null() {
            "not measured".to_owned()
        } else {
            number(goal, "value")?
        };
        let met = match goal["met"].as_bool() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => return Err("a goal has no 'met'".into()),
        };
        table.row([
            string(goal, "name")?.to_owned(),
            string(goal, "goal")?.to_owned(),
            value,
            met.to_owned(),
        ]);
    }
    Ok((!goals.is_empty()).then(|| table.to_string()))
}

fn list<'v>(value: &'v Value, name: &str) -> Result<&'v [Value], String> {
    let list = value[name].as_array().map(Vec::as_slice);
    list.ok_or_else(|| format!("the report has no list '{name}'"))
}

fn string<'v>(value: &'v Value, name: &str) -> Result<&'v str, String> {
    let text = value[name].as_str();
    text.ok_or_else(|| format!("the report has no text '{name}'"))
}

/// A figure with as many digits as say something.
fn number(value: &Value, name: &str) -> Result<String, String> {
    let number = value[name]
        .as_f64()
        .ok_or_else(|| format!("the report has no figure '{name}'"))?;
    let digits = match number.abs() {
        large if large >= 1_000.0 => 0,
        middle if middle >= 100.0 => 1,
        _ => 2,
    };
    Ok(format!("{number:.digits$}"))
}

/// A figure of a row; `-` where all its runs failed, which its note says.
fn figure(row: &Value, name: &str) -> Result<String, String> {
    match (&row[name], row["runs"].as_u64()) {
        (Value::Null, Some(0)) => Ok("-".to_owned()),
        _ => number(row, name),
    }
}

/// A setting without the marks of JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name} {}", plain(value)))
                .collect();
            fields.join(", ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::text;

    fn report() -> Value {
        json!({
            "bench": "rpc",
            "commit": "abc",
            "date": "2024-02-29",
            "host": {
                "cpu": "A fast one", "cores": 2, "memory_mib": 4096, "kernel": "6.1", "kvm": true, "load": 0.1,
            },
            "rows": [
                {"name": "raw/seq", "unit": "us", "runs": 3, "min": 9.0, "p50": 10.5, "p99": 20.0, "max": 123.45},
                {"name": "raw/64", "unit": "1/s", "runs": 3, "min": 1e5, "p50": 1e5, "p99": 1e5, "max": 1e5, "note": "n"},
                {
                    "name": "raw/256", "unit": "1/s", "runs": 0, "min": null, "p50": null, "p99": null, "max": null,
                    "note": "not built",
                },
            ],
            "ratios": [{"name": "a : b", "of": "a", "to": "b", "value": 1.5}],
            "goals": [
                {"name": "fast", "goal": "<= 2", "value": 1.5, "met": true},
                {"name": "faster", "goal": "<= 1", "value": null, "met": false},
            ],
            "notes": ["tonic is missing"],
            "setting": {"reply_bytes": {"raw": 1, "dwcp": 1}},
        })
    }

    #[test]
    fn a_report_is_shown_whole() {
        let text = text(&report()).unwrap();
        for part in [
            "rpc at abc, 2024-02-29\nA fast one, 2 cores, 4096 MiB, Linux 6.1, KVM, load 0.1\n",
            "reply bytes: dwcp 1, raw 1\n",
            "raw/seq  us       3    9.00   10.50   20.00   123.5\n",
            "raw/64   1/s      3  100000  100000  100000  100000  n\n",
            "raw/256  1/s      0       -       -       -       -  not built\n",
            "a       b            1.50\n",
            "fast    <= 2           1.50  yes\n",
            "faster  <= 1   not measured  NO\n",
            "note: tonic is missing\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_part_that_is_missing_is_named() {
        for part in ["bench", "commit", "rows", "ratios", "goals"] {
            let mut report = report();
            report[part] = Value::Null;
            assert!(text(&report).unwrap_err().contains(part), "{part}");
        }
        let mut report = report();
        // A row with runs has figures.
        for figure in [json!("fast"), Value::Null] {
            report["rows"][0]["p50"] = figure;
            assert!(text(&report).unwrap_err().contains("p50"));
        }
    }
}
