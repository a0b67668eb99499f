//! `POST /templates` and `PATCH /templates/{id}`: fields and syntax are checked here, where the tenant's renderer is;
//! the host keeps the template.

use contract::{CHECK_ATTRIBUTE, RendererInput};
use delivery_client::Http;
use delivery_client::wire::{TemplateEdit, TemplateVariable, VariableType};
use http::{Request, Response, request};
use pipeline::{Refusal, Stages};

use crate::answer::Error;
use crate::auth;
use crate::email::mailbox_text;
use crate::json::{Fields, JsonError, Value};
use crate::service::{Body, Service, unread};
use crate::template::body_text;

/// Bytes of a request: sources are text, and escapes may double it.
const BODY_BYTES: usize = 2 << 20;
/// Variables of one template.
const VARIABLES: usize = 100;
/// Characters of a variable's name, of a template's name and of its alias.
const KEY_LENGTH: usize = 100;
const NAME_LENGTH: usize = 255;
/// Mailboxes in Reply-To.
const REPLY_TO: usize = 50;
const FIELDS: &[&str] = &["name", "alias", "from", "reply_to", "subject", "html", "text", "variables"];

impl<H: Http, S: Stages> Service<'_, H, S> {
    /// Checks a template and passes it on to the host with the caller's own credentials.
    pub(crate) async fn keep_template<B: Body>(
        &self,
        parts: request::Parts,
        body: B,
    ) -> Result<Response<Vec<u8>>, Error> {
        let credential = auth::credential(&parts.headers).ok_or_else(Error::missing_key)?;
        let caller = self.caller(&credential).await?;
        let body = body.read(BODY_BYTES).await.map_err(|error| unread(error, BODY_BYTES))?;
        if !caller.run_stages {
            return self.hand_over(parts, body).await;
        }
        let edit = read(Fields::read(&body)?, parts.method == http::Method::POST)?;
        self.check_syntax(&edit).await?;
        let body = serde_json::to_vec(&edit).map_err(|error| Error::later(error.to_string(), 5))?;
        Ok(self.client.pass_through(Request::from_parts(parts, body)).await?)
    }

    async fn check_syntax(&self, edit: &TemplateEdit) -> Result<(), Error> {
        let TemplateEdit { subject, html, text, .. } = edit;
        if subject.is_none() && html.is_none() && text.is_none() {
            return Ok(());
        }
        let input = RendererInput {
            id: None,
            subject: subject.clone(),
            html: html.clone(),
            // A renderer wants one of the two.
            text: text.clone().or_else(|| html.is_none().then(String::new)),
            variables: "{}".to_owned(),
            attributes: vec![(CHECK_ATTRIBUTE.to_owned(), "1".to_owned())],
        };
        match self.stages.render(input).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Refusal::from_stage("renderer", error).into()),
        }
    }
}

/// Reads the fields. A new template needs a name and something to send.
fn read(mut fields: Fields<'_>, is_new: bool) -> Result<TemplateEdit, JsonError> {
    let name = fields.take("name").map(|value| short(&value, NAME_LENGTH)).transpose()?;
    let alias = fields.take("alias").map(|value| alias(&value)).transpose()?;
    let from = fields.take("from").map(|value| mailbox_text(&value)).transpose()?;
    let reply_to = fields.take("reply_to").map(|value| reply_to(&value)).transpose()?;
    let mut source = |name: &str| fields.take(name).map(|value| body_text(&value)).transpose();
    let (subject, html, text) = (source("subject")?, source("html")?, source("text")?);
    let variables = fields.take("variables").map(|value| variables(&value)).transpose()?;
    if is_new && name.is_none() {
        return Err(fields.missing("name"));
    }
    if is_new && html.is_none() && text.is_none() {
        return Err(fields.missing("html` or `text"));
    }
    fields.finish(FIELDS)?;
    Ok(TemplateEdit { name, alias, from, reply_to, subject, html, text, variables })
}

fn short(value: &Value<'_>, length: usize) -> Result<String, JsonError> {
    let text = value.string()?;
    if text.trim().is_empty() || text.chars().count() > length || text.chars().any(char::is_control) {
        return Err(value.wrong(format!("it must have 1 to {length} characters, all in one line")));
    }
    Ok(text.into_owned())
}

/// An alias stands for the id: so it must not look like one, nor need escaping in a path.
fn alias(value: &Value<'_>) -> Result<String, JsonError> {
    let text = short(value, KEY_LENGTH)?;
    let is_fit = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !is_fit || text.starts_with('.') || uuid::Uuid::parse_str(&text).is_ok() {
        return Err(value.wrong("use ASCII letters, digits, `-`, `_` and `.`; it must not look like an id"));
    }
    Ok(text)
}

fn reply_to(value: &Value<'_>) -> Result<Vec<String>, JsonError> {
    if value.is_string() {
        return Ok(vec![mailbox_text(value)?]);
    }
    let list = value.list()?;
    if list.len() > REPLY_TO {
        return Err(value.wrong(format!("there are {} addresses: at most {REPLY_TO} are allowed", list.len())));
    }
    list.iter().map(mailbox_text).collect()
}

