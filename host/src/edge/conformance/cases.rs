//! The cases, read from the files beside this one.

use contract::{CHECK_ATTRIBUTE, RendererInput, ShaperInput};
use mail::compose::Draft;
use mail::{Address, Envelope, Mailbox};
use pipeline::{Content, Limits, Submission};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::probe::KeyState;
use crate::edge::component::Stage;

/// The moment at which all cases happen, in seconds since 1970.
const NOW_S: u32 = 1_764_000_000;

const LIMITS: Limits = Limits { message_bytes: 25 << 20, recipients: 1000 };

/// A question to a component.
pub struct Case {
    pub name: String,
    pub question: Question,
    pub keys: KeyState,
    /// Whether the answer goes on its way: of a check of syntax it does not.
    pub is_result_used: bool,
}

/// What the component is asked.
pub enum Question {
    /// A message or a template on its road.
    Submission(Box<Submission>),
    /// An event to be told.
    Event(Box<ShaperInput>),
}

/// The cases of a stage.
pub fn of(stage: Stage) -> Vec<Case> {
    match stage {
        Stage::Validator | Stage::Transformer => messages(),
        Stage::Signer => signing(),
        Stage::Renderer => templates(),
        Stage::Shaper => events(),
    }
}

#[derive(Deserialize)]
struct File<T> {
    cases: Vec<T>,
    #[serde(default)]
    base: Value,
}

/// The files are a part of the binary and a test reads each: they cannot be wrong.
#[expect(clippy::expect_used, reason = "see above")]
fn read<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).expect("the conformance cases are well-formed")
}

fn one() -> usize {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    name: String,
    sender: Option<String>,
    recipients: Vec<String>,
    /// So many in all; those that are not written out are made up.
    #[serde(default)]
    recipient_count: usize,
    header: Vec<String>,
    body: Vec<String>,
    #[serde(default = "one")]
    repeat: usize,
    #[serde(default = "one")]
    repeat_header: usize,
    #[serde(default)]
    latin1: bool,
}

fn messages() -> Vec<Case> {
    let file: File<Message> = read(include_str!("messages.json"));
    file.cases.into_iter().map(message).collect()
}

/// All messages with keys, and the first with keys that fail.
fn signing() -> Vec<Case> {
    let troubles = [
        (KeyState::Missing, "no key for the domain"),
        (KeyState::Withdrawn, "keys that are gone when they are used"),
        (KeyState::Unavailable, "keys that cannot be reached"),
    ];
    let mut all = messages();
    for (keys, name) in troubles {
        let first = messages().into_iter().next();
        all.extend(first.map(|case| Case { name: name.to_owned(), keys, ..case }));
    }
    all
}

fn message(case: Message) -> Case {
    let Message { name, sender, mut recipients, recipient_count, header, body, repeat, repeat_header, latin1 } = case;
    recipients.extend((recipients.len()..recipient_count).map(|number| format!("recipient-{number}@example.net")));
    let mut text = String::new();
    let mut line = |line: &str| {
        text.push_str(line);
        text.push_str("\r\n");
    };
    header.iter().for_each(|field| line(field));
    (1..repeat_header).for_each(|_| line(header.last().map_or("", String::as_str)));
    line("");
    body.iter().for_each(|written| line(written));
    (1..repeat).for_each(|_| line(body.last().map_or("", String::as_str)));
    let message = match latin1 {
        // The file has no characters above U+00FF there.
        true => text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect(),
        false => text.into_bytes(),
    };
    let content = Content::Raw { message, message_id: "<conformance@example.com>".to_owned(), trace: Vec::new() };
    submission(name, sender.as_deref(), &recipients, content, Vec::new())
}

#[expect(clippy::expect_used, reason = "as in `read`")]
fn address(text: &str) -> Address {
    Address::parse(text).expect("the conformance cases are well-formed")
}

fn submission(
    name: String,
    sender: Option<&str>,
    recipients: &[String],
    content: Content,
    attributes: Vec<(String, String)>,
) -> Case {
    let envelope = Envelope {
        sender: sender.map(address),
        recipients: recipients.iter().map(|recipient| address(recipient)).collect(),
    };
    let is_result_used = !attributes.iter().any(|(name, _)| name == CHECK_ATTRIBUTE);
    let submission = Submission { envelope, content, attributes, limits: LIMITS, now_s: NOW_S.into() };
    Case { name, question: Question::Submission(Box::new(submission)), keys: KeyState::Ready, is_result_used }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    name: String,
    subject: Option<String>,
    html: Option<String>,
    text: Option<String>,
    variables: Value,
    /// The sources of both parts, so many times.
    #[serde(default = "one")]
    repeat: usize,
    #[serde(default)]
    check: bool,
}

fn templates() -> Vec<Case> {
    let file: File<Template> = read(include_str!("templates.json"));
    file.cases.into_iter().map(template).collect()
}

fn template(case: Template) -> Case {
    let Template { name, subject, html, text, variables, repeat, check } = case;
    let template = RendererInput {
        id: None,
        subject,
        html: html.map(|source| source.repeat(repeat)),
        text: text.map(|source| source.repeat(repeat)),
        variables: variables.to_string(),
        attributes: Vec::new(),
    };
    let mailbox = |text: &str| Mailbox { name: None, address: address(text) };
    let draft = Draft {
        from: mailbox("alice@example.com"),
        to: vec![mailbox("bob@example.net")],
        cc: Vec::new(),
        reply_to: Vec::new(),
        subject: String::new(),
        html: None,
        text: None,
        attachments: Vec::new(),
        headers: Vec::new(),
        message_id: "<conformance@example.com>".to_owned(),
        date_s: NOW_S.into(),
    };
    let content = Content::Draft { draft: Box::new(draft), template: Some(template) };
    let attributes = if check { vec![(CHECK_ATTRIBUTE.to_owned(), String::new())] } else { Vec::new() };
    submission(name, Some("alice@example.com"), &["bob@example.net".to_owned()], content, attributes)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    name: String,
    change: Value,
    #[serde(default = "one")]
    repeat_subject: usize,
}

fn events() -> Vec<Case> {
    let file: File<Change> = read(include_str!("events.json"));
    let base = file.base;
    file.cases.into_iter().map(|change| event(base.clone(), change)).collect()
}

fn event(mut input: Value, case: Change) -> Case {
    overlay(&mut input, case.change);
    let mut input: ShaperInput = read(&input.to_string());
    input.event.subject = input.event.subject.repeat(case.repeat_subject);
    Case { name: case.name, question: Question::Event(Box::new(input)), keys: KeyState::Ready, is_result_used: true }
}

/// Lays objects over objects; anything else replaces what was there.
fn overlay(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (name, value) in change {
                overlay(base.entry(name).or_insert(Value::Object(Map::new())), value);
            }
        }
        (base, change) => *base = change,
    }
}
