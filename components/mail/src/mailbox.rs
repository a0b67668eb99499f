//! Mailboxes: an address with a name, as an API user writes it and as a header field holds it (RFC 5322 s3.4).
//!
//! They are read by different rules. `Mailbox::parse` is for people: whatever stands before the last angle bracket is
//! the name. `parse_list` is for header fields, where commas, comments, groups and quotes mean something. `parse_authors`
//! is for those that say who wrote: what receivers could read otherwise than we do must not pass for readable there.

use std::borrow::Cow;

use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;

use crate::address::{AddressError, shown};
use crate::{Address, Mailbox};

/// How deep comments may nest.
const MAX_COMMENT_DEPTH: usize = 16;

impl Mailbox {
    /// Reads `address`, `<address>` or `Name <address>`; the name may be quoted and may hold any character but control ones.
    /// Comments behind the address are dropped.
    pub fn parse(text: &str) -> Result<Mailbox, AddressError> {
        if text.contains(char::is_control) {
            return Err(AddressError::Control);
        }
        let text = without_trailing_comments(text.trim());
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        let Some(inner) = text.strip_suffix('>') else {
            return match text.contains('<') && !text.starts_with('"') {
                true => Err(AddressError::Mailbox(shown(text))),
                false => Ok(Mailbox { name: None, address: Address::parse(text)? }),
            };
        };
        let open = open_bracket(inner).ok_or_else(|| AddressError::Mailbox(shown(text)))?;
        let address = Address::parse(inner[open + 1..].trim())?;
        Ok(Mailbox { name: unquoted(inner[..open].trim()), address })
    }
}

/// Reads the value of an address field (RFC 5322 s3.4): mailboxes and groups, folds, comments and encoded words
/// (RFC 2047) included. Each mailbox comes back by itself, so that the caller says what a bad one spoils.
pub fn parse_list(value: &[u8]) -> Vec<Result<Mailbox, AddressError>> {
    let text = unfolded(value);
    let (pieces, is_closed) = pieces(&text);
    let last = pieces.len() - 1;
    let read = |(at, (piece, end)): (usize, &(&str, Option<char>))| match end {
        None if at == last && !is_closed => Some(Err(unreadable(piece))),
        // The name of a group: what follows are its mailboxes.
        Some(':') => None,
        _ => element(piece),
    };
    pieces.iter().enumerate().filter_map(read).collect()
}

/// Reads the value of From or Sender (RFC 5322 s3.6.2): mailboxes alone, no groups, nothing empty or unreadable, and no
/// specials in a name without quotes, since what one reader takes for a name is an address to another.
pub fn parse_authors(value: &[u8]) -> Result<Vec<Mailbox>, AddressError> {
    let text = unfolded(value);
    let (pieces, is_closed) = pieces(&text);
    if !is_closed || pieces.iter().any(|(_, end)| matches!(end, Some(':' | ';'))) {
        return Err(unreadable(&text));
    }
    let read = |(piece, _): &(&str, Option<char>)| match has_plain_name(piece) {
        true => element(piece).unwrap_or(Err(AddressError::Empty)),
        false => Err(unreadable(piece)),
    };
    pieces.iter().map(read).collect()
}

fn unfolded(value: &[u8]) -> String {
    String::from_utf8_lossy(value).replace(['\r', '\n'], "").replace('\t', " ")
}

/// A list cut at its free commas, semicolons and colons, each piece with what ends it, and whether no quotes, comment
/// or bracket stay open at the end.
fn pieces(text: &str) -> (Vec<(&str, Option<char>)>, bool) {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut scanner = Scanner::default();
    for (at, c) in text.char_indices() {
        let is_free = scanner.is_free();
        scanner.take(c);
        if is_free && matches!(c, ',' | ';' | ':') {
            pieces.push((&text[start..at], Some(c)));
            start = at + 1;
        }
    }
    pieces.push((&text[start..], None));
    (pieces, scanner.is_free())
}

