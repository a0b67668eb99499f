//! Components that were pushed for tenants: the versions of each stage with their history, what a stage may and must
//! (its settings), and the files themselves.
//!
//! A file lies in the data folder as `components/<SHA-256>.wasm`, once for all versions with these bytes. It is durable
//! before the row that names it is committed; a file that no row names is left over from a crash or an old version, and
//! goes at the next push.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::audit::AuditLog;
use super::embedded::Embedded;
use super::history::time;
use super::reading::tenant_key;
use super::tenant_events::Announcements;
use super::{StoreError, TenantId, accepting, private};

pub(super) const SCHEMA: &str = "
CREATE TABLE component (
  key       INTEGER PRIMARY KEY,
  tenant    INTEGER NOT NULL,
  stage     TEXT NOT NULL,         -- as in [components]
  version   INTEGER NOT NULL,      -- from 1 for each tenant and stage
  digest    TEXT NOT NULL,         -- SHA-256 in hexadecimal, the name of the file
  size      INTEGER NOT NULL,      -- of the file, in octets
  source    TEXT NOT NULL,         -- the file name or URL that it came from
  pushed_ms INTEGER NOT NULL,
  state     INTEGER NOT NULL,
  percent   INTEGER NOT NULL,      -- of requests that a canary answers; 0 for all others
  note      TEXT,                  -- why it came to its state, where somebody should know
  UNIQUE (tenant, stage, version)
) STRICT;

CREATE TABLE stage_settings (
  tenant   INTEGER NOT NULL,
  stage    TEXT NOT NULL,          -- empty: the limits of the tenant, for all its stages
  settings TEXT NOT NULL,          -- JSON
  PRIMARY KEY (tenant, stage)
) STRICT, WITHOUT ROWID;
";

/// In which order versions were active. Of those that were before this was kept, the numbers tell.
pub(super) const ACTIVATIONS: &str = "
ALTER TABLE component ADD COLUMN activated INTEGER; -- grows within a tenant's stage; NULL: never active, or taken back since
UPDATE component SET activated = version WHERE state = 0;
UPDATE component SET activated =
  (SELECT max(o.version) + 1 FROM component o WHERE o.tenant = component.tenant AND o.stage = component.stage)
WHERE state = 1;
";

/// Versions kept of one tenant's stage, besides those in use and the one that a roll-back leads to; the oldest others go.
pub const VERSIONS_KEPT: u32 = 20;

/// Where the limits of a tenant stand among the settings of its stages.
const OF_TENANT: &str = "";

const VERSION: &str = "SELECT t.name, c.stage, c.version, c.digest, c.size, c.source, c.pushed_ms, c.state, c.percent,
                       c.note FROM component c JOIN tenant t ON t.key = c.tenant";

/// The version that was active before the one that is: on trial meanwhile, perhaps.
const BEFORE: &str = "SELECT version FROM component WHERE tenant = ?1 AND stage = ?2 AND state <> 1
                      AND activated IS NOT NULL ORDER BY activated DESC LIMIT 1";

/// What a version does now, or did last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    /// It answers.
    Active,
    /// It answers this share of requests, in percent.
    Canary(u8),
    /// It runs beside the active one, and its answers are only compared.
    Shadow,
    /// It was active until another version took its place.
    Retired,
    /// It was taken back, by somebody or by the watch over a canary, or its trial was ended.
    RolledBack,
    /// Its stage was given back to the configuration.
    Removed,
}

impl VersionState {
    /// Whether it is called at all.
    pub fn is_live(self) -> bool {
        matches!(self, VersionState::Active | VersionState::Canary(_) | VersionState::Shadow)
    }

    fn code(self) -> (i64, u8) {
        match self {
            VersionState::Retired => (0, 0),
            VersionState::Active => (1, 0),
            VersionState::Canary(percent) => (2, percent),
            VersionState::Shadow => (3, 0),
            VersionState::RolledBack => (4, 0),
            VersionState::Removed => (5, 0),
        }
    }

    fn of(code: i64, percent: u8) -> VersionState {
        match code {
            1 => VersionState::Active,
            2 => VersionState::Canary(percent),
            3 => VersionState::Shadow,
            4 => VersionState::RolledBack,
            5 => VersionState::Removed,
            _ => VersionState::Retired,
        }
    }
}

