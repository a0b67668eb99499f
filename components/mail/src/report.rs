//! A report to a sender on what became of its mail: multipart/report with a part for people, one for programs and what
//! is returned of the message (RFC 3464, RFC 6522).
//!
//! Everything in it that a stranger wrote (replies, header fields) is made harmless first: no line of theirs becomes a
//! field or a boundary of ours, and none is longer than lines may be. All of it is ASCII but for the sender's own address.

use std::fmt::Write as _;

use crate::dsn::{EnvelopeId, OriginalRecipient, shown_address};
use crate::header::{bounds, check_format, field, raw_fields};
use crate::seven_bit::quoted_printable;
use crate::{Address, Domain, EnhancedCode};

/// Most of a text from elsewhere that is shown, in characters.
const TEXT_CHARACTERS: usize = 500;

/// Longest line that we return, without its CRLF (RFC 5322 s2.1.1).
const LINE_OCTETS: usize = 998;

/// Columns that lines of ours keep to.
const COLUMNS: usize = 76;

/// What became of a recipient (RFC 3464 s2.3.3). This host hands everything on, so it neither delivers nor expands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Handed to a host that sends no reports itself.
    Relayed,
    /// Not delivered yet, and tried further.
    Delayed,
    /// Over.
    Failed,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::Relayed => "relayed",
            Action::Delayed => "delayed",
            Action::Failed => "failed",
        }
    }
}

/// What is told of one recipient. Dates are written as in RFC 5322 s3.3.
#[derive(Clone, Debug)]
pub struct Told {
    pub address: Address,
    pub original: Option<OriginalRecipient>,
    pub action: Action,
    pub status: EnhancedCode,
    /// The host that was reached.
    pub remote_host: Option<String>,
    /// The peer's reply, codes included: `550 5.1.1 nobody`.
    pub reply: Option<String>,
    /// For people: why.
    pub text: String,
    pub last_attempt: String,
    /// Until when it is tried, where it is delayed.
    pub retry_until: Option<String>,
}

/// What comes back of the message.
#[derive(Clone, Copy, Debug)]
pub enum Returned<'a> {
    /// Nothing: its bytes are gone.
    Nothing,
    /// The header of these bytes, which may be cut off behind any of its lines.
    Header(&'a [u8]),
    /// All of it, where it is ASCII; else its header.
    Message(&'a [u8]),
}

/// A report.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// Who reports.
    pub hostname: &'a Domain,
    /// Unlike any other and not to be guessed: for Message-ID and boundary. ASCII letters, digits and `-`.
    pub id: &'a str,
    /// Whom it goes to: the sender of the message.
    pub to: &'a Address,
    pub date: &'a str,
    /// When the message was taken.
    pub arrival: &'a str,
    pub envelope_id: Option<&'a EnvelopeId>,
    /// One at least.
    pub recipients: &'a [Told],
    pub returned: Returned<'a>,
}

