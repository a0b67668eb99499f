//! What the sender is told: one total mapping from a stage's error to an HTTP status and to an SMTP reply.
//!
//! A finding comes from a component that its tenant wrote; before anybody sees it, it is made to fit: one line, 1 KiB,
//! a status that its class allows.

use contract::{Finding, FindingClass, StageError};
use mail::{EnhancedCode, Reply};

/// Bytes of a finding's text and of a warning that are kept.
const TEXT_BYTES: usize = 1024;
/// Bytes of a finding's field that are kept.
const FIELD_BYTES: usize = 256;
/// What the sender is told where a stage cannot tell: the cause is the operator's.
const UNAVAILABLE: &str = "the message cannot be processed now and nothing was stored: send it again later";

/// Why a submission did not become a message. Nothing is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Final for this message.
    Refused(Finding),
    /// A stage could not tell: try again. The text is for the log alone.
    Unavailable { stage: &'static str, text: String },
}

impl Refusal {
    /// A refusal by a rule of ours rather than by a stage.
    pub fn new(class: FindingClass, field: Option<&str>, text: impl Into<String>) -> Refusal {
        Refusal::Refused(sanitize(Finding {
            class,
            text: text.into(),
            status: None,
            field: field.map(str::to_owned),
            position: None,
        }))
    }

    /// A refusal by a rule of ours with an enhanced code more exact than its class's.
    pub fn with_status(class: FindingClass, status: &str, text: impl Into<String>) -> Refusal {
        Refusal::Refused(sanitize(Finding {
            class,
            text: text.into(),
            status: Some(status.to_owned()),
            field: None,
            position: None,
        }))
    }

    /// The error of a stage.
    pub fn from_stage(stage: &'static str, error: StageError) -> Refusal {
        match error {
            StageError::Refused(finding) => Refusal::Refused(sanitize(finding)),
            StageError::Unavailable(text) => Refusal::Unavailable { stage, text },
        }
    }

    /// A stage that answered what its interface forbids.
    pub(crate) fn nonsense(stage: &'static str, text: impl Into<String>) -> Refusal {
        Refusal::Unavailable { stage, text: text.into() }
    }

    /// The HTTP status and the error name in Resend's shape.
    pub fn http(&self) -> (u16, &'static str) {
        match self {
            Refusal::Refused(finding) => match finding.class {
                FindingClass::Malformed | FindingClass::Address | FindingClass::Template => (422, "validation_error"),
                FindingClass::Policy => (403, "validation_error"),
                FindingClass::TooLarge => (413, "validation_error"),
                FindingClass::Throttled => (429, "rate_limit_exceeded"),
            },
            Refusal::Unavailable { .. } => (503, "application_error"),
        }
    }

    /// The SMTP reply. Its text is ASCII (RFC 5321 s4.2), whatever the finding's is.
    pub fn reply(&self) -> Reply {
        let (code, status) = match self {
            Refusal::Refused(finding) => {
                let (code, own) = smtp(finding.class);
                (code, finding.status.as_deref().and_then(exact_status).unwrap_or(own))
            }
            Refusal::Unavailable { .. } => (451, EnhancedCode::new(4, 3, 0)),
        };
        let text: String = self.text().chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
        Reply::new(code, Some(status), text)
    }

    /// One sentence for the sender: the finding's text with its position, or that the service cannot tell now.
    pub fn text(&self) -> String {
        let finding = match self {
            Refusal::Refused(finding) => finding,
            Refusal::Unavailable { .. } => return UNAVAILABLE.to_owned(),
        };
        let place = finding.position.as_ref().map(|at| format!("line {}, column {}", at.line, at.column));
        match (&finding.field, place) {
            (Some(field), Some(place)) => format!("`{field}`, {place}: {}", finding.text),
            (Some(field), None) if !finding.text.contains(field.as_str()) => format!("`{field}`: {}", finding.text),
            (None, Some(place)) => format!("{place}: {}", finding.text),
            (Some(_) | None, None) => finding.text.clone(),
        }
    }
}

/// The reply code of a class and the enhanced code that goes with it.
fn smtp(class: FindingClass) -> (u16, EnhancedCode) {
    match class {
        FindingClass::Malformed | FindingClass::Template => (550, EnhancedCode::new(5, 6, 0)),
        FindingClass::Address => (550, EnhancedCode::new(5, 1, 3)),
        FindingClass::Policy => (550, EnhancedCode::new(5, 7, 1)),
        FindingClass::TooLarge => (552, EnhancedCode::new(5, 3, 4)),
        FindingClass::Throttled => (451, EnhancedCode::new(4, 7, 1)),
    }
}

/// Makes a finding fit for people: see the module's doc.
fn sanitize(finding: Finding) -> Finding {
    let (_, own) = smtp(finding.class);
    let text = one_line(&finding.text, TEXT_BYTES);
    Finding {
        class: finding.class,
        text: if text.is_empty() { "the message was refused".to_owned() } else { text },
        status: finding.status.filter(|status| exact_status(status).is_some_and(|status| status.class == own.class)),
        field: finding.field.map(|field| one_line(&field, FIELD_BYTES)).filter(|field| !field.is_empty()),
        position: finding.position,
    }
}