/// One version of a tenant's stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentVersion {
    pub tenant: TenantId,
    /// As in `[components]`.
    pub stage: String,
    /// From 1 for each tenant and stage.
    pub version: u32,
    /// Lower-case hexadecimal SHA-256 of the file.
    pub digest: String,
    pub size_bytes: u64,
    /// The file name or URL that it came from.
    pub source: String,
    pub pushed_at: Timestamp,
    pub state: VersionState,
    /// Why it came to its state, where somebody should know.
    pub note: Option<String>,
}

/// A version to be added.
#[derive(Clone, Debug)]
pub struct NewVersion {
    pub tenant: TenantId,
    pub stage: String,
    pub digest: String,
    pub source: String,
    pub pushed_at: Timestamp,
    pub state: VersionState,
}

/// What becomes of a message when the component of a stage fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Its sender is told to try again later.
    Defer,
    /// The built-in component answers instead.
    Fallback,
    /// It is refused for good.
    Reject,
}

/// What a tenant's stage may, and what follows when it fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StageSettings {
    /// Left out: what `[stages]` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// Hosts that it may reach by HTTP, as `name` or `name:port`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http_hosts: Vec<String>,
    /// Whether these hosts may stand on this machine or in private networks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private_hosts: bool,
}

/// Limits of a tenant's own components; what is left out is as `[stages]` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantLimits {
    /// Of one call, computing and waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// Of one instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<usize>,
    /// Of one answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<usize>,
    /// Of one stage, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<usize>,
    /// Of one core, all stages together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<usize>,
}

/// What was pushed for tenants.
#[async_trait]
pub trait ComponentStore: Announcements + AuditLog {
    /// Adds a version with its file, one caller at a time. Whatever had its state before gives way to it. `Io` where the file cannot be kept.
    async fn add_component(&self, new: NewVersion, file: Bytes) -> Result<ComponentVersion, StoreError>;
    /// Gives a version another state; whatever had a live one before gives way. `NotFound` where there is none.
    async fn place_component(
        &self,
        tenant: &str,
        stage: &str,
        version: u32,
        state: VersionState,
        note: Option<String>,
    ) -> Result<(), StoreError>;
    /// Takes the active version back: the one that was active before it is so again, where there is one that was not taken
    /// back itself. Whatever that one was tried as ends.
    /// `NotFound` where none is active.
    async fn roll_back_component(&self, tenant: &str, stage: &str, note: Option<String>) -> Result<(), StoreError>;
    /// Gives a stage back to the configuration. `NotFound` where nothing of it is live.
    async fn remove_components(&self, tenant: &str, stage: &str) -> Result<(), StoreError>;
    /// All versions of one tenant or all, oldest first.
    async fn component_versions(&self, tenant: Option<&str>) -> Result<Vec<ComponentVersion>, StoreError>;
    /// The file with this digest, which its reader compares.
    async fn component_file(&self, digest: &str) -> Result<Vec<u8>, StoreError>;
    /// With the tenant and the stage that they are for.
    async fn stage_settings(&self, tenant: Option<&str>) -> Result<Vec<(TenantId, String, StageSettings)>, StoreError>;
    async fn set_stage_settings(&self, tenant: &str, stage: &str, settings: StageSettings) -> Result<(), StoreError>;
    async fn tenant_limits(&self, tenant: Option<&str>) -> Result<Vec<(TenantId, TenantLimits)>, StoreError>;
    async fn set_tenant_limits(&self, tenant: &str, limits: TenantLimits) -> Result<(), StoreError>;
}

