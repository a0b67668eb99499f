//! Messages, addresses and the parameters of DSN.

use mail::dkim::{self, Algorithm, Parameters, Unsigned};
use mail::dsn::{EnvelopeId, Notify, OriginalRecipient, Return, shown_address};
use mail::message;
use mail::report::{Action, Report, Returned, Told};
use mail::signature::Signature;
use mail::{Address, Domain, EnhancedCode, Mailbox, header, seven_bit};

/// A message: its header, its parts, what a signature covers, and the report about it.
pub fn message(input: &[u8]) {
    let is_good = header::check_format(input).is_ok();
    let parsed = message::parse(input);
    for place in 0..=parsed.parts.len() {
        assert_eq!(message::part_content(input, place).is_some(), place < parsed.parts.len());
    }
    let _ = message::author_domains(input);
    if let Ok(converted) = seven_bit::convert(input) {
        assert!(seven_bit::is_seven_bit(&converted));
        assert!(!is_good || header::check_format(&converted).is_ok(), "the conversion broke the message");
    }
    let body_hash = dkim::body_hash(input);
    if let Ok((fields, body)) = header::split(input) {
        assert!(body <= input.len());
        for field in fields.iter().filter(|field| field.is(dkim::FIELD_NAME)) {
            let _ = Signature::parse(*field).map(|signature| signature.digest(&fields, *field));
        }
        let parameters =
            Parameters { domain: "x.test", selector: "s", algorithm: Algorithm::RsaSha256, timestamp_s: 1, body_hash };
        let _ = Unsigned::new(&fields, &parameters).digest();
    }
    report(input, Returned::Message(input));
    report(input, Returned::Header(input));
}

/// In the boundaries of a report. Nobody outside knows the real one; the engine finds this one by comparing.
const REPORT_ID: &str = "018f-unknown-to-strangers";

/// A report that returns these bytes and quotes them everywhere.
fn report(input: &[u8], returned: Returned<'_>) {
    let text = String::from_utf8_lossy(input).into_owned();
    if text.contains(REPORT_ID) {
        return;
    }
    let (Ok(hostname), Ok(to)) = (Domain::parse("relay.test"), Address::parse("a@src.test")) else { return };
    let told = Told {
        address: to.clone(),
        original: OriginalRecipient::parse(&text, true).ok(),
        action: Action::Failed,
        status: EnhancedCode::new(5, 1, 1),
        remote_host: Some(text.clone()),
        reply: Some(text.clone()),
        text: text.clone(),
        last_attempt: String::new(),
        retry_until: None,
    };
    let envelope_id = EnvelopeId::parse(&text).ok();
    let report = Report {
        hostname: &hostname,
        id: REPORT_ID,
        to: &to,
        date: "",
        arrival: "",
        envelope_id: envelope_id.as_ref(),
        recipients: &[told],
        returned,
    };
    let message = report.compose();
    assert!(header::check_format(&message).is_ok(), "no message: {}", message.escape_ascii());
    assert!(message.is_ascii());
    let Ok((fields, body)) = header::split(&message) else { return };
    assert!(fields.len() <= 10, "a stranger added a field: {}", message.escape_ascii());
    let status = String::from_utf8_lossy(&message[body..]).into_owned();
    let status = status.split(&format!("--report-{REPORT_ID}\r\n")).nth(2).unwrap_or_default();
    assert_eq!(status.matches("\r\nAction: ").count(), 1, "a stranger added a line: {status}");
}

/// Addresses in all their forms, codes, and the values of DSN.
pub fn address(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(address) = Address::parse(text) {
        assert_eq!(Address::parse(&address.to_string()), Ok(address.clone()));
        assert!(shown_address(&address).is_ascii());
    }
    if let Ok(domain) = Domain::parse(text) {
        assert_eq!(Domain::parse(domain.as_str()), Ok(domain));
    }
    let _ = Mailbox::parse(text);
    for mailbox in mail::mailbox::parse_list(input).into_iter().flatten() {
        assert!(!mailbox.to_string().contains(char::is_control));
    }
    let _ = mail::mailbox::parse_authors(input);
    let _ = EnhancedCode::split(text);
    if let Ok(notify) = Notify::parse(text) {
        assert_eq!(Notify::parse(&notify.to_string()), Ok(notify));
    }
    let _ = Return::parse(text);
    let is_plain = |shown: &str| shown.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if let Ok(id) = EnvelopeId::parse(text) {
        assert!(is_plain(&id.decoded()) && !id.as_str().contains(' '));
    }
    for utf8 in [false, true] {
        if let Ok(original) = OriginalRecipient::parse(text, utf8) {
            assert!(is_plain(original.as_str()) && is_plain(&original.shown()));
            assert_eq!(OriginalRecipient::parse(original.as_str(), false), Ok(original));
        }
    }
}
