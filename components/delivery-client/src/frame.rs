//! The framing of `POST messages`.
//!
//! A frame is the length of the JSON `MessageMeta` (u32, big-endian), that JSON, the length of the message (u32,
//! big-endian), the RFC 5322 bytes. Frames stand one behind the other; their number is in no header. The decoder
//! borrows the messages from the request and believes no length before it has compared it with its limit and with what
//! is there.

use thiserror::Error;

use crate::wire::MessageMeta;

/// What a host takes in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    pub frames: usize,
    /// Bytes of one frame's JSON.
    pub meta_bytes: usize,
    /// Bytes of one message.
    pub message_bytes: usize,
}

/// The bytes of one frame's JSON that any edge may need: 1000 recipients and all attributes fit well.
pub const META_BYTES: usize = 1 << 20;

/// One message with what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub meta: MessageMeta,
    pub message: &'a [u8],
}

/// Why a row of frames cannot be read. `0` counts frames from 0.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("the request holds no message")]
    Empty,
    #[error("message {0} is cut short: {1} bytes are missing")]
    Truncated(usize, usize),
    #[error("message {0} says that its metadata has {1} bytes: at most {2} are allowed")]
    MetaTooLong(usize, usize, usize),
    #[error("message {0} has {1} bytes: at most {2} are allowed")]
    MessageTooLong(usize, usize, usize),
    #[error("the request holds more than {0} messages")]
    TooMany(usize),
    #[error("the metadata of message {0} cannot be read: {1}")]
    Meta(usize, String),
}

/// Makes one frame out of a message, in the message's own buffer: a 25 MiB message is never there twice.
///
/// Errors: metadata or a message whose length does not fit into 32 bits.
pub fn encode_frame(meta: &MessageMeta, mut message: Vec<u8>) -> Result<Vec<u8>, FrameError> {
    let json = serde_json::to_vec(meta).map_err(|error| FrameError::Meta(0, error.to_string()))?;
    let meta_length =
        u32::try_from(json.len()).map_err(|_| FrameError::MetaTooLong(0, json.len(), u32::MAX as usize))?;
    let message_length =
        u32::try_from(message.len()).map_err(|_| FrameError::MessageTooLong(0, message.len(), u32::MAX as usize))?;
    let mut head = Vec::with_capacity(json.len() + 8);
    head.extend_from_slice(&meta_length.to_be_bytes());
    head.extend_from_slice(&json);
    head.extend_from_slice(&message_length.to_be_bytes());
    message.splice(0..0, head);
    Ok(message)
}

/// Reads all frames of a request. The messages are borrowed from it.
pub fn decode_frames(bytes: &[u8], limits: FrameLimits) -> Result<Vec<Frame<'_>>, FrameError> {
    let frames = Frames::new(bytes, limits).collect::<Result<Vec<_>, _>>()?;
    if frames.is_empty() { Err(FrameError::Empty) } else { Ok(frames) }
}

/// Reads frames one by one; ends after the last one or after the first error.
pub struct Frames<'a> {
    rest: &'a [u8],
    limits: FrameLimits,
    index: usize,
}

impl<'a> Frames<'a> {
    pub fn new(bytes: &'a [u8], limits: FrameLimits) -> Frames<'a> {
        Frames { rest: bytes, limits, index: 0 }
    }

    fn frame(&mut self) -> Result<Frame<'a>, FrameError> {
        if self.index >= self.limits.frames {
            return Err(FrameError::TooMany(self.limits.frames));
        }
        let length = self.length()?;
        if length > self.limits.meta_bytes {
            return Err(FrameError::MetaTooLong(self.index, length, self.limits.meta_bytes));
        }
        let json = self.take(length)?;
        let meta = serde_json::from_slice(json).map_err(|error| FrameError::Meta(self.index, error.to_string()))?;
        let length = self.length()?;
        if length > self.limits.message_bytes {
            return Err(FrameError::MessageTooLong(self.index, length, self.limits.message_bytes));
        }
        let message = self.take(length)?;
        self.index += 1;
        Ok(Frame { meta, message })
    }

    fn length(&mut self) -> Result<usize, FrameError> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let missing = length.saturating_sub(self.rest.len());
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(FrameError::Truncated(self.index, missing))?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = self.frame();
        if frame.is_err() {
            self.rest = &[];
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::wire::Idempotency;

    const LIMITS: FrameLimits = FrameLimits { frames: 3, meta_bytes: 1024, message_bytes: 64 };

    fn meta(id: &str) -> MessageMeta {
        MessageMeta {
            id: id.to_owned(),
            sender: Some("a@src.test".to_owned()),
            recipients: vec!["b@dst.test".to_owned(), "ö@dst.test".to_owned()],
            bcc: vec!["ö@dst.test".to_owned()],
            attributes: vec![("k".to_owned(), "v".to_owned())],
            tags: vec![],
            idempotency: Some(Idempotency { key: "k".to_owned(), digest: "00".to_owned(), item: 0 }),
            component_revision: u64::MAX,
            scheduled_ms: None,
            with_all: false,
        }
    }

    fn frame(id: &str, message: &[u8]) -> Vec<u8> {
        encode_frame(&meta(id), message.to_vec()).unwrap()
    }

    #[test]
    fn frames_come_back_as_they_were() {
        let bytes = [frame("1", b"a\r\n\r\nb"), frame("2", b""), frame("3", &[0xff; 64])].concat();
        let frames = decode_frames(&bytes, LIMITS).unwrap();
        assert_eq!(
            frames,
            [
                Frame { meta: meta("1"), message: b"a\r\n\r\nb" },
                Frame { meta: meta("2"), message: b"" },
                Frame { meta: meta("3"), message: &[0xff; 64] },
            ]
        );
    }

    #[test]
    fn every_cut_is_an_error() {
        let bytes = frame("1", b"hello");
        for end in 1..bytes.len() {
            let error = decode_frames(&bytes[..end], LIMITS).unwrap_err();
            assert!(matches!(error, FrameError::Truncated(0, 1..)), "{end}: {error}");
        }
        assert_eq!(decode_frames(b"", LIMITS), Err(FrameError::Empty));
    }

    #[test]
    fn limits_come_before_lengths() {
        // A length of 4 GiB is refused without being believed.
        assert_eq!(
            decode_frames(&[0xff; 8], LIMITS),
            Err(FrameError::MetaTooLong(0, u32::MAX as usize, LIMITS.meta_bytes))
        );
        let long = [frame("1", b"x"), frame("2", &[b'x'; 65])].concat();
        assert_eq!(decode_frames(&long, LIMITS), Err(FrameError::MessageTooLong(1, 65, 64)));
        let many = frame("1", b"x").repeat(4);
        assert_eq!(decode_frames(&many, LIMITS), Err(FrameError::TooMany(3)));
    }

    #[test]
    fn metadata_that_is_not_ours_is_an_error() {
        for json in ["", "{}", "[]", r#"{"id":1}"#, "\u{0}"] {
            let mut bytes = (json.len() as u32).to_be_bytes().to_vec();
            bytes.extend_from_slice(json.as_bytes());
            bytes.extend_from_slice(&[0, 0, 0, 0]);
            let error = decode_frames(&bytes, LIMITS).unwrap_err();
            assert!(matches!(error, FrameError::Meta(0, _)), "{json}: {error}");
        }
    }

    #[test]
    fn nothing_is_read_behind_an_error() {
        let mut bytes = frame("1", b"x");
        bytes.extend_from_slice(&[0, 0]);
        let read: Vec<_> = Frames::new(&bytes, LIMITS).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[1], Err(FrameError::Truncated(1, 2)));
    }
}