#[async_trait]
impl ComponentStore for Embedded {
    async fn add_component(&self, new: NewVersion, file: Bytes) -> Result<ComponentVersion, StoreError> {
        let (folder, digest) = (self.shared.layout.components.clone(), new.digest.clone());
        let size_bytes = file.len() as u64;
        self.readers.blocking(move || keep(&folder, &digest, &file).map_err(io_error)).await?;
        let (told, version) = std::sync::mpsc::channel();
        let NewVersion { tenant, stage, digest, source, pushed_at, state } = new.clone();
        self.change(Box::new(move |connection, counters| {
            let tenant = accepting::tenant_key(connection, counters, &tenant)?;
            give_way(connection, tenant, &stage, state)?;
            let sql = "SELECT coalesce(max(version), 0) + 1 FROM component WHERE tenant = ?1 AND stage = ?2";
            let version: u32 = connection.query_row(sql, params![tenant, stage], |row| row.get(0))?;
            let (code, percent) = state.code();
            connection.execute(
                "INSERT INTO component (tenant, stage, version, digest, size, source, pushed_ms, state, percent)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    tenant,
                    stage,
                    version,
                    digest,
                    i64::try_from(size_bytes).unwrap_or(i64::MAX),
                    source,
                    pushed_at.as_millisecond(),
                    code,
                    percent
                ],
            )?;
            if state == VersionState::Active {
                count_activation(connection, tenant, &stage, version)?;
            }
            forget_oldest(connection, tenant, &stage)?;
            let _ = told.send(version);
            Ok(())
        }))
        .await?;
        let version = version.try_recv().map_err(|_| StoreError::Io("the version was not told".to_owned()))?;
        self.sweep_component_files().await?;
        let NewVersion { tenant, stage, digest, source, pushed_at, state } = new;
        Ok(ComponentVersion { tenant, stage, version, digest, size_bytes, source, pushed_at, state, note: None })
    }

    async fn place_component(
        &self,
        tenant: &str,
        stage: &str,
        version: u32,
        state: VersionState,
        note: Option<String>,
    ) -> Result<(), StoreError> {
        let (tenant, stage) = (tenant.to_owned(), stage.to_owned());
        self.change(Box::new(move |connection, _| {
            let missing = || StoreError::NotFound(format!("version {version} of the {stage} of tenant {tenant}"));
            let tenant_key = tenant_key(connection, &tenant)?.ok_or_else(missing)?;
            give_way(connection, tenant_key, &stage, state)?;
            match write_state(connection, tenant_key, &stage, version, state, note.as_deref())? {
                0 => Err(missing()),
                _ if state == VersionState::Active => Ok(count_activation(connection, tenant_key, &stage, version)?),
                _ => Ok(()),
            }
        }))
        .await
    }

    async fn roll_back_component(&self, tenant: &str, stage: &str, note: Option<String>) -> Result<(), StoreError> {
        let (tenant, stage) = (tenant.to_owned(), stage.to_owned());
        self.change(Box::new(move |connection, _| {
            let missing = || StoreError::NotFound(format!("an active version of the {stage} of tenant {tenant}"));
            let tenant = tenant_key(connection, &tenant)?.ok_or_else(missing)?;
            let sql = "SELECT version FROM component WHERE tenant = ?1 AND stage = ?2 AND state = 1";
            let active: Option<u32> = connection.query_row(sql, params![tenant, stage], |row| row.get(0)).optional()?;
            let active = active.ok_or_else(missing)?;
            let before: Option<u32> =
                connection.query_row(BEFORE, params![tenant, stage], |row| row.get(0)).optional()?;
            write_state(connection, tenant, &stage, active, VersionState::RolledBack, note.as_deref())?;
            // Nothing leads back to what was taken back.
            connection.execute(
                "UPDATE component SET activated = NULL WHERE tenant = ?1 AND stage = ?2 AND version = ?3",
                params![tenant, stage, active],
            )?;
            if let Some(before) = before {
                write_state(connection, tenant, &stage, before, VersionState::Active, None)?;
            }
            Ok(())
        }))
        .await
    }

    async fn remove_components(&self, tenant: &str, stage: &str) -> Result<(), StoreError> {
        let (tenant, stage) = (tenant.to_owned(), stage.to_owned());
        self.change(Box::new(move |connection, _| {
            let missing = || StoreError::NotFound(format!("a pushed {stage} of tenant {tenant}"));
            let tenant = tenant_key(connection, &tenant)?.ok_or_else(missing)?;
            let live = "SELECT 1 FROM component WHERE tenant = ?1 AND stage = ?2 AND state IN (1, 2, 3)";
            if !connection.prepare(live)?.exists(params![tenant, stage])? {
                return Err(missing());
            }
            // What was active before counts no more: a later push and roll-back lead to the configuration again.
            connection.execute(
                "UPDATE component SET state = 5, percent = 0 WHERE tenant = ?1 AND stage = ?2 AND state IN (0, 1, 2, 3)",
                params![tenant, stage],
            )?;
            connection.execute(
                "UPDATE component SET activated = NULL WHERE tenant = ?1 AND stage = ?2",
                params![tenant, stage],
            )?;
            Ok(())
        }))
        .await
    }

    async fn component_versions(&self, tenant: Option<&str>) -> Result<Vec<ComponentVersion>, StoreError> {
        let tenant = tenant.map(str::to_owned);
        let read = self.readers.read(move |connection| {
            let sql = format!("{VERSION} WHERE ?1 IS NULL OR t.name = ?1 ORDER BY t.name, c.stage, c.version");
            let mut statement = connection.prepare_cached(&sql)?;
            Ok(statement.query_map([tenant], read_version)?.collect::<Result<_, _>>()?)
        });
        read.await
    }

    async fn component_file(&self, digest: &str) -> Result<Vec<u8>, StoreError> {
        let path = file_of(&self.shared.layout.components, digest);
        let read = self.readers.blocking(move || {
            fs::read(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StoreError::NotFound(format!("{}", path.display())),
                _ => io_error(error),
            })
        });
        read.await
    }

    async fn stage_settings(&self, tenant: Option<&str>) -> Result<Vec<(TenantId, String, StageSettings)>, StoreError> {
        let rows = self.settings(tenant, "stage <> ''").await?;
        rows.into_iter().map(|(tenant, stage, text)| Ok((tenant, stage, from_json(&text)?))).collect()
    }

    async fn set_stage_settings(&self, tenant: &str, stage: &str, settings: StageSettings) -> Result<(), StoreError> {
        self.set_settings(tenant, stage, &settings).await
    }

    async fn tenant_limits(&self, tenant: Option<&str>) -> Result<Vec<(TenantId, TenantLimits)>, StoreError> {
        let rows = self.settings(tenant, "stage = ''").await?;
        rows.into_iter().map(|(tenant, _, text)| Ok((tenant, from_json(&text)?))).collect()
    }

    async fn set_tenant_limits(&self, tenant: &str, limits: TenantLimits) -> Result<(), StoreError> {
        self.set_settings(tenant, OF_TENANT, &limits).await
    }
}

