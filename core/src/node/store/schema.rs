//! The file: how it is opened, and what its tables are.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::broken;
use crate::error::{DWCPError, Result};
use crate::model::{Timestamp, new_uuid};

/// The store.
const FILE: &str = "node.db";
/// Locked for as long as a node has the directory. Beside the store, because the store's own lock
/// comes and goes with its transactions.
const LOCK_FILE: &str = "node.lock";

/// `user_version` of the store: raised whenever a version that does not know the change would do
/// something wrong with it.
pub(super) const VERSION: i64 = 1;
/// `application_id` of the store: "DWCP".
const APPLICATION: i64 = 0x4457_4350;

/// Most bytes that the write-ahead log keeps on disk while it is not needed.
pub(super) const LOG_SIZE_MAX: u64 = 64 << 20;
/// Longest wait for the other connection of this store: a checkpoint that resets the log.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// 64-bit counters are stored as the signed numbers with the same bits, so that each fits.
const TABLES: &str = "
CREATE TABLE node (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    uuid TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT;
CREATE TABLE vms (
    id TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    vm TEXT NOT NULL,
    arriving TEXT,
    interrupted INTEGER NOT NULL
) STRICT;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    vm TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    message TEXT NOT NULL,
    last INTEGER NOT NULL
) STRICT;
CREATE TABLE moved (
    vm_id TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    node TEXT NOT NULL
) STRICT;
CREATE TABLE api_keys (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    hash BLOB NOT NULL,
    created INTEGER NOT NULL
) STRICT;
CREATE TABLE answers (
    operation TEXT NOT NULL,
    principal TEXT NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    answer TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (operation, principal, key)
) STRICT;
CREATE INDEX answers_by_age ON answers (at);
CREATE TABLE epochs (
    vm_id TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL
) STRICT;
CREATE TABLE migrations (
    id TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    status TEXT NOT NULL
) STRICT;
CREATE TABLE records (
    migration TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    peer TEXT
) STRICT;
CREATE TABLE verdicts (
    migration TEXT PRIMARY KEY,
    vm_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    epoch INTEGER NOT NULL
) STRICT;
";

/// A directory that is open.
pub(super) struct Files {
    /// For the writer; makes no checkpoints.
    pub(super) connection: Connection,
    /// For checkpoints.
    pub(super) second: Connection,
    /// Holds the lock until it is dropped.
    pub(super) lock: Connection,
}

/// Opens the store of a directory, and makes what is missing.
pub(super) fn open(data_dir: &Path) -> Result<Files> {
    let unusable = |error: std::io::Error| {
        DWCPError::Config(format!("data_dir: {}: {error}", data_dir.display()))
    };
    // It holds what only the node's user should read.
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(data_dir).map_err(unusable)?;
    let lock = take(data_dir)?;
    let path = data_dir.join(FILE);
    // SQLite gives its other files the mode of this one.
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    options.open(&path).map_err(unusable)?;
    let mut connection = connect(&path)?;
    prepare(&mut connection, data_dir)?;
    let second = connect(&path)?;
    // The names of new files are durable too.
    File::open(data_dir)
        .and_then(|directory| directory.sync_all())
        .map_err(unusable)?;
    Ok(Files {
        connection,
        second,
        lock,
    })
}

/// Takes the directory for this node. SQLite's locks are the system's, so that they end with the
/// process that has them, and they keep connections of the same process apart as well.
fn take(data_dir: &Path) -> Result<Connection> {
    let what = broken("its lock");
    let lock = Connection::open(data_dir.join(LOCK_FILE)).map_err(&what)?;
    lock.busy_timeout(Duration::ZERO).map_err(&what)?;
    match lock.execute_batch("BEGIN EXCLUSIVE") {
        Ok(()) => Ok(lock),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
            Err(DWCPError::AlreadyExists(format!(
                "data_dir: {} is in use by another node",
                data_dir.display()
            )))
        }
        Err(error) => Err(what(error)),
    }
}

fn connect(path: &PathBuf) -> Result<Connection> {
    let what = broken("opening it");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(&what)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(&what)?;
    // A name that does not exist is an error, not a text.
    let settings = [
        ("synchronous", "FULL"),
        ("foreign_keys", "ON"),
        ("wal_autocheckpoint", "0"),
        ("trusted_schema", "OFF"),
    ];
    for (name, value) in settings {
        // Some answer with the new value, some with nothing.
        connection.pragma_update(None, name, value).map_err(&what)?;
    }
    connection
        .pragma_update(None, "journal_size_limit", LOG_SIZE_MAX.cast_signed())
        .map_err(&what)?;
    Ok(connection)
}

/// Checks whose store it is, and makes the tables of a new one.
fn prepare(connection: &mut Connection, data_dir: &Path) -> Result<()> {
    let what = broken("reading it");
    let number = |connection: &Connection, name: &str| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0))
    };
    let version = number(connection, "user_version").map_err(&what)?;
    let application = number(connection, "application_id").map_err(&what)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(&what)?;
    let path = data_dir.join(FILE);
    if tables > 0 && application != APPLICATION {
        return Err(DWCPError::Config(format!(
            "data_dir: {} is no store of a node",
            path.display()
        )));
    }
    if version > VERSION {
        return Err(DWCPError::Unsupported(format!(
            "data_dir: {} was written by a newer version: it has format {version}, and this version \
             knows {VERSION}",
            path.display()
        )));
    }
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(&what)?;
    if mode != "wal" {
        return Err(DWCPError::Config(format!(
            "data_dir: {}: SQLite cannot keep a write-ahead log there (it says `{mode}`)",
            path.display()
        )));
    }
    if tables == 0 {
        let what = broken("making it");
        let transaction = connection.transaction().map_err(&what)?;
        transaction.execute_batch(TABLES).map_err(&what)?;
        transaction
            .execute(
                "INSERT INTO node (id, uuid, created) VALUES (1, ?1, ?2)",
                (new_uuid(), Timestamp::now().as_unix_micros()),
            )
            .map_err(&what)?;
        for (name, value) in [("application_id", APPLICATION), ("user_version", VERSION)] {
            transaction
                .pragma_update(None, name, value)
                .map_err(&what)?;
        }
        transaction.commit().map_err(&what)?;
    }
    Ok(())
}
