//! What waits: `queue`. It is listed, and changed, a page at a time: a caller goes on with `next` until there is none, so
//! that no answer and no transaction grows with the queue.

use std::path::PathBuf;
use std::sync::Arc;

use http::{Method, StatusCode};
use jiff::Timestamp;
use mail::Domain;
use mail::stream::UnknownStream;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Call, Control, Made, Problem, Route};
use crate::store::{Backup, Pick, QueueChange, QueueFilter, QueuedRecipient};

/// Recipients on a page, where no number is asked for, and the most.
const PAGE: u64 = 100;
const PAGE_MOST: u64 = 1000;

/// A page of what waits.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Queued {
    /// Recipients of all tenants that are not done with; absent for whom only one tenant is shown.
    pub queued: Option<u64>,
    pub data: Vec<QueuedView>,
    /// Goes on with the next page; absent on the last. A page may be short, or empty, and yet have a next.
    pub next: Option<String>,
}

/// A recipient that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueuedView {
    /// Of the message.
    pub id: String,
    pub tenant: String,
    /// `transactional` or `broadcast`.
    pub stream: String,
    /// Absent: the null sender.
    pub sender: Option<String>,
    pub recipient: String,
    pub size_bytes: u64,
    #[schema(value_type = String, format = DateTime)]
    pub accepted_at: Timestamp,
    pub attempts: u32,
    /// `queued`, `held` or `scheduled`.
    pub state: String,
    /// When its next attempt is due; absent where it is held.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due_at: Option<Timestamp>,
}

/// What came of one step of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueChanged {
    /// Recipients.
    pub changed: u64,
    /// Recipients left alone because they are in delivery now.
    pub in_delivery: u64,
    /// Goes on with the next step; absent at the end.
    pub next: Option<String>,
}

/// Where a backup goes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBackup {
    /// A folder on the host's machine that is not there yet, as a whole path.
    #[schema(value_type = String)]
    pub folder: PathBuf,
}

/// A backup that was made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BackupView {
    pub messages: u64,
    pub segments: u64,
    pub bytes: u64,
    /// Whether the master key is in it; else it is needed from where the configuration keeps it.
    pub has_master_key: bool,
}

/// The routes of this family.
pub fn routes() -> Vec<Route> {
    let filtered = |route: Route| {
        route
            .of_tenant()
            .asks("id", "Only recipients of this message.")
            .asks("domain", "Only recipients at this domain.")
            .asks("site", "Only recipients at domains whose MX look-up found this mail host: see docs/operation.md.")
            .asks("source", "Only mail that leaves from this source, at domains whose mail hosts were looked up.")
            .asks("stream", "Only mail of this stream: `transactional` or `broadcast`.")
            .asks("accepted_before", "Only mail accepted before this time (RFC 3339).")
            .asks("held", "`true`: only what is held; `false`: only what is not.")
            .asks("cursor", "Goes on where `next` of the last answer says.")
            .for_managers()
    };
    let list = Route::new(Method::GET, "queue", "What waits, by destination", list);
    let change = Route::new(
        Method::POST,
        "queue/{change}",
        "Does `retry`, `hold`, `release`, `cancel`, `bounce` or `purge` to some of what fits",
        change,
    );
    vec![
        filtered(list).asks("limit", "At most so many recipients, up to 1000; 100 without it."),
        filtered(change).asks("all", "`true` where all that waits is meant; demanded where nothing else says what is."),
        Route::new(Method::POST, "backup", "Copies the data folder of the host while it works", backup),
    ]
}

