//! The mail library against bytes that mean no good: nothing panics, what is accepted keeps its promises, and what is
//! written is read back. Plain Rust and seeded, so that it runs with the tests and fails the same way twice;
//! `POSTHASTE_FUZZ_CASES` asks for more cases and `POSTHASTE_FUZZ_SEED` for others.

#![allow(clippy::unwrap_used)]

use mail::compose::{Attachment, Draft, compose};
use mail::dkim::{self, Algorithm, Parameters, Unsigned};
use mail::header::{self, Field};
use mail::message::{self, Parsed};
use mail::seven_bit;
use mail::signature::Signature;
use mail::{Address, Domain, EnhancedCode, Mailbox, Reply};

/// How many cases a property gets when nobody asks for more.
const CASES: u64 = 3000;
/// How many times a sample is changed at most.
const MAX_CHANGES: usize = 8;

/// Messages, headers and addresses to begin with.
const SAMPLES: &[&str] = &[
    "From: Alice <a@x.test>\r\nTo: \"B, b\" <b@y.test>, c@z.test\r\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n\r\nbody\r\n",
    "From: J\u{fc}rgen <j@x.test>\r\nSubject: Gr\u{fc}\u{df}e\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b\"\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\u{fc} = \u{2764}\r\n--b\r\nContent-Type: application/pdf; name=\"\u{fc}.pdf\"\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename*0*=utf-8''%C3%BC; filename*1=\".pdf\"\r\n\r\nAAEC\r\n--b--\r\n",
    "Content-Type: multipart/related; boundary=o\r\n\r\n--o\r\nContent-Type: multipart/alternative;\r\n boundary=i\r\n\r\n--i\r\n\r\none\r\n--i\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<p>=C3=BC=\r\n</p>\r\n--i--\r\n--o\r\nContent-Type: message/rfc822\r\n\r\nSubject: \u{fc}\r\n\r\n\u{fc}\r\n--o--\r\n",
    "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=x.test; s=s;\r\n t=1; h=From:From:To; bh=AAAA; b=AQ\r\n ID\r\nFrom: a@x.test\r\n\r\n \tbody  \r\n \r\n\r\n",
    "From: Team: a@x.test, \"q\\\"uoted\" <b@x.test>;, (comment (nested)) c@x.test\r\nX :\r\n folded\r\n\r\n",
    "\"a b\\\"c\"@[IPv6:2001:db8::1]",
    "Acme, Inc. (EU) <\"x y\"@m\u{fc}nchen.test>",
    "5.1.1 no such user",
];

/// What changes put in: the bytes that mean something somewhere.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"\"",
    b"\\",
    b"<",
    b">",
    b"(",
    b")",
    b"[",
    b"]",
    b"@",
    b"=",
    b"=?",
    b"?=",
    b"=?utf-8?B?w7w=?=",
    b"--b",
    b"--b--",
    b"\r\n\r\n",
    b"\xff",
    b"\xc3\xbc",
    "\u{fffd}".as_bytes(),
    "\u{202e}".as_bytes(),
    "\u{3002}".as_bytes(),
    "\u{1f600}".as_bytes(),
    b"xn--",
    b"%",
    b"''",
    b"*0*=",
    b"boundary=",
    b"Content-Type: multipart/digest; boundary=b",
    b"Content-Type: message/rfc822\r\n\r\n",
    b"From: x@y.test\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Transfer-Encoding: quoted-printable\r\n",
    b"charset=utf-16",
    b"\r\n ",
    b"\r\n\t\r\n",
    b".",
    b"..",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// Numbers that look random and are the same each time (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// A sample with some changes: words put in, pieces cut out, doubled or overwritten.
    fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = self.pick(SAMPLES).as_bytes().to_vec();
        for _ in 0..self.below(MAX_CHANGES) {
            let at = self.below(bytes.len() + 1);
            let end = at + self.below((bytes.len() - at + 1).min(40));
            match self.below(5) {
                0 => drop(bytes.splice(at..end, [])),
                1 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                2 => drop(bytes.splice(at..end, [self.roll() as u8])),
                _ => drop(bytes.splice(at..at, self.pick(WORDS).iter().copied())),
            }
        }
        bytes
    }

    fn text(&mut self) -> String {
        match self.below(3) {
            0 => String::from_utf8_lossy(&self.bytes()).into_owned(),
            _ => (0..self.below(12)).map(|_| String::from_utf8_lossy(self.pick(WORDS)).into_owned()).collect(),
        }
    }
}

/// Runs a property over every case and says which one broke it.
fn for_each_case(property: fn(&mut Dice)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("POSTHASTE_FUZZ_SEED").unwrap_or(1);
    for seed in first..first + number("POSTHASTE_FUZZ_CASES").unwrap_or(CASES) {
        let outcome = std::panic::catch_unwind(|| property(&mut Dice(seed)));
        if outcome.is_err() {
            panic!("to see it again: POSTHASTE_FUZZ_SEED={seed} POSTHASTE_FUZZ_CASES=1");
        }
    }
}

