//! The records of `posthaste:types@0.1.0` as Rust types, once, for guests and host.
//!
//! Written after `wit/deps/types/types.wit`, which holds the promises; the names are the same but for the
//! spelling. Guests hand these to `wit_bindgen::generate!` (and spin-sdk's own) by `with`, so that a value passes
//! through `pipeline` and a stage without being converted; with the feature `host` they are wasmtime's types too.
//! Nothing here depends on anything else of ours.

#[cfg(feature = "serde")]
use serde::{Deserialize, Serialize};
#[cfg(feature = "host")]
use wasmtime::component::{ComponentType, Lift, Lower};

/// Free facts that travel with a message, from the request to its events: name, value.
///
/// Names are at most 256 bytes and values at most 4 KiB; at most 64 of them. A stage may return more; a later
/// value replaces an earlier one of the same name. Names that begin with `posthaste.` belong to the host and are
/// ignored when a stage returns them. `posthaste.stream` is `broadcast` for a message that goes to many alike, and absent
/// for a transactional one.
pub type Attributes = Vec<(String, String)>;

/// The attribute that asks a renderer for no more than whether its sources can be read: see `posthaste:renderer`.
pub const CHECK_ATTRIBUTE: &str = "posthaste.check";

/// The attribute in which an event that belongs to no message has its data, a JSON object: see `event`.
pub const DATA_ATTRIBUTE: &str = "posthaste.data";

/// What kind of refusal it is. Each case decides the reply the sender gets (HTTP; SMTP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(enum), repr(u8))]
pub enum FindingClass {
    /// The message is not well-formed: correct it and send it again (422; 550 5.6.0).
    #[cfg_attr(feature = "host", component(name = "malformed"))]
    Malformed,
    /// An address cannot be used: correct it (422; 550 5.1.3).
    #[cfg_attr(feature = "host", component(name = "address"))]
    Address,
    /// A rule forbids this message: sending it again as it is will not help (403; 550 5.7.1).
    #[cfg_attr(feature = "host", component(name = "policy"))]
    Policy,
    /// The template or its variables are wrong: `position` tells where (422; 550 5.6.0).
    #[cfg_attr(feature = "host", component(name = "template"))]
    Template,
    /// The message or one of its parts is over a limit, which the text names (413; 552 5.3.4).
    #[cfg_attr(feature = "host", component(name = "too-large"))]
    TooLarge,
    /// Not now, but the same message may pass later (429; 451 4.7.1).
    #[cfg_attr(feature = "host", component(name = "throttled"))]
    Throttled,
}

/// A place in a text: both count from 1, columns in characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

/// Why a message is refused. The only way for a stage to refuse one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Finding {
    pub class: FindingClass,
    /// One sentence for people: what is wrong, where, and what to do. Shown to the sender; at most 1 KiB of it is
    /// kept, and line breaks become spaces.
    pub text: String,
    /// Enhanced status code such as `5.7.1` (RFC 3463), where the class's own is not exact enough. One that does
    /// not fit the class (a 2.x.x, say) is replaced by the class's own.
    pub status: Option<String>,
    /// The field at fault as the sender wrote it (`to`, `template.html`, `attachments[2]`), where one is known.
    pub field: Option<String>,
    /// Where in that field, for texts with lines.
    pub position: Option<Position>,
}

/// The error of every stage function.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(variant))]
pub enum StageError {
    /// The message must not go out. Final for this message: nobody retries it.
    #[cfg_attr(feature = "host", component(name = "refused"))]
    Refused(Finding),
    /// The stage cannot tell now. Nothing is stored; the sender is told to try again (503; 451 4.3.0). The text is
    /// for the operator's log and never shown to the sender. The host makes this case out of a trap, a deadline
    /// or a limit.
    #[cfg_attr(feature = "host", component(name = "unavailable"))]
    Unavailable(String),
}

/// Who sends to whom, apart from what the header says (RFC 5321 s2.3.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Envelope {
    /// The reverse path, absent for `<>`.
    pub sender: Option<String>,
    /// One or more recipients, in the order given, each once. Domains in lower case; internationalized ones as
    /// A-labels.
    pub recipients: Vec<String>,
}

/// A header field, decoded: unfolded, encoded words (RFC 2047) resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Header {
    pub name: String,
    pub value: String,
}

/// A header field as it stands in the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct RawHeader {
    /// The name without the colon.
    pub name: String,
    /// Everything after the colon, folds included, without the CRLF that ends the field.
    pub value: Vec<u8>,
}

/// How a part wants to be shown (RFC 2183).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(enum), repr(u8))]
pub enum Disposition {
    #[cfg_attr(feature = "host", component(name = "inline"))]
    Inline,
    #[cfg_attr(feature = "host", component(name = "attachment"))]
    Attachment,
}

