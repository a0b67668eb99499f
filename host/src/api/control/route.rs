//! The table of routes: what each takes, what it answers, who may call it, and the work. Matching, permission, reading and
//! the document all come from the same entry, so that no route exists without its description.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::audit::{self, AuditEntry};
use super::caller::{Caller, Entry};
use super::document::Schemas;
use super::problem::Problem;
use super::{Control, PREFIX};
use crate::DEFAULT_TENANT;
use crate::config::{TENANT_NAME_BYTES, is_tenant_name};
use crate::store::TenantId;

/// The place in a path, and the parameter of a query, that name a tenant.
pub(super) const TENANT: &str = "tenant";

/// Bytes of a query's parameter that an error shows.
const SHOWN_CHARS: usize = 64;

/// What stands in a path in the places of a template.
pub(super) type Places = Vec<(&'static str, String)>;

type Work =
    Box<dyn Fn(Arc<Control>, Call<Bytes>) -> BoxFuture<'static, Result<Response<Bytes>, Problem>> + Send + Sync>;

/// One route. Only operators may call it, unless `for_managers` opens it to the tenants' own keys.
pub struct Route {
    pub(crate) method: Method,
    /// Behind the prefix: `domains/{domain}/edge-keys`.
    pub(crate) template: &'static str,
    pub(super) summary: &'static str,
    pub(super) is_for_managers: bool,
    /// Parameters of the query, each with what it means.
    pub(super) parameters: Vec<(&'static str, &'static str)>,
    /// The media type and schema of what it takes.
    pub(super) takes: fn(&mut Schemas) -> Option<Content>,
    pub(super) status: StatusCode,
    pub(super) answers: fn(&mut Schemas) -> Content,
    work: Work,
}

/// A media type, and the schema of what has it.
pub struct Content {
    pub(super) media_type: &'static str,
    pub(super) schema: RefOr<Schema>,
}

/// A call that may be made: its caller is known, its tenant is the caller's to touch, its parameters are known ones.
pub struct Call<B = Nothing> {
    pub caller: Caller,
    pub body: B,
    pub headers: HeaderMap,
    /// The query without its `tenant`, as it came.
    pub query: String,
    tenant: Option<TenantId>,
    places: Places,
    asked: Vec<(String, String)>,
    /// What was there before a change, for the audit log.
    before: Arc<OnceLock<Value>>,
}

impl<B> Call<B> {
    /// The tenant that the call is about: the one it names, or the caller's own, or the default one.
    pub fn tenant(&self) -> &str {
        self.only().unwrap_or(DEFAULT_TENANT)
    }

    /// The same; `None` where an operator names none, which lists take for all.
    pub fn only(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// The tenant that a body names, or the call's. `NotFound` where it is not the caller's to touch.
    pub fn tenant_or(&self, named: Option<&str>) -> Result<TenantId, Problem> {
        let Some(name) = named else { return Ok(self.tenant().to_owned()) };
        let name = tenant_name(name)?;
        self.check(&name)?;
        Ok(name)
    }

    /// Refuses what belongs to a tenant that is not the caller's to touch, as if it were not there.
    pub fn check(&self, tenant: &str) -> Result<(), Problem> {
        match self.caller.may_touch(tenant) {
            true => Ok(()),
            false => Err(no_tenant(tenant)),
        }
    }

    /// Tells the audit log what was there before the change that this call makes.
    pub fn was<T: Serialize>(&self, before: &T) {
        // Told twice, the first word stands.
        let _ = self.before.set(serde_json::to_value(before).unwrap_or_default());
    }

    /// What stands in the path in this place of the template.
    pub fn place(&self, name: &str) -> &str {
        self.places.iter().find_map(|(place, text)| (*place == name).then_some(text.as_str())).unwrap_or_default()
    }

    /// A parameter of the query.
    pub fn asked(&self, name: &str) -> Option<&str> {
        self.asked.iter().find_map(|(asked, value)| (asked == name).then_some(value.as_str()))
    }

    /// A number in the query.
    pub fn asked_number(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.asked(name) else { return Ok(None) };
        match text.parse().ok().filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(Problem::invalid(format!("`{name}` must be a number from {least} to {most}"))),
        }
    }

    fn with<T>(self, read: impl FnOnce(&HeaderMap, B) -> Result<T, Problem>) -> Result<Call<T>, Problem> {
        let Call { caller, body, headers, query, tenant, places, asked, before } = self;
        let body = read(&headers, body)?;
        Ok(Call { caller, body, headers, query, tenant, places, asked, before })
    }
}

/// What a route takes in the body of a request.
pub trait Body: Sized + Send + 'static {
    fn describe(schemas: &mut Schemas) -> Option<Content>;
    fn read(headers: &HeaderMap, body: Bytes) -> Result<Self, Problem>;
}

/// Takes no body: what comes is not looked at.
pub struct Nothing;

