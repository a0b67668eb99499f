//! The two databases of the embedded store: their tables, their migrations, and how a connection is set up.
//!
//! Invariants: a migration that was released never changes; `PRAGMA user_version` counts the migrations applied; each
//! runs in a transaction of its own. A database newer than this program is refused rather than guessed at.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use thiserror::Error;

use super::{edges, key_schema, private, queue_schema, sending_schema, tenants_schema};

/// Wait for a lock that another connection of this process holds (checkpoints, the reader's first page).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pages of WAL before a commit checkpoints it: 32 MiB. Fewer checkpoints, fewer stalls of a group.
const AUTOCHECKPOINT_PAGES: u32 = 8192;
/// The same where another thread does it long before: 256 MiB.
const LAST_CHECKPOINT_PAGES: u32 = 65_536;
/// Statements kept compiled per connection; all of ours fit.
const STATEMENT_CACHE: usize = 64;
/// Page cache of the writer, and of each reader.
const WRITER_CACHE_KIB: i64 = 16 * 1024;
const READER_CACHE_KIB: i64 = 2 * 1024;

/// Migrations of `store.db`, oldest first.
///
/// Times are milliseconds since 1970. Integer keys stand for tenants and messages inside; the ids people see are
/// stored once. `message.key` and positions in segments grow together, because one writer hands out both.
pub(super) const MAIN: &[&str] = &["
CREATE TABLE tenant (
  key  INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
) STRICT;
INSERT INTO tenant (name) VALUES ('default');

CREATE TABLE message (
  key         INTEGER PRIMARY KEY,
  id          BLOB NOT NULL,       -- UUID
  tenant      INTEGER NOT NULL,
  sender      TEXT,                -- NULL: the null sender
  segment     INTEGER NOT NULL,
  position    INTEGER NOT NULL,    -- of the frame in the segment
  size        INTEGER NOT NULL,    -- of the body, in octets
  digest      INTEGER NOT NULL,    -- XXH3 of the body
  accepted_ms INTEGER NOT NULL,
  extra       TEXT                 -- JSON: bcc, attributes, tags; NULL where all are empty
) STRICT;
CREATE UNIQUE INDEX message_id ON message (id);
CREATE INDEX message_tenant ON message (tenant);

CREATE TABLE recipient (
  message  INTEGER NOT NULL,
  place    INTEGER NOT NULL,       -- in the envelope, from 0
  address  TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  due_ms   INTEGER,                -- NULL: done with
  done_ms  INTEGER,                -- NULL: queued
  PRIMARY KEY (message, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX recipient_due ON recipient (due_ms) WHERE due_ms IS NOT NULL;

CREATE TABLE idempotency (
  tenant  INTEGER NOT NULL,
  key     TEXT NOT NULL,
  digest  TEXT NOT NULL,
  message BLOB NOT NULL,           -- UUID
  at_ms   INTEGER NOT NULL,
  PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_at ON idempotency (at_ms);

-- Events until they have moved to events.db. Its columns are those of `event` there.
CREATE TABLE outbox (
  message       INTEGER NOT NULL,
  seq           INTEGER NOT NULL,  -- order of recording, over both databases
  id            BLOB NOT NULL,     -- UUID
  kind          INTEGER NOT NULL,
  at_ms         INTEGER NOT NULL,
  recipient     TEXT NOT NULL,
  reason        TEXT,
  attempt       INTEGER,           -- NULL: no attempt was made, and all below is NULL too
  verdict       INTEGER,
  phase         INTEGER,
  status        INTEGER,           -- class * 1000000 + subject * 1000 + detail
  text          TEXT,
  remote_host   TEXT,
  tls           TEXT,
  reply_code    INTEGER,
  reply_status  INTEGER,
  reply_text    TEXT,
  PRIMARY KEY (message, seq)
) STRICT, WITHOUT ROWID;

-- A segment file that holds committed bodies, and the first of its messages: the others follow up to the next segment's.
CREATE TABLE segment (
  number        INTEGER PRIMARY KEY,
  first_message INTEGER NOT NULL
) STRICT;

CREATE TABLE api_key (
  hash       BLOB PRIMARY KEY,     -- SHA-256 of the key
  id         TEXT NOT NULL UNIQUE,
  tenant     INTEGER NOT NULL,
  name       TEXT NOT NULL,
  prefix     TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  revoked_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE domain (
  key        INTEGER PRIMARY KEY,
  tenant     INTEGER NOT NULL,
  name       TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  UNIQUE (tenant, name)
) STRICT;

CREATE TABLE dkim_key (
  id        TEXT PRIMARY KEY,
  domain    INTEGER NOT NULL REFERENCES domain (key) ON DELETE CASCADE,
  selector  TEXT NOT NULL,
  algorithm INTEGER NOT NULL,
  public    BLOB NOT NULL,
  private   BLOB NOT NULL,         -- sealed; empty for the key of an edge
  UNIQUE (domain, selector)
) STRICT;
", edges::SCHEMA, super::webhooks::SCHEMA, sending_schema::SCHEMA, queue_schema::SCHEMA, tenants_schema::SCHEMA, tenants_schema::TENANTS,
    super::components::SCHEMA, key_schema::SCHEMA, super::requests::SCHEMA, super::domain_changes::SCHEMA,
    super::components::ACTIVATIONS];

/// Migrations of `events.db`, oldest first.
pub(super) const EVENTS: &[&str] = &[
    "
CREATE TABLE event (
  message       INTEGER NOT NULL,
  seq           INTEGER NOT NULL,
  id            BLOB NOT NULL,
  kind          INTEGER NOT NULL,
  at_ms         INTEGER NOT NULL,
  recipient     TEXT NOT NULL,
  reason        TEXT,
  attempt       INTEGER,
  verdict       INTEGER,
  phase         INTEGER,
  status        INTEGER,
  text          TEXT,
  remote_host   TEXT,
  tls           TEXT,
  reply_code    INTEGER,
  reply_status  INTEGER,
  reply_text    TEXT,
  PRIMARY KEY (message, seq)
) STRICT, WITHOUT ROWID;

-- The highest seq that ever arrived here: numbers go on from it when the outbox is empty.
CREATE TABLE progress (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL) STRICT;
INSERT INTO progress VALUES (1, 0);
",
    super::webhooks::EVENTS_SCHEMA,
    super::tenant_events::EVENTS_SCHEMA,
];

/// Why the store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("data folder {folder} is locked by another host (pid {pid}): stop it, or give this one another `data`")]
    Locked { folder: String, pid: String },
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{path}: the database cannot be used: {source}")]
    Database { path: String, source: rusqlite::Error },
    #[error("{path} has schema version {found}, this program knows up to {known}: use a newer posthaste")]
    NewerSchema { path: String, found: usize, known: usize },
}

/// Where the files of a data folder are.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) main: PathBuf,
    pub(super) events: PathBuf,
    pub(super) spool: PathBuf,
    pub(super) components: PathBuf,
    pub(super) lock: PathBuf,
}

impl Layout {
    pub(super) fn new(folder: &Path) -> Layout {
        Layout {
            main: folder.join("store.db"),
            events: folder.join("events.db"),
            spool: folder.join("spool"),
            components: folder.join("components"),
            lock: folder.join("lock"),
        }
    }
}

/// Opens a database for writing, creates it where it lacks and brings its schema up to date. Only for a database that this
/// process has no connection to: the system lets go of a process' locks on a file when any of its handles is closed.
pub(super) fn open_for_writing(path: &Path, migrations: &[&str]) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::Database { path: path.display().to_string(), source };
    // What SQLite lays beside it gets the rights of this file.
    private::file(path).map_err(|source| OpenError::Io { path: path.display().to_string(), source })?;
    let mut connection = Connection::open(path).map_err(failed)?;
    prepare_writer(&connection).map_err(failed)?;
    migrate(&mut connection, path, migrations)?;
    Ok(connection)
}

/// Opens another connection to a database that is open for writing already.
pub(super) fn open_again(path: &Path) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::Database { path: path.display().to_string(), source };
    let connection = Connection::open(path).map_err(failed)?;
    prepare_writer(&connection).map_err(failed)?;
    Ok(connection)
}