/// An enhanced code that is nothing but that.
fn exact_status(text: &str) -> Option<EnhancedCode> {
    EnhancedCode::split(text).filter(|(code, rest)| rest.is_empty() && code.to_string() == text).map(|(code, _)| code)
}

/// A text as one line of at most so many bytes: control characters, line breaks among them, become spaces.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut line = spaced.trim().to_owned();
    let cut = (0..=limit.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    line.truncate(cut);
    line
}

/// A stage's warnings as the sender may see them.
pub(crate) fn warning(text: &str) -> Option<String> {
    let line = one_line(text, TEXT_BYTES);
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use contract::Position;

    use super::*;

    const CLASSES: [FindingClass; 6] = [
        FindingClass::Malformed,
        FindingClass::Address,
        FindingClass::Policy,
        FindingClass::Template,
        FindingClass::TooLarge,
        FindingClass::Throttled,
    ];

    fn finding(class: FindingClass, text: &str, status: Option<&str>) -> Refusal {
        let finding =
            Finding { class, text: text.to_owned(), status: status.map(str::to_owned), field: None, position: None };
        Refusal::from_stage("validator", StageError::Refused(finding))
    }

    fn reply_line(refusal: &Refusal) -> String {
        let reply = refusal.reply();
        let status = reply.enhanced.map(|status| status.to_string()).unwrap_or_default();
        format!("{} {status} {}", reply.code, reply.text)
    }

    #[test]
    fn every_class_has_its_answers() {
        let answers = CLASSES.map(|class| {
            let refusal = Refusal::new(class, None, "no");
            (refusal.http(), reply_line(&refusal))
        });
        assert_eq!(
            answers,
            [
                ((422, "validation_error"), "550 5.6.0 no".to_owned()),
                ((422, "validation_error"), "550 5.1.3 no".to_owned()),
                ((403, "validation_error"), "550 5.7.1 no".to_owned()),
                ((422, "validation_error"), "550 5.6.0 no".to_owned()),
                ((413, "validation_error"), "552 5.3.4 no".to_owned()),
                ((429, "rate_limit_exceeded"), "451 4.7.1 no".to_owned()),
            ]
        );
    }

    #[test]
    fn what_cannot_be_told_is_for_the_log() {
        let refusal = Refusal::from_stage("signer", StageError::Unavailable("trap at 0x1f: secret".to_owned()));
        assert_eq!(refusal.http(), (503, "application_error"));
        assert_eq!(reply_line(&refusal), format!("451 4.3.0 {UNAVAILABLE}"));
        assert!(!refusal.text().contains("secret"));
    }

    #[test]
    fn a_status_must_fit_its_class() {
        for (class, status, expect) in [
            (FindingClass::Policy, "5.7.26", "5.7.26"),
            (FindingClass::Policy, "5.4.6", "5.4.6"),
            (FindingClass::Policy, "2.0.0", "5.7.1"),
            (FindingClass::Policy, "4.7.1", "5.7.1"),
            (FindingClass::Policy, "5.7.1 and more", "5.7.1"),
            (FindingClass::Policy, "5.7.1\r\n250 ok", "5.7.1"),
            (FindingClass::Policy, "", "5.7.1"),
            (FindingClass::Throttled, "4.7.28", "4.7.28"),
            (FindingClass::Throttled, "5.7.28", "4.7.1"),
        ] {
            let reply = finding(class, "x", Some(status)).reply();
            assert_eq!(reply.enhanced.map(|code| code.to_string()).as_deref(), Some(expect), "{status:?}");
        }
    }

    #[test]
    fn texts_are_one_short_line() {
        let check = |text: &str, expect: &str| assert_eq!(finding(FindingClass::Policy, text, None).text(), expect);
        check(" a\r\nb\tc\u{0} ", "a  b c");
        check("", "the message was refused");
        check(&"x".repeat(2000), &"x".repeat(1024));
        check(&"ö".repeat(600), &"ö".repeat(512));
        check(&format!("x{}", "ö".repeat(600)), &format!("x{}", "ö".repeat(511)));
        assert_eq!(finding(FindingClass::Policy, "nö", None).reply().text, "n?");
    }

    #[test]
    fn texts_say_where() {
        let check = |field: Option<&str>, position: Option<Position>, expect: &str| {
            let finding = Finding {
                class: FindingClass::Template,
                text: "the variable `a` is missing".to_owned(),
                status: None,
                field: field.map(str::to_owned),
                position,
            };
            assert_eq!(Refusal::from_stage("renderer", StageError::Refused(finding)).text(), expect);
        };
        let at = || Some(Position { line: 2, column: 3 });
        check(Some("template.html"), at(), "`template.html`, line 2, column 3: the variable `a` is missing");
        check(Some("template.html"), None, "`template.html`: the variable `a` is missing");
        check(Some("a"), None, "the variable `a` is missing");
        check(None, at(), "line 2, column 3: the variable `a` is missing");
        check(None, None, "the variable `a` is missing");
    }
}
