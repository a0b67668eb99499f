//! `/templates` in the shape of Resend's: stored templates of a tenant.
//!
//! What comes in has been read and its syntax checked by the trigger, which has the tenant's renderer; limits are
//! checked here. A template is edited as a draft and sent as it was published last.

use std::sync::Arc;

use bytes::Bytes;
use delivery_client::wire::{TemplateAnswer, TemplateEdit};
use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::credential;
use super::fault::{self, fault};
use crate::store::{Directory, StoreError, Template, TemplateChange, TemplateContent, TemplateFrom, Templates};

/// Where all routes of this API begin.
pub const PREFIX: &str = "/templates";

/// Entries on a page unless the caller says otherwise, and the most there may be.
const PAGE: usize = 20;
const PAGE_MOST: usize = 100;

/// Octets of a template: half of what a renderer takes, so that there is room for variables.
const TEMPLATE_BYTES: usize = 512 << 10;

/// Answers `/templates`.
pub struct TemplateApi {
    templates: Arc<dyn Templates>,
    directory: Arc<dyn Directory>,
}

/// Why a request is not answered with what it asked for.
enum Failure {
    NotFound(String),
    Method,
    Wrong(String),
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match error {
            StoreError::NotFound(what) => Failure::NotFound(what),
            StoreError::Exists(what) => Failure::Wrong(format!("`alias`: there already is {what}.")),
            // The only limit that adding a template meets before the disk's.
            StoreError::Full => Failure::Wrong("There is no room for more templates: remove some first.".to_owned()),
            error => Failure::Store(error),
        }
    }
}

impl TemplateApi {
    pub fn new(templates: Arc<dyn Templates>, directory: Arc<dyn Directory>) -> TemplateApi {
        TemplateApi { templates, directory }
    }

    /// Answers one request for `/templates` or a path below it.
    pub async fn answer(&self, request: Request<Bytes>) -> Response<Bytes> {
        let tenant = match credential::caller(&*self.directory, request.headers()).await {
            Ok(key) => key.tenant,
            Err(response) => return response,
        };
        let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').skip(1).collect();
        let query = request.uri().query().unwrap_or_default();
        let now = Timestamp::now();
        let answer = match (request.method(), path.as_slice()) {
            (&Method::GET, []) => self.list(&tenant, query).await,
            (&Method::POST, []) => self.create(&tenant, request.body(), now).await,
            (&Method::GET, [name]) => self.show(&tenant, name).await,
            (&Method::PATCH, [name]) => self.edit(&tenant, name, request.body(), now).await,
            (&Method::DELETE, [name]) => self.remove(&tenant, name, now).await,
            (&Method::POST, [name, "publish"]) => self.publish(&tenant, name, now).await,
            (&Method::POST, [name, "duplicate"]) => self.duplicate(&tenant, name, now).await,
            (_, [] | [_] | [_, "publish" | "duplicate"]) => Err(Failure::Method),
            _ => Err(Failure::NotFound("such a page".to_owned())),
        };
        answer.unwrap_or_else(Failure::into_response)
    }

    /// What a message is made of: for the delivery API. `None`: there is no such template; an error: it is a draft.
    pub async fn published(&self, tenant: &str, name: &str) -> Result<Option<TemplateAnswer>, Response<Bytes>> {
        let found =
            self.templates.template(tenant, name).await.map_err(|error| Failure::from(error).into_response())?;
        let Some(template) = found else { return Ok(None) };
        let Some(TemplateContent { from, reply_to, subject, html, text, variables }) = template.published else {
            let text = format!("The template {name} is a draft: publish it first (POST /templates/{name}/publish).");
            return Err(fault(StatusCode::NOT_FOUND, "not_found", text));
        };
        Ok(Some(TemplateAnswer { id: template.id.to_string(), from, reply_to, subject, html, text, variables }))
    }

    async fn list(&self, tenant: &str, query: &str) -> Result<Response<Bytes>, Failure> {
        let limit = super::parameter(query, "limit").map_or(Some(PAGE), |text| text.parse().ok());
        let limit = limit.filter(|limit| (1..=PAGE_MOST).contains(limit));
        let limit = limit.ok_or_else(|| Failure::Wrong("`limit` must be a number from 1 to 100.".to_owned()))?;
        let id = |name: &str| match super::parameter(query, name) {
            None => Ok(None),
            Some(text) => match Uuid::parse_str(text) {
                Ok(id) => Ok(Some(id)),
                Err(_) => Err(Failure::Wrong(format!("`{name}` must be the id of a template."))),
            },
        };
        let from = match (id("after")?, id("before")?) {
            (None, None) => TemplateFrom::Newest,
            (Some(id), None) => TemplateFrom::After(id),
            (None, Some(id)) => TemplateFrom::Before(id),
            (Some(_), Some(_)) => {
                return Err(Failure::Wrong("`after` and `before` exclude each other.".to_owned()));
            }
        };
        let (found, has_more) = self.templates.templates(tenant, from, limit).await?;
        let data: Vec<Value> = found.iter().map(head).collect();
        Ok(ok(&json!({ "object": "list", "has_more": has_more, "data": data })))
    }