impl Report<'_> {
    /// The message, with CRLF line ends.
    pub fn compose(&self) -> Vec<u8> {
        let boundary = format!("report-{}", self.id);
        let mut text = self.header(&boundary);
        let _ = write!(text, "--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n{}", self.for_people());
        let _ =
            write!(text, "\r\n--{boundary}\r\nContent-Type: message/delivery-status\r\n\r\n{}", self.for_programs());
        let mut message = text.into_bytes();
        self.write_returned(&boundary, &mut message);
        message.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        message
    }

    /// The worst that became of anybody.
    fn action(&self) -> Action {
        self.recipients.iter().map(|told| told.action).max().unwrap_or(Action::Failed)
    }

    fn header(&self, boundary: &str) -> String {
        let Report { hostname, id, to, date, .. } = self;
        let subject = match self.action() {
            Action::Failed => "Your mail could not be delivered",
            Action::Delayed => "Your mail is delayed",
            Action::Relayed => "Your mail was handed on",
        };
        let mut text = format!(
            "From: Mail Delivery System <MAILER-DAEMON@{hostname}>\r\nTo: <{to}>\r\nSubject: {subject}\r\nDate: {date}\r\n\
             Message-ID: <{id}@{hostname}>\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n"
        );
        if let Some(original) = self.message_id() {
            let _ = write!(text, "In-Reply-To: {original}\r\nReferences: {original}\r\n");
        }
        let _ = write!(
            text,
            "Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\r\n"
        );
        text
    }

    /// The Message-ID of what is returned, where it is one.
    fn message_id(&self) -> Option<String> {
        let (Returned::Header(message) | Returned::Message(message)) = self.returned else { return None };
        let (end, _) = bounds(message);
        let mut fields = raw_fields(&message[..end]).filter_map(field);
        let value = fields.find(|field| field.is("Message-ID"))?.unfolded();
        let id = value.trim();
        let is_plain = id.bytes().all(|byte| byte.is_ascii_graphic()) && id.len() <= 250;
        (is_plain && id.starts_with('<') && id.ends_with('>')).then(|| id.to_owned())
    }

    fn for_people(&self) -> String {
        let mut text = format!("This is the mail server {}.\r\n", self.hostname);
        for action in [Action::Failed, Action::Delayed, Action::Relayed] {
            let of_these: Vec<&Told> = self.recipients.iter().filter(|told| told.action == action).collect();
            if of_these.is_empty() {
                continue;
            }
            text.push_str(match action {
                Action::Failed => "\r\nYour mail could not be delivered to the following recipients, and is not tried again:\r\n",
                Action::Delayed => "\r\nYour mail could not be delivered yet to the following recipients. It is tried further,\r\nand there is nothing for you to do:\r\n",
                Action::Relayed => "\r\nYour mail was handed on for the following recipients, to a server that sends no\r\nreports of delivery:\r\n",
            });
            for told in of_these {
                let address = shown_address(&told.address);
                let address = address.split_once("; ").map_or(address.as_str(), |(_, address)| address);
                let _ = write!(text, "\r\n<{address}>\r\n");
                for line in wrapped(&told.text, COLUMNS - 4) {
                    let _ = write!(text, "    {line}\r\n");
                }
            }
        }
        text
    }

    /// RFC 3464 s2.2 and s2.3.
    fn for_programs(&self) -> String {
        let mut text = format!("Reporting-MTA: dns; {}\r\n", self.hostname);
        if let Some(id) = self.envelope_id {
            put(&mut text, "Original-Envelope-Id", &id.decoded());
        }
        let _ = write!(text, "Arrival-Date: {}\r\n", self.arrival);
        for told in self.recipients {
            text.push_str("\r\n");
            if let Some(original) = &told.original {
                put(&mut text, "Original-Recipient", &original.shown());
            }
            put(&mut text, "Final-Recipient", &shown_address(&told.address));
            let _ = write!(text, "Action: {}\r\nStatus: {}\r\n", told.action.name(), told.status);
            if let Some(host) = &told.remote_host {
                put(&mut text, "Remote-MTA", &format!("dns; {}", host_name(host)));
            }
            match &told.reply {
                Some(reply) => put(&mut text, "Diagnostic-Code", &format!("smtp; {reply}")),
                None => put(&mut text, "Diagnostic-Code", &format!("X-Posthaste; {}", told.text)),
            }
            let _ = write!(text, "Last-Attempt-Date: {}\r\n", told.last_attempt);
            if let Some(until) = &told.retry_until {
                let _ = write!(text, "Will-Retry-Until: {until}\r\n");
            }
        }
        text
    }

    fn write_returned(&self, boundary: &str, into: &mut Vec<u8>) {
        let (message, whole) = match self.returned {
            Returned::Nothing => return,
            Returned::Header(message) => (message, false),
            Returned::Message(message) => (message, true),
        };
        let (end, _) = bounds(message);
        let header = header_lines(&message[..end]);
        let begin = |kind: &str| format!("\r\n--{boundary}\r\nContent-Type: {kind}\r\n");
        if whole && is_returnable(message) {
            into.extend_from_slice(format!("{}\r\n", begin("message/rfc822")).as_bytes());
            into.extend_from_slice(message);
        } else if header.is_ascii() {
            into.extend_from_slice(format!("{}\r\n", begin("text/rfc822-headers; charset=us-ascii")).as_bytes());
            into.extend_from_slice(&header);
        } else if std::str::from_utf8(&header).is_ok() {
            // RFC 6533 s6.
            let kind =
                format!("{}Content-Transfer-Encoding: quoted-printable\r\n\r\n", begin("message/global-headers"));
            into.extend_from_slice(kind.as_bytes());
            into.extend_from_slice(&quoted_printable(&header));
        } else {
            into.extend_from_slice(format!("{}\r\n", begin("text/rfc822-headers; charset=us-ascii")).as_bytes());
            into.extend(header.iter().map(|byte| if byte.is_ascii() { *byte } else { b'?' }));
        }
    }
}