/// One leaf part of a message's MIME tree, in the order of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Part {
    /// Type and subtype in lower case, without parameters: `application/pdf`.
    #[cfg_attr(feature = "host", component(name = "content-type"))]
    pub content_type: String,
    /// Decoded file name (RFC 2231 too), where the part has one.
    #[cfg_attr(feature = "host", component(name = "file-name"))]
    pub file_name: Option<String>,
    /// Bytes after the transfer encoding is undone.
    #[cfg_attr(feature = "host", component(name = "size-bytes"))]
    pub size_bytes: u64,
    pub disposition: Disposition,
    /// Content-ID without angle brackets.
    #[cfg_attr(feature = "host", component(name = "content-id"))]
    pub content_id: Option<String>,
}

/// What the host knows of a domain from DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct DomainFacts {
    pub domain: String,
    /// False for a null MX (RFC 7505) or a domain that does not exist; absent where it is not known.
    #[cfg_attr(feature = "host", component(name = "accepts-mail"))]
    pub accepts_mail: Option<bool>,
    /// MX host names, most preferred first; empty where they are not known.
    #[cfg_attr(feature = "host", component(name = "mail-hosts"))]
    pub mail_hosts: Vec<String>,
    /// The DMARC record as published, where one is known.
    pub dmarc: Option<String>,
}

/// Which costly forms of a message a validator wants besides headers and parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Wants {
    pub text: bool,
    pub html: bool,
    pub raw: bool,
}

/// A message as a validator sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct ValidatorInput {
    pub envelope: Envelope,
    /// In the order of the message; a name may come more than once.
    pub headers: Vec<Header>,
    pub parts: Vec<Part>,
    /// Size of the whole message in bytes, CRLF counted as two, before it is signed.
    #[cfg_attr(feature = "host", component(name = "size-bytes"))]
    pub size_bytes: u64,
    /// The first text/plain body, decoded, when wanted and present.
    pub text: Option<String>,
    /// The first text/html body, decoded, when wanted and present.
    pub html: Option<String>,
    /// The whole message (RFC 5322), when wanted.
    pub raw: Option<Vec<u8>>,
    /// What is known of the From domain, where the host looked.
    #[cfg_attr(feature = "host", component(name = "sender-domain"))]
    pub sender_domain: Option<DomainFacts>,
    /// What is known of recipients' domains; those the host did not look up are missing.
    #[cfg_attr(feature = "host", component(name = "recipient-domains"))]
    pub recipient_domains: Vec<DomainFacts>,
    pub attributes: Attributes,
}

/// A validator's consent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Acceptance {
    /// Sentences for the sender: nothing is wrong enough to refuse. At most 16 are kept.
    pub warnings: Vec<String>,
    pub attributes: Attributes,
}

/// A template and the values to fill it with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct RendererInput {
    /// Id of a stored template, absent for one given inline. For messages only: the sources are always here.
    pub id: Option<String>,
    /// Source of the subject line, of the HTML part and of the text part. At least one of the last two is present.
    pub subject: Option<String>,
    pub html: Option<String>,
    pub text: Option<String>,
    /// A JSON object: the variables by name.
    pub variables: String,
    pub attributes: Attributes,
}

/// What came out of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Rendered {
    /// Present exactly when its source was; holds no CR and no LF.
    pub subject: Option<String>,
    pub html: Option<String>,
    /// Present when its source was, or when it could be made from the HTML.
    pub text: Option<String>,
    pub warnings: Vec<String>,
    pub attributes: Attributes,
}

/// A whole message on its way to be signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct TransformerInput {
    pub envelope: Envelope,
    /// RFC 5322 with CRLF line ends; 7-bit unless its sender signed it.
    pub message: Vec<u8>,
    pub attributes: Attributes,
}

/// A message changed, or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Transformed {
    /// The new message, absent where nothing changed. It must be RFC 5322 with CRLF line ends, 7-bit, and under
    /// the tenant's size limit; what is not becomes `unavailable`.
    pub message: Option<Vec<u8>>,
    pub warnings: Vec<String>,
    pub attributes: Attributes,
}

/// How a DKIM signature is made (RFC 6376, RFC 8463).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(enum), repr(u8))]
pub enum Algorithm {
    #[cfg_attr(feature = "host", component(name = "rsa-sha256"))]
    RsaSha256,
    #[cfg_attr(feature = "host", component(name = "ed25519-sha256"))]
    Ed25519Sha256,
}

/// A name to sign with: `d=`, `s=` and the key behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Identity {
    pub domain: String,
    pub selector: String,
    pub algorithm: Algorithm,
    /// What `sign-digest` knows the key by. Never the key itself.
    #[cfg_attr(feature = "host", component(name = "key-id"))]
    pub key_id: String,
}

