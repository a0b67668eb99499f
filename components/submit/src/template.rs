//! The field `template`: sources given inline, or one that the host keeps, with its variables.
//!
//! A stored template declares variables with a type and perhaps a fallback; what the request gives is held to that, so
//! that a wrong one is named before anything is rendered. Others are passed on as they are.

use contract::RendererInput;
use delivery_client::wire::{TemplateAnswer, TemplateVariable, VariableType};
use mail::Mailbox;

use crate::json::{Fields, JsonError, Value};

/// Characters of an id or an alias.
const ID_LENGTH: usize = 100;
const FIELDS: &[&str] = &["id", "subject", "html", "text", "variables"];

/// A template as the host keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTemplate {
    pub source: TemplateAnswer,
    pub defaults: Defaults,
}

/// What a stored template says besides its sources, where the request does not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defaults {
    pub from: Option<Mailbox>,
    pub reply_to: Vec<Mailbox>,
}

impl StoredTemplate {
    /// Reads the host's answer; its addresses were checked when it was stored.
    pub fn new(source: TemplateAnswer) -> StoredTemplate {
        let from = source.from.as_deref().and_then(|text| Mailbox::parse(text).ok());
        let reply_to = source.reply_to.iter().filter_map(|text| Mailbox::parse(text).ok()).collect();
        StoredTemplate { defaults: Defaults { from, reply_to }, source }
    }
}

/// The stored template that a request names, by id or alias, and the field that does; without one it is inline.
pub fn stored_id(fields: &Fields<'_>) -> Result<Option<(String, String)>, JsonError> {
    let Some(template) = fields.look("template").filter(Value::is_object) else { return Ok(None) };
    let Some(value) = template.fields()?.take("id") else { return Ok(None) };
    let id = value.string()?;
    let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !(1..=ID_LENGTH).contains(&id.len()) || !id.chars().all(is_fit) || id.starts_with('.') {
        return Err(value.wrong("it is no id or alias of a template"));
    }
    Ok(Some((id.into_owned(), value.path)))
}

