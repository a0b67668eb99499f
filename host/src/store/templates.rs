//! Stored templates: what is edited (the draft) and what is sent (what was published last).

use async_trait::async_trait;
use delivery_client::wire::{TemplateEdit, TemplateVariable};
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::accepting;
use super::embedded::Embedded;
use super::history::time;
use super::reading::tenant_key;
use super::writer::Job;
use super::{StoreError, TenantId};

/// Templates of one tenant.
pub const TEMPLATES: usize = 1000;

const COLUMNS: &str = "key, id, alias, name, created_ms, updated_ms, published_ms, draft, published";
/// The same for a list, which shows no contents: a hundred of them may be large.
const HEADS: &str = "key, id, alias, name, created_ms, updated_ms, published_ms, '{}', \
                     CASE WHEN published IS NULL THEN NULL ELSE '{}' END";

/// A template of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    pub id: Uuid,
    pub tenant: TenantId,
    pub alias: Option<String>,
    pub name: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub published_at: Option<Timestamp>,
    pub draft: TemplateContent,
    /// What messages are made of; absent until it is published.
    pub published: Option<TemplateContent>,
}

/// One version of a template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateContent {
    pub from: Option<String>,
    pub reply_to: Vec<String>,
    pub subject: Option<String>,
    pub html: Option<String>,
    pub text: Option<String>,
    pub variables: Vec<TemplateVariable>,
}

impl TemplateContent {
    /// Takes over what an edit says; the rest stays.
    pub fn edit(&mut self, edit: TemplateEdit) {
        let TemplateEdit { name: _, alias: _, from, reply_to, subject, html, text, variables } = edit;
        self.from = from.or(self.from.take());
        self.subject = subject.or(self.subject.take());
        self.html = html.or(self.html.take());
        self.text = text.or(self.text.take());
        if let Some(reply_to) = reply_to {
            self.reply_to = reply_to;
        }
        if let Some(variables) = variables {
            self.variables = variables;
        }
    }
}

/// What is done to a template that is there.
#[derive(Clone, Debug)]
pub enum TemplateChange {
    Edit(Box<TemplateEdit>),
    /// The draft is sent from now on.
    Publish,
    Remove,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq)]
pub enum From {
    Newest,
    /// Older than the one with this id.
    After(Uuid),
    /// Newer than the one with this id.
    Before(Uuid),
}

/// The tenants' templates.
#[async_trait]
pub trait Templates: Send + Sync + 'static {
    /// `Exists` where the tenant has the alias already, `Full` where it has as many templates as it may.
    async fn add_template(&self, template: Template) -> Result<(), StoreError>;
    /// By id or alias.
    async fn template(&self, tenant: &str, name: &str) -> Result<Option<Template>, StoreError>;
    /// Newest first; whether there are more in that direction.
    async fn templates(&self, tenant: &str, from: From, limit: usize) -> Result<(Vec<Template>, bool), StoreError>;
    /// By id or alias; the answer is its id. `NotFound`, and `Exists` where an alias is taken.
    async fn change_template(
        &self,
        tenant: &str,
        name: &str,
        change: TemplateChange,
        at: Timestamp,
    ) -> Result<Uuid, StoreError>;
}

#[async_trait]
impl Templates for Embedded {
    async fn add_template(&self, template: Template) -> Result<(), StoreError> {
        let change = Box::new(move |connection: &Connection, counters: &mut accepting::Counters| {
            let tenant = accepting::tenant_key(connection, counters, &template.tenant)?;
            let count: i64 = connection
                .prepare_cached("SELECT count(*) FROM template WHERE tenant = ?1")?
                .query_row([tenant], |row| row.get(0))?;
            if count >= TEMPLATES as i64 {
                return Err(StoreError::Full);
            }
            let added = connection
                .prepare_cached(
                    "INSERT INTO template (id, tenant, alias, name, created_ms, updated_ms, published_ms, draft, published)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
                )?
                .execute(params![
                    template.id.as_bytes(),
                    tenant,
                    template.alias,
                    template.name,
                    template.created_at.as_millisecond(),
                    template.updated_at.as_millisecond(),
                    template.published_at.map(|at| at.as_millisecond()),
                    write(&template.draft)?,
                    template.published.as_ref().map(write).transpose()?,
                ])?;
            if added == 0 { Err(taken(template.alias.as_deref())) } else { Ok(()) }
        });
        self.ask(|answer| Job::Change { change, answer }).await?
    }

    async fn template(&self, tenant: &str, name: &str) -> Result<Option<Template>, StoreError> {
        let (tenant, name) = (tenant.to_owned(), name.to_owned());
        self.readers.read(move |connection| Ok(find(connection, &tenant, &name)?.map(|(_, template)| template))).await
    }

