//! The road walked with doubles for the stages.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use contract::{
    Acceptance, Finding, FindingClass, Position, RawHeader, Rendered, RendererInput, Signatures, SignerInput,
    StageError, Transformed, TransformerInput, ValidatorInput, Wants,
};
use futures::executor::block_on;
use mail::compose::Draft;
use mail::{Address, Envelope, Mailbox, dkim, header};

use super::run;
use crate::{Content, Limits, Ready, Refusal, Stages, Submission};

/// Stages that let everything pass unless told otherwise, and remember what they were given.
struct Doubles {
    rendered: Result<Rendered, StageError>,
    wants: Result<Wants, StageError>,
    accepted: Result<Acceptance, StageError>,
    transformed: Result<Transformed, StageError>,
    signed: Result<Signatures, StageError>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    order: Vec<&'static str>,
    rendered: Option<RendererInput>,
    validated: Option<ValidatorInput>,
    transformed: Option<TransformerInput>,
    signed: Option<SignerInput>,
}

impl Default for Doubles {
    fn default() -> Doubles {
        Doubles {
            rendered: Ok(Rendered::default()),
            wants: Ok(Wants::default()),
            accepted: Ok(Acceptance::default()),
            transformed: Ok(Transformed::default()),
            signed: Ok(Signatures::default()),
            seen: Mutex::default(),
        }
    }
}

impl Stages for Doubles {
    async fn render(&self, input: RendererInput) -> Result<Rendered, StageError> {
        let mut seen = self.seen.lock().unwrap();
        seen.order.push("render");
        seen.rendered = Some(input);
        self.rendered.clone()
    }

    async fn describe_validator(&self) -> Result<Wants, StageError> {
        self.wants.clone()
    }

    async fn validate(&self, input: ValidatorInput) -> Result<Acceptance, StageError> {
        let mut seen = self.seen.lock().unwrap();
        seen.order.push("validate");
        seen.validated = Some(input);
        self.accepted.clone()
    }

    async fn transform(&self, input: TransformerInput) -> Result<Transformed, StageError> {
        let mut seen = self.seen.lock().unwrap();
        seen.order.push("transform");
        seen.transformed = Some(input);
        self.transformed.clone()
    }

    async fn sign(&self, input: SignerInput) -> Result<Signatures, StageError> {
        let mut seen = self.seen.lock().unwrap();
        seen.order.push("sign");
        seen.signed = Some(input);
        self.signed.clone()
    }
}

const LIMITS: Limits = Limits { message_bytes: 20_000, recipients: 2 };
const NOW_S: u64 = 1_795_294_952;

fn envelope(recipients: &[&str]) -> Envelope {
    Envelope {
        sender: Some(Address::parse("a@src.test").unwrap()),
        recipients: recipients.iter().map(|recipient| Address::parse(recipient).unwrap()).collect(),
    }
}

fn draft() -> Draft {
    Draft {
        from: Mailbox::parse("Acme <a@Src.test>").unwrap(),
        to: vec![Mailbox::parse("b@dst.test").unwrap()],
        cc: vec![],
        reply_to: vec![],
        subject: "Hällo".to_owned(),
        html: Some("<p>{{as}} given</p>".to_owned()),
        text: Some("{{as}} given".to_owned()),
        attachments: vec![],
        headers: vec![],
        message_id: "<1@src.test>".to_owned(),
        date_s: NOW_S as i64,
    }
}

fn submission(content: Content) -> Submission {
    Submission { envelope: envelope(&["b@dst.test"]), content, attributes: vec![], limits: LIMITS, now_s: NOW_S }
}

fn from_draft() -> Submission {
    submission(Content::Draft { draft: Box::new(draft()), template: None })
}

fn from_raw(message: &[u8]) -> Submission {
    submission(Content::Raw {
        message: message.to_vec(),
        message_id: "<new@src.test>".to_owned(),
        trace: vec!["Received: from x\r\n\tby us".to_owned()],
    })
}

fn walk(doubles: &Doubles, submission: Submission) -> Result<Ready, Refusal> {
    block_on(run(doubles, submission))
}

fn text(message: &[u8]) -> String {
    String::from_utf8(message.to_vec()).unwrap()
}

fn check_refused(doubles: &Doubles, submission: Submission, class: FindingClass, words: &str) {
    match walk(doubles, submission) {
        Err(Refusal::Refused(finding)) => {
            assert_eq!(finding.class, class, "{}", finding.text);
            assert!(finding.text.contains(words), "{}", finding.text);
        }
        other => unreachable!("{other:?}"),
    }
}

