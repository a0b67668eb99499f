//! Streams: what kind of mail a message is. A broadcast never stands in the way of a transactional message.
//!
//! A message's stream travels as the attribute `posthaste.stream`, through every stage and to shapers of events. It is
//! there for a broadcast only: whatever names no stream is transactional.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// What kind of mail a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// One person waits for it: a receipt, a password reset.
    #[default]
    Transactional,
    /// The same goes to many: a newsletter.
    Broadcast,
}

/// Why there is no stream of that name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no stream `{0}`: use `transactional` or `broadcast`")]
pub struct UnknownStream(String);

/// A stream that a sender may not use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StreamDenied {
    #[error("the stream `{0}` is not open to this API key or its account: use `{1}`")]
    Other(Stream, Stream),
    #[error("no stream is open to this API key: the one that it is bound to is closed to its account")]
    None,
}

/// Characters of an unknown name that are told.
const NAME_CHARS: usize = 40;

impl Stream {
    pub const ALL: [Stream; 2] = [Stream::Transactional, Stream::Broadcast];

    /// The attribute that carries it.
    pub const ATTRIBUTE: &'static str = "posthaste.stream";

    /// Header fields that name it. They are for us alone, and leave with no message that we may change.
    pub const FIELDS: [&'static str; 2] = ["X-Posthaste-Stream", "X-PM-Message-Stream"];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Transactional => "transactional",
            Stream::Broadcast => "broadcast",
        }
    }

    /// That of a message with these attributes.
    pub fn of(attributes: &[(String, String)]) -> Stream {
        let named = attributes.iter().find(|(name, _)| name == Stream::ATTRIBUTE);
        named.and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
    }

    /// The attributes of a message that nobody has worked on yet.
    pub fn attributes(self) -> Vec<(String, String)> {
        match self {
            Stream::Transactional => Vec::new(),
            Stream::Broadcast => vec![(Stream::ATTRIBUTE.to_owned(), self.name().to_owned())],
        }
    }

    /// Whether a header field names a stream.
    pub fn is_field(name: &str) -> bool {
        Stream::FIELDS.iter().any(|field| field.eq_ignore_ascii_case(name.trim()))
    }

    /// What such a field says. Postmark's own name for transactional mail is understood too.
    pub fn from_field(value: &str) -> Result<Stream, UnknownStream> {
        match value.trim() {
            "outbound" => Ok(Stream::Transactional),
            name => name.parse(),
        }
    }

    /// The stream of a message: the one it names, else the first that its sender may use.
    pub fn choose(named: Option<Stream>, may: &[Stream]) -> Result<Stream, StreamDenied> {
        match (named, may.first()) {
            (named, _) if named.is_some_and(|named| may.contains(&named)) => Ok(named.unwrap_or_default()),
            (Some(named), Some(first)) => Err(StreamDenied::Other(named, *first)),
            (None, Some(first)) => Ok(*first),
            (_, None) => Err(StreamDenied::None),
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Stream {
    type Err = UnknownStream;

    fn from_str(text: &str) -> Result<Stream, UnknownStream> {
        let found = Stream::ALL.into_iter().find(|stream| stream.name() == text);
        found.ok_or_else(|| {
            let printable = text.chars().filter(|c| !c.is_control()).take(NAME_CHARS);
            UnknownStream(printable.collect())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::Stream::{Broadcast, Transactional};
    use super::*;

    #[test]
    fn names_and_fields() {
        assert_eq!("broadcast".parse(), Ok(Broadcast));
        assert_eq!(Stream::from_field(" outbound "), Ok(Transactional));
        assert!("outbound".parse::<Stream>().is_err());
        let error = Stream::from_field("news\r\nletters").unwrap_err().to_string();
        assert!(error.contains("`newsletters`: use `transactional`"), "{error}");
        assert!(Stream::is_field("x-posthaste-stream ") && !Stream::is_field("X-Stream"));
    }

    #[test]
    fn an_attribute_carries_it() {
        for stream in Stream::ALL {
            assert_eq!(Stream::of(&stream.attributes()), stream);
        }
        assert_eq!(Stream::of(&[(Stream::ATTRIBUTE.to_owned(), "odd".to_owned())]), Transactional);
    }

    #[test]
    fn a_sender_has_the_streams_that_are_open_to_it() {
        let both = &Stream::ALL;
        assert_eq!(Stream::choose(None, both), Ok(Transactional));
        assert_eq!(Stream::choose(Some(Broadcast), both), Ok(Broadcast));
        assert_eq!(Stream::choose(None, &[Broadcast]), Ok(Broadcast));
        let denied = StreamDenied::Other(Transactional, Broadcast);
        assert_eq!(Stream::choose(Some(Transactional), &[Broadcast]), Err(denied));
        assert_eq!(Stream::choose(None, &[]), Err(StreamDenied::None));
    }
}
