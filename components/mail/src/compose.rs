//! Makes a message out of fields (mail-builder behind it). The result is 7-bit, CRLF, lines of at most 76 columns in
//! encoded bodies, and well-formed whatever the fields hold. Only an address with a local part outside ASCII puts UTF-8
//! into the header, since nothing else can stand for it (RFC 6532 s3.2).
//!
//! The same draft gives the same bytes: nothing here asks a clock or rolls dice, so that a repeated submission hashes
//! to the same message.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_builder::headers::address::Address as MailboxList;
use mail_builder::headers::date::Date;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;
use mail_builder::headers::{Header, HeaderType};
use thiserror::Error;

use crate::Mailbox;
use crate::body::{Boundaries, body};
use crate::header::MAX_LINE_OCTETS;

/// The longest value of an extra field in octets.
pub const MAX_EXTRA_VALUE_OCTETS: usize = 8192;
/// The longest name of an extra field, and the longest media type, in octets.
pub(crate) const MAX_NAME_OCTETS: usize = 127;
/// The longest word, with the blanks in front of it, that a folded line can hold behind the longest name (RFC 5322 s2.1.1).
const MAX_WORD_OCTETS: usize = MAX_LINE_OCTETS - MAX_NAME_OCTETS - 2;
/// The octets of an encoded word in base64: with `=?utf-8?B?`, `?=` and `Subject: ` around them they fit 76 columns
/// (RFC 2047 s2).
const ENCODED_WORD_OCTETS: usize = 39;

/// Fields that `compose` writes itself, that tell how the message travelled, or that our signatures are; and prefixes
/// of such.
const RESERVED: &[&str] = &[
    "From",
    "Sender",
    "To",
    "Cc",
    "Bcc",
    "Reply-To",
    "Subject",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Return-Path",
    "Received",
    "Received-SPF",
    "Delivered-To",
    "DKIM-Signature",
    "DomainKey-Signature",
    "Authentication-Results",
];
const RESERVED_PREFIXES: &[&str] = &["Content-", "ARC-", "Resent-"];

/// A file that goes with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub file_name: String,
    /// Lower case, `application/octet-stream` where nothing better is known.
    pub content_type: String,
    /// Present for inline parts (`cid:`), without angle brackets.
    pub content_id: Option<String>,
    pub content: Vec<u8>,
}

/// The fields of a message to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub from: Mailbox,
    pub to: Vec<Mailbox>,
    pub cc: Vec<Mailbox>,
    pub reply_to: Vec<Mailbox>,
    pub subject: String,
    pub html: Option<String>,
    pub text: Option<String>,
    pub attachments: Vec<Attachment>,
    /// Extra fields: name and value, decoded. Checked by `check_extra_header`.
    pub headers: Vec<(String, String)>,
    /// With angle brackets.
    pub message_id: String,
    /// Seconds since 1970, printed in UTC.
    pub date_s: i64,
}

/// Why an extra header field cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    #[error("`{0}` is not a header field name: use letters, digits and hyphens")]
    Name(String),
    #[error("the header field `{0}` is set by the service and cannot be given")]
    Reserved(String),
    #[error("the value of `{0}` holds a CR, LF or NUL")]
    Control(String),
    #[error("the value of `{0}` is {1} octets long: at most 8192 are allowed")]
    TooLong(String, usize),
    #[error(
        "the value of `{0}` has a word of {1} octets, blanks in front of it included: at most {MAX_WORD_OCTETS} fit a line"
    )]
    LongWord(String, usize),
}

