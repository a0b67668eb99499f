//! Reads one command line (RFC 5321 s4.1.1, and the extensions we offer: RFC 1870, 3030, 3207, 3461, 4954,
//! 6152, 6531).
//!
//! Lenient where clients in the field are sloppy without harm (case, a space behind `FROM:`, trailing spaces), strict
//! in all else. smtp-proto is not used: it takes a bare LF for a line end, and cannot tell `<>` from
//! `<Postmaster>` or a quoted local part from a plain one.

use mail::address::AddressError;
use mail::dsn::{DsnError, EnvelopeId, Notify, OriginalRecipient, RecipientRequest, Return};
use mail::{Address, Domain, EnhancedCode, Reply, ReversePath};
use thiserror::Error;

/// Longest path with its brackets (RFC 5321 s4.5.3.1.3).
const PATH_OCTETS: usize = 256;

/// Longest EHLO name.
const HELLO_OCTETS: usize = 255;

/// A command, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// EHLO (`extended`) or HELO.
    Hello {
        name: String,
        extended: bool,
    },
    StartTls,
    Auth {
        mechanism: String,
        initial: Option<String>,
    },
    Mail {
        sender: ReversePath,
        parameters: MailParameters,
    },
    Rcpt {
        recipient: Address,
        /// Whether it holds characters beyond ASCII, which only a transaction with SMTPUTF8 may have.
        internationalized: bool,
        /// NOTIFY and ORCPT, where given.
        request: Option<Box<RecipientRequest>>,
    },
    Data,
    /// So many octets of the message follow; `last`: it ends with them.
    Bdat {
        octets: u64,
        last: bool,
    },
    Rset,
    Noop,
    Help,
    Vrfy,
    Quit,
}

/// What MAIL says besides the sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// Octets the message is said to have.
    pub size: Option<u64>,
    /// BODY=8BITMIME.
    pub eight_bit: bool,
    /// SMTPUTF8: addresses and header may hold UTF-8.
    pub utf8: bool,
    /// RET, and ENVID.
    pub ret: Option<Return>,
    pub envelope_id: Option<EnvelopeId>,
}