/// Decodes encoded words in a text (RFC 2047), blanks that they hold at its ends kept. What comes out stays one line:
/// control characters, decoded ones among them, become blanks.
pub(crate) fn decoded(text: &str) -> String {
    let decoded = match text.contains("=?") {
        false => Cow::Borrowed(text),
        true => {
            let line = [text.replace(char::is_control, " ").as_bytes(), b"\n"].concat();
            match MessageStream::new(&line).parse_unstructured() {
                HeaderValue::Text(decoded) => Cow::Owned(decoded.into_owned()),
                _ => Cow::Borrowed(""),
            }
        }
    };
    decoded.replace(char::is_control, " ")
}

/// Reads one element of a list; an empty one is nothing (RFC 5322 s4.4).
fn element(text: &str) -> Option<Result<Mailbox, AddressError>> {
    let whole = text.trim();
    let Some((bare, comment)) = without_comments(whole) else { return Some(Err(unreadable(whole))) };
    let bare = bare.trim();
    if bare.is_empty() {
        return None;
    }
    Some(header_mailbox(bare, comment).map_err(|error| match error {
        AddressError::Control => AddressError::Control,
        other => match bare.contains('<') {
            true => AddressError::Mailbox(shown(whole)),
            false => other,
        },
    }))
}

fn unreadable(text: &str) -> AddressError {
    AddressError::Mailbox(shown(text.trim()))
}

/// Whether the name in front of `<address>` holds specials in quotes and comments only (RFC 5322 s3.2.3); a dot may stand
/// alone (s4.1).
fn has_plain_name(text: &str) -> bool {
    let Some((bare, _)) = without_comments(text) else { return false };
    if !bare.trim_end().ends_with('>') {
        return true;
    }
    // `a@x.test <a@x.test>`: many programs write it, and nobody can read it as somebody else's.
    let halves = bare.trim_end().trim_end_matches('>').rsplit_once('<');
    if halves.is_some_and(|(name, address)| name.trim() == address.trim()) {
        return true;
    }
    let mut scanner = Scanner::default();
    let mut unquoted = bare.chars().filter(|c| {
        let was_in_quotes = scanner.in_quotes;
        scanner.take(*c);
        !was_in_quotes
    });
    unquoted.find(|c| r"()<>[]:;@\,".contains(*c)) == Some('<')
}

/// Reads `phrase <address>` or `address (name)`, comments taken out already.
fn header_mailbox(text: &str, comment: Option<String>) -> Result<Mailbox, AddressError> {
    if text.contains(char::is_control) {
        return Err(AddressError::Control);
    }
    let unreadable = || AddressError::Mailbox(shown(text));
    let Some(inner) = text.strip_suffix('>') else {
        return Ok(Mailbox { name: comment.and_then(named), address: Address::parse(text)? });
    };
    let mut scanner = Scanner::default();
    let open = inner.char_indices().find(|(_, c)| {
        let is_free = scanner.is_free();
        scanner.take(*c);
        is_free && *c == '<'
    });
    let (open, _) = open.ok_or_else(unreadable)?;
    let address = Address::parse(inner[open + 1..].trim())?;
    Ok(Mailbox { name: phrase(&inner[..open]).ok_or_else(unreadable)?, address })
}

/// Reads a phrase: words and quoted strings (RFC 5322 s3.2.5), encoded words decoded. The inner `None` is no name at
/// all, the outer one is not a phrase. Bare specials pass, as in `Acme Inc. @ Berlin <a@b>`, but for brackets.
fn phrase(text: &str) -> Option<Option<String>> {
    let mut words = String::new();
    let mut characters = text.trim().chars();
    let mut in_quotes = false;
    while let Some(c) = characters.next() {
        match c {
            '"' => in_quotes = !in_quotes,
            '\\' if in_quotes => words.push(characters.next()?),
            '<' | '>' if !in_quotes => return None,
            _ => words.push(c),
        }
    }
    (!in_quotes).then(|| named(decoded(&words)))
}

fn named(name: String) -> Option<String> {
    let name = name.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    (!name.is_empty()).then_some(name)
}

/// Where a character stands: in quotes, in comments, in angle or square brackets, or free.
#[derive(Default)]
struct Scanner {
    in_quotes: bool,
    comments: usize,
    in_angle: bool,
    in_square: bool,
    is_escaped: bool,
}

impl Scanner {
    fn is_free(&self) -> bool {
        !(self.in_quotes || self.comments > 0 || self.in_angle || self.in_square || self.is_escaped)
    }