/// Checks one extra field: its name is a field name (RFC 5322 s2.2), is not one of those the service writes itself
/// (From, Sender, To, Cc, Bcc, Subject, Date, Message-ID, Reply-To, Return-Path, Received, DKIM-Signature, MIME-Version,
/// Content-*, …) and its value holds no line end and no word too long for a line.
pub fn check_extra_header(name: &str, value: &str) -> Result<(), HeaderError> {
    let is_name = matches!(name.len(), 1..=MAX_NAME_OCTETS)
        && name.bytes().all(|octet| octet.is_ascii_graphic() && octet != b':');
    if !is_name {
        return Err(HeaderError::Name(name.chars().take(MAX_NAME_OCTETS).collect()));
    }
    let has_prefix = |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) || RESERVED_PREFIXES.iter().any(has_prefix) {
        return Err(HeaderError::Reserved(name.to_owned()));
    }
    if value.contains(['\r', '\n', '\0']) {
        return Err(HeaderError::Control(name.to_owned()));
    }
    if value.len() > MAX_EXTRA_VALUE_OCTETS {
        return Err(HeaderError::TooLong(name.to_owned(), value.len()));
    }
    match longest_word(value.trim()) {
        long if long > MAX_WORD_OCTETS && is_plain(value) && !value.contains("=?") => {
            Err(HeaderError::LongWord(name.to_owned(), long))
        }
        _ => Ok(()),
    }
}

/// Composes the message: multipart/mixed around multipart/related around multipart/alternative, as few of them as
/// needed. Bcc is never written. Header values are encoded (RFC 2047) where they are not ASCII; Message-ID, Date and
/// MIME-Version are always there. Boundaries are derived from the Message-ID, so that the same draft gives the same bytes.
/// Extra fields that `check_extra_header` refuses are left out.
pub fn compose(draft: &Draft) -> Vec<u8> {
    let content: usize = draft.attachments.iter().map(|attachment| attachment.content.len()).sum();
    let texts = draft.text.as_ref().map_or(0, String::len) + draft.html.as_ref().map_or(0, String::len);
    let mut message = Vec::with_capacity(2048 + texts * 5 / 4 + content * 7 / 5);
    for (name, value) in fields(draft) {
        write_field(&name, &value, &mut message);
    }
    body(draft, &Boundaries::new(draft)).write_part(&mut message);
    if !message.ends_with(b"\r\n") {
        message.extend_from_slice(b"\r\n");
    }
    message
}

/// Appends `Name: value` and its CRLF.
pub(crate) fn write_field(name: &str, value: &HeaderType<'_>, into: &mut Vec<u8>) {
    into.extend_from_slice(name.as_bytes());
    into.extend_from_slice(b": ");
    value.write_header(into, name.len() + 2);
}

/// The fields of the header but for Content-Type and Content-Transfer-Encoding.
fn fields(draft: &Draft) -> Vec<(Cow<'_, str>, HeaderType<'_>)> {
    let mut fields: Vec<(Cow<'_, str>, HeaderType<'_>)> = Vec::with_capacity(8 + draft.headers.len());
    fields.push(("From".into(), mailboxes(std::slice::from_ref(&draft.from))));
    match draft.to.as_slice() {
        [] if draft.cc.is_empty() => fields.push(("To".into(), Raw::new("undisclosed-recipients:;").into())),
        [] => {}
        [_, ..] => fields.push(("To".into(), mailboxes(&draft.to))),
    }
    if !draft.cc.is_empty() {
        fields.push(("Cc".into(), mailboxes(&draft.cc)));
    }
    if !draft.reply_to.is_empty() {
        fields.push(("Reply-To".into(), mailboxes(&draft.reply_to)));
    }
    fields.push(("Subject".into(), unstructured(&draft.subject)));
    fields.push(("Message-ID".into(), Raw::new(bracketed(&draft.message_id)).into()));
    fields.push(("Date".into(), Date::new(draft.date_s).into()));
    for (name, value) in &draft.headers {
        if check_extra_header(name, value).is_ok() {
            fields.push((name.as_str().into(), unstructured(value.trim())));
        }
    }
    fields.push(("MIME-Version".into(), Raw::new("1.0").into()));
    fields
}

pub(crate) fn mailboxes(mailboxes: &[Mailbox]) -> HeaderType<'_> {
    let named = mailboxes.iter().map(|mailbox| {
        let name = mailbox.name.as_deref().map(on_one_line).map(|name| name.trim().to_owned());
        (name.filter(|name| !name.is_empty()), mailbox.address.to_string())
    });
    let named = named.collect::<Vec<_>>();
    if named.iter().any(|(name, _)| name.as_ref().is_some_and(|name| name.contains("=?"))) {
        return Raw::new(named.into_iter().map(encoded_mailbox).collect::<Vec<_>>().join(", ")).into();
    }
    let list = named.into_iter().map(|(name, address)| MailboxList::new_address(name, address));
    HeaderType::Address(MailboxList::new_list(list.collect()))
}

