//! The rules, each on its own; the first that a message breaks refuses it.

use contract::{Acceptance, Disposition, Finding, FindingClass, Header, Part, ValidatorInput};

/// A message with this many Received fields goes round in circles (RFC 5321 s6.3).
pub const LOOP_LIMIT: usize = 100;
/// Header fields of one message.
const FIELDS: usize = 1000;
/// Decoded octets of the whole header.
const HEADER_BYTES: usize = 256 << 10;
/// Decoded octets of the subject.
const SUBJECT_BYTES: usize = 2000;
/// Leaf parts of one message.
const PARTS: usize = 1000;
/// Receivers commonly cut the HTML of a message behind this size.
const HTML_CLIP_BYTES: u64 = 102 << 10;
/// Fields that stand at most once (RFC 5322 s3.6), MIME's own among them (RFC 2045).
const SINGLE: &[&str] = &[
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Bcc",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Subject",
    "Date",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];

/// Checks one message. The answer depends on nothing but the message.
pub fn validate(input: &ValidatorInput) -> Result<Acceptance, Finding> {
    check_fields(&input.headers)?;
    check_loop(&input.headers)?;
    check_from(&input.headers)?;
    check_sizes(input)?;
    Ok(Acceptance { warnings: warnings(input), attributes: Vec::new() })
}

/// RFC 5322 s3.6: From and Date once, the others at most once.
fn check_fields(headers: &[Header]) -> Result<(), Finding> {
    for name in SINGLE {
        if fields(headers, name).count() > 1 {
            let text = format!("the header has more than one {name} field: keep one");
            return Err(refuse(FindingClass::Malformed, &text, Some(name)));
        }
    }
    for name in ["From", "Date"] {
        if fields(headers, name).next().is_none() {
            let text = format!("the header has no {name} field");
            return Err(refuse(FindingClass::Malformed, &text, Some(name)));
        }
    }
    Ok(())
}

fn check_loop(headers: &[Header]) -> Result<(), Finding> {
    let hops = fields(headers, "Received").count();
    if hops < LOOP_LIMIT {
        return Ok(());
    }
    let text = format!("the message passed through {hops} servers already: it goes round in a circle");
    Err(Finding { status: Some("5.4.6".to_owned()), ..refuse(FindingClass::Policy, &text, Some("Received")) })
}

/// A From without an address cannot be answered, aligned or signed for.
fn check_from(headers: &[Header]) -> Result<(), Finding> {
    let from = fields(headers, "From").next().unwrap_or_default();
    if from.contains('@') {
        return Ok(());
    }
    Err(refuse(FindingClass::Malformed, "the From field holds no address", Some("From")))
}

fn check_sizes(input: &ValidatorInput) -> Result<(), Finding> {
    let header_bytes: usize = input.headers.iter().map(|field| field.name.len() + field.value.len()).sum();
    let subject_bytes = fields(&input.headers, "Subject").next().map_or(0, str::len);
    for (what, size, limit, field) in [
        ("header fields", input.headers.len(), FIELDS, None),
        ("bytes of header", header_bytes, HEADER_BYTES, None),
        ("bytes of subject", subject_bytes, SUBJECT_BYTES, Some("Subject")),
        ("parts", input.parts.len(), PARTS, None),
    ] {
        if size > limit {
            let text = format!("the message has {size} {what}: at most {limit} are allowed");
            return Err(refuse(FindingClass::TooLarge, &text, field));
        }
    }
    Ok(())
}

fn warnings(input: &ValidatorInput) -> Vec<String> {
    let mut warnings = Vec::new();
    let body = |content_type: &str| {
        // A part with a file name is an attachment, shown inline or not.
        let is_body = |part: &&Part| part.disposition == Disposition::Inline && part.file_name.is_none();
        input.parts.iter().find(|part| part.content_type == content_type && is_body(part))
    };
    let html = body("text/html");
    if html.is_some() && body("text/plain").is_none() {
        warnings.push("the message has HTML but no text part: some receivers mark it down".to_owned());
    }
    if html.is_some_and(|part| part.size_bytes > HTML_CLIP_BYTES) {
        warnings.push(format!("the HTML is larger than {HTML_CLIP_BYTES} bytes: some readers cut it there"));
    }
    if fields(&input.headers, "Subject").all(|subject| subject.trim().is_empty()) {
        warnings.push("the message has no subject".to_owned());
    }
    if input.parts.is_empty() || input.parts.iter().all(|part| part.size_bytes == 0) {
        warnings.push("the message is empty".to_owned());
    }
    warnings
}