impl Body for Nothing {
    fn describe(_: &mut Schemas) -> Option<Content> {
        None
    }

    fn read(_: &HeaderMap, _: Bytes) -> Result<Nothing, Problem> {
        Ok(Nothing)
    }
}

/// Takes a file as it is. Where a route takes JSON instead of one, it looks at the call's `headers`.
pub struct File(pub Bytes);

impl Body for File {
    fn describe(_: &mut Schemas) -> Option<Content> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        let schema = ObjectBuilder::new().schema_type(Type::String).content_media_type(FILE).build();
        Some(Content { media_type: FILE, schema: schema.into() })
    }

    fn read(_: &HeaderMap, body: Bytes) -> Result<File, Problem> {
        Ok(File(body))
    }
}

/// The status of a problem that comes in the middle of a change: some of it may have been made.
const BROKEN_OFF: u16 = StatusCode::INTERNAL_SERVER_ERROR.as_u16();

const FILE: &str = "application/octet-stream";
const JSON: &str = "application/json";

/// A JSON object; no body is an empty one.
impl<T: DeserializeOwned + ToSchema + Send + 'static> Body for T {
    fn describe(schemas: &mut Schemas) -> Option<Content> {
        Some(Content { media_type: JSON, schema: schemas.of::<T>() })
    }

    fn read(_: &HeaderMap, body: Bytes) -> Result<T, Problem> {
        let bytes = if body.is_empty() { b"{}" } else { body.as_ref() };
        serde_json::from_slice(bytes)
            .map_err(|error| Problem::invalid(format!("the request is not what this route takes: {error}")))
    }
}

/// What a route answers where all is well.
pub trait Answer: Send + 'static {
    const STATUS: StatusCode;
    fn describe(schemas: &mut Schemas) -> Content;
    fn into_response(self) -> Response<Bytes>;
}

/// Answered with 200.
impl<T: Serialize + ToSchema + Send + 'static> Answer for T {
    const STATUS: StatusCode = StatusCode::OK;

    fn describe(schemas: &mut Schemas) -> Content {
        Content { media_type: JSON, schema: schemas.of::<T>() }
    }

    fn into_response(self) -> Response<Bytes> {
        json(StatusCode::OK, &self)
    }
}

/// Answered with 201: it was not there before.
pub struct Made<T>(pub T);

impl<T: Serialize + ToSchema + Send + 'static> Answer for Made<T> {
    const STATUS: StatusCode = StatusCode::CREATED;

    fn describe(schemas: &mut Schemas) -> Content {
        Content { media_type: JSON, schema: schemas.of::<T>() }
    }

    fn into_response(self) -> Response<Bytes> {
        json(StatusCode::CREATED, &self.0)
    }
}

/// The answer of another API, passed on as it is.
pub struct Passed(pub Response<Bytes>);

impl Answer for Passed {
    const STATUS: StatusCode = StatusCode::OK;

    fn describe(_: &mut Schemas) -> Content {
        Content { media_type: JSON, schema: utoipa::openapi::schema::empty().into() }
    }

    fn into_response(self) -> Response<Bytes> {
        self.0
    }
}

