//! What reports a sender asked for, on disk: a column of its message, NULL where none can be asked for. A column, because
//! a lease reads the message's row anyway.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use mail::dsn::{EnvelopeId, Notify, OriginalRecipient, RecipientRequest, Request, Return};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde::{Deserialize, Serialize};

use super::StoreError;

/// A migration of `store.db`: see `schema`.
pub(super) const SCHEMA: &str = "ALTER TABLE message ADD COLUMN request TEXT;";

/// By far the most: an SMTP client that asked for nothing.
const EMPTY: &str = "{}";
static NOTHING_ASKED: LazyLock<Arc<Request>> = LazyLock::new(Arc::default);

/// The stored form. Names are short: this is read with every lease of such a message.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    envid: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    rcpt: BTreeMap<u32, StoredRecipient>,
}

#[derive(Serialize, Deserialize)]
struct StoredRecipient {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notify: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    orcpt: Option<String>,
    /// 1: a report told of its delay.
    #[serde(default, skip_serializing_if = "is_zero")]
    told: u8,
}

fn is_zero(number: &u8) -> bool {
    *number == 0
}

/// What stands in the column.
pub(super) fn to_column(request: Option<&Request>) -> Result<Option<String>, StoreError> {
    let Some(request) = request else { return Ok(None) };
    if request.is_empty() {
        return Ok(Some(EMPTY.to_owned()));
    }
    let recipient = |(place, asked): (&u32, &RecipientRequest)| {
        let notify = asked.notify.map(|notify| notify.to_string());
        let orcpt = asked.original.as_ref().map(|original| original.as_str().to_owned());
        (*place, StoredRecipient { notify, orcpt, told: u8::from(asked.delay_told) })
    };
    let stored = Stored {
        ret: request.ret.map(|ret| ret.to_string()),
        envid: request.envelope_id.as_ref().map(|id| id.as_str().to_owned()),
        rcpt: request.recipients.iter().map(recipient).collect(),
    };
    let text = serde_json::to_string(&stored);
    text.map(Some).map_err(|error| StoreError::Io(format!("a request for reports cannot be stored: {error}")))
}

/// What the column says.
pub(super) fn from_column(value: ValueRef<'_>) -> Result<Option<Arc<Request>>, StoreError> {
    let unreadable =
        |error: &dyn std::fmt::Display| StoreError::Io(format!("a stored request for reports cannot be read: {error}"));
    let text = match value {
        ValueRef::Null => return Ok(None),
        value => value.as_str().map_err(|error| unreadable(&error))?,
    };
    if text == EMPTY {
        return Ok(Some(NOTHING_ASKED.clone()));
    }
    let stored: Stored = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    let mut request = Request::default();
    if let Some(ret) = stored.ret {
        request.ret = Some(Return::parse(&ret).map_err(|error| unreadable(&error))?);
    }
    if let Some(id) = stored.envid {
        request.envelope_id = Some(EnvelopeId::parse(&id).map_err(|error| unreadable(&error))?);
    }
    for (place, StoredRecipient { notify, orcpt, told }) in stored.rcpt {
        let notify = notify.map(|text| Notify::parse(&text)).transpose().map_err(|error| unreadable(&error))?;
        let original = orcpt.map(|text| OriginalRecipient::parse(&text, false)).transpose();
        let original = original.map_err(|error| unreadable(&error))?;
        request.recipients.insert(place, RecipientRequest { notify, original, delay_told: told != 0 });
    }
    Ok(Some(Arc::new(request)))
}

/// Remembers that a recipient's delay was told, inside the writer's transaction. Only who asked for it is told of it, so
/// its entry is there.
pub(super) fn note_delay_told(connection: &Connection, message: i64, place: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE message SET request = json_set(request, '$.rcpt.\"' || ?2 || '\".told', 1)
             WHERE key = ?1 AND request IS NOT NULL",
        )?
        .execute([message, place])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked() -> Request {
        let recipient = RecipientRequest {
            notify: Some(Notify { delay: true, ..Notify::NEVER }),
            original: Some(OriginalRecipient::parse("rfc822;a+2Bb@c.test", false).unwrap()),
            delay_told: false,
        };
        let never = RecipientRequest { notify: Some(Notify::NEVER), ..RecipientRequest::default() };
        Request {
            ret: Some(Return::Headers),
            envelope_id: Some(EnvelopeId::parse("QQ1").unwrap()),
            recipients: BTreeMap::from([(3, recipient), (7, never)]),
        }
    }

    fn read(text: &str) -> Request {
        Request::clone(&from_column(ValueRef::Text(text.as_bytes())).unwrap().unwrap())
    }

    #[test]
    fn what_is_written_reads_back() {
        for request in [asked(), Request::default()] {
            assert_eq!(read(&to_column(Some(&request)).unwrap().unwrap()), request);
        }
        assert_eq!(to_column(Some(&Request::default())).unwrap().unwrap(), "{}");
        assert_eq!(to_column(None).unwrap(), None);
        assert!(from_column(ValueRef::Null).unwrap().is_none());
        assert!(from_column(ValueRef::Text(b"nonsense")).is_err());
    }

    #[test]
    fn a_told_delay_is_noted_for_its_recipient_alone() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE message (key, request)").unwrap();
        let text = to_column(Some(&asked())).unwrap();
        connection.execute("INSERT INTO message VALUES (1, ?1), (2, ?1), (4, NULL)", [&text]).unwrap();
        note_delay_told(&connection, 1, 3).unwrap();
        note_delay_told(&connection, 4, 3).unwrap();
        let stored = |key: i64| {
            let sql = "SELECT request FROM message WHERE key = ?1";
            connection.query_row(sql, [key], |row| row.get::<_, Option<String>>(0)).unwrap()
        };
        let request = read(&stored(1).unwrap());
        assert!(request.of(3).unwrap().delay_told && !request.of(7).unwrap().delay_told);
        assert_eq!(read(&stored(2).unwrap()), asked());
        assert_eq!(stored(4), None);
    }
}
