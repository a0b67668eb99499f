//! A copy of the data folder of a running host, on which another can be started.
//!
//! Order makes it consistent. First no segment goes any more; then `store.db` as it is at one moment; then `events.db`,
//! which by then has whatever left the outbox before; then the segments, whose committed bodies never change. So every
//! message of the copy has its body, and every event is in one of the two databases. What `events.db` tells of messages
//! that came later is taken out: their keys will be given to others.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use rusqlite::{Connection, OpenFlags};

use super::embedded::Shared;
use super::schema::Layout;
use super::segment::path_of;
use super::{StoreError, private};
use crate::keyring::{MASTER_KEY_FILE, NEXT_SUFFIX};

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub messages: u64,
    pub segments: u64,
    /// Of all files.
    pub octets: u64,
    /// Whether the key that seals secrets is in it. Where it is kept elsewhere, the copy is of use with that file alone.
    pub has_master_key: bool,
}

/// Copies the store to a folder. What is sent or accepted meanwhile may be missing in the copy: mail delivered since is
/// delivered again by a host started on it.
///
/// Fails with `Exists` where the folder is there, and leaves nothing behind where copying fails.
pub(super) async fn make(shared: &Arc<Shared>, to: &Path) -> Result<Backup, StoreError> {
    let (shared, to) = (shared.clone(), to.to_owned());
    let done = tokio::task::spawn_blocking(move || whole(&shared, &to));
    done.await.unwrap_or_else(|error| Err(StoreError::Io(format!("the backup broke off: {error}"))))
}

/// Copies beside the target, which takes its name when it is complete.
fn whole(shared: &Shared, to: &Path) -> Result<Backup, StoreError> {
    if !to.is_absolute() {
        return Err(StoreError::Io(format!("the backup's folder {} must be a whole path, from `/` on", to.display())));
    }
    if to.exists() {
        return Err(StoreError::Exists(to.display().to_string()));
    }
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = to.with_file_name(name);
    if partial.exists() {
        return Err(StoreError::Exists(format!("{} of a backup that broke off: remove it", partial.display())));
    }
    let copied = copy(shared, &partial).and_then(|backup| {
        let failed = failed(to);
        fs::rename(&partial, to).map_err(&failed)?;
        sync_folder(to.parent().unwrap_or(Path::new("/"))).map_err(&failed)?;
        Ok(backup)
    });
    if copied.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    copied
}

fn failed(path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |error| match error.kind() {
        io::ErrorKind::StorageFull => StoreError::Io(format!("{path}: no space left for the backup")),
        _ => StoreError::Io(format!("{path}: {error}")),
    }
}

fn copy(shared: &Shared, to: &Path) -> Result<Backup, StoreError> {
    let from = &shared.layout;
    let target = Layout::new(to);
    private::folder(&target.spool).and_then(|()| private::folder(to)).map_err(failed(to))?;
    let _stay = shared.segments_stay.lock().unwrap_or_else(PoisonError::into_inner);
    snapshot(&from.main, &target.main)?;
    snapshot(&from.events, &target.events)?;
    let (segments, messages) = settle(&target)?;
    for number in &segments {
        let (source, copy) = (path_of(&from.spool, *number), path_of(&target.spool, *number));
        match fs::copy(&source, &copy) {
            Ok(_) => private::file(&copy).and_then(|file| file.sync_all()).map_err(failed(&copy))?,
            // Damage of before: the copy is as good as what it was made of.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::error!(segment = number, "a spool segment is missing, here and in the backup");
            }
            Err(error) => return Err(failed(&copy)(error)),
        }
    }
    super::components::copy(&from.components, &target.components).map_err(failed(&target.components))?;
    let has_master_key = copy_master_key(from, to)?;
    sync_folder(&target.spool).and_then(|()| sync_folder(to)).map_err(failed(to))?;
    let octets = octets(to).map_err(failed(to))?;
    Ok(Backup { messages, segments: segments.len() as u64, octets, has_master_key })
}

/// A database as it is at one moment, in one file.
fn snapshot(from: &Path, to: &Path) -> Result<(), StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(from, flags)?;
    connection.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
    private::file(to).and_then(|file| file.sync_all()).map_err(failed(to))
}

/// Takes out of the copied events what came behind the copied messages; the segments that these name, and their number.
fn settle(copy: &Layout) -> Result<(Vec<u64>, u64), StoreError> {
    let main = Connection::open(&copy.main)?;
    let segments = main
        .prepare("SELECT number FROM segment")?
        .query_map([], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))?
        .collect::<Result<_, _>>()?;
    let (messages, newest): (i64, i64) =
        main.query_row("SELECT count(*), coalesce(max(key), 0) FROM message", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let events = Connection::open(&copy.events)?;
    events.execute("DELETE FROM event WHERE message > ?1", [newest])?;
    events.execute("DELETE FROM delivery WHERE message > ?1", [newest])?;
    // Nor what tells of tenants and webhooks that came between the two copies: their keys are given out again.
    let most = |sql: &str| main.query_row(sql, [], |row| row.get::<_, i64>(0));
    let tenants = most("SELECT coalesce(max(key), 0) FROM tenant")?;
    let webhooks = most("SELECT coalesce(max(key), 0) FROM webhook")?;
    events.execute("DELETE FROM event WHERE message < -?1 OR tenant > ?1", [tenants])?;
    events.execute("DELETE FROM delivery WHERE message < -?1 OR webhook > ?2", [tenants, webhooks])?;
    events.execute(
        "DELETE FROM attempt WHERE message > ?1 OR message < -?2 OR webhook > ?3",
        [newest, tenants, webhooks],
    )?;
    events.execute("DELETE FROM failing WHERE webhook > ?1", [webhooks])?;
    Ok((segments, messages.unsigned_abs()))
}

fn copy_master_key(from: &Layout, to: &Path) -> Result<bool, StoreError> {
    // Beside it lies the next one, where an exchange could not be finished: some secrets may be sealed with it.
    let next = format!("{MASTER_KEY_FILE}{NEXT_SUFFIX}");
    let mut has_key = false;
    for name in [MASTER_KEY_FILE, next.as_str()] {
        let copy = to.join(name);
        match fs::copy(from.main.with_file_name(name), &copy) {
            Ok(_) => private::file(&copy).and_then(|file| file.sync_all()).map_err(failed(&copy))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&copy)(error)),
        }
        has_key = true;
    }
    Ok(has_key)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn octets(folder: &Path) -> io::Result<u64> {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    let mut octets = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let (entry, kind) = entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind)))?;
            if kind.is_dir() { folders.push(entry.path()) } else { octets += entry.metadata()?.len() }
        }
    }
    Ok(octets)
}