impl Route {
    /// A route and its work. What the work takes and answers is what the document says.
    pub fn new<B, A, F, W>(method: Method, template: &'static str, summary: &'static str, work: F) -> Route
    where
        B: Body,
        A: Answer,
        F: Fn(Arc<Control>, Call<B>) -> W + Send + Sync + 'static,
        W: Future<Output = Result<A, Problem>> + Send + 'static,
    {
        let work = move |control: Arc<Control>, call: Call<Bytes>| -> BoxFuture<'static, _> {
            match call.with(B::read) {
                Ok(call) => {
                    let work = work(control, call);
                    Box::pin(async move { work.await.map(A::into_response) })
                }
                Err(problem) => Box::pin(async move { Err(problem) }),
            }
        };
        Route {
            method,
            template,
            summary,
            is_for_managers: false,
            parameters: Vec::new(),
            takes: B::describe,
            status: A::STATUS,
            answers: A::describe,
            work: Box::new(work),
        }
    }

    /// Opens the route to keys of scope `manage`, each for its own tenant. The work must not touch another's: it asks
    /// `Call::only`, `tenant` and `check`.
    pub fn for_managers(mut self) -> Route {
        self.is_for_managers = true;
        self
    }

    /// A parameter of the query, and what it means.
    pub fn asks(mut self, name: &'static str, meaning: &'static str) -> Route {
        self.parameters.push((name, meaning));
        self
    }

    /// The parameter `tenant`.
    pub fn of_tenant(self) -> Route {
        self.asks(TENANT, "The tenant. Left out: `default`; where things are listed, all of them.")
    }

    /// The route's places in a path of these parts; `None` where it is another's.
    pub(super) fn matches(&self, path: &[String]) -> Option<Places> {
        let mut places = Vec::new();
        let mut parts = path.iter();
        for expected in self.template.split('/') {
            let part = parts.next()?;
            match place_name(expected) {
                Some(name) => places.push((name, part.clone())),
                None if expected == part => {}
                None => return None,
            }
        }
        parts.next().is_none().then_some(places)
    }

    /// Makes a call of a request whose caller is known, and does the work.
    pub(super) async fn call(
        &self,
        control: Arc<Control>,
        (caller, entry): (Caller, Entry),
        places: Places,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Problem> {
        if !self.is_for_managers && !caller.is_operator() {
            let text = format!("{} {PREFIX}{} is for operators: use an operator key", self.method, self.template);
            return Err(Problem::new(StatusCode::FORBIDDEN, "operators_only", text));
        }
        let query = request.uri().query().unwrap_or_default();
        let mut asked = self.read_query(query)?;
        let named = places.iter().find(|(name, _)| *name == TENANT).map(|(_, text)| text.clone());
        let named = match named {
            Some(named) => Some(control.tenant_at(&named).await?),
            None => asked.iter().find(|(name, _)| name == TENANT).map(|(_, text)| tenant_name(text)).transpose()?,
        };
        let named = named.or_else(|| caller.tenant().map(str::to_owned));
        if let Some(tenant) = named.as_deref().filter(|tenant| !caller.may_touch(tenant)) {
            return Err(no_tenant(tenant));
        }
        asked.retain(|(name, _)| name != TENANT);
        let rest: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("tenant=")).collect();
        let query = rest.join("&");
        let (head, body) = request.into_parts();
        let before = Arc::new(OnceLock::new());
        let audit = (self.method != Method::GET)
            .then(|| AuditEntry::asked(audit::who(&caller), entry, &self.method, &head.uri, &body));
        let tenant = named.clone();
        let headers = head.headers;
        let call = Call { caller, body, headers, query, tenant: named, places, asked, before: before.clone() };
        let work = (self.work)(control.clone(), call);
        let Some(mut audit) = audit else { return work.await };
        // A task of its own: a caller who goes away in the middle neither stops a change nor keeps it out of the log.
        let changing = tokio::spawn(async move {
            let answer = work.await;
            audit.before = before.get().cloned();
            audit.after = match &answer {
                Ok(answer) => audit::shown(answer.body()),
                Err(problem) if problem.status == BROKEN_OFF => Some(json!({ "error": problem.message })),
                Err(_) => return answer,
            };
            // What a body names is the tenant where the path names none.
            let said = |value: &Option<Value>| Some(value.as_ref()?.get(TENANT)?.as_str()?.to_owned());
            let tenant = tenant.or_else(|| said(&audit.after)).or_else(|| said(&audit.before));
            audit::write(&*control.tenants, tenant, audit).await;
            answer
        });
        changing.await.unwrap_or_else(|error| {
            let text = format!("the call broke off: {error}");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "broken_off", text))
        })
    }

    fn read_query(&self, query: &str) -> Result<Vec<(String, String)>, Problem> {
        let mut asked = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !self.parameters.iter().any(|(known, _)| *known == name) {
                let known: Vec<String> = self.parameters.iter().map(|(name, _)| format!("`{name}`")).collect();
                let known = if known.is_empty() {
                    "there is none here".to_owned()
                } else {
                    format!("there is {}", known.join(", "))
                };
                let shown: String = name.chars().take(SHOWN_CHARS).collect();
                return Err(Problem::invalid(format!("unknown parameter `{}`: {known}", shown.escape_debug())));
            }
            asked.push((name.to_owned(), delivery_client::unescape(value)));
        }
        Ok(asked)
    }
}

/// The name of a place, where a part of a template is one.
pub(super) fn place_name(part: &'static str) -> Option<&'static str> {
    part.strip_prefix('{')?.strip_suffix('}')
}

/// A name that a tenant may have.
pub(super) fn tenant_name(name: &str) -> Result<TenantId, Problem> {
    match is_tenant_name(name) {
        true => Ok(name.to_owned()),
        false => Err(Problem::invalid(format!(
            "`{}` is no name for a tenant: use lower-case letters, digits, `-` and `_`, at most {TENANT_NAME_BYTES}",
            name.chars().take(SHOWN_CHARS).collect::<String>().escape_debug()
        ))),
    }
}

/// The same words whether it is missing or another's: what a caller may not touch is not there for it.
pub(super) fn no_tenant(name: &str) -> Problem {
    let name: String = name.chars().take(SHOWN_CHARS).collect();
    Problem::missing(format!(
        "there is no tenant `{}`: `posthaste tenant list`, or GET /control/v1/tenants, names those there are",
        name.escape_debug()
    ))
}

/// A JSON answer.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Bytes> {
    crate::api::fault::json(status, value)
}