fn check_unavailable(doubles: &Doubles, submission: Submission, stage: &str, words: &str) {
    match walk(doubles, submission) {
        Err(Refusal::Unavailable { stage: at, text }) => {
            assert_eq!(at, stage, "{text}");
            assert!(text.contains(words), "{text}");
        }
        other => unreachable!("{other:?}"),
    }
}

fn finding(class: FindingClass, text: &str) -> StageError {
    StageError::Refused(Finding { class, text: text.to_owned(), status: None, field: None, position: None })
}

#[test]
fn a_draft_walks_the_whole_road() {
    let doubles = Doubles {
        signed: Ok(Signatures {
            headers: vec![RawHeader { name: "DKIM-Signature".to_owned(), value: b" v=1;\r\n\tb=x".to_vec() }],
            attributes: vec![("signed".to_owned(), "yes".to_owned())],
        }),
        ..Default::default()
    };
    let ready = walk(&doubles, from_draft()).unwrap();
    assert!(ready.signed);
    assert!(ready.message.starts_with(b"DKIM-Signature: v=1;\r\n\tb=x\r\n"));
    assert_eq!(ready.attributes, [("signed".to_owned(), "yes".to_owned())]);
    header::check_format(&ready.message).unwrap();

    let seen = doubles.seen.into_inner().unwrap();
    assert_eq!(seen.order, ["validate", "transform", "sign"]);
    let input = seen.validated.unwrap();
    assert_eq!(input.envelope.recipients, ["b@dst.test"]);
    assert!(input.headers.iter().any(|field| field.name == "Subject" && field.value == "Hällo"));
    assert_eq!(
        input.parts.iter().map(|part| part.content_type.as_str()).collect::<Vec<_>>(),
        ["text/plain", "text/html"]
    );
    assert_eq!((input.text, input.html, input.raw), (None, None, None));
    let transformed = seen.transformed.unwrap();
    assert_eq!(input.size_bytes, transformed.message.len() as u64);
    let (fields, body) = header::split(&transformed.message).unwrap();
    let signed = seen.signed.unwrap();
    assert_eq!(signed.domain, "src.test");
    assert_eq!(signed.timestamp_s, NOW_S);
    assert_eq!(signed.body_hash, dkim::body_hash(&transformed.message[body..]));
    assert_eq!(signed.headers.len(), fields.len());
}

#[test]
fn a_validator_gets_what_it_wants() {
    let doubles = Doubles { wants: Ok(Wants { text: true, html: true, raw: true }), ..Default::default() };
    let ready = walk(&doubles, from_draft()).unwrap();
    let input = doubles.seen.into_inner().unwrap().validated.unwrap();
    assert_eq!(input.text.as_deref().map(str::trim_end), Some("{{as}} given"));
    assert_eq!(input.html.as_deref().map(str::trim_end), Some("<p>{{as}} given</p>"));
    assert_eq!(input.raw, Some(ready.message));
}

#[test]
fn a_template_fills_the_draft() {
    let template = RendererInput { subject: Some("S".to_owned()), html: Some("H".to_owned()), ..Default::default() };
    let rendered = Rendered {
        subject: Some("Rendered".to_owned()),
        html: Some("<p>out</p>".to_owned()),
        text: None,
        warnings: vec!["w".to_owned()],
        attributes: vec![("a".to_owned(), "1".to_owned())],
    };
    let doubles = Doubles { rendered: Ok(rendered), ..Default::default() };
    let with = |template: &RendererInput| Content::Draft { draft: Box::new(draft()), template: Some(template.clone()) };
    let ready = walk(&doubles, submission(with(&template))).unwrap();
    let message = text(&ready.message);
    assert!(message.contains("Subject: Rendered\r\n") && message.contains("<p>out</p>"), "{message}");
    assert!(!message.contains("given"), "{message}");
    assert_eq!((ready.warnings, ready.attributes.len()), (vec!["w".to_owned()], 1));
    assert_eq!(doubles.seen.lock().unwrap().order, ["render", "validate", "transform", "sign"]);

    let no_subject = RendererInput { subject: None, ..template.clone() };
    check_unavailable(&doubles, submission(with(&no_subject)), "renderer", "subject");
    let nonsense = [
        Rendered { subject: Some("a\r\nBcc: x@y.test".to_owned()), html: Some(String::new()), ..Default::default() },
        Rendered { subject: Some("a".to_owned()), ..Default::default() },
        Rendered { html: Some("a".to_owned()), ..Default::default() },
        Rendered { subject: Some("a".to_owned()), html: Some("x".repeat(5 << 20)), ..Default::default() },
    ];
    for rendered in nonsense {
        let doubles = Doubles { rendered: Ok(rendered), ..Default::default() };
        check_unavailable(&doubles, submission(with(&template)), "renderer", "");
    }

    let error = Finding {
        class: FindingClass::Template,
        text: "the variable `a` is missing".to_owned(),
        status: None,
        field: Some("html".to_owned()),
        position: Some(Position { line: 1, column: 2 }),
    };
    let doubles = Doubles { rendered: Err(StageError::Refused(error)), ..Default::default() };
    let refusal = walk(&doubles, submission(with(&template))).unwrap_err();
    assert_eq!(refusal.text(), "`template.html`, line 1, column 2: the variable `a` is missing");
}

