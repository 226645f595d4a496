//! What can be written, and the statements that do.
//!
//! Every write puts a row in the place of what was there, or takes one away: it cannot fail for what
//! it says, only for the disk, and it may be written again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use rusqlite::{Connection, Statement, params};
use sha2::{Digest as _, Sha256};

use super::super::events::Logged;
use super::ApiKey;
use crate::error::Result;
use crate::migration::{Record, Verdict};
use crate::model::{MigrationStatus, Timestamp, VM};

/// What a request was, for telling whether it is the same again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest(pub(super) [u8; 32]);

impl Digest {
    /// Of what is written in JSON; maps are sorted there, so that the same is the same.
    ///
    /// # Errors
    ///
    /// `serialization` for what cannot be written in JSON.
    pub(crate) fn of(asked: &impl serde::Serialize) -> Result<Digest> {
        let json = serde_json::to_vec(asked)?;
        Ok(Digest(Sha256::digest(json).into()))
    }
}

/// The answer to a request that came with an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// What was asked for, as an action is named.
    pub(crate) operation: String,
    /// Who asked.
    pub(crate) principal: String,
    pub(crate) key: String,
    pub(crate) digest: Digest,
    /// What tells the answer: the VM in JSON, or the id of a migration.
    pub(crate) answer: String,
    pub(crate) at: Timestamp,
}

/// One change of what is stored.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    /// A VM as it is from now on.
    Vm {
        vm: Arc<VM>,
        /// Its place among the others.
        position: u64,
        /// The node it is arriving from.
        arriving: Option<String>,
        /// Whether it was running when the node was asked to end.
        interrupted: bool,
    },
    /// A VM is no longer here.
    ForgetVm(String),
    /// Something happened. Events before number `floor` are not needed any more.
    Event { event: Arc<Logged>, floor: u64 },
    /// Where a VM went.
    Moved {
        vm_id: String,
        position: u64,
        node: String,
    },
    /// A VM that went is here again, or it was long ago.
    ForgetMoved(String),
    /// Answers from before `expired` are not needed any more.
    Answer { answer: Answer, expired: Timestamp },
    /// The last epoch of a VM.
    Epoch { vm_id: String, epoch: u64 },
    /// A migration that leaves from here.
    Migration {
        position: u64,
        status: Box<MigrationStatus>,
    },
    /// It is no longer remembered, nor its record.
    ForgetMigration(String),
    /// What the source's rules make durable.
    Record { migration: String, record: Record },
    /// What the destination's rules make durable.
    Verdict {
        migration: String,
        vm_id: String,
        verdict: Verdict,
    },
    /// An API key.
    Key(ApiKey),
    /// It is good for nothing any more.
    ForgetKey(String),
}

/// The statements of one transaction: many writes need few.
struct Statements<'a> {
    connection: &'a Connection,
    prepared: HashMap<&'static str, Statement<'a>>,
}

impl<'a> Statements<'a> {
    fn prepared(&mut self, sql: &'static str) -> rusqlite::Result<&mut Statement<'a>> {
        match self.prepared.entry(sql) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(place) => Ok(place.insert(self.connection.prepare(sql)?)),
        }
    }
}

/// The JSON of the VM that was written last: most writes come in pairs, a VM and what happened to it.
#[derive(Default)]
struct Text(Option<(Arc<VM>, String)>);