async fn list(control: Arc<Control>, call: Call) -> Result<Queued, Problem> {
    let limit = call.asked_number("limit", 1, PAGE_MOST)?.unwrap_or(PAGE);
    let queued = match call.caller.is_operator() {
        true => Some(control.store.queued().await?),
        false => None,
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let page = control.store.queue(&filter(&control, &call)?, call.asked("cursor"), limit).await?;
    Ok(Queued { queued, data: page.items.into_iter().map(QueuedView::from).collect(), next: page.next })
}

async fn change(control: Arc<Control>, call: Call) -> Result<QueueChanged, Problem> {
    let change = match call.place("change") {
        "retry" => QueueChange::Retry,
        "hold" => QueueChange::Hold,
        "release" => QueueChange::Release,
        "cancel" => QueueChange::Cancel,
        "bounce" => QueueChange::Bounce,
        "purge" => QueueChange::Purge,
        other => {
            let text = format!(
                "`{}` is nothing that can be done to the queue: there are retry, hold, release, cancel, bounce, purge",
                other.chars().take(40).collect::<String>().escape_debug()
            );
            return Err(Problem::missing(text));
        }
    };
    if matches!(change, QueueChange::Release)
        && let Some(tenant) = call.caller.tenant()
    {
        // What an operator holds while an account is paused is the operator's to release.
        let standing = control.tenancy.of(tenant).await?;
        standing
            .check_pause()
            .map_err(|denial| Problem::new(StatusCode::FORBIDDEN, "account_paused", denial.to_string()))?;
    }
    let filter = filter(&control, &call)?;
    if filter == QueueFilter::default() && !flag(&call, "all")?.unwrap_or(false) {
        return Err(Problem::invalid(
            "nothing says what is meant: name `id`, `tenant`, `domain`, `site`, `source`, `stream`, `accepted_before` or `held`, or write `all=true`",
        ));
    }
    let tended = control.store.tend(&filter, change, call.asked("cursor"), Timestamp::now()).await?;
    Ok(QueueChanged { changed: tended.changed, in_delivery: tended.in_delivery, next: tended.next })
}

async fn backup(control: Arc<Control>, call: Call<NewBackup>) -> Result<Made<BackupView>, Problem> {
    // Secrets and the key that opens them go together.
    let _key_stays = control.keyring.keep_master_key().await;
    let Backup { messages, segments, octets, has_master_key } = control.store.backup(&call.body.folder).await?;
    Ok(Made(BackupView { messages, segments, bytes: octets, has_master_key }))
}

fn filter(control: &Control, call: &Call) -> Result<QueueFilter, Problem> {
    let message = match call.asked("id") {
        Some(text) => Some(Uuid::parse_str(text).map_err(|_| Problem::invalid("`id` must be the UUID of a message"))?),
        None => None,
    };
    let domain = match call.asked("domain") {
        Some(text) => Some(Domain::parse(text).map_err(|error| Problem::invalid(format!("`domain`: {error}")))?),
        None => None,
    };
    let accepted_before = match call.asked("accepted_before") {
        Some(text) => Some(
            text.parse()
                .map_err(|_| Problem::invalid("`accepted_before` must be a time such as 2026-12-01T10:00:00Z"))?,
        ),
        None => None,
    };
    let stream = call.asked("stream").map(str::parse).transpose();
    let stream = stream.map_err(|error: UnknownStream| Problem::invalid(format!("`stream`: {error}")))?;
    let tenant = call.only().map(str::to_owned);
    let pick = pick(control, call.asked("site"), call.asked("source"))?;
    Ok(QueueFilter { message, tenant, domain, pick, stream, accepted_before, held: flag(call, "held")? })
}

/// The mail that goes to a site, or leaves from a source. Sites are found by look-ups of the running queue, and are nowhere
/// but in its memory.
fn pick(control: &Control, site: Option<&str>, source: Option<&str>) -> Result<Option<Pick>, Problem> {
    if site.is_none() && source.is_none() {
        return Ok(None);
    }
    let Some(finder) = control.live.as_ref().and_then(|live| live.finder.get()) else {
        let text = "`site` and `source` are known to a running host only: start it, or filter by `domain`";
        return Err(Problem::new(StatusCode::CONFLICT, "stopped", text));
    };
    let unknown = || {
        Problem::missing(
            "no domain was found at that `site` or `source` since the host started: it is known once a domain's mail \
             hosts were looked up",
        )
    };
    finder.find(site, source).ok_or_else(unknown).map(Some)
}

fn flag(call: &Call, name: &str) -> Result<Option<bool>, Problem> {
    match call.asked(name) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(Problem::invalid(format!("`{name}` must be `true` or `false`"))),
    }
}