#[test]
fn addresses_print_what_they_read() {
    for_each_case(|dice| {
        let text = dice.text();
        if let Ok(domain) = Domain::parse(&text) {
            assert_eq!(Domain::parse(domain.as_str()), Ok(domain));
        }
        if let Ok(address) = Address::parse(&text) {
            let printed = address.to_string();
            assert!(printed.len() <= 254 && !printed.contains(char::is_control), "{printed:?}");
            assert_eq!(Address::parse(&printed), Ok(address));
        }
        if let Ok(mailbox) = Mailbox::parse(&text) {
            assert!(!mailbox.to_string().contains(char::is_control), "{mailbox:?}");
        }
        let listed: Vec<_> = mail::mailbox::parse_list(text.as_bytes()).into_iter().flatten().collect();
        for mailbox in &listed {
            assert!(!mailbox.to_string().contains(char::is_control), "{mailbox:?}");
        }
        if let Ok(authors) = mail::mailbox::parse_authors(text.as_bytes()) {
            assert_eq!(authors, listed);
        }
    });
}

#[test]
fn codes_and_replies_keep_their_shape() {
    for_each_case(|dice| {
        let text = dice.text();
        let enhanced = EnhancedCode::split(&text).map(|(code, _)| code);
        let wire = Reply::new(550, enhanced, text).to_wire();
        let lines = wire.split_inclusive(|octet| *octet == b'\n').collect::<Vec<_>>();
        for (at, line) in lines.iter().enumerate() {
            let separator = if at + 1 == lines.len() { b' ' } else { b'-' };
            assert!(line.len() <= 512 && line.starts_with(b"550") && line[3] == separator && line.ends_with(b"\r\n"));
            assert!(!line[..line.len() - 2].iter().any(u8::is_ascii_control));
        }
    });
}

#[test]
fn headers_come_apart_and_together() {
    for_each_case(|dice| {
        let bytes = dice.bytes();
        let is_good = header::check_format(&bytes).is_ok();
        let removed = header::remove(&bytes, &["Subject", "From"]);
        let Ok((fields, body)) = header::split(&bytes) else {
            assert!(!is_good);
            return;
        };
        let _ = header::check_fields(&fields);
        let mut whole = Vec::new();
        for (at, field) in fields.iter().enumerate() {
            whole.extend_from_slice(&[field.name.as_bytes(), b":", field.value].concat());
            if at + 1 < fields.len() || bytes[whole.len()..].starts_with(b"\r\n") {
                whole.extend_from_slice(b"\r\n");
            }
        }
        assert_eq!(whole, bytes[..whole.len()]);
        assert!(matches!(&bytes[whole.len()..body], b"" | b"\r\n"));
        let (left, left_body) = header::split(&removed).unwrap();
        assert!(!left.iter().any(|field| field.is("Subject") || field.is("From")));
        assert_eq!(removed[left_body..], bytes[body..]);
        let prepended = header::prepend(&bytes, &["X-New: 1".into()]);
        assert_eq!(header::split(&prepended).unwrap().0.len(), fields.len() + 1);
    });
}

#[test]
fn messages_are_read_whatever_they_are() {
    for_each_case(|dice| {
        let bytes = dice.bytes();
        let parsed = message::parse(&bytes);
        let _ = message::author_domains(&bytes);
        for (at, part) in parsed.parts.iter().enumerate() {
            let (content_type, content) = message::part_content(&bytes, at).unwrap();
            assert_eq!((&content_type, content.len() as u64), (&part.content_type, part.size_bytes));
        }
        assert_eq!(message::part_content(&bytes, parsed.parts.len()), None);
    });
}

/// What a message says, told so that conversion must not change it.
fn said(message: &[u8], parsed: &Parsed) -> Vec<String> {
    let parts = (0..parsed.parts.len()).filter_map(|at| message::part_content(message, at));
    // A message inside is converted itself.
    let parts = parts.filter(|(content_type, _)| content_type != "message/rfc822").map(|part| format!("{part:?}"));
    let names = parsed.parts.iter().map(|part| format!("{:?}", part.file_name));
    let head = [format!("{:?}", parsed.from), format!("{:?}", parsed.subject)];
    head.into_iter().chain(names).chain(parts).collect()
}

#[test]
fn conversion_to_seven_bit_changes_no_content() {
    for_each_case(|dice| {
        let bytes = dice.bytes();
        let Ok(converted) = seven_bit::convert(&bytes) else { return };
        assert!(seven_bit::is_seven_bit(&converted));
        if header::check_format(&bytes).is_ok() {
            let shown = String::from_utf8_lossy(&bytes);
            assert_eq!(header::check_format(&converted), Ok(()), "{shown:?}");
            let (before, after) = (message::parse(&bytes), message::parse(&converted));
            assert_eq!(said(&converted, &after), said(&bytes, &before), "{shown:?}");
        }
    });
}