/// Opens a connection that reads both databases: `main` is the store, `events` the moved events.
pub(super) fn open_for_reading(layout: &Layout) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&layout.main, flags)?;
    prepare(&connection)?;
    connection.execute("ATTACH DATABASE ?1 AS events", [layout.events.to_string_lossy()])?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Has a connection's commits leave the WAL alone, unless nobody else looks after it.
pub(super) fn leave_checkpoints(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "wal_autocheckpoint", LAST_CHECKPOINT_PAGES)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    // Else a compiled statement is compiled again whenever its LIMIT is bound, and a plan may change with the values.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Who closes last moves no pages: behind a sync that failed they may be gone from memory. A store that ends well
    // empties its WAL itself.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(())
}

fn prepare_writer(connection: &Connection) -> rusqlite::Result<()> {
    prepare(connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", AUTOCHECKPOINT_PAGES)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    Ok(())
}

fn migrate(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), OpenError> {
    let failed = |source| OpenError::Database { path: path.display().to_string(), source };
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let found = found as usize;
    if found > migrations.len() {
        return Err(OpenError::NewerSchema { path: path.display().to_string(), found, known: migrations.len() });
    }
    for (done, migration) in migrations.iter().enumerate().skip(found) {
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute_batch(migration).map_err(failed)?;
        transaction.pragma_update(None, "user_version", done as u32 + 1).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STEPS: &[&str] = &["CREATE TABLE a (x INTEGER) STRICT;", "ALTER TABLE a ADD COLUMN y INTEGER;"];

    fn version(connection: &Connection) -> u32 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn every_older_version_is_brought_up_to_date() {
        for start in 0..=STEPS.len() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.db");
            let old = open_for_writing(&path, &STEPS[..start]).unwrap();
            assert_eq!(version(&old) as usize, start);
            if start == 1 {
                old.execute("INSERT INTO a VALUES (7)", []).unwrap();
            }
            drop(old);
            let new = open_for_writing(&path, STEPS).unwrap();
            assert_eq!(version(&new), 2);
            let rows: i64 = new.query_row("SELECT count(*) FROM a WHERE y IS NULL", [], |row| row.get(0)).unwrap();
            assert_eq!(rows, i64::from(start == 1), "rows survive");
        }
    }

    #[test]
    fn a_failing_migration_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let broken = ["CREATE TABLE a (x INTEGER) STRICT;", "CREATE TABLE b (x INTEGER); CREATE TABLE a (x INTEGER);"];
        assert!(matches!(open_for_writing(&path, &broken), Err(OpenError::Database { .. })));
        let fixed = open_for_writing(&path, STEPS).unwrap();
        assert_eq!(version(&fixed), 2);
        assert!(fixed.prepare("SELECT * FROM b").is_err());
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        drop(open_for_writing(&path, STEPS).unwrap());
        match open_for_writing(&path, &STEPS[..1]) {
            Err(OpenError::NewerSchema { found: 2, known: 1, .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn rows_of_the_first_schema_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let old = open_for_writing(&path, &MAIN[..1]).unwrap();
        old.execute_batch(
            "INSERT INTO idempotency VALUES (1, 'k', 'd', x'01', 5);
             INSERT INTO domain (tenant, name, created_ms) VALUES (1, 'a.test', 1), (1, 'b.test', 2);",
        )
        .unwrap();
        drop(old);
        let new = open_for_writing(&path, MAIN).unwrap();
        let row = |sql: &str| new.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(row("SELECT key || item || digest || at_ms FROM idempotency"), "k0d5");
        assert_eq!(
            row("SELECT group_concat(name || needs_proof || length(id), ' ') FROM domain"),
            "a.test016 b.test016"
        );
        assert_eq!(row("SELECT CAST(count(DISTINCT id) AS TEXT) FROM domain"), "2");
    }

    #[test]
    fn the_shipped_schemas_apply() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let main = open_for_writing(&layout.main, MAIN).unwrap();
        let _events = open_for_writing(&layout.events, EVENTS).unwrap();
        let name: String = main.query_row("SELECT name FROM tenant", [], |row| row.get(0)).unwrap();
        assert_eq!(name, "default");
        assert!(open_for_reading(&layout).is_ok());
    }
}