fn fields<'a>(headers: &'a [Header], name: &str) -> impl Iterator<Item = &'a str> {
    headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value.as_str())
}

fn refuse(class: FindingClass, text: &str, field: Option<&str>) -> Finding {
    Finding { class, text: text.to_owned(), status: None, field: field.map(str::to_owned), position: None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn header(name: &str, value: &str) -> Header {
        Header { name: name.to_owned(), value: value.to_owned() }
    }

    fn part(content_type: &str, size_bytes: u64) -> Part {
        Part {
            content_type: content_type.to_owned(),
            file_name: None,
            size_bytes,
            disposition: Disposition::Inline,
            content_id: None,
        }
    }

    fn message(extra: &[(&str, &str)]) -> ValidatorInput {
        let mut headers: Vec<Header> = extra.iter().map(|(name, value)| header(name, value)).collect();
        headers.push(header("From", "Bo <a@src.test>"));
        headers.push(header("Date", "Sat, 21 Nov 2026 21:02:32 +0000"));
        headers.push(header("Subject", "Hi"));
        ValidatorInput { headers, parts: vec![part("text/plain", 5), part("text/html", 9)], ..Default::default() }
    }

    fn check_refused(input: ValidatorInput, class: FindingClass, words: &str) {
        let finding = validate(&input).unwrap_err();
        assert_eq!(finding.class, class, "{}", finding.text);
        assert!(finding.text.contains(words), "{}", finding.text);
    }

    fn check_warned(input: ValidatorInput, expect: &[&str]) {
        let warnings = validate(&input).unwrap().warnings;
        assert_eq!(warnings.len(), expect.len(), "{warnings:?}");
        for (warning, words) in warnings.iter().zip(expect) {
            assert!(warning.contains(words), "{warning}");
        }
    }

    #[test]
    fn an_ordinary_message_passes_in_silence() {
        check_warned(message(&[("To", "b@dst.test"), ("X-A", "1"), ("X-A", "2"), ("Received", "from x")]), &[]);
    }

    #[test]
    fn single_fields_stand_once() {
        for name in SINGLE {
            let input = message(&[(name, "a@x.test"), (&name.to_uppercase(), "b@x.test")]);
            check_refused(input, FindingClass::Malformed, &format!("more than one {name} field"));
        }
        for name in ["From", "Date"] {
            let mut input = message(&[]);
            input.headers.retain(|field| field.name != name);
            check_refused(input, FindingClass::Malformed, &format!("no {name} field"));
        }
    }

    #[test]
    fn from_holds_an_address() {
        let mut input = message(&[]);
        input.headers[0].value = "undisclosed".to_owned();
        check_refused(input, FindingClass::Malformed, "no address");
    }

    #[test]
    fn loops_end() {
        check_warned(message(&[("Received", "x"); LOOP_LIMIT - 1]), &[]);
        let finding = validate(&message(&[("received", "x"); LOOP_LIMIT])).unwrap_err();
        assert_eq!((finding.class, finding.status.as_deref()), (FindingClass::Policy, Some("5.4.6")));
    }

    #[test]
    fn sizes_are_bounded() {
        check_refused(message(&[("X-A", "1"); FIELDS]), FindingClass::TooLarge, "1003 header fields");
        check_refused(message(&[("X-A", &"x".repeat(HEADER_BYTES))]), FindingClass::TooLarge, "bytes of header");
        let mut input = message(&[]);
        input.headers[2].value = "x".repeat(SUBJECT_BYTES + 1);
        check_refused(input, FindingClass::TooLarge, "2001 bytes of subject");
        let mut input = message(&[]);
        input.parts = vec![part("text/plain", 1); PARTS + 1];
        check_refused(input, FindingClass::TooLarge, "1001 parts");
    }

    #[test]
    fn what_receivers_frown_on_is_a_warning() {
        let mut input = message(&[]);
        input.parts.remove(0);
        check_warned(input, &["no text part"]);
        let mut input = message(&[]);
        input.parts[0].file_name = Some("notes.txt".to_owned());
        check_warned(input, &["no text part"]);
        let mut input = message(&[]);
        input.parts[1].size_bytes = HTML_CLIP_BYTES + 1;
        check_warned(input, &["cut it"]);
        let mut input = message(&[]);
        input.headers[2].value = " ".to_owned();
        check_warned(input, &["no subject"]);
        let mut input = message(&[]);
        input.parts.clear();
        check_warned(input, &["is empty"]);
    }
}