#[test]
fn each_stage_can_stop_the_message() {
    let no = || finding(FindingClass::Policy, "not this one");
    check_refused(
        &Doubles { accepted: Err(no()), ..Default::default() },
        from_draft(),
        FindingClass::Policy,
        "not this",
    );
    check_refused(
        &Doubles { transformed: Err(no()), ..Default::default() },
        from_draft(),
        FindingClass::Policy,
        "not this",
    );
    check_refused(&Doubles { signed: Err(no()), ..Default::default() }, from_draft(), FindingClass::Policy, "not this");
    let trap = || StageError::Unavailable("trap".to_owned());
    check_unavailable(&Doubles { wants: Err(trap()), ..Default::default() }, from_draft(), "validator", "trap");
    check_unavailable(&Doubles { accepted: Err(trap()), ..Default::default() }, from_draft(), "validator", "trap");
    check_unavailable(&Doubles { transformed: Err(trap()), ..Default::default() }, from_draft(), "transformer", "trap");
    check_unavailable(&Doubles { signed: Err(trap()), ..Default::default() }, from_draft(), "signer", "trap");
    let doubles = Doubles { accepted: Err(no()), ..Default::default() };
    walk(&doubles, from_draft()).unwrap_err();
    assert_eq!(doubles.seen.lock().unwrap().order, ["validate"]);
}

#[test]
fn limits_hold() {
    let many = Submission { envelope: envelope(&["a@d.test", "b@d.test", "c@d.test"]), ..from_draft() };
    let refusal = walk(&Doubles::default(), many).unwrap_err();
    assert_eq!(refusal.text(), "the message has 3 recipients: at most 2 are allowed");
    assert_eq!((refusal.http().0, refusal.reply().enhanced.unwrap().to_string()), (422, "5.5.3".to_owned()));
    let none = Submission { envelope: envelope(&[]), ..from_draft() };
    check_refused(&Doubles::default(), none, FindingClass::Address, "no recipient");
    let large = Content::Draft { draft: Box::new(Draft { text: Some("x".repeat(20_000)), ..draft() }), template: None };
    check_refused(&Doubles::default(), submission(large), FindingClass::TooLarge, "at most 20000 are allowed");
    let large = [b"From: a@src.test\r\n\r\n".as_slice(), &b"x\r\n".repeat(7000)].concat();
    check_refused(&Doubles::default(), from_raw(&large), FindingClass::TooLarge, "at most 20000 are allowed");
}

#[test]
fn attributes_and_warnings_travel() {
    let attributes = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let doubles = Doubles {
        accepted: Ok(Acceptance {
            warnings: (0..20).map(|n| format!("w{n}\r\nx")).collect(),
            attributes: attributes(&[("a", "2"), ("posthaste.tenant", "other")]),
        }),
        transformed: Ok(Transformed {
            message: None,
            warnings: vec!["t".to_owned()],
            attributes: attributes(&[("b", "3")]),
        }),
        ..Default::default()
    };
    let submission = Submission { attributes: attributes(&[("a", "1"), ("posthaste.tenant", "mine")]), ..from_draft() };
    let ready = walk(&doubles, submission).unwrap();
    assert_eq!(ready.attributes, attributes(&[("a", "2"), ("posthaste.tenant", "mine"), ("b", "3")]));
    assert_eq!((ready.warnings.len(), ready.warnings[0].as_str(), ready.warnings[16].as_str()), (17, "w0  x", "t"));
    assert_eq!(doubles.seen.lock().unwrap().signed.as_ref().unwrap().attributes, ready.attributes);
}