/// Why a line is no command that can be followed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    #[error("`{0}` is not a command known here")]
    Unknown(String),
    #[error("{0} is not offered here")]
    NotImplemented(String),
    /// An HTTP request: somebody's browser is being used against us.
    #[error("this is a mail server, it does not speak HTTP")]
    Http,
    #[error("write: {0}")]
    Syntax(&'static str),
    #[error("`{0}` is not a host name")]
    HelloName(String),
    #[error("{0}")]
    Sender(AddressError),
    #[error("{0}")]
    Recipient(AddressError),
    #[error("the path is longer than {PATH_OCTETS} octets")]
    PathTooLong { sender: bool },
    #[error("{0} holds characters that need SMTPUTF8: say so behind MAIL FROM")]
    NotAscii(&'static str),
    #[error("{0} holds octets that are not UTF-8")]
    NotUtf8(&'static str),
    #[error("`{0}` has no value that can be used: {1}")]
    Parameter(String, &'static str),
    #[error("`{0}` has no value that can be used: {1}")]
    Dsn(String, DsnError),
    #[error("the parameter `{0}` is not known here")]
    UnknownParameter(String),
}

impl CommandError {
    /// The reply that tells the client.
    pub fn reply(&self) -> Reply {
        let (code, (class, subject, detail)) = match self {
            CommandError::Unknown(_) => (500, (5, 5, 1)),
            CommandError::NotImplemented(_) => (502, (5, 5, 1)),
            CommandError::Http => (421, (4, 7, 0)),
            CommandError::Syntax(_) => (501, (5, 5, 4)),
            CommandError::HelloName(_) => (501, (5, 5, 4)),
            CommandError::Sender(_) | CommandError::PathTooLong { sender: true } => (501, (5, 1, 7)),
            CommandError::Recipient(_) | CommandError::PathTooLong { sender: false } => (501, (5, 1, 3)),
            CommandError::NotAscii(_) | CommandError::NotUtf8(_) => (553, (5, 6, 7)),
            CommandError::Parameter(..) | CommandError::Dsn(..) => (501, (5, 5, 4)),
            CommandError::UnknownParameter(_) => (555, (5, 5, 4)),
        };
        // Not every client that gets this asked for SMTPUTF8 (RFC 6531 s3.7.4.2).
        let text: String = self.to_string().chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
        Reply::new(code, Some(EnhancedCode::new(class, subject, detail)), sentence(&text))
    }
}

/// Makes a sentence begin with a capital, where it begins with a word of ours.
pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Reads a line that had its CRLF taken off. `hostname` is where `<Postmaster>` lives.
pub fn parse(line: &[u8], hostname: &Domain) -> Result<Command, CommandError> {
    // Octets that are no UTF-8 become a character that no command accepts.
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(' ');
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim_start_matches(' ');
    match verb.to_ascii_uppercase().as_str() {
        "EHLO" => hello(rest, true),
        "HELO" => hello(rest, false),
        "STARTTLS" => bare(rest, Command::StartTls, "STARTTLS, and nothing behind it"),
        "AUTH" => auth(rest),
        "MAIL" => mail(rest),
        "RCPT" => rcpt(rest, hostname),
        "DATA" => bare(rest, Command::Data, "DATA, and nothing behind it"),
        "RSET" => bare(rest, Command::Rset, "RSET, and nothing behind it"),
        "QUIT" => bare(rest, Command::Quit, "QUIT, and nothing behind it"),
        "NOOP" => Ok(Command::Noop),
        "HELP" => Ok(Command::Help),
        "VRFY" if rest.is_empty() => Err(CommandError::Syntax("VRFY address")),
        "VRFY" => Ok(Command::Vrfy),
        "BDAT" => bdat(rest),
        verb @ ("EXPN" | "ETRN" | "ATRN" | "BURL" | "LHLO" | "TURN" | "SEND" | "SOML" | "SAML") => {
            Err(CommandError::NotImplemented(verb.to_owned()))
        }
        "GET" | "POST" | "PUT" | "HEAD" | "OPTIONS" | "CONNECT" => Err(CommandError::Http),
        _ => Err(CommandError::Unknown(shown(verb))),
    }
}

fn bare(rest: &str, command: Command, syntax: &'static str) -> Result<Command, CommandError> {
    if rest.is_empty() { Ok(command) } else { Err(CommandError::Syntax(syntax)) }
}

/// The name goes into trace fields, so it is an atom or an address literal. Strict names are not asked for (RFC 5321
/// s4.1.4): clients on desktops have none.
fn hello(rest: &str, extended: bool) -> Result<Command, CommandError> {
    if rest.is_empty() {
        return Err(CommandError::Syntax(if extended { "EHLO your-host-name" } else { "HELO your-host-name" }));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.:[]".contains(&byte);
    if rest.len() > HELLO_OCTETS || !rest.bytes().all(plain) {
        return Err(CommandError::HelloName(shown(rest)));
    }
    Ok(Command::Hello { name: rest.to_owned(), extended })
}

fn auth(rest: &str) -> Result<Command, CommandError> {
    const SYNTAX: &str = "AUTH mechanism [initial-response]";
    let (mechanism, initial) = match rest.split_once(' ') {
        Some((mechanism, initial)) => (mechanism, Some(initial.trim_start_matches(' '))),
        None => (rest, None),
    };
    if mechanism.is_empty() || initial.is_some_and(|initial| initial.contains(' ')) {
        return Err(CommandError::Syntax(SYNTAX));
    }
    Ok(Command::Auth { mechanism: mechanism.to_ascii_uppercase(), initial: initial.map(str::to_owned) })
}

fn mail(rest: &str) -> Result<Command, CommandError> {
    const SYNTAX: &str = "MAIL FROM:<address>";
    let path = after_keyword(rest, "FROM:").ok_or(CommandError::Syntax(SYNTAX))?;
    let (path, parameters) = split_path(path).ok_or(CommandError::Syntax(SYNTAX))?;
    check_path(path, true)?;
    let parameters = mail_parameters(parameters)?;
    if !path.is_ascii() && !parameters.utf8 {
        return Err(CommandError::NotAscii(SENDER));
    }
    let sender = match strip_route(path) {
        "" => None,
        mailbox => Some(Address::parse(mailbox).map_err(CommandError::Sender)?),
    };
    Ok(Command::Mail { sender, parameters })
}

fn rcpt(rest: &str, hostname: &Domain) -> Result<Command, CommandError> {
    const SYNTAX: &str = "RCPT TO:<address>";
    let path = after_keyword(rest, "TO:").ok_or(CommandError::Syntax(SYNTAX))?;
    let (path, parameters) = split_path(path).ok_or(CommandError::Syntax(SYNTAX))?;
    check_path(path, false)?;
    let mailbox = strip_route(path);
    // The one address that needs no domain (RFC 5321 s4.5.1).
    let recipient = if mailbox.eq_ignore_ascii_case("postmaster") {
        Address::parse(&format!("postmaster@{hostname}"))
    } else {
        Address::parse(mailbox)
    };
    let recipient = recipient.map_err(CommandError::Recipient)?;
    let request = if parameters.is_empty() { None } else { rcpt_parameters(parameters)? };
    let internationalized = !path.is_ascii() || !parameters.is_ascii();
    Ok(Command::Rcpt { recipient, internationalized, request })
}

/// NOTIFY and ORCPT (RFC 3461 s4.1 and s4.2).
fn rcpt_parameters(text: &str) -> Result<Option<Box<RecipientRequest>>, CommandError> {
    let mut request = RecipientRequest::default();
    for parameter in text.split_ascii_whitespace() {
        let (keyword, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let bad = |error| CommandError::Dsn(shown(parameter), error);
        let twice = || CommandError::Parameter(shown(parameter), TWICE);
        if keyword.eq_ignore_ascii_case("NOTIFY") {
            let before = request.notify.replace(Notify::parse(value).map_err(bad)?);
            before.map_or(Ok(()), |_| Err(twice()))?;
        } else if keyword.eq_ignore_ascii_case("ORCPT") {
            // Whether the transaction has SMTPUTF8 is looked at where it is known: see `internationalized`.
            let before = request.original.replace(OriginalRecipient::parse(value, true).map_err(bad)?);
            before.map_or(Ok(()), |_| Err(twice()))?;
        } else {
            return Err(CommandError::UnknownParameter(shown(parameter)));
        }
    }
    Ok((request != RecipientRequest::default()).then(|| Box::new(request)))
}

fn bdat(rest: &str) -> Result<Command, CommandError> {
    const SYNTAX: CommandError = CommandError::Syntax("BDAT octets [LAST]");
    let mut words = rest.split_ascii_whitespace();
    let octets = words.next().and_then(size).ok_or(SYNTAX)?;
    match (words.next(), words.next()) {
        (None, _) => Ok(Command::Bdat { octets, last: false }),
        (Some(word), None) if word.eq_ignore_ascii_case("LAST") => Ok(Command::Bdat { octets, last: true }),
        _ => Err(SYNTAX),
    }
}

fn after_keyword<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let start = text.get(..keyword.len())?;
    start.eq_ignore_ascii_case(keyword).then(|| text[keyword.len()..].trim_start_matches(' '))
}

/// Splits `<path> parameters` at the bracket that ends the path; one in a quoted local part does not.
fn split_path(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('<')?;
    let (mut quoted, mut escaped) = (false, false);
    for (at, character) in inner.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => {
                let parameters = &inner[at + 1..];
                let apart = parameters.is_empty() || parameters.starts_with(' ');
                return apart.then_some((&inner[..at], parameters));
            }
            _ => {}
        }
    }
    None
}

/// The two paths, in words.
const SENDER: &str = "the sender's address";
pub(super) const RECIPIENT: &str = "the recipient's address";

fn check_path(path: &str, sender: bool) -> Result<(), CommandError> {
    if path.contains(char::REPLACEMENT_CHARACTER) {
        return Err(CommandError::NotUtf8(if sender { SENDER } else { RECIPIENT }));
    }
    // The two brackets count.
    if path.len() + 2 > PATH_OCTETS { Err(CommandError::PathTooLong { sender }) } else { Ok(()) }
}

/// Source routes are read and ignored (RFC 5321 appendix C).
fn strip_route(path: &str) -> &str {
    match path.split_once(':') {
        Some((route, mailbox)) if route.starts_with('@') => mailbox,
        _ => path,
    }
}

const TWICE: &str = "it stands twice";

fn mail_parameters(text: &str) -> Result<MailParameters, CommandError> {
    let mut parameters = MailParameters::default();
    let mut seen: Vec<String> = Vec::new();
    for parameter in text.split_ascii_whitespace() {
        let (keyword, value) = match parameter.split_once('=') {
            Some((keyword, value)) => (keyword.to_ascii_uppercase(), Some(value)),
            None => (parameter.to_ascii_uppercase(), None),
        };
        let bad = |why| CommandError::Parameter(shown(parameter), why);
        if seen.contains(&keyword) {
            return Err(bad(TWICE));
        }
        match (keyword.as_str(), value) {
            ("SIZE", Some(value)) => parameters.size = Some(size(value).ok_or(bad("write SIZE=octets"))?),
            ("BODY", Some(value)) if value.eq_ignore_ascii_case("7BIT") => {}
            ("BODY", Some(value)) if value.eq_ignore_ascii_case("8BITMIME") => parameters.eight_bit = true,
            ("BODY", _) => return Err(bad("write BODY=7BIT or BODY=8BITMIME")),
            ("SMTPUTF8", None) => parameters.utf8 = true,
            ("SMTPUTF8", Some(_)) => return Err(bad("write SMTPUTF8 alone")),
            ("SIZE", None) => return Err(bad("write SIZE=octets")),
            ("RET", value) => {
                let ret = Return::parse(value.unwrap_or_default());
                parameters.ret = Some(ret.map_err(|error| CommandError::Dsn(shown(parameter), error))?);
            }
            ("ENVID", value) => {
                let id = EnvelopeId::parse(value.unwrap_or_default());
                parameters.envelope_id = Some(id.map_err(|error| CommandError::Dsn(shown(parameter), error))?);
            }
            // Who submitted it first: taken and not used, as RFC 4954 s5 lets us.
            ("AUTH", Some(value)) if !value.is_empty() => {}
            ("AUTH", _) => return Err(bad("write AUTH=<>")),
            _ => return Err(CommandError::UnknownParameter(shown(parameter))),
        }
        seen.push(keyword);
    }
    Ok(parameters)
}

/// One to twenty digits (RFC 1870 s4); a number beyond 64 bits is the largest one.
fn size(value: &str) -> Option<u64> {
    let digits = (1..=20).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}

/// The first characters of what a client sent, fit for a reply line.
fn shown(text: &str) -> String {
    const SHOWN_CHARACTERS: usize = 40;
    let mut shown: String =
        text.chars().take(SHOWN_CHARACTERS).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    if text.chars().nth(SHOWN_CHARACTERS).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, CommandError> {
        parse(line.as_bytes(), &Domain::parse("relay.test").unwrap())
    }

    fn mail(sender: Option<&str>, size: Option<u64>, eight_bit: bool) -> Result<Command, CommandError> {
        let sender = sender.map(|sender| Address::parse(sender).unwrap());
        Ok(Command::Mail { sender, parameters: MailParameters { size, eight_bit, ..MailParameters::default() } })
    }

    fn rcpt(recipient: &str) -> Result<Command, CommandError> {
        let internationalized = !recipient.is_ascii();
        Ok(Command::Rcpt { recipient: Address::parse(recipient).unwrap(), internationalized, request: None })
    }

    #[test]
    fn commands_are_read_in_any_case() {
        let hello = |name: &str, extended| Ok(Command::Hello { name: name.to_owned(), extended });
        assert_eq!(read("ehlo client.test"), hello("client.test", true));
        assert_eq!(read("HELO [192.0.2.1]"), hello("[192.0.2.1]", false));
        assert_eq!(read("EHLO [IPv6:2001:db8::1]  "), hello("[IPv6:2001:db8::1]", true));
        assert_eq!(read("EHLO anne's_pc"), hello("anne's_pc", true));
        assert_eq!(read("nOOp anything at all"), Ok(Command::Noop));
        assert_eq!(read("VRFY someone"), Ok(Command::Vrfy));
        assert_eq!(read("DATA "), Ok(Command::Data));
    }

    #[test]
    fn paths_are_read() {
        assert_eq!(read("MAIL FROM:<a@b.test>"), mail(Some("a@b.test"), None, false));
        assert_eq!(read("mail from: <a@b.test>"), mail(Some("a@b.test"), None, false));
        assert_eq!(read("MAIL FROM:<>"), mail(None, None, false));
        assert_eq!(read("MAIL FROM:<@x.test,@y.test:a@b.test>"), mail(Some("a@b.test"), None, false));
        assert_eq!(read(r#"RCPT TO:<"a>b"@c.test>"#), rcpt(r#""a>b"@c.test"#));
        assert_eq!(read(r#"RCPT TO:<"a\">b"@c.test>"#), rcpt(r#""a\">b"@c.test"#));
        assert_eq!(read("RCPT TO:<Postmaster>"), rcpt("postmaster@relay.test"));
        assert_eq!(read("RCPT TO:<@x.test:a@b.test>"), rcpt("a@b.test"));
    }

    #[test]
    fn parameters_are_read() {
        let sender = Some("a@b.test");
        assert_eq!(read("MAIL FROM:<a@b.test> SIZE=10 BODY=8BITMIME"), mail(sender, Some(10), true));
        assert_eq!(read("MAIL FROM:<a@b.test> body=7bit size=0 AUTH=<>"), mail(sender, Some(0), false));
        assert_eq!(read("MAIL FROM:<a@b.test> SIZE=99999999999999999999"), mail(sender, Some(u64::MAX), false));
    }

    #[test]
    fn paths_may_hold_utf8_where_that_was_said() {
        let sender = Some(Address::parse("m\u{fc}ller@b.test").unwrap());
        let parameters = MailParameters { utf8: true, ..MailParameters::default() };
        assert_eq!(read("MAIL FROM:<m\u{fc}ller@b.test> smtputf8"), Ok(Command::Mail { sender, parameters }));
        assert_eq!(read("RCPT TO:<m\u{fc}ller@b\u{fc}ro.test>"), rcpt("m\u{fc}ller@b\u{fc}ro.test"));
    }

    #[test]
    fn chunks_are_announced() {
        assert_eq!(read("BDAT 10"), Ok(Command::Bdat { octets: 10, last: false }));
        assert_eq!(read("bdat 0 last"), Ok(Command::Bdat { octets: 0, last: true }));
    }

    #[test]
    fn faults_are_told_precisely() {
        let check = |line: &str, code: u16, status: &str| {
            let reply = read(line).unwrap_err().reply();
            assert_eq!((reply.code, reply.enhanced.unwrap().to_string().as_str()), (code, status), "{line}");
        };
        check("", 500, "5.5.1");
        check("FROB", 500, "5.5.1");
        check("EXPN list", 502, "5.5.1");
        check("BDAT", 501, "5.5.4");
        check("BDAT LAST", 501, "5.5.4");
        check("BDAT -1", 501, "5.5.4");
        check("BDAT 10 FIRST", 501, "5.5.4");
        check("BDAT 10 LAST LAST", 501, "5.5.4");
        check("GET / HTTP/1.1", 421, "4.7.0");
        check("EHLO", 501, "5.5.4");
        check("EHLO two words", 501, "5.5.4");
        check("EHLO a(b)c", 501, "5.5.4");
        check("HELO b\u{fc}ro", 501, "5.5.4");
        check("DATA now", 501, "5.5.4");
        check("AUTH", 501, "5.5.4");
        check("AUTH PLAIN a b", 501, "5.5.4");
        check("VRFY", 501, "5.5.4");
        check("MAIL", 501, "5.5.4");
        check("MAIL FROM:a@b.test", 501, "5.5.4");
        check("MAIL FROM:<a@b.test", 501, "5.5.4");
        check("MAIL FROM:<a@b.test>SIZE=1", 501, "5.5.4");
        check("MAIL TO:<a@b.test>", 501, "5.5.4");
        check("MAIL FROM:<a>", 501, "5.1.7");
        check("MAIL FROM:<a@>", 501, "5.1.7");
        check("MAIL FROM:<a@b c>", 501, "5.1.7");
        check("RCPT TO:<>", 501, "5.1.3");
        check("RCPT TO:<@>", 501, "5.1.3");
        check(&format!("RCPT TO:<{}@b.test>", "x".repeat(65)), 501, "5.1.3");
        check(&format!("RCPT TO:<a@{}.test>", "x.".repeat(130)), 501, "5.1.3");
        check("RCPT TO:<m\u{fffd}ller@b.test>", 553, "5.6.7");
        check("MAIL FROM:<a@b\u{fc}ro.test>", 553, "5.6.7");
        check("RCPT TO:<a@b.test> SIZE=7", 555, "5.5.4");
        check("RCPT TO:<a@b.test> NOTIFY", 501, "5.5.4");
        check("RCPT TO:<a@b.test> NOTIFY=NEVER,SUCCESS", 501, "5.5.4");
        check("RCPT TO:<a@b.test> NOTIFY=NEVER NOTIFY=NEVER", 501, "5.5.4");
        check("RCPT TO:<a@b.test> ORCPT=a@b.test", 501, "5.5.4");
        check("RCPT TO:<a@b.test> ORCPT=rfc822;a ORCPT=rfc822;b", 501, "5.5.4");
        check("MAIL FROM:<a@b.test> RET=ALL", 501, "5.5.4");
        check("MAIL FROM:<a@b.test> RET", 501, "5.5.4");
        check("MAIL FROM:<a@b.test> RET=FULL RET=FULL", 501, "5.5.4");
        check("MAIL FROM:<a@b.test> ENVID=", 501, "5.5.4");
        check("MAIL FROM:<a@b.test> ENVID=a+0A", 501, "5.5.4");
        check("MAIL FROM:<a@b.test> SMTPUTF8=1", 501, "5.5.4");
        check("MAIL FROM:<\u{fc}\u{1}@b.test> SMTPUTF8", 501, "5.1.7");
        check("MAIL FROM:<a@b.test> SIZE=", 501, "5.5.4");
        check("MAIL FROM:<a@b.test> SIZE=1x", 501, "5.5.4");
        check("MAIL FROM:<a@b.test> SIZE=1 SIZE=2", 501, "5.5.4");
        check("MAIL FROM:<a@b.test> BODY=BINARYMIME", 501, "5.5.4");
    }

    #[test]
    fn requests_for_reports_are_read() {
        let Ok(Command::Mail { parameters, .. }) = read("MAIL FROM:<> ret=hdrs SIZE=3 ENVID=QQ+2B1") else { panic!() };
        assert_eq!(parameters.ret, Some(Return::Headers));
        assert_eq!(parameters.envelope_id.unwrap().decoded(), "QQ+1");
        let line = "RCPT TO:<a@b.test> orcpt=rfc822;b+2Bc@d.test Notify=success,DELAY";
        let Ok(Command::Rcpt { request: Some(request), .. }) = read(line) else { panic!() };
        assert_eq!(request.notify.unwrap().to_string(), "SUCCESS,DELAY");
        assert_eq!(request.original.unwrap().as_str(), "rfc822;b+2Bc@d.test");
        let error = read("RCPT TO:<a@b.test> NOTIFY=SOMETIMES").unwrap_err();
        assert_eq!(
            error.reply().text,
            "`NOTIFY=SOMETIMES` has no value that can be used: write NOTIFY=NEVER, or some of SUCCESS, FAILURE and DELAY with commas between"
        );
    }

    #[test]
    fn octets_that_are_no_text_are_refused() {
        let error = parse(b"MAIL FROM:<m\xfcller@b.test>", &Domain::parse("relay.test").unwrap()).unwrap_err();
        assert_eq!(error.reply().code, 553);
    }
}