    fn take(&mut self, c: char) {
        if self.is_escaped {
            self.is_escaped = false;
            return;
        }
        match c {
            '\\' if self.in_quotes || self.comments > 0 => self.is_escaped = true,
            '"' if self.comments == 0 => self.in_quotes = !self.in_quotes,
            _ if self.in_quotes => {}
            '(' => self.comments += 1,
            ')' => self.comments = self.comments.saturating_sub(1),
            _ if self.comments > 0 => {}
            '<' => self.in_angle = true,
            '>' => self.in_angle = false,
            '[' => self.in_square = true,
            ']' => self.in_square = false,
            _ => {}
        }
    }
}

/// Takes comments out of a text and hands over the last one, which older mailers use for the name. `None` where they
/// nest too deep.
fn without_comments(text: &str) -> Option<(String, Option<String>)> {
    if !text.contains('(') {
        return Some((text.to_owned(), None));
    }
    let (mut bare, mut comment) = (String::new(), None);
    let mut current = String::new();
    let mut scanner = Scanner::default();
    for c in text.chars() {
        let depth = scanner.comments;
        scanner.take(c);
        match (depth, scanner.comments) {
            (0, 0) => bare.push(c),
            (_, deep) if deep > MAX_COMMENT_DEPTH => return None,
            (0, _) => {
                // A comment is a blank (RFC 5322 s3.2.2): what stands around it does not grow together.
                bare.push(' ');
                current.clear();
            }
            (_, 0) => comment = Some(decoded(&current)),
            _ => current.push(c),
        }
    }
    Some((bare, comment))
}