/// What a signer needs to know of a message. The body itself never crosses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct SignerInput {
    /// All header fields, top to bottom.
    pub headers: Vec<RawHeader>,
    /// SHA-256 of the body in relaxed canonical form (RFC 6376 s3.4.4): 32 bytes.
    #[cfg_attr(feature = "host", component(name = "body-hash"))]
    pub body_hash: Vec<u8>,
    /// Domain of the From address, in lower case, as A-labels.
    pub domain: String,
    /// Seconds since 1970, for `t=`.
    #[cfg_attr(feature = "host", component(name = "timestamp-s"))]
    pub timestamp_s: u64,
    pub attributes: Attributes,
}

/// Header fields to put in front of the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Signatures {
    /// To be put in front in this order, above all others. Empty where there is no key for the domain.
    pub headers: Vec<RawHeader>,
    pub attributes: Attributes,
}

/// Why a key could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(variant))]
pub enum KeyError {
    /// There is no such key (any more): ask for the identities again.
    #[cfg_attr(feature = "host", component(name = "unknown-key"))]
    UnknownKey(String),
    /// The keeper of the keys cannot answer now: fail the call with `stage-error.unavailable`.
    #[cfg_attr(feature = "host", component(name = "unavailable"))]
    Unavailable(String),
}

/// The report of one delivery attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Attempt {
    /// Counts from 1.
    pub number: u32,
    /// Name and address of the server that answered, where one did.
    #[cfg_attr(feature = "host", component(name = "remote-host"))]
    pub remote_host: Option<String>,
    /// The SMTP reply code, where there was a reply.
    pub code: Option<u16>,
    /// Enhanced status code (RFC 3463), the peer's or ours.
    pub status: Option<String>,
    /// The peer's words, or ours where it said nothing.
    pub text: String,
}

/// One fact in the life of a message, for one recipient; or one about a tenant, whose data stands as a JSON object in
/// the attribute `posthaste.data`, and of which message, sender, To, Subject, tags and recipient are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Event {
    /// The same on every try to deliver this event: receivers drop repeats by it.
    pub id: String,
    /// `email.sent`, `email.delivered`, `email.delivery_delayed`, `email.bounced`, `email.failed`,
    /// `email.suppressed`, `email.complained`, `email.scheduled`, `email.canceled`; of tenants `webhook.paused`,
    /// `webhook.disabled`, `quota.warning`, `domain.updated`, `component.rolled_back`, `component.fallback`; more may come.
    pub name: String,
    /// Milliseconds since 1970.
    #[cfg_attr(feature = "host", component(name = "occurred-at-ms"))]
    pub occurred_at_ms: u64,
    pub tenant: String,
    /// The id that the sending API answered.
    #[cfg_attr(feature = "host", component(name = "message-id"))]
    pub message_id: String,
    #[cfg_attr(feature = "host", component(name = "message-created-at-ms"))]
    pub message_created_at_ms: u64,
    /// From, To and Subject as the message has them, decoded.
    pub sender: String,
    pub to: Vec<String>,
    pub subject: String,
    pub tags: Vec<(String, String)>,
    /// Whom this event is about.
    pub recipient: String,
    pub attempt: Option<Attempt>,
    /// Why, in one word where the name alone does not tell: `expired`, `hard`, …
    pub reason: Option<String>,
    pub attributes: Attributes,
}

/// Where events go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct Endpoint {
    pub id: String,
    pub url: String,
    /// Signing secrets as their owner knows them (`whsec_…`), newest first; every one signs.
    pub secrets: Vec<String>,
}

/// What a shaper makes a request of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct ShaperInput {
    pub event: Event,
    pub endpoint: Endpoint,
    /// Seconds since 1970 of this try, for the signature.
    #[cfg_attr(feature = "host", component(name = "timestamp-s"))]
    pub timestamp_s: u64,
    pub attributes: Attributes,
}

/// A request to the endpoint's URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "host", derive(ComponentType, Lift, Lower))]
#[cfg_attr(feature = "host", component(record))]
pub struct HttpRequest {
    /// `POST` or `PUT`.
    pub method: String,
    /// Names in lower case. `host` and `content-length` are the sender's and are ignored here.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What bindings generators for guests call to make an enum out of its number. The number is the canonical ABI's own
/// and always in range.
macro_rules! lift_by_number {
    ($enum:ident { $($case:ident),* }) => {
        impl $enum {
            #[doc(hidden)]
            pub fn _lift(number: u8) -> $enum {
                [$($enum::$case),*][usize::from(number)]
            }
        }
    };
}

lift_by_number!(FindingClass { Malformed, Address, Policy, Template, TooLarge, Throttled });
lift_by_number!(Disposition { Inline, Attachment });
lift_by_number!(Algorithm { RsaSha256, Ed25519Sha256 });