impl Embedded {
    async fn settings(
        &self,
        tenant: Option<&str>,
        condition: &'static str,
    ) -> Result<Vec<(TenantId, String, String)>, StoreError> {
        let tenant = tenant.map(str::to_owned);
        let read = self.readers.read(move |connection| {
            let sql = format!(
                "SELECT t.name, s.stage, s.settings FROM stage_settings s JOIN tenant t ON t.key = s.tenant
                 WHERE (?1 IS NULL OR t.name = ?1) AND s.{condition}"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let rows = statement.query_map([tenant], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        });
        read.await
    }

    async fn set_settings(&self, tenant: &str, stage: &str, settings: &impl Serialize) -> Result<(), StoreError> {
        let settings = serde_json::to_string(settings).map_err(|error| StoreError::Io(error.to_string()))?;
        let (tenant, stage) = (tenant.to_owned(), stage.to_owned());
        self.change(Box::new(move |connection, counters| {
            let tenant = accepting::tenant_key(connection, counters, &tenant)?;
            connection.execute(
                "INSERT INTO stage_settings (tenant, stage, settings) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET settings = excluded.settings",
                params![tenant, stage, settings],
            )?;
            Ok(())
        }))
        .await
    }

    /// Removes the files that no version names.
    async fn sweep_component_files(&self) -> Result<(), StoreError> {
        let folder = self.shared.layout.components.clone();
        let read = self.readers.read(move |connection| {
            let mut statement = connection.prepare_cached("SELECT DISTINCT digest FROM component")?;
            let named: HashSet<PathBuf> = statement
                .query_map([], |row| row.get::<_, String>(0))?
                .map(|digest| Ok(file_of(&folder, &digest?)))
                .collect::<rusqlite::Result<_>>()?;
            for entry in fs::read_dir(&folder).map_err(io_error)?.flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|kind| kind == "wasm") && !named.contains(&path) {
                    // The next push tries again.
                    let _ = fs::remove_file(&path);
                }
            }
            Ok(())
        });
        read.await
    }
}

/// Ends what is in the way of a version that takes this state.
fn give_way(connection: &Connection, tenant: i64, stage: &str, state: VersionState) -> rusqlite::Result<()> {
    let after = match state {
        VersionState::Active => VersionState::Retired,
        VersionState::Canary(_) | VersionState::Shadow => VersionState::RolledBack,
        VersionState::Retired | VersionState::RolledBack | VersionState::Removed => return Ok(()),
    };
    connection.execute(
        "UPDATE component SET state = ?4, percent = 0 WHERE tenant = ?1 AND stage = ?2 AND state = ?3",
        params![tenant, stage, state.code().0, after.code().0],
    )?;
    Ok(())
}

fn write_state(
    connection: &Connection,
    tenant: i64,
    stage: &str,
    version: u32,
    state: VersionState,
    note: Option<&str>,
) -> rusqlite::Result<usize> {
    let (code, percent) = state.code();
    connection.execute(
        "UPDATE component SET state = ?4, percent = ?5, note = ?6 WHERE tenant = ?1 AND stage = ?2 AND version = ?3",
        params![tenant, stage, version, code, percent, note],
    )
}

/// Makes a version the latest that became active.
fn count_activation(connection: &Connection, tenant: i64, stage: &str, version: u32) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE component SET activated =
           (SELECT coalesce(max(activated), 0) + 1 FROM component WHERE tenant = ?1 AND stage = ?2)
         WHERE tenant = ?1 AND stage = ?2 AND version = ?3",
        params![tenant, stage, version],
    )?;
    Ok(())
}