/// Reads the field. `beside` are the request's own subject, HTML and text, which are never rendered; `stored` is the
/// template it names, if it does.
pub fn read(
    value: &Value<'_>,
    beside: [&Option<Value<'_>>; 3],
    stored: Option<TemplateAnswer>,
) -> Result<RendererInput, JsonError> {
    let [subject, html, text] = beside;
    if let Some(beside) = html.as_ref().or(text.as_ref()) {
        return Err(beside.wrong("the template makes it: leave it out"));
    }
    let mut fields = value.fields()?;
    match stored {
        Some(stored) => from_stored(&mut fields, subject.is_some(), stored).and_then(|input| {
            fields.finish(FIELDS)?;
            Ok(input)
        }),
        None => inline(fields, subject),
    }
}

/// Text that becomes a body.
pub fn body_text(value: &Value<'_>) -> Result<String, JsonError> {
    value.string().map(|text| text.into_owned())
}

fn inline(mut fields: Fields<'_>, subject: &Option<Value<'_>>) -> Result<RendererInput, JsonError> {
    let mut source = |name: &str| fields.take(name).map(|value| body_text(&value)).transpose();
    let (own_subject, html, text) = (source("subject")?, source("html")?, source("text")?);
    if let (Some(beside), true) = (subject, own_subject.is_some()) {
        return Err(beside.wrong("the template has a subject of its own: leave out one of the two"));
    }
    if html.is_none() && text.is_none() {
        return Err(fields.missing("html` or `template.text"));
    }
    let variables = match fields.take("variables") {
        Some(variables) if variables.is_object() => variables.source().to_owned(),
        Some(variables) => {
            return Err(variables.fields().err().unwrap_or_else(|| variables.wrong("it must be an object")));
        }
        None => "{}".to_owned(),
    };
    fields.finish(FIELDS)?;
    Ok(RendererInput { id: None, subject: own_subject, html, text, variables, attributes: Vec::new() })
}

/// `has_subject`: the request's own subject counts more than the template's.
fn from_stored(fields: &mut Fields<'_>, has_subject: bool, stored: TemplateAnswer) -> Result<RendererInput, JsonError> {
    fields.take("id");
    for name in ["subject", "html", "text"] {
        if let Some(source) = fields.take(name) {
            return Err(source.wrong("the template with this `id` has it: leave out one of the two"));
        }
    }
    let given = fields.take("variables").map(|value| value.fields()).transpose()?;
    let given = given.map(Fields::rest).unwrap_or_default();
    let mut pairs = Vec::with_capacity(given.len() + stored.variables.len());
    for (name, value) in &given {
        if let Some(declared) = stored.variables.iter().find(|declared| declared.key == *name) {
            check_type(declared, value)?;
        }
        pairs.push(pair(name, value.source()));
    }
    for declared in &stored.variables {
        if given.iter().any(|(name, value)| *name == declared.key && value.source() != "null") {
            continue;
        }
        match &declared.fallback {
            Some(fallback) => {
                // A `null` that was given stands for nothing: the fallback takes its place.
                let null = pair(&declared.key, "null");
                pairs.retain(|pair| *pair != null);
                pairs.push(pair(&declared.key, &fallback.to_string()));
            }
            None => return Err(fields.missing(&format!("variables.{}", declared.key))),
        }
    }
    Ok(RendererInput {
        id: Some(stored.id),
        subject: stored.subject.filter(|_| !has_subject),
        html: stored.html,
        text: stored.text,
        variables: format!("{{{}}}", pairs.join(",")),
        attributes: Vec::new(),
    })
}

fn check_type(declared: &TemplateVariable, value: &Value<'_>) -> Result<(), JsonError> {
    let (fits, wanted) = match declared.kind {
        VariableType::String => (value.is_string(), "a string"),
        VariableType::Number => (value.source().starts_with(|c: char| c == '-' || c.is_ascii_digit()), "a number"),
    };
    if fits || value.source() == "null" {
        return Ok(());
    }
    Err(value.wrong(format!("the template declares it as {wanted}")))
}

fn pair(name: &str, source: &str) -> String {
    format!("{}:{source}", serde_json::Value::from(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn answer() -> TemplateAnswer {
        let variable = |key: &str, kind, fallback: Option<serde_json::Value>| TemplateVariable {
            key: key.to_owned(),
            kind,
            fallback,
        };
        TemplateAnswer {
            id: "0198".to_owned(),
            from: Some("Acme <a@src.test>".to_owned()),
            reply_to: vec!["r@src.test".to_owned()],
            subject: Some("Hi {{NAME}}".to_owned()),
            html: Some("<p>{{{NAME}}} {{PRICE}}</p>".to_owned()),
            text: None,
            variables: vec![
                variable("NAME", VariableType::String, Some("friend".into())),
                variable("PRICE", VariableType::Number, None),
            ],
        }
    }

    fn ask(template: &str, has_subject: bool) -> Result<RendererInput, JsonError> {
        let json = format!(r#"{{"subject":"S","template":{template}}}"#);
        let mut fields = Fields::read(json.as_bytes()).unwrap();
        let subject = fields.take("subject").filter(|_| has_subject);
        read(&fields.take("template").unwrap(), [&subject, &None, &None], Some(answer()))
    }

    #[test]
    fn variables_are_filled_up_and_checked() {
        let check = |variables: &str, expect: &str| {
            let input = ask(&format!(r#"{{"id":"x","variables":{variables}}}"#), false).unwrap();
            let expect: serde_json::Value = serde_json::from_str(expect).unwrap();
            assert_eq!(serde_json::from_str::<serde_json::Value>(&input.variables).unwrap(), expect);
            assert_eq!((input.id.as_deref(), input.subject.as_deref()), (Some("0198"), Some("Hi {{NAME}}")));
        };
        check(r#"{"PRICE":-1.5}"#, r#"{"PRICE":-1.5,"NAME":"friend"}"#);
        check(r#"{"NAME":"Bo \"x\"","PRICE":2}"#, r#"{"NAME":"Bo \"x\"","PRICE":2}"#);
        check(r#"{"NAME":null,"PRICE":2,"more":[1]}"#, r#"{"NAME":"friend","PRICE":2,"more":[1]}"#);
        let error = |template: &str| match ask(template, false) {
            Err(JsonError::Missing(path) | JsonError::Wrong(path, _)) => path,
            other => unreachable!("{template}: {other:?}"),
        };
        assert_eq!(error(r#"{"id":"x"}"#), "template.variables.PRICE");
        assert_eq!(error(r#"{"id":"x","variables":{"PRICE":null}}"#), "template.variables.PRICE");
        assert_eq!(error(r#"{"id":"x","variables":{"PRICE":"2"}}"#), "template.variables.PRICE");
        assert_eq!(error(r#"{"id":"x","variables":{"PRICE":2,"NAME":3}}"#), "template.variables.NAME");
        assert_eq!(error(r#"{"id":"x","variables":[]}"#), "template.variables");
        assert_eq!(error(r#"{"id":"x","html":"H","variables":{"PRICE":2}}"#), "template.html");
        assert_eq!(error(r#"{"id":"x","vars":{},"variables":{"PRICE":2}}"#), "template.vars");
    }

    #[test]
    fn the_requests_own_subject_counts_more() {
        assert_eq!(ask(r#"{"id":"x","variables":{"PRICE":2}}"#, true).unwrap().subject, None);
        let stored = StoredTemplate::new(answer());
        assert_eq!(stored.defaults.from.unwrap().to_string(), "Acme <a@src.test>");
        assert_eq!(stored.defaults.reply_to.len(), 1);
    }

    #[test]
    fn ids_are_short_words() {
        let ask = |template: &str| {
            let json = format!(r#"{{"template":{template}}}"#);
            stored_id(&Fields::read(json.as_bytes()).unwrap())
        };
        let found = Some(("order-1".to_owned(), "template.id".to_owned()));
        assert_eq!(ask(r#"{"id":"order-1"}"#), Ok(found));
        for none in [r#"{"html":"x"}"#, r#"{"id":null}"#, "5", "null"] {
            assert_eq!(ask(none), Ok(None), "{none}");
        }
        for wrong in [r#""""#, r#""a/b""#, r#"".""#, r#""../x""#, "5", r#""a?b""#] {
            assert!(
                matches!(ask(&format!(r#"{{"id":{wrong}}}"#)), Err(JsonError::Wrong(path, _)) if path == "template.id")
            );
        }
    }
}