/// Prints a mailbox with its name in encoded words, whatever it holds: mail-builder leaves what looks like an encoded
/// word as it is, and the other side decodes it.
fn encoded_mailbox((name, address): (Option<String>, String)) -> String {
    match name {
        Some(name) => format!("{} <{address}>", encoded_words(&name)),
        None => format!("<{address}>"),
    }
}

/// A value as it is where it can be folded, else in encoded words. mail-builder encodes whatever is long, but a long
/// List-Unsubscribe must stay readable to machines and a long subject to people.
pub(crate) fn unstructured(value: &str) -> HeaderType<'_> {
    let value = on_one_line(value);
    let is_trimmed = value.trim().len() == value.len();
    let is_plain = is_plain(&value);
    // What looks like an encoded word would be decoded on the other side, and blanks at either end would be lost, so
    // both are encoded; so is what no line can hold.
    if value.contains("=?") || !is_trimmed || (is_plain && longest_word(&value) > MAX_WORD_OCTETS) {
        return Raw::new(encoded_words(&value)).into();
    }
    match is_plain {
        true => Raw::new(value).into(),
        false => Text::new(value).into(),
    }
}

/// Whether a value can stand as it is: printable ASCII and blanks.
fn is_plain(value: &str) -> bool {
    value.bytes().all(|octet| matches!(octet, b'\t' | b' '..=b'~'))
}

/// The octets of the longest word with the blanks in front of it: a line folds before them and nowhere else.
fn longest_word(value: &str) -> usize {
    let is_blank = |octet: u8| matches!(octet, b' ' | b'\t');
    let (mut longest, mut start, mut in_word) = (0, 0, false);
    for (at, octet) in value.bytes().enumerate() {
        if is_blank(octet) && in_word {
            start = at;
        }
        in_word = !is_blank(octet);
        longest = longest.max(at + 1 - start);
    }
    longest
}

/// The value with line ends and NUL as blanks.
pub(crate) fn on_one_line(value: &str) -> Cow<'_, str> {
    match value.contains(['\r', '\n', '\0']) {
        true => Cow::Owned(value.replace(['\r', '\n', '\0'], " ")),
        false => Cow::Borrowed(value),
    }
}

/// Encoded words in base64, one a line (RFC 2047 s2).
fn encoded_words(text: &str) -> String {
    let mut words = String::with_capacity(text.len() * 2);
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, next) = rest.split_at(rest.floor_char_boundary(ENCODED_WORD_OCTETS));
        if !words.is_empty() {
            words.push_str("\r\n ");
        }
        words.push_str(&format!("=?utf-8?B?{}?=", STANDARD.encode(piece)));
        rest = next;
    }
    words
}