impl Text {
    fn of(&mut self, vm: &Arc<VM>) -> rusqlite::Result<&str> {
        let known = matches!(&self.0, Some((last, _)) if Arc::ptr_eq(last, vm));
        if !known {
            self.0 = Some((Arc::clone(vm), json(&**vm)?));
        }
        Ok(self.0.as_ref().map_or("", |(_, text)| text))
    }
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// Carries writes out within a transaction that the caller has begun.
pub(super) fn apply(to: &Connection, writes: &[Write]) -> rusqlite::Result<()> {
    let mut to = Statements {
        connection: to,
        prepared: HashMap::new(),
    };
    let mut text = Text::default();
    let (mut floor, mut expired) = (0, None);
    for write in writes {
        match write {
            Write::Event { floor: below, .. } => floor = *below,
            Write::Answer {
                expired: before, ..
            } => expired = Some(*before),
            _ => {}
        }
        put(&mut to, &mut text, write)?;
    }
    // Once for all: the last one says most.
    if floor > 0 {
        to.prepared("DELETE FROM events WHERE seq < ?1")?
            .execute([floor.cast_signed()])?;
    }
    if let Some(before) = expired {
        to.prepared("DELETE FROM answers WHERE at < ?1")?
            .execute([before.as_unix_micros()])?;
    }
    Ok(())
}

fn put(to: &mut Statements<'_>, text: &mut Text, write: &Write) -> rusqlite::Result<()> {
    match write {
        Write::Vm {
            vm,
            position,
            arriving,
            interrupted,
        } => to
            .prepared(
                "INSERT OR REPLACE INTO vms (id, position, vm, arriving, interrupted) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                vm.id,
                position.cast_signed(),
                text.of(vm)?,
                arriving,
                interrupted
            ]),
        Write::ForgetVm(id) => to.prepared("DELETE FROM vms WHERE id = ?1")?.execute([id]),
        Write::Event { event, .. } => to
            .prepared(
                "INSERT OR REPLACE INTO events (seq, type, vm, timestamp, message, last) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                event.seq.cast_signed(),
                event.event_type.as_str(),
                text.of(&event.vm)?,
                event.timestamp.as_unix_micros(),
                event.message,
                event.last
            ]),
        Write::Moved {
            vm_id,
            position,
            node,
        } => to
            .prepared("INSERT OR REPLACE INTO moved (vm_id, position, node) VALUES (?1, ?2, ?3)")?
            .execute(params![vm_id, position.cast_signed(), node]),
        Write::ForgetMoved(id) => to
            .prepared("DELETE FROM moved WHERE vm_id = ?1")?
            .execute([id]),
        Write::Answer { answer, .. } => to
            .prepared(
                "INSERT OR REPLACE INTO answers (operation, principal, key, digest, answer, at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                answer.operation,
                answer.principal,
                answer.key,
                answer.digest.0,
                answer.answer,
                answer.at.as_unix_micros()
            ]),
        Write::Key(key) => to
            .prepared(
                "INSERT OR REPLACE INTO api_keys (name, role, hash, created) \
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                key.name,
                key.role.as_str(),
                key.hash,
                key.created.as_unix_micros()
            ]),
        Write::ForgetKey(name) => to
            .prepared("DELETE FROM api_keys WHERE name = ?1")?
            .execute([name]),
        of_migrations => return put_migration(to, of_migrations),
    }
    .map(drop)
}

fn put_migration(to: &mut Statements<'_>, write: &Write) -> rusqlite::Result<()> {
    match write {
        Write::Epoch { vm_id, epoch } => {
            to.prepared("INSERT OR REPLACE INTO epochs (vm_id, epoch) VALUES (?1, ?2)")?
                .execute(params![vm_id, epoch.cast_signed()])?;
        }
        Write::Migration { position, status } => {
            to.prepared(
                "INSERT OR REPLACE INTO migrations (id, position, status) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![status.id, position.cast_signed(), json(&**status)?])?;
        }
        Write::ForgetMigration(id) => {
            to.prepared("DELETE FROM migrations WHERE id = ?1")?
                .execute([id])?;
            to.prepared("DELETE FROM records WHERE migration = ?1")?
                .execute([id])?;
        }
        Write::Record { migration, record } => {
            let (kind, epoch, peer) = match record {
                Record::Granted {
                    epoch,
                    destination_uuid,
                } => (GRANTED, epoch, Some(destination_uuid)),
                Record::Mine { epoch } => (MINE, epoch, None),
                Record::Forced {
                    epoch,
                    destination_uuid,
                } => (FORCED, epoch, Some(destination_uuid)),
                Record::Aborted { epoch } => (ABORTED, epoch, None),
                Record::Released { epoch, node_uuid } => (RELEASED, epoch, Some(node_uuid)),
            };
            to.prepared(
                "INSERT OR REPLACE INTO records (migration, kind, epoch, peer) \
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![migration, kind, epoch.cast_signed(), peer])?;
        }
        Write::Verdict {
            migration,
            vm_id,
            verdict,
        } => {
            let (kind, epoch) = match verdict {
                Verdict::Taken { epoch } => (TAKEN, epoch),
                Verdict::Refused { epoch } => (REFUSED, epoch),
                Verdict::Superseded { epoch } => (SUPERSEDED, epoch),
                Verdict::Forget => {
                    to.prepared("DELETE FROM verdicts WHERE migration = ?1")?
                        .execute([migration])?;
                    return Ok(());
                }
            };
            to.prepared(
                "INSERT OR REPLACE INTO verdicts (migration, vm_id, kind, epoch) \
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![migration, vm_id, kind, epoch.cast_signed()])?;
        }
        _ => {}
    }
    Ok(())
}

// The words for records and verdicts.
pub(super) const GRANTED: &str = "granted";
pub(super) const MINE: &str = "mine";
pub(super) const FORCED: &str = "forced";
pub(super) const ABORTED: &str = "aborted";
pub(super) const RELEASED: &str = "released";
pub(super) const TAKEN: &str = "taken";
pub(super) const REFUSED: &str = "refused";
pub(super) const SUPERSEDED: &str = "superseded";