/// Removes the oldest versions that are out of use, beyond those that are kept.
fn forget_oldest(connection: &Connection, tenant: i64, stage: &str) -> rusqlite::Result<()> {
    let sql = format!(
        "DELETE FROM component WHERE tenant = ?1 AND stage = ?2 AND state NOT IN (1, 2, 3) AND version NOT IN
           (SELECT version FROM component WHERE tenant = ?1 AND stage = ?2 ORDER BY version DESC LIMIT ?3)
         AND version IS NOT ({BEFORE})"
    );
    connection.execute(&sql, params![tenant, stage, VERSIONS_KEPT])?;
    Ok(())
}

fn read_version(row: &Row<'_>) -> rusqlite::Result<ComponentVersion> {
    Ok(ComponentVersion {
        tenant: row.get(0)?,
        stage: row.get(1)?,
        version: row.get(2)?,
        digest: row.get(3)?,
        size_bytes: u64::try_from(row.get::<_, i64>(4)?).unwrap_or_default(),
        source: row.get(5)?,
        pushed_at: time(row.get(6)?),
        state: VersionState::of(row.get(7)?, row.get(8)?),
        note: row.get(9)?,
    })
}

fn from_json<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Io(format!("settings of a stage: {error}")))
}

fn io_error(error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull => StoreError::Full,
        _ => StoreError::Io(format!("a component file: {error}")),
    }
}

fn file_of(folder: &Path, digest: &str) -> PathBuf {
    folder.join(format!("{digest}.wasm"))
}

/// Copies all component files to another data folder, durably, where there are any.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    private::folder(to)?;
    for entry in entries {
        let source = entry?.path();
        let Some(name) = source.file_name().filter(|_| source.extension().is_some_and(|kind| kind == "wasm")) else {
            continue;
        };
        let copy = to.join(name);
        match fs::copy(&source, &copy) {
            Ok(_) => private::file(&copy)?.sync_all()?,
            // A push has just given it up: no version of the copy needs it, or its tenant is told that it is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    File::open(to)?.sync_all()
}

/// Makes a file durable under its digest: under another name first, so that a crash leaves none that is cut short.
fn keep(folder: &Path, digest: &str, bytes: &[u8]) -> io::Result<()> {
    private::folder(folder)?;
    let path = file_of(folder, digest);
    if fs::metadata(&path).is_ok_and(|found| found.len() == bytes.len() as u64) {
        return Ok(());
    }
    let part = folder.join(format!("{digest}.part"));
    let mut file = private::file(&part)?;
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, &path)?;
    File::open(folder)?.sync_all()
}
