//! Reads all that is stored.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use rusqlite::{Connection, Row};

use super::super::events::Logged;
use super::write::{ABORTED, FORCED, GRANTED, MINE, REFUSED, RELEASED, SUPERSEDED, TAKEN};
use super::{Answer, ApiKey, Digest, broken};
use crate::error::{DWCPError, Result};
use crate::migration::{Record, Verdict};
use crate::model::{MigrationStatus, Timestamp, VM};

/// What was stored.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Of the store, and so of the node.
    pub(crate) uuid: String,
    /// In the order they came.
    pub(crate) vms: Vec<StoredVm>,
    /// In the order of their numbers, without a gap.
    pub(crate) events: Vec<Arc<Logged>>,
    /// VM and node, the oldest first.
    pub(crate) moved: Vec<(String, String)>,
    /// The oldest first.
    pub(crate) answers: Vec<Answer>,
    pub(crate) epochs: HashMap<String, u64>,
    /// With its place among the others, the oldest first.
    pub(crate) migrations: Vec<(u64, MigrationStatus)>,
    /// By migration.
    pub(crate) records: HashMap<String, Record>,
    /// By migration, with the VM.
    pub(crate) verdicts: HashMap<String, (String, Verdict)>,
}

/// A VM as it was stored.
#[derive(Debug)]
pub(crate) struct StoredVm {
    pub(crate) vm: VM,
    pub(crate) position: u64,
    pub(crate) arriving: Option<String>,
    pub(crate) interrupted: bool,
}

impl Loaded {
    pub(super) fn new(uuid: String) -> Loaded {
        Loaded {
            uuid,
            ..Loaded::default()
        }
    }

    /// Number of the last event; 0 where there is none.
    pub(super) fn last_seq(&self) -> u64 {
        self.events.last().map_or(0, |event| event.seq)
    }
}

/// Reads everything, and the API keys.
pub(super) fn load(from: &Connection) -> Result<(Loaded, Vec<ApiKey>)> {
    let uuid = from
        .query_row("SELECT uuid FROM node", [], |row| row.get(0))
        .map_err(broken("reading node"))?;
    let mut loaded = Loaded::new(uuid);
    loaded.vms = rows(
        from,
        "vms",
        "SELECT vm, arriving, interrupted, position FROM vms ORDER BY position",
        |row| {
            Ok(StoredVm {
                vm: json("vms", &text(row, 0)?)?,
                arriving: row.get(1).map_err(broken("vms"))?,
                interrupted: row.get(2).map_err(broken("vms"))?,
                position: number(row, 3)?,
            })
        },
    )?;
    loaded.events = events(from)?;
    loaded.moved = rows(
        from,
        "moved",
        "SELECT vm_id, node FROM moved ORDER BY position",
        |row| Ok((text(row, 0)?, text(row, 1)?)),
    )?;
    loaded.answers = rows(
        from,
        "answers",
        "SELECT operation, principal, key, digest, answer, at FROM answers ORDER BY at",
        |row| {
            Ok(Answer {
                operation: text(row, 0)?,
                principal: text(row, 1)?,
                key: text(row, 2)?,
                digest: Digest(row.get(3).map_err(broken("answers"))?),
                answer: text(row, 4)?,
                at: time(row, 5)?,
            })
        },
    )?;
    migrations(from, &mut loaded)?;
    let keys = rows(
        from,
        "api_keys",
        "SELECT name, role, hash, created FROM api_keys ORDER BY created, name",
        |row| {
            let role = text(row, 1)?;
            Ok(ApiKey {
                name: text(row, 0)?,
                role: role.parse().map_err(|error| wrong("api_keys", &error))?,
                hash: row.get(2).map_err(broken("api_keys"))?,
                created: time(row, 3)?,
            })
        },
    )?;
    Ok((loaded, keys))
}