/// Whether a message can stand in a part as it is.
fn is_returnable(message: &[u8]) -> bool {
    message.is_ascii() && !message.contains(&0) && check_format(message).is_ok()
}

/// Lines of what has CRLF line ends, without them.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// The lines of a header that may stand in a line of ours, each with its CRLF.
fn header_lines(header: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(header.len());
    for line in lines(header).filter(|line| !line.is_empty()) {
        kept.extend(line.iter().take(LINE_OCTETS).map(|byte| if matches!(byte, 0 | b'\r') { b'?' } else { *byte }));
        kept.extend_from_slice(b"\r\n");
    }
    kept
}

/// The name in `mx.example.net (192.0.2.1)` or `relay.example.net:587 (192.0.2.1)`.
fn host_name(host: &str) -> &str {
    let name = host.split(' ').next().unwrap_or(host);
    match name.split_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => name,
    }
}

/// Adds a field, folded.
fn put(text: &mut String, name: &str, value: &str) {
    let mut lines = wrapped(value, COLUMNS - name.len() - 2).into_iter();
    let _ = write!(text, "{name}: {}\r\n", lines.next().unwrap_or_default());
    for line in lines {
        let _ = write!(text, " {line}\r\n");
    }
}

/// A text from elsewhere in lines of about so many columns: ASCII, printable, not endless. A word that is longer than a
/// line is cut only where it would be longer than lines may be.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let shown: String = text
        .chars()
        .take(TEXT_CHARACTERS)
        .map(|c| match c {
            '\r' | '\n' | '\t' => ' ',
            c if c.is_ascii() && !c.is_ascii_control() => c,
            _ => '?',
        })
        .collect();
    let mut lines: Vec<String> = Vec::new();
    for word in shown.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn told(address: &str, action: Action) -> Told {
        Told {
            address: Address::parse(address).unwrap(),
            original: None,
            action,
            status: EnhancedCode::new(5, 1, 1),
            remote_host: Some("mx.b.test (192.0.2.1)".to_owned()),
            reply: Some("550 5.1.1 nobody".to_owned()),
            text: "mx.b.test (192.0.2.1) said: 550 5.1.1 nobody".to_owned(),
            last_attempt: "Sun, 22 Nov 2026 10:00:00 +0000".to_owned(),
            retry_until: None,
        }
    }

    fn report(recipients: &[Told], returned: Returned<'_>) -> String {
        let (hostname, to) = (Domain::parse("relay.test").unwrap(), Address::parse("a@src.test").unwrap());
        let envelope_id = EnvelopeId::parse("QQ+2B1").unwrap();
        let report = Report {
            hostname: &hostname,
            id: "0199-x",
            to: &to,
            date: "Sun, 22 Nov 2026 10:00:01 +0000",
            arrival: "Sun, 22 Nov 2026 09:59:00 +0000",
            envelope_id: Some(&envelope_id),
            recipients,
            returned,
        };
        let message = report.compose();
        crate::header::check_format(&message).unwrap();
        String::from_utf8(message).unwrap()
    }

    #[test]
    fn a_report_says_what_became_of_whom() {
        let original = OriginalRecipient::parse("rfc822;x+2By@b.test", false).unwrap();
        let late = Told {
            retry_until: Some("Fri, 27 Nov 2026 09:59:00 +0000".to_owned()),
            ..told("late@b.test", Action::Delayed)
        };
        let recipients = [Told { original: Some(original), ..told("x@b.test", Action::Failed) }, late];
        let text = report(&recipients, Returned::Header(b"Message-ID: <1@src.test>\r\nSubject: Hi\r\n\r\nbody"));
        let expect = "From: Mail Delivery System <MAILER-DAEMON@relay.test>\r\n\
            To: <a@src.test>\r\n\
            Subject: Your mail could not be delivered\r\n\
            Date: Sun, 22 Nov 2026 10:00:01 +0000\r\n\
            Message-ID: <0199-x@relay.test>\r\n\
            Auto-Submitted: auto-replied\r\n\
            MIME-Version: 1.0\r\n\
            In-Reply-To: <1@src.test>\r\n\
            References: <1@src.test>\r\n\
            Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"report-0199-x\"\r\n\
            \r\n\
            --report-0199-x\r\n\
            Content-Type: text/plain; charset=us-ascii\r\n\
            \r\n\
            This is the mail server relay.test.\r\n\
            \r\n\
            Your mail could not be delivered to the following recipients, and is not tried again:\r\n\
            \r\n\
            <x@b.test>\r\n    mx.b.test (192.0.2.1) said: 550 5.1.1 nobody\r\n\
            \r\n\
            Your mail could not be delivered yet to the following recipients. It is tried further,\r\n\
            and there is nothing for you to do:\r\n\
            \r\n\
            <late@b.test>\r\n    mx.b.test (192.0.2.1) said: 550 5.1.1 nobody\r\n\
            \r\n\
            --report-0199-x\r\n\
            Content-Type: message/delivery-status\r\n\
            \r\n\
            Reporting-MTA: dns; relay.test\r\n\
            Original-Envelope-Id: QQ+1\r\n\
            Arrival-Date: Sun, 22 Nov 2026 09:59:00 +0000\r\n\
            \r\n\
            Original-Recipient: rfc822; x+y@b.test\r\n\
            Final-Recipient: rfc822; x@b.test\r\n\
            Action: failed\r\n\
            Status: 5.1.1\r\n\
            Remote-MTA: dns; mx.b.test\r\n\
            Diagnostic-Code: smtp; 550 5.1.1 nobody\r\n\
            Last-Attempt-Date: Sun, 22 Nov 2026 10:00:00 +0000\r\n\
            \r\n\
            Final-Recipient: rfc822; late@b.test\r\n\
            Action: delayed\r\n\
            Status: 5.1.1\r\n\
            Remote-MTA: dns; mx.b.test\r\n\
            Diagnostic-Code: smtp; 550 5.1.1 nobody\r\n\
            Last-Attempt-Date: Sun, 22 Nov 2026 10:00:00 +0000\r\n\
            Will-Retry-Until: Fri, 27 Nov 2026 09:59:00 +0000\r\n\
            \r\n\
            --report-0199-x\r\n\
            Content-Type: text/rfc822-headers; charset=us-ascii\r\n\
            \r\n\
            Message-ID: <1@src.test>\r\n\
            Subject: Hi\r\n\
            \r\n\
            --report-0199-x--\r\n";
        assert_eq!(text, expect);
    }

    #[test]
    fn what_strangers_wrote_adds_no_line_of_theirs() {
        let mut evil = told("x@b.test", Action::Failed);
        evil.reply =
            Some(format!("550 no\r\nAction: delivered\r\n\r\n--report-0199-x--\r\n{}", "y\u{fc}".repeat(2000)));
        evil.text = evil.reply.clone().unwrap();
        let long = format!("Subject: {}\r\n--report-0199-x--\r\n\r\n", "z".repeat(5000));
        let text = report(&[evil], Returned::Header(long.as_bytes()));
        assert_eq!(text.matches("\r\nAction: ").count(), 1, "{text}");
        assert!(text.is_ascii());
        // What is returned cannot know the boundary, whose id is fresh.
        assert_eq!(text.matches("\r\n--report-0199-x--\r\n").count(), 2);
    }

    #[test]
    fn what_is_returned_fits_its_part() {
        let one = [told("x@b.test", Action::Failed)];
        let part = |returned| {
            let text = report(&one, returned);
            let at = text.rfind("--report-0199-x\r\n").unwrap();
            text[at + 17..].split_once("\r\n--").unwrap().0.to_owned()
        };
        let message = b"Subject: Hi\r\n\r\nbody\r\n";
        assert_eq!(part(Returned::Message(message)), "Content-Type: message/rfc822\r\n\r\nSubject: Hi\r\n\r\nbody\r\n");
        let headers = "Content-Type: text/rfc822-headers; charset=us-ascii\r\n\r\n";
        assert_eq!(part(Returned::Message(b"Subject: Hi\r\n\r\nb\xf6dy\r\n")), format!("{headers}Subject: Hi\r\n"));
        assert_eq!(part(Returned::Message(b"Subject: Hi\r\n\r\nbo\ndy\r\n")), format!("{headers}Subject: Hi\r\n"));
        assert_eq!(part(Returned::Header(b"Subject: H\xfc\r\n\r\n")), format!("{headers}Subject: H?\r\n"));
        assert_eq!(
            part(Returned::Header("Subject: H\u{fc}\r\n\r\n".as_bytes())),
            "Content-Type: message/global-headers\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nSubject: H=C3=BC\r\n"
        );
        assert!(part(Returned::Nothing).starts_with("Content-Type: message/delivery-status\r\n"));
    }
}