/// A message or content id in one pair of angle brackets, nothing in it that could end it.
pub(crate) fn bracketed(id: &str) -> String {
    let inner: String = id.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '<' | '>')).collect();
    format!("<{inner}>")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::header::{check_fields, check_format, split};
    use crate::message::{Disposition, parse, part_content};
    use crate::mime;

    fn draft() -> Draft {
        Draft {
            from: Mailbox::parse("Alice <alice@x.test>").unwrap(),
            to: vec![Mailbox::parse("bob@y.test").unwrap()],
            cc: Vec::new(),
            reply_to: Vec::new(),
            subject: "Hello".into(),
            html: None,
            text: Some("Hi,\nBob\n".into()),
            attachments: Vec::new(),
            headers: Vec::new(),
            message_id: "<1@x.test>".into(),
            date_s: 1_700_000_000,
        }
    }

    fn file(file_name: &str, content_type: &str, content_id: Option<&str>, content: &[u8]) -> Attachment {
        Attachment {
            file_name: file_name.into(),
            content_type: content_type.into(),
            content_id: content_id.map(str::to_owned),
            content: content.to_vec(),
        }
    }

    /// Composes and checks what every composed message must stand.
    fn composed(draft: &Draft) -> String {
        let message = compose(draft);
        assert_eq!(compose(draft), message, "the same draft gives the same bytes");
        assert_eq!(check_format(&message), Ok(()), "{}", String::from_utf8_lossy(&message));
        assert_eq!(check_fields(&split(&message).unwrap().0), Ok(()));
        assert!(message.ends_with(b"\r\n"));
        String::from_utf8(message).unwrap()
    }

    /// The types of a composed message's tree.
    fn types(draft: &Draft) -> Vec<String> {
        mime::walk(composed(draft).as_bytes()).into_iter().map(|node| node.content_type.value).collect()
    }

    #[test]
    fn composes_plain_text() {
        let expected = "From: \"Alice\" <alice@x.test>\r\nTo: <bob@y.test>\r\nSubject: Hello\r\nMessage-ID: <1@x.test>\r\n\
                        Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nMIME-Version: 1.0\r\n\
                        Content-Type: text/plain; charset=\"utf-8\"\r\nContent-Transfer-Encoding: 7bit\r\n\r\nHi,\r\nBob\r\n";
        assert_eq!(composed(&draft()), expected);
    }

    #[test]
    fn nests_no_more_than_needed() {
        let check = |html: bool, text: bool, files: &[Option<&str>], expected: &[&str]| {
            let mut draft = draft();
            draft.html = html.then(|| "<p>Hi</p>".into());
            draft.text = text.then(|| "Hi".into());
            draft.attachments = files.iter().map(|id| file("a.png", "image/png", *id, b"\x89PNG")).collect();
            assert_eq!(types(&draft), expected);
        };
        let (mixed, related, alternative) = ("multipart/mixed", "multipart/related", "multipart/alternative");
        let (plain, html, png) = ("text/plain", "text/html", "image/png");
        check(false, false, &[], &[plain]);
        check(true, false, &[], &[html]);
        check(true, true, &[], &[alternative, plain, html]);
        check(true, false, &[Some("a")], &[related, html, png]);
        check(false, true, &[Some("a")], &[mixed, plain, png]);
        check(true, true, &[None], &[mixed, alternative, plain, html, png]);
        check(true, true, &[None, Some("a")], &[mixed, related, alternative, plain, html, png, png]);
    }

    #[test]
    fn says_what_it_was_given() {
        let long = "word ".repeat(60).trim_end().to_owned();
        let names =
            ["Alice", "Acme, Inc.", "J\u{fc}rgen \"JK\" <x>", "\u{65e5}\u{672c}\u{8a9e} \u{2764}\u{fe0f}", &long];
        let subjects = [
            "Hello",
            "",
            &long,
            "Gr\u{fc}\u{df}e \u{1f600}",
            &"\u{1f600}".repeat(100),
            "=?utf-8?q?not_a_word?=",
            &"x".repeat(2000),
            "a: b; c",
            " a  b ",
            "  ",
            &format!("gr\u{fc}n{}  x", " \u{fc}".repeat(60)),
            &format!("a{}b", " ".repeat(1500)),
        ];
        let files = ["a.txt", "\u{fc}ber \"uns\".pdf", "a\\b;c=d.txt", &"n".repeat(200), &"\u{1f600}".repeat(40)];
        for (at, subject) in subjects.iter().enumerate() {
            let mut draft = draft();
            draft.subject = (*subject).to_string();
            draft.from.name = Some(names[at % names.len()].to_owned());
            draft.to = (0..60).map(|n| Mailbox::parse(&format!("User {n} <u{n}@y.test>")).unwrap()).collect();
            draft.html = Some(format!("<p>{}</p>", "gr\u{fc}n ".repeat(500)));
            let name = files[at % files.len()];
            draft.attachments = vec![file(name, "application/pdf", None, &[0, 255, 13, 10, 13, 7].repeat(100))];
            let message = composed(&draft);
            assert!(message.is_ascii());
            assert!(message.lines().all(|line| line.len() <= 78), "{message}");
            let parsed = parse(message.as_bytes());
            assert_eq!(parsed.subject.as_deref(), Some(*subject));
            assert_eq!(parsed.from, [draft.from]);
            assert_eq!(parsed.to, draft.to);
            assert_eq!(parsed.message_id.as_deref(), Some("<1@x.test>"));
            assert_eq!(parsed.html, draft.html);
            assert_eq!(parsed.text.as_deref(), Some("Hi,\r\nBob\r\n"));
            assert_eq!(parsed.parts[2].file_name.as_deref(), Some(name));
            assert_eq!(parsed.parts[2].disposition, Disposition::Attachment);
            let content = part_content(message.as_bytes(), 2).unwrap();
            assert_eq!(content, ("application/pdf".to_owned(), draft.attachments[0].content.clone()));
        }
    }

    #[test]
    fn keeps_text_whatever_it_holds() {
        let check = |text: &str, expected: &str| {
            let mut draft = draft();
            draft.text = Some(text.into());
            draft.html = Some(text.into());
            let message = composed(&draft);
            assert!(message.is_ascii());
            let parsed = parse(message.as_bytes());
            let trimmed = |found: Option<String>| found.map(|text| text.trim_end_matches("\r\n").to_owned());
            assert_eq!(trimmed(parsed.text).as_deref(), Some(expected), "{text:?}");
            assert_eq!(trimmed(parsed.html).as_deref(), Some(expected), "{text:?}");
        };
        check("", "");
        check("a\nb\r\nc\rd", "a\r\nb\r\nc\r\nd");
        check("trailing \nblank\t\nlines", "trailing \r\nblank\t\r\nlines");
        check(".\n..\nFrom me", ".\r\n..\r\nFrom me");
        check("nul \0 and \u{1b}[0m", "nul \0 and \u{1b}[0m");
        check(&"long ".repeat(1000), &"long ".repeat(1000));
        check(&"x".repeat(5000), &"x".repeat(5000));
        check("=_ --=_", "=_ --=_");
        check("\u{1f600}\n".repeat(50).trim_end(), "\u{1f600}\r\n".repeat(50).trim_end());
    }

    #[test]
    fn lets_no_value_become_a_field() {
        let mut draft = draft();
        draft.subject = "a\r\nBcc: evil@z.test\r\n\r\nbody\0".into();
        draft.from.name = Some("b\r\nBcc: evil@z.test".into());
        draft.message_id = "<1@x\r\nBcc: evil@z.test>".into();
        draft.headers = vec![
            ("X-Good".into(), "yes".into()),
            ("X-Bad".into(), "a\r\nBcc: evil@z.test".into()),
            ("Bcc".into(), "evil@z.test".into()),
            ("X: y\r\nBcc".into(), "evil@z.test".into()),
        ];
        draft.attachments = vec![
            file("a\r\nBcc: evil@z.test", "text/x\r\nBcc: evil@z.test", Some("c\r\nBcc: evil@z.test"), b"1"),
            file("", "multipart/mixed; boundary=x", None, b"2"),
            file("t.ics", "Text/Calendar; METHOD=request; charset=\"utf-8\"", None, b"3"),
        ];
        let message = composed(&draft);
        let nodes = mime::walk(message.as_bytes());
        for node in &nodes {
            let (fields, _) = split(&message.as_bytes()[node.header.start..node.body.start]).unwrap();
            assert!(!fields.iter().any(|field| field.is("Bcc") || field.is("X-Bad")), "{message}");
        }
        assert!(message.contains("X-Good: yes\r\n"));
        let types = nodes.iter().map(|node| node.content_type.value.as_str()).collect::<Vec<_>>();
        let expected =
            ["multipart/mixed", "text/plain", "application/octet-stream", "application/octet-stream", "text/calendar"];
        assert_eq!(types, expected);
        assert_eq!(nodes[4].content_type.parameter("method"), Some("request"));
    }

    #[test]
    fn keeps_long_fields_readable() {
        let mut draft = draft();
        let link = format!("<https://x.test/u/{}>, <mailto:u@x.test?subject=u>", "t".repeat(300));
        draft.headers = vec![("List-Unsubscribe".into(), link.clone()), ("X-Name".into(), "J\u{fc}rgen".into())];
        let message = composed(&draft);
        assert!(!message.contains("List-Unsubscribe: =?"));
        let parsed = parse(message.as_bytes());
        let value = |name: &str| parsed.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        assert_eq!(value("List-Unsubscribe"), Some(link.as_str()));
        assert_eq!(value("X-Name"), Some("J\u{fc}rgen"));
        assert!(message.is_ascii());
    }

    #[test]
    fn never_encodes_a_message() {
        let mut draft = draft();
        let inner = b"From: a@x.test\r\n\r\n=_ inner\r\n";
        draft.attachments =
            vec![file("m.eml", "message/rfc822", None, inner), file("8.eml", "message/rfc822", None, b"\xff")];
        let message = composed(&draft);
        let parsed = parse(message.as_bytes());
        assert_eq!(parsed.parts[1].content_type, "message/rfc822");
        assert_eq!(part_content(message.as_bytes(), 1).unwrap().1, inner);
        assert_eq!(parsed.parts[2].content_type, "application/octet-stream");
        assert_eq!(part_content(message.as_bytes(), 2).unwrap().1, b"\xff");
    }

    #[test]
    fn hides_nobody_in_an_empty_list() {
        let mut draft = draft();
        draft.to.clear();
        assert!(composed(&draft).contains("\r\nTo: undisclosed-recipients:;\r\n"));
        draft.cc = vec![Mailbox::parse("c@y.test").unwrap()];
        assert!(!composed(&draft).contains("\r\nTo:"));
    }

    #[test]
    fn avoids_boundaries_that_stand_in_the_text() {
        let mut draft = draft();
        draft.html = Some("<p>".into());
        let first = composed(&draft);
        let boundary = first.split("boundary=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        draft.text = Some(format!("--{boundary}\n--{boundary}--"));
        assert_eq!(types(&draft), ["multipart/alternative", "text/plain", "text/html"]);
        assert_eq!(parse(composed(&draft).as_bytes()).text, Some(format!("--{boundary}\r\n--{boundary}--")));
    }

    #[test]
    fn checks_extra_fields() {
        let check = |name: &str, value: &str, expected: Result<(), HeaderError>| {
            assert_eq!(check_extra_header(name, value), expected, "{name:?}: {value:?}");
        };
        check("X-Entity-Ref-ID", "123", Ok(()));
        check("List-Unsubscribe", "<https://x.test/u>", Ok(()));
        check("X", "", Ok(()));
        check("X", "\u{1f600}", Ok(()));
        for name in ["", "X Y", "X:", "X\r\n", "\u{dc}", &"x".repeat(128)] {
            check(name, "v", Err(HeaderError::Name(name.chars().take(127).collect())));
        }
        for name in [
            "from",
            "sender",
            "BCC",
            "Content-Type",
            "content-x",
            "Resent-To",
            "DKIM-Signature",
            "ARC-Seal",
            "Message-ID",
        ] {
            check(name, "v", Err(HeaderError::Reserved(name.into())));
        }
        for value in ["a\rb", "a\nb", "a\0b"] {
            check("X", value, Err(HeaderError::Control("X".into())));
        }
        check("X", &"v".repeat(8193), Err(HeaderError::TooLong("X".into(), 8193)));
        check("X", &"v".repeat(869), Ok(()));
        check("X", &"v".repeat(870), Err(HeaderError::LongWord("X".into(), 870)));
        check("X", &format!("a{}v b", " ".repeat(869)), Err(HeaderError::LongWord("X".into(), 870)));
        check("X", &format!("{} {}", "v".repeat(869), "v ".repeat(3000)), Ok(()));
        check("X", &"\u{fc}".repeat(3000), Ok(()));
    }

    #[test]
    fn fits_every_field_in_lines() {
        let name = format!("X-{}", "a".repeat(125));
        let gap = " ".repeat(868);
        for value in
            ["b".repeat(869), format!("{gap}b{gap}b"), format!("=?{}", "b".repeat(2000)), "\u{fc}".repeat(2000)]
        {
            let mut draft = draft();
            draft.headers = vec![(name.clone(), value.clone())];
            assert!(composed(&draft).contains(&format!("{name}:")), "{value}");
        }
    }
}