    async fn create(&self, tenant: &str, body: &[u8], now: Timestamp) -> Result<Response<Bytes>, Failure> {
        let edit = read(body)?;
        let name = edit.name.clone().ok_or_else(|| Failure::Wrong("`name`: the field is missing.".to_owned()))?;
        let alias = edit.alias.clone();
        let mut draft = TemplateContent::default();
        draft.edit(edit);
        if draft.html.is_none() && draft.text.is_none() {
            return Err(Failure::Wrong("`html` or `text`: the field is missing.".to_owned()));
        }
        let template = Template {
            id: Uuid::now_v7(),
            tenant: tenant.to_owned(),
            alias,
            name,
            created_at: now,
            updated_at: now,
            published_at: None,
            draft,
            published: None,
        };
        let id = template.id;
        self.templates.add_template(template).await?;
        Ok(done(StatusCode::CREATED, id))
    }

    async fn show(&self, tenant: &str, name: &str) -> Result<Response<Bytes>, Failure> {
        let template = self.find(tenant, name).await?;
        let mut shown = head(&template);
        let TemplateContent { from, reply_to, subject, html, text, variables } = &template.draft;
        let time = |at| super::time(at);
        let variable = |variable: &delivery_client::wire::TemplateVariable| {
            json!({
                "key": variable.key, "type": variable.kind, "fallback_value": variable.fallback,
                "created_at": time(template.created_at), "updated_at": time(template.updated_at),
            })
        };
        let variables: Vec<Value> = variables.iter().map(variable).collect();
        let rest = json!({
            "object": "template", "from": from, "reply_to": (!reply_to.is_empty()).then_some(reply_to),
            "subject": subject, "html": html, "text": text, "variables": variables,
            "has_unpublished_versions": template.published.as_ref() != Some(&template.draft),
            "current_version_id": template.id.to_string(),
        });
        if let (Some(shown), Value::Object(rest)) = (shown.as_object_mut(), rest) {
            shown.extend(rest);
        }
        Ok(ok(&shown))
    }

    async fn edit(&self, tenant: &str, name: &str, body: &[u8], now: Timestamp) -> Result<Response<Bytes>, Failure> {
        let change = TemplateChange::Edit(Box::new(read(body)?));
        Ok(done(StatusCode::OK, self.templates.change_template(tenant, name, change, now).await?))
    }

    async fn publish(&self, tenant: &str, name: &str, now: Timestamp) -> Result<Response<Bytes>, Failure> {
        Ok(done(StatusCode::OK, self.templates.change_template(tenant, name, TemplateChange::Publish, now).await?))
    }

    async fn duplicate(&self, tenant: &str, name: &str, now: Timestamp) -> Result<Response<Bytes>, Failure> {
        let template = self.find(tenant, name).await?;
        let copy = Template {
            id: Uuid::now_v7(),
            alias: None,
            name: format!("{} (copy)", template.name),
            created_at: now,
            updated_at: now,
            published_at: None,
            published: None,
            ..template
        };
        let id = copy.id;
        self.templates.add_template(copy).await?;
        Ok(done(StatusCode::CREATED, id))
    }

    async fn remove(&self, tenant: &str, name: &str, now: Timestamp) -> Result<Response<Bytes>, Failure> {
        let id = self.templates.change_template(tenant, name, TemplateChange::Remove, now).await?;
        Ok(ok(&json!({ "object": "template", "id": id.to_string(), "deleted": true })))
    }

    async fn find(&self, tenant: &str, name: &str) -> Result<Template, Failure> {
        let found = self.templates.template(tenant, name).await?;
        found.ok_or_else(|| Failure::NotFound(format!("template {name}")))
    }
}

impl Failure {
    fn into_response(self) -> Response<Bytes> {
        match self {
            Failure::NotFound(what) => fault(StatusCode::NOT_FOUND, "not_found", format!("There is no {what}.")),
            Failure::Method => {
                fault(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not answered here.")
            }
            Failure::Wrong(text) => fault(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", text),
            Failure::Store(error) => {
                tracing::error!(%error, "the store did not answer");
                fault::unavailable("The templates cannot be reached now. Try again later.")
            }
        }
    }
}

/// Reads what the trigger has checked.
fn read(body: &[u8]) -> Result<TemplateEdit, Failure> {
    let edit: TemplateEdit = serde_json::from_slice(body)
        .map_err(|error| Failure::Wrong(format!("The template cannot be read: {error}.")))?;
    // All of it counts, fallback values too, so that neither a list of templates nor the store grows beyond measure.
    if body.len() > TEMPLATE_BYTES {
        let text = format!("The template has {} bytes: at most {TEMPLATE_BYTES} are allowed.", body.len());
        return Err(Failure::Wrong(text));
    }
    Ok(edit)
}

/// A template in a list.
fn head(template: &Template) -> Value {
    json!({
        "id": template.id.to_string(), "name": template.name, "alias": template.alias,
        "status": if template.published.is_some() { "published" } else { "draft" },
        "created_at": super::time(template.created_at), "updated_at": super::time(template.updated_at),
        "published_at": template.published_at.map(super::time),
    })
}

fn done(status: StatusCode, id: Uuid) -> Response<Bytes> {
    fault::json(status, &json!({ "object": "template", "id": id.to_string() }))
}

fn ok(value: &Value) -> Response<Bytes> {
    fault::json(StatusCode::OK, value)
}

#[cfg(test)]
#[path = "templates_tests.rs"]
mod tests;