/// Drops comments behind an address: `a@b (c)`, `<a@b> (c)`. A name's own parentheses stay.
fn without_trailing_comments(text: &str) -> &str {
    let mut text = text;
    while text.ends_with(')') {
        let mut depth = 0;
        let open = text.char_indices().rev().find(|(_, c)| {
            match c {
                ')' => depth += 1,
                '(' => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        match open {
            Some((at, _)) if at > 0 => text = text[..at].trim_end(),
            Some(_) | None => return text,
        }
    }
    text
}

/// The angle bracket that opens the address of `Name <address` (its closing one cut off): the first outside quotes that
/// leaves an address behind it, or else the last.
fn open_bracket(text: &str) -> Option<usize> {
    let quoted_end = match text.strip_prefix('"') {
        Some(rest) => closing_quote(rest).map_or(0, |at| at + 1),
        None => 0,
    };
    let mut opens = text[quoted_end..].match_indices('<').map(|(at, _)| quoted_end + at);
    opens.clone().find(|at| Address::parse(text[at + 1..].trim()).is_ok()).or_else(|| opens.next_back())
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let closes = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        closes.then_some(at)
    })
}

/// A name without the quotes around the whole of it.
fn unquoted(name: &str) -> Option<String> {
    let inner = name.strip_prefix('"').filter(|rest| closing_quote(rest) == Some(rest.len().saturating_sub(1)));
    let name = match inner {
        Some(rest) => {
            let mut plain = String::new();
            let mut characters = rest[..rest.len() - 1].chars();
            while let Some(c) = characters.next() {
                plain.extend(if c == '\\' { characters.next() } else { Some(c) });
            }
            plain
        }
        None => name.to_owned(),
    };
    (!name.trim().is_empty()).then(|| name.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        let check = |text: &str, name: Option<&str>, address: &str| {
            let mailbox = Mailbox::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!((mailbox.name.as_deref(), mailbox.address.to_string().as_str()), (name, address), "{text:?}");
        };
        check("a@x.test", None, "a@x.test");
        check(" a@x.test ", None, "a@x.test");
        check("<a@x.test>", None, "a@x.test");
        check("\"\" <a@x.test>", None, "a@x.test");
        check("Alice <a@x.test>", Some("Alice"), "a@x.test");
        check("Alice<a@x.test>", Some("Alice"), "a@x.test");
        check("Alice < a@x.test >", Some("Alice"), "a@x.test");
        check("Acme, Inc. <a@x.test>", Some("Acme, Inc."), "a@x.test");
        check("\"Acme, Inc.\" <a@x.test>", Some("Acme, Inc."), "a@x.test");
        check(r#""say \"hi\" \\o/" <a@x.test>"#, Some(r#"say "hi" \o/"#), "a@x.test");
        check("\"a\" and \"b\" <a@x.test>", Some("\"a\" and \"b\""), "a@x.test");
        check("5\" pipe <a@x.test>", Some("5\" pipe"), "a@x.test");
        check("\"5 pipe <a@x.test>", Some("\"5 pipe"), "a@x.test");
        check("Support (EU) <a@x.test>", Some("Support (EU)"), "a@x.test");
        check("Alice <a@x.test> (home)", Some("Alice"), "a@x.test");
        check("a@x.test (Alice (A))", None, "a@x.test");
        check("\"<b@y.test>\" <a@x.test>", Some("<b@y.test>"), "a@x.test");
        check("I <3 mail <a@x.test>", Some("I <3 mail"), "a@x.test");
        check("Name <\"a<b\"@x.test>", Some("Name"), "\"a<b\"@x.test");
        check("\"a b\"@x.test", None, "\"a b\"@x.test");
        check("J\u{fc}rgen \u{2764} <j@m\u{fc}nchen.test>", Some("J\u{fc}rgen \u{2764}"), "j@xn--mnchen-3ya.test");
        check("b@y.test <a@x.test>", Some("b@y.test"), "a@x.test");
        check("=?utf-8?q?x?= <a@x.test>", Some("=?utf-8?q?x?="), "a@x.test");
    }

    #[test]
    fn refuses_what_is_no_mailbox() {
        let check = |text: &str, expected: AddressError| assert_eq!(Mailbox::parse(text), Err(expected), "{text:?}");
        check("", AddressError::Empty);
        check("  ", AddressError::Empty);
        check("<>", AddressError::Empty);
        check("Alice", AddressError::NoAt("Alice".into()));
        check("Alice <a@x.test", AddressError::Mailbox("Alice <a@x.test".into()));
        check("a@x.test>", AddressError::Mailbox("a@x.test>".into()));
        check("Alice <a>", AddressError::NoAt("a".into()));
        check("Alice <a@x.test> Bob", AddressError::Mailbox("Alice <a@x.test> Bob".into()));
        check("a@x.test, b@x.test", AddressError::Domain("x.test, b@x.test".into()));
        check("Alice\r\nBcc: b@x.test <a@x.test>", AddressError::Control);
        check("A\0 <a@x.test>", AddressError::Control);
        check("(only a comment)", AddressError::NoAt("(only a comment)".into()));
    }

    fn list(value: &str) -> Vec<Result<String, AddressError>> {
        parse_list(value.as_bytes()).into_iter().map(|found| found.map(|mailbox| mailbox.to_string())).collect()
    }

    #[test]
    fn reads_address_fields() {
        let check = |value: &str, expected: &[&str]| {
            let expected = expected.iter().map(|mailbox| Ok((*mailbox).to_owned())).collect::<Vec<_>>();
            assert_eq!(list(value), expected, "{value:?}");
        };
        check("", &[]);
        check(" a@x.test", &["a@x.test"]);
        check("a@x.test <a@x.test>", &["a@x.test <a@x.test>"]);
        check(" a@x.test,, b@x.test,", &["a@x.test", "b@x.test"]);
        check(" \"Doe, J.\" <a@x.test>,\r\n\tBob\r\n <b@x.test>", &["Doe, J. <a@x.test>", "Bob <b@x.test>"]);
        check("Pete (A nice \\) chap) <p@x.test> (work)", &["Pete <p@x.test>"]);
        check("p@x.test (Pete (x) Q)", &["Pete (x) Q <p@x.test>"]);
        check("Team: a@x.test, B <b@x.test>; , c@x.test", &["a@x.test", "B <b@x.test>", "c@x.test"]);
        check("undisclosed-recipients:;", &[]);
        check("=?utf-8?Q?J=C3=BCrgen?= =?utf-8?B?IEs=?= <j@x.test>", &["J\u{fc}rgen K <j@x.test>"]);
        check("=?utf-8?q?a=0D=0ABcc=3A_b?= <j@x.test>", &["a Bcc: b <j@x.test>"]);
        check("=?utf-8?q?evil=40y.test=3E=2C?= <j@x.test>", &["evil@y.test>, <j@x.test>"]);
        check("CEO <c@y.test>: a@x.test;", &["a@x.test"]);
        check("b@y.test [x, ] <a@x.test>", &["b@y.test [x, ] <a@x.test>"]);
        check("\"a,b\"@x.test", &["\"a,b\"@x.test"]);
        check("x <\"a>,b\"@x.test>", &["x <\"a>,b\"@x.test>"]);
        check("a@[IPv6:2001:db8::1], b@x.test", &["a@[IPv6:2001:db8::1]", "b@x.test"]);
        check("Acme Inc. <a@x.test>", &["Acme Inc. <a@x.test>"]);
    }

    /// A comment of this depth.
    fn nested(depth: usize) -> String {
        format!("{}{}", "(".repeat(depth), ")".repeat(depth))
    }

    #[test]
    fn reads_authors() {
        let check = |value: &str, expected: &[&str]| {
            let found = parse_authors(value.as_bytes()).unwrap_or_else(|error| panic!("{value:?}: {error}"));
            assert_eq!(found.iter().map(Mailbox::to_string).collect::<Vec<_>>(), expected, "{value:?}");
        };
        check(" a@x.test", &["a@x.test"]);
        check(" a@x.test,\r\n B C. D <b@x.test> (work)", &["a@x.test", "B C. D <b@x.test>"]);
        check("\"b@y.test, [:;] \\\" <>\" <a@x.test>", &["b@y.test, [:;] \" <> <a@x.test>"]);
        check("=?utf-8?q?b=40y=2Etest=2C?= <a@x.test>", &["b@y.test, <a@x.test>"]);
        check("J\u{fc}rgen (at: <b@y.test>, home) <a@x.test>", &["J\u{fc}rgen <a@x.test>"]);
        check("<\"a, b@y.test\"@x.test>", &["\"a, b@y.test\"@x.test"]);
        check(&format!("A <a@x.test> {}", nested(16)), &["A <a@x.test>"]);
    }

    #[test]
    fn refuses_authors_that_can_be_read_in_two_ways() {
        let deep = format!("b@y.test {}, a@x.test", nested(17));
        for value in [
            "<b@y.test>:a@x.test;",
            "B <b@y.test>: a@x.test",
            "b@y.test: a@x.test;",
            "B <b@y.test>:;a@x.test",
            "Team: a@x.test;",
            "a@x.test;",
            "a@x.test; b@x.test",
            &deep,
            "[b@y.test, ] <a@x.test>",
            "b@y.test <a@x.test>",
            "a@x.test, b@y.test <a@x.test, b@y.test>",
            "a@x.tes <a@x.test>",
            "B] <a@x.test>",
            "B) <a@x.test>",
            "B> <a@x.test>",
            "\\\" b@y.test, \\\" <a@x.test>",
            "<b@y.test> <a@x.test>",
            "<b@y.test> a@x.test",
            "a@y.test(x).x.test",
            "a@x.test, b",
            "a@x.test,",
            "a@x.test, (b@y.test)",
            "a@x.test (open",
            "\"open <a@x.test>",
            "a@x.test [open",
            "",
            " (b@y.test)",
        ] {
            assert!(parse_authors(value.as_bytes()).is_err(), "{value:?}");
        }
    }

    #[test]
    fn tells_what_it_cannot_read() {
        let check = |value: &str, good: usize, bad: usize| {
            let found = list(value);
            let errors = found.iter().filter(|mailbox| mailbox.is_err()).count();
            assert_eq!((found.len() - errors, errors), (good, bad), "{value:?}: {found:?}");
        };
        check("a@x.test b@y.test", 0, 1);
        check("a@x.test, b", 1, 1);
        check("<a@x.test> <b@y.test>", 0, 1);
        check("a <b@y.test> <a@x.test>", 0, 1);
        check("\"open <a@x.test>", 0, 1);
        check("(open <a@x.test>", 0, 1);
        check("A <a@x.test", 0, 1);
        check("a\0@x.test", 0, 1);
        check("<@r.test:a@x.test>", 0, 1);
        check("A <>", 0, 1);
        check("a@y.test(x).x.test", 0, 1);
        check(&format!("b@y.test {}, a@x.test", nested(17)), 1, 1);
        assert_eq!(parse_list(b"\xff <a@x.test>").len(), 1);
        assert!(parse_list(b"a\xff@x.test")[0].is_err());
    }
}