fn variables(value: &Value<'_>) -> Result<Vec<TemplateVariable>, JsonError> {
    let list = value.list()?;
    if list.len() > VARIABLES {
        return Err(value.wrong(format!("there are {} variables: at most {VARIABLES} are allowed", list.len())));
    }
    let mut variables: Vec<TemplateVariable> = Vec::with_capacity(list.len());
    for value in &list {
        let mut fields = value.fields()?;
        let key_value = fields.need("key")?;
        let key = short(&key_value, KEY_LENGTH)?;
        if !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            || key.starts_with(|c: char| c.is_ascii_digit())
        {
            return Err(key_value.wrong("use ASCII letters, digits and underscores, not beginning with a digit"));
        }
        if variables.iter().any(|known| known.key == key) {
            return Err(key_value.wrong("the variable stands twice"));
        }
        let kind_value = fields.need("type")?;
        let kind = match kind_value.string()?.as_ref() {
            "string" => VariableType::String,
            "number" => VariableType::Number,
            _ => return Err(kind_value.wrong("it must be `string` or `number`")),
        };
        let fallback = fields.take("fallback_value").map(|value| fallback(&value, kind)).transpose()?;
        fields.finish(&["key", "type", "fallback_value"])?;
        variables.push(TemplateVariable { key, kind, fallback });
    }
    Ok(variables)
}

fn fallback(value: &Value<'_>, kind: VariableType) -> Result<serde_json::Value, JsonError> {
    let read: serde_json::Value = serde_json::from_str(value.source()).map_err(|error| value.wrong(error))?;
    match kind {
        VariableType::String if read.is_string() => Ok(read),
        VariableType::Number if read.is_number() => Ok(read),
        VariableType::String => Err(value.wrong("it must be a string, as its `type` says")),
        VariableType::Number => Err(value.wrong("it must be a number, as its `type` says")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ask(json: &str) -> Result<TemplateEdit, JsonError> {
        read(Fields::read(json.as_bytes())?, true)
    }

    #[test]
    fn what_the_sdks_send() {
        let json = r#"{"name":"Order","subject":"Hi","html":"<p>{{{A}}}</p>","alias":"order-1","from":"Acme <a@src.test>",
            "reply_to":["r@src.test"],"variables":[{"key":"A","type":"string","fallback_value":"x"},{"key":"B","type":"number"}]}"#;
        let edit = ask(json).unwrap();
        assert_eq!((edit.name.as_deref(), edit.alias.as_deref()), (Some("Order"), Some("order-1")));
        assert_eq!(edit.reply_to.unwrap(), ["r@src.test"]);
        let variables = edit.variables.unwrap();
        assert_eq!((variables[0].fallback.clone(), variables[1].kind), (Some("x".into()), VariableType::Number));
        assert!(read(Fields::read(br#"{"subject":"Ho"}"#).unwrap(), false).is_ok());
    }

    #[test]
    fn no_bytes_panic() {
        let body =
            br#"{"name":"n","alias":"a","from":"a@b.test","reply_to":["a@b.test"],"html":"{{a}}","subject":"\u00e9",
            "variables":[{"key":"A","type":"number","fallback_value":1e3}]}"#;
        assert!(Fields::read(body).and_then(|fields| read(fields, true)).is_ok());
        for at in 0..body.len() {
            for byte in [b'"', b'{', b']', b',', b'0', b'-', 0, 0xff] {
                let mut changed = body.to_vec();
                changed[at] = byte;
                let _ = Fields::read(&changed).and_then(|fields| read(fields, true));
            }
        }
    }

    #[test]
    fn faults_are_named() {
        let check = |fields: &str, path: &str| {
            let json = format!(r#"{{"name":"n","html":"h",{fields}}}"#);
            match ask(&json) {
                Err(JsonError::Wrong(at, _) | JsonError::Missing(at)) => assert_eq!(at, path, "{fields}"),
                other => unreachable!("{fields}: {other:?}"),
            }
        };
        check(r#""alias":"a b""#, "alias");
        check(r#""alias":"01890a5d-ac96-774b-bcce-b302099a8057""#, "alias");
        check(r#""alias":"../x""#, "alias");
        check(r#""from":"nobody""#, "from");
        check(r#""reply_to":["a@b.test","x"]"#, "reply_to[1]");
        check(r#""subject":5"#, "subject");
        check(r#""variables":[{"key":"A","type":"string"},{"key":"A","type":"string"}]"#, "variables[1].key");
        check(r#""variables":[{"key":"A.B","type":"string"}]"#, "variables[0].key");
        check(r#""variables":[{"key":"A","type":"list"}]"#, "variables[0].type");
        check(r#""variables":[{"key":"A","type":"number","fallback_value":"1"}]"#, "variables[0].fallback_value");
        check(r#""variables":[{"type":"number"}]"#, "variables[0].key");
        check(r#""colour":1"#, "colour");
        assert_eq!(ask(r#"{"html":"h"}"#), Err(JsonError::Missing("name".to_owned())));
        assert_eq!(ask(r#"{"name":"n"}"#), Err(JsonError::Missing("html` or `text".to_owned())));
        let many = vec![r#"{"key":"A","type":"string"}"#; VARIABLES + 1].join(",");
        check(&format!(r#""variables":[{many}]"#), "variables");
    }
}