impl From<QueuedRecipient> for QueuedView {
    fn from(queued: QueuedRecipient) -> QueuedView {
        let state = match (queued.due_at, queued.is_scheduled) {
            (None, _) => "held",
            (Some(_), true) => "scheduled",
            (Some(_), false) => "queued",
        };
        QueuedView {
            id: queued.message.to_string(),
            tenant: queued.tenant,
            stream: queued.stream.to_string(),
            sender: Some(queued.sender).filter(|sender| !sender.is_empty()),
            recipient: queued.recipient,
            size_bytes: queued.size_bytes,
            accepted_at: queued.accepted_at,
            attempts: queued.attempts,
            state: state.to_owned(),
            due_at: queued.due_at,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use mail::Address;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::control::tests::{ask, config};
    use crate::store::NewMessage;

    async fn filled(folder: &std::path::Path) -> Arc<Control> {
        let control = crate::serve::open_control(&config(folder)).await.unwrap();
        for (number, to) in [(1, "x@a.test"), (2, "x@b.test"), (3, "y@b.test")] {
            let message = NewMessage {
                id: Uuid::from_u128(number),
                tenant: "default".to_owned(),
                sender: None,
                recipients: vec![Address::parse(to).unwrap()],
                bcc: Vec::new(),
                body: Bytes::from_static(b"Subject: x\r\n\r\n"),
                attributes: Vec::new(),
                tags: Vec::new(),
                idempotency: None,
                accepted_at: Timestamp::now(),
                scheduled_at: None,
                request: None,
            };
            control.store.accept(vec![message]).await.pop().unwrap().unwrap();
        }
        control
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_waits_is_listed_in_pages_and_changed() {
        let folder = tempfile::tempdir().unwrap();
        let control = filled(folder.path()).await;
        let (status, page) = ask(&control, Method::GET, "queue?limit=2", Value::Null).await;
        assert_eq!((status, &page["queued"], page["data"].as_array().unwrap().len()), (200, &json!(3), 2), "{page}");
        let path = format!("queue?limit=2&cursor={}", page["next"].as_str().unwrap());
        let (_, rest) = ask(&control, Method::GET, &path, Value::Null).await;
        assert_eq!(rest["data"].as_array().unwrap().len(), 1);

        let (status, held) = ask(&control, Method::POST, "queue/hold?domain=b.test", Value::Null).await;
        assert_eq!((status, &held["changed"], &held["next"]), (200, &json!(2), &Value::Null), "{held}");
        let (_, page) = ask(&control, Method::GET, "queue?held=true", Value::Null).await;
        assert_eq!(page["data"][1]["state"], "held");
        let (_, gone) = ask(&control, Method::POST, "queue/purge?all=true", Value::Null).await;
        assert_eq!(gone["changed"], 3);
        assert_eq!(ask(&control, Method::GET, "queue", Value::Null).await.1["queued"], 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_meant_is_not_done() {
        let folder = tempfile::tempdir().unwrap();
        let control = filled(folder.path()).await;
        for (path, status, part) in [
            ("queue/purge", 422, "all=true"),
            ("queue/eat?all=true", 404, "nothing that can be done"),
            ("queue/purge?id=1", 422, "UUID"),
            ("queue/purge?domain=a..b", 422, "domain"),
            ("queue/purge?accepted_before=yesterday", 422, "2026"),
            ("queue/purge?held=maybe", 422, "true"),
            ("queue/purge?stream=bulk", 422, "no stream `bulk`"),
            ("queue/purge?all=true&cursor=x", 404, "cursor"),
            ("queue/purge?site=x", 409, "running host"),
            ("queue/purge?place=x", 422, "place"),
        ] {
            let (got, answer) = ask(&control, Method::POST, path, Value::Null).await;
            assert_eq!(got, status, "{path}: {answer}");
            assert!(answer["message"].as_str().unwrap().contains(part), "{path}: {answer}");
        }
        assert_eq!(ask(&control, Method::GET, "queue", Value::Null).await.1["queued"], 3);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_backup_is_made_where_nothing_is() {
        let folder = tempfile::tempdir().unwrap();
        let control = filled(folder.path()).await;
        let to = folder.path().join("copy");
        let (status, made) = ask(&control, Method::POST, "backup", json!({ "folder": to })).await;
        assert_eq!((status, &made["messages"]), (201, &json!(3)), "{made}");
        assert!(to.join("store.db").exists());
        assert_eq!(ask(&control, Method::POST, "backup", json!({ "folder": to })).await.0, 409);
    }
}
