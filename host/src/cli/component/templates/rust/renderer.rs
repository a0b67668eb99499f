//! A renderer: puts variables in the place of `{{name}}`.

wit_bindgen::generate!({ path: "wit", world: "render-stage", generate_all });

use exports::posthaste::renderer::renderer::{Guest, Rendered, RendererInput, StageError};
use posthaste::types::types::{Finding, FindingClass, Position};
use serde_json::{Map, Value};

/// With this attribute only the syntax is asked for: there are no variables yet.
const CHECK: &str = "posthaste.check";

struct Component;

impl Guest for Component {
    fn render(input: RendererInput) -> Result<Rendered, StageError> {
        let check = input.attributes.iter().any(|(name, _)| name == CHECK);
        let variables: Map<String, Value> = serde_json::from_str(&input.variables)
            .map_err(|error| refuse("variables", format!("the variables are no JSON object: {error}"), None))?;
        let fill = |field: &str, source: Option<String>, markup: bool| {
            source.map(|source| fill(field, &source, &variables, markup, check)).transpose()
        };
        // A subject is one line, whatever its variables hold.
        let subject = fill("subject", input.subject, false)?.map(|subject| subject.replace(['\r', '\n'], " "));
        let html = fill("html", input.html, true)?;
        let text = fill("text", input.text, false)?;
        Ok(Rendered { subject, html, text, warnings: vec![], attributes: vec![] })
    }
}

/// Fills one source. In `markup` the variables' own markup is taken away.
fn fill(
    field: &str,
    source: &str,
    variables: &Map<String, Value>,
    markup: bool,
    check: bool,
) -> Result<String, StageError> {
    let mut filled = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, after)) = rest.split_once("{{") {
        let fault = |text: String| refuse(field, text, Some(position(source, source.len() - after.len() - 2)));
        filled.push_str(before);
        let (name, after) = after.split_once("}}").ok_or_else(|| fault("`{{` is never closed".to_owned()))?;
        let name = name.trim();
        match variables.get(name) {
            Some(Value::String(value)) if markup => filled.push_str(&escape(value)),
            Some(Value::String(value)) => filled.push_str(value),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => filled.push_str(&value.to_string()),
            _ if check => {}
            Some(_) => return Err(fault(format!("`{name}` must be a string, a number, true or false"))),
            None => return Err(fault(format!("the variable `{name}` is missing"))),
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn escape(value: &str) -> String {
    value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// Line and column of a place, both from 1.
fn position(source: &str, at: usize) -> Position {
    let before = &source[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Position { line: line as u32, column: column as u32 }
}

fn refuse(field: &str, text: String, position: Option<Position>) -> StageError {
    StageError::Refused(Finding {
        class: FindingClass::Template,
        text,
        status: None,
        field: Some(field.to_owned()),
        position,
    })
}

export!(Component);