fn events(from: &Connection) -> Result<Vec<Arc<Logged>>> {
    // What a VM was before an event is what it was after the one before it.
    let mut last: HashMap<String, Arc<VM>> = HashMap::new();
    let events = rows(
        from,
        "events",
        "SELECT seq, type, vm, timestamp, message, last FROM events ORDER BY seq",
        |row| {
            let vm: Arc<VM> = Arc::new(json("events", &text(row, 2)?)?);
            let is_last = row.get(5).map_err(broken("events"))?;
            let before = if is_last {
                last.remove(&vm.id)
            } else {
                last.insert(vm.id.clone(), Arc::clone(&vm))
            };
            Ok(Arc::new(Logged {
                seq: number(row, 0)?,
                event_type: text(row, 1)?.as_str().into(),
                vm,
                before,
                timestamp: time(row, 3)?,
                message: text(row, 4)?,
                last: is_last,
            }))
        },
    )?;
    for pair in events.windows(2) {
        if pair[0].seq.checked_add(1) != Some(pair[1].seq) {
            return Err(wrong("events", &format_args!("{} is missing", pair[0].seq)));
        }
    }
    Ok(events)
}

fn migrations(from: &Connection, loaded: &mut Loaded) -> Result<()> {
    let epochs = rows(from, "epochs", "SELECT vm_id, epoch FROM epochs", |row| {
        Ok((text(row, 0)?, number(row, 1)?))
    })?;
    loaded.epochs = epochs.into_iter().collect();
    loaded.migrations = rows(
        from,
        "migrations",
        "SELECT position, status FROM migrations ORDER BY position",
        |row| Ok((number(row, 0)?, json("migrations", &text(row, 1)?)?)),
    )?;
    let records = rows(
        from,
        "records",
        "SELECT migration, kind, epoch, peer FROM records",
        |row| {
            let (kind, epoch) = (text(row, 1)?, number(row, 2)?);
            let record = match kind.as_str() {
                GRANTED => Record::Granted {
                    epoch,
                    destination_uuid: text(row, 3)?,
                },
                MINE => Record::Mine { epoch },
                FORCED => Record::Forced {
                    epoch,
                    destination_uuid: text(row, 3)?,
                },
                ABORTED => Record::Aborted { epoch },
                RELEASED => Record::Released {
                    epoch,
                    node_uuid: text(row, 3)?,
                },
                other => return Err(wrong("records", &other)),
            };
            Ok((text(row, 0)?, record))
        },
    )?;
    loaded.records = records.into_iter().collect();
    let verdicts = rows(
        from,
        "verdicts",
        "SELECT migration, vm_id, kind, epoch FROM verdicts",
        |row| {
            let (kind, epoch) = (text(row, 2)?, number(row, 3)?);
            let verdict = match kind.as_str() {
                TAKEN => Verdict::Taken { epoch },
                REFUSED => Verdict::Refused { epoch },
                SUPERSEDED => Verdict::Superseded { epoch },
                other => return Err(wrong("verdicts", &other)),
            };
            Ok((text(row, 0)?, (text(row, 1)?, verdict)))
        },
    )?;
    loaded.verdicts = verdicts.into_iter().collect();
    Ok(())
}

fn rows<T>(
    from: &Connection,
    table: &'static str,
    query: &str,
    mut read: impl FnMut(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let what = broken(table);
    let mut statement = from.prepare(query).map_err(&what)?;
    let mut rows = statement.query([]).map_err(&what)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next().map_err(&what)? {
        all.push(read(row)?);
    }
    Ok(all)
}

fn text(row: &Row<'_>, column: usize) -> Result<String> {
    row.get(column).map_err(broken("a text"))
}

fn number(row: &Row<'_>, column: usize) -> Result<u64> {
    let number: i64 = row.get(column).map_err(broken("a number"))?;
    Ok(number.cast_unsigned())
}

fn time(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    let micros = row.get(column).map_err(broken("a time"))?;
    Ok(Timestamp::from_unix_micros(micros))
}

fn json<T: serde::de::DeserializeOwned>(table: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| wrong(table, &error))
}

/// What is stored is not what this version writes.
fn wrong(table: &str, why: &dyn Display) -> DWCPError {
    DWCPError::Internal(format!("the node's store: {table}: cannot be read: {why}"))
}