    async fn templates(&self, tenant: &str, from: From, limit: usize) -> Result<(Vec<Template>, bool), StoreError> {
        let tenant = tenant.to_owned();
        self.readers
            .read(move |connection| {
                let Some(owner) = tenant_key(connection, &tenant)? else { return Ok((Vec::new(), false)) };
                let (id, condition, order) = match from {
                    From::Newest => (None, "key < 9223372036854775807", "DESC"),
                    From::After(id) => (Some(id), "key < ?2", "DESC"),
                    From::Before(id) => (Some(id), "key > ?2", "ASC"),
                };
                let edge = match id {
                    Some(id) => {
                        let found = find(connection, &tenant, &id.to_string())?;
                        found.ok_or_else(|| StoreError::NotFound(format!("template {id}")))?.0
                    }
                    None => 0,
                };
                let sql = format!(
                    "SELECT {HEADS} FROM template WHERE tenant = ?1 AND {condition} AND ?2 >= 0 ORDER BY key {order} LIMIT ?3"
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let rows = statement.query_map(params![owner, edge, limit as i64 + 1], |row| read(row, &tenant))?;
                let mut found = rows.map(|row| row.map(|(_, template)| template)).collect::<Result<Vec<_>, _>>()?;
                let more = found.len() > limit;
                found.truncate(limit);
                if order == "ASC" {
                    found.reverse();
                }
                Ok((found, more))
            })
            .await
    }

    async fn change_template(
        &self,
        tenant: &str,
        name: &str,
        change: TemplateChange,
        at: Timestamp,
    ) -> Result<Uuid, StoreError> {
        let (tenant, name) = (tenant.to_owned(), name.to_owned());
        let (told, changed) = std::sync::mpsc::channel();
        let change = Box::new(move |connection: &Connection, _: &mut accepting::Counters| {
            let (key, template) =
                find(connection, &tenant, &name)?.ok_or_else(|| StoreError::NotFound(format!("template {name}")))?;
            apply(connection, key, &template, change, at.as_millisecond())?;
            // The asker waits for the commit, and then takes it out.
            let _ = told.send(template.id);
            Ok(())
        });
        self.ask(|answer| Job::Change { change, answer }).await??;
        changed.try_recv().map_err(|_| StoreError::Io("the store gave no answer".to_owned()))
    }
}

fn apply(
    connection: &Connection,
    key: i64,
    template: &Template,
    change: TemplateChange,
    at_ms: i64,
) -> Result<(), StoreError> {
    match change {
        TemplateChange::Remove => {
            connection.prepare_cached("DELETE FROM template WHERE key = ?1")?.execute([key])?;
        }
        TemplateChange::Publish => {
            connection
                .prepare_cached(
                    "UPDATE template SET published = draft, published_ms = ?2, updated_ms = ?2 WHERE key = ?1",
                )?
                .execute([key, at_ms])?;
        }
        TemplateChange::Edit(edit) => {
            let name = edit.name.clone().unwrap_or_else(|| template.name.clone());
            let alias = edit.alias.clone().or_else(|| template.alias.clone());
            let mut draft = template.draft.clone();
            draft.edit(*edit);
            let changed = connection
                .prepare_cached(
                    "UPDATE OR IGNORE template SET name = ?2, alias = ?3, draft = ?4, updated_ms = ?5 WHERE key = ?1",
                )?
                .execute(params![key, name, alias, write(&draft)?, at_ms])?;
            if changed == 0 {
                return Err(taken(alias.as_deref()));
            }
        }
    }
    Ok(())
}

fn taken(alias: Option<&str>) -> StoreError {
    StoreError::Exists(format!("a template with the alias {}", alias.unwrap_or_default()))
}

fn find(connection: &Connection, tenant: &str, name: &str) -> Result<Option<(i64, Template)>, StoreError> {
    let Some(owner) = tenant_key(connection, tenant)? else { return Ok(None) };
    let by = |column: &str| format!("SELECT {COLUMNS} FROM template WHERE tenant = ?1 AND {column} = ?2");
    let found = match Uuid::parse_str(name) {
        Ok(id) => connection
            .prepare_cached(&by("id"))?
            .query_row(params![owner, id.as_bytes()], |row| read(row, tenant))
            .optional(),
        Err(_) => {
            connection.prepare_cached(&by("alias"))?.query_row(params![owner, name], |row| read(row, tenant)).optional()
        }
    };
    Ok(found?)
}

fn read(row: &Row<'_>, tenant: &str) -> rusqlite::Result<(i64, Template)> {
    let content = |column: usize, text: &str| {
        serde_json::from_str::<TemplateContent>(text)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
    };
    let draft: String = row.get(7)?;
    let published: Option<String> = row.get(8)?;
    let template = Template {
        id: Uuid::from_bytes(row.get(1)?),
        tenant: tenant.to_owned(),
        alias: row.get(2)?,
        name: row.get(3)?,
        created_at: time(row.get(4)?),
        updated_at: time(row.get(5)?),
        published_at: row.get::<_, Option<i64>>(6)?.map(time),
        draft: content(7, &draft)?,
        published: published.map(|text| content(8, &text)).transpose()?,
    };
    Ok((row.get(0)?, template))
}

fn write(content: &TemplateContent) -> Result<String, StoreError> {
    serde_json::to_string(content).map_err(|error| StoreError::Io(format!("a template cannot be stored: {error}")))
}