#[test]
fn signatures_are_read_as_they_are_written() {
    for_each_case(|dice| {
        let bytes = dice.bytes();
        let body_hash = dkim::body_hash(&bytes);
        if bytes.ends_with(b"\r\n") {
            assert_eq!(dkim::body_hash(&[&bytes, b" \r\n\t\r\n\r\n".as_slice()].concat()), body_hash);
        }
        let Ok((fields, _)) = header::split(&bytes) else { return };
        for field in fields.iter().filter(|field| field.is(dkim::FIELD_NAME)) {
            let _ = Signature::parse(*field).map(|signature| signature.digest(&fields, *field));
        }
        let unsigned = Unsigned::new(
            &fields,
            &Parameters { domain: "x.test", selector: "s", algorithm: Algorithm::RsaSha256, timestamp_s: 1, body_hash },
        );
        let digest = unsigned.digest();
        let value = unsigned.finish(&bytes[..bytes.len().min(256)]);
        let own = Field { name: dkim::FIELD_NAME, value: value.as_bytes() };
        let Ok(signature) = Signature::parse(own) else { panic!("{value:?}") };
        let fields = [vec![own], fields].concat();
        assert_eq!(signature.digest(&fields, own), digest);
        assert_eq!(signature.signature, bytes[..bytes.len().min(256)]);
    });
}

fn draft(dice: &mut Dice) -> Draft {
    let mailboxes = |dice: &mut Dice| {
        let texts = (0..dice.below(3)).map(|_| format!("{} <u@x.test>", dice.text())).collect::<Vec<_>>();
        texts.iter().filter_map(|text| Mailbox::parse(text).ok()).collect::<Vec<_>>()
    };
    let attachments = (0..dice.below(3)).map(|_| Attachment {
        file_name: dice.text(),
        content_type: [dice.text(), "message/rfc822".into(), "text/plain".into()][dice.below(3)].clone(),
        content_id: (dice.below(2) == 0).then(|| dice.text()),
        content: dice.bytes(),
    });
    let attachments = attachments.collect();
    Draft {
        from: mailboxes(dice).pop().unwrap_or_else(|| Mailbox::parse("a@x.test").unwrap()),
        to: mailboxes(dice),
        cc: mailboxes(dice),
        reply_to: mailboxes(dice),
        subject: dice.text(),
        html: (dice.below(2) == 0).then(|| dice.text()),
        text: (dice.below(2) == 0).then(|| dice.text()),
        attachments,
        headers: (0..dice.below(3)).map(|_| (format!("X-{}", dice.text()), dice.text())).collect(),
        message_id: format!("<{}@x.test>", dice.text()),
        date_s: dice.roll() as i64 % 10_000_000_000,
    }
}

/// Text as it may come back: line ends are CRLF and one may be added at the end.
fn canonical(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").trim_end_matches('\n').to_owned()
}

/// A value as it may come back: blanks are not kept apart.
fn words(text: &str) -> Vec<String> {
    let blank = |c: char| c.is_control() || c == ' ';
    text.split(blank).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[test]
fn what_is_composed_is_read_back() {
    for_each_case(|dice| {
        let draft = draft(dice);
        let message = compose(&draft);
        assert_eq!(header::check_format(&message), Ok(()), "{draft:?}");
        assert!(seven_bit::is_seven_bit(&message), "{draft:?}");
        let (fields, _) = header::split(&message).unwrap();
        assert_eq!(header::check_fields(&fields), Ok(()), "{draft:?}");
        let parsed = message::parse(&message);
        let named = |mailboxes: &[Mailbox]| {
            let words = |mailbox: &Mailbox| (mailbox.name.as_deref().map(words), mailbox.address.clone());
            mailboxes.iter().map(words).collect::<Vec<_>>()
        };
        assert_eq!(named(&parsed.from), named(std::slice::from_ref(&draft.from)));
        assert_eq!(named(&parsed.to), named(&draft.to), "{draft:?}");
        assert_eq!(named(&parsed.cc), named(&draft.cc));
        assert_eq!(named(&parsed.reply_to), named(&draft.reply_to));
        assert_eq!(words(&parsed.subject.clone().unwrap_or_default()), words(&draft.subject), "{draft:?}");
        assert_eq!(parsed.html.as_deref().map(canonical), draft.html.as_deref().map(canonical));
        let text = draft.text.as_deref().or(draft.html.is_none().then_some(""));
        assert_eq!(parsed.text.as_deref().map(canonical), text.map(canonical), "{draft:?}");
        let contents = (0..parsed.parts.len()).filter(|at| !parsed.parts[*at].is_body);
        let contents = contents.map(|at| message::part_content(&message, at).unwrap().1).collect::<Vec<_>>();
        for attachment in &draft.attachments {
            assert!(contents.contains(&attachment.content), "{draft:?}");
        }
        assert_eq!(contents.len(), draft.attachments.len(), "{draft:?}");
    });
}