#[test]
fn a_transformers_message_is_checked() {
    let with = |message: &[u8]| Doubles {
        transformed: Ok(Transformed { message: Some(message.to_vec()), ..Default::default() }),
        ..Default::default()
    };
    let good = b"From: x@other.test\r\nSubject: new\r\n\r\nfooter\r\n";
    let doubles = with(good);
    let ready = walk(&doubles, from_draft()).unwrap();
    assert_eq!(ready.message, good);
    assert_eq!(doubles.seen.lock().unwrap().signed.as_ref().unwrap().domain, "other.test");
    for bad in [
        b"From: x@other.test\nSubject: new\n\nfooter".as_slice(),
        b"From: x@other.test\r\n\r\n\xc3\xbc\r\n",
        b"From: x@other.test\r\nFrom: y@other.test\r\n\r\n",
        b"Subject: new\r\n\r\n",
        b"",
        &[b"From: x@other.test\r\n\r\n".as_slice(), &b"x\r\n".repeat(7000)].concat(),
        &[b"From: x@other.test\r\n\r\n".as_slice(), &[b'x'; 999]].concat(),
    ] {
        check_unavailable(&with(bad), from_draft(), "transformer", "");
    }
}

#[test]
fn a_signers_fields_are_checked() {
    for (name, value) in
        [("Bcc", " x@y.test"), ("DKIM-Signature", " a\r\nBcc: x@y.test"), ("DKIM-Signature", "\r\n\r\nx")]
    {
        let header = RawHeader { name: name.to_owned(), value: value.as_bytes().to_vec() };
        let signed = Ok(Signatures { headers: vec![header], attributes: vec![] });
        check_unavailable(&Doubles { signed, ..Default::default() }, from_draft(), "signer", "");
    }
}

#[test]
fn a_raw_message_is_completed() {
    let ready = walk(
        &Doubles::default(),
        from_raw(b"From: a@src.test\r\nBcc: x@y.test\r\nSubject: h\xc3\xa4\r\n\r\nb\xc3\xb6dy\r\n"),
    )
    .unwrap();
    let message = text(&ready.message);
    let expect = "Received: from x\r\n\tby us\r\nMessage-ID: <new@src.test>\r\nDate: ";
    assert!(message.starts_with(expect), "{message}");
    assert!(message.contains("Date: Sat, 21 Nov 2026 "), "{message}");
    assert!(message.is_ascii() && !message.contains("Bcc"), "{message}");
    assert!(!ready.signed);

    let whole = b"Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nmessage-id: <old@x.test>\r\nFrom: a@src.test\r\n\r\nbody";
    let ready = walk(&Doubles::default(), from_raw(whole)).unwrap();
    assert_eq!(ready.message, [b"Received: from x\r\n\tby us\r\n".as_slice(), whole].concat());
}

#[test]
fn what_its_sender_signed_is_not_changed() {
    let signed = b"DKIM-Signature: v=1; b=x\r\nFrom: a@src.test\r\nBcc: x@y.test\r\n\r\nb\xc3\xb6dy\r\n";
    let doubles = Doubles {
        transformed: Ok(Transformed { message: Some(b"From: z@z.test\r\n\r\n".to_vec()), ..Default::default() }),
        ..Default::default()
    };
    let ready = walk(&doubles, from_raw(signed)).unwrap();
    assert_eq!(ready.message, [b"Received: from x\r\n\tby us\r\n".as_slice(), signed].concat());
    assert_eq!(doubles.seen.lock().unwrap().order, ["validate", "sign"]);
}

#[test]
fn a_raw_message_must_be_a_message() {
    for (message, words) in [
        (b"Subject: x\r\n\r\n".as_slice(), "no From"),
        (b"From: a@src.test\r\nFROM: b@src.test\r\n\r\n", "more than one From"),
        (b"From: a@src.test\nSubject: x\n\nx", "line 1"),
        (b"From: a@src.test\r\nnonsense\r\n\r\n", "line 2"),
        (b"From: a@src.test\r\n\r\nbare\rcr\r\n", "line 3"),
        (b"From: nobody\r\n\r\nx\r\n", "no address"),
    ] {
        check_refused(&Doubles::default(), from_raw(message), FindingClass::Malformed, words);
    }
}
