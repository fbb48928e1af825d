//! Frames: an 8-byte header, two little-endian `i32`s (message id, body length), then the body.
//!
//! TCP is a stream of frames; a UDP datagram is exactly one. Bodies may be empty and have at most
//! [`BODY_LEN_MAX`] bytes. Decoding borrows from the input and copies nothing.

use std::{fmt, ops::Range};

use prost::Message;

use crate::messages::MessageId;

/// Bytes before the body.
pub const HEADER_LEN: usize = 8;

/// The longest body a frame may have, in bytes; deployed servers read frames into 64 KiB.
pub const BODY_LEN_MAX: usize = 65_527;

/// The longest body that still fits an IPv4 UDP datagram (65,507 bytes of payload) behind the header.
pub const DATAGRAM_BODY_LEN_MAX: usize = 65_507 - HEADER_LEN;

/// A frame in somebody else's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message id as it came; not every id is known ([`MessageId::try_from`]).
    pub id: i32,
    /// The protobuf message.
    pub body: &'a [u8],
}

/// Why bytes are not a frame, or a message does not fit one. On TCP there is no way to find the next
/// frame after one of these: the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The header announces a negative length.
    NegativeLength(i32),
    /// The header announces, or the message to send has, more than [`BODY_LEN_MAX`] bytes.
    BodyTooLong(usize),
    /// A datagram is shorter than a header, or its length is not the announced one.
    DatagramLength {
        /// Bytes the datagram has.
        actual: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NegativeLength(len) => write!(f, "frame announces a negative length of {len}"),
            Self::BodyTooLong(len) => {
                write!(f, "frame body of {len} bytes is over the limit of {BODY_LEN_MAX}")
            }
            Self::DatagramLength { actual } => {
                write!(f, "datagram of {actual} bytes is not exactly one frame")
            }
        }
    }
}

impl std::error::Error for FrameError {}

/// Finds the first frame of a stream: its message id, and where in `input` its body lies. The frame
/// ends, and the next begins, where the body ends.
///
/// `Ok(None)` if `input` holds no whole frame yet.
///
/// # Errors
/// As soon as the header is there and announces an impossible length.
pub fn next(input: &[u8]) -> Result<Option<(i32, Range<usize>)>, FrameError> {
    let Some((header, _)) = input.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let (id, len) = parse_header(*header)?;
    let end = HEADER_LEN + len;
    Ok((input.len() >= end).then_some((id, HEADER_LEN..end)))
}

/// Takes a datagram for what it must be: one frame to the byte.
///
/// # Errors
/// If the length is impossible or is not the announced one.
pub fn decode_datagram(datagram: &[u8]) -> Result<Frame<'_>, FrameError> {
    let wrong_length = FrameError::DatagramLength { actual: datagram.len() };
    let (header, body) = datagram.split_first_chunk::<HEADER_LEN>().ok_or(wrong_length)?;
    let (id, len) = parse_header(*header)?;
    if body.len() != len {
        return Err(wrong_length);
    }
    Ok(Frame { id, body })
}

fn parse_header(header: [u8; HEADER_LEN]) -> Result<(i32, usize), FrameError> {
    let [a, b, c, d, e, f, g, h] = header;
    let id = i32::from_le_bytes([a, b, c, d]);
    let len = i32::from_le_bytes([e, f, g, h]);
    let body_len = usize::try_from(len).map_err(|_| FrameError::NegativeLength(len))?;
    if body_len > BODY_LEN_MAX {
        return Err(FrameError::BodyTooLong(body_len));
    }
    Ok((id, body_len))
}

/// Appends `message` to `out` as one frame.
///
/// # Errors
/// [`FrameError::BodyTooLong`], and `out` is as it was.
pub fn encode(id: MessageId, message: &impl Message, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let len = message.encoded_len();
    if len > BODY_LEN_MAX {
        return Err(FrameError::BodyTooLong(len));
    }
    out.reserve(HEADER_LEN + len);
    put_header(id, len, out);
    message.encode_raw(out);
    Ok(())
}

/// Appends a header; `len` was checked against [`BODY_LEN_MAX`].
pub(crate) fn put_header(id: MessageId, len: usize, out: &mut Vec<u8>) {
    debug_assert!(len <= BODY_LEN_MAX);
    out.extend_from_slice(&(id as i32).to_le_bytes());
    out.extend_from_slice(&(len as i32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(id: i32, len: i32, body: &[u8]) -> Vec<u8> {
        [&id.to_le_bytes()[..], &len.to_le_bytes()[..], body].concat()
    }

    #[test]
    fn incomplete_input_is_no_error() {
        let whole = framed(4, 3, b"abc");
        for len in 0..whole.len() {
            assert_eq!(next(&whole[..len]), Ok(None), "{len} bytes");
            assert!(decode_datagram(&whole[..len]).is_err(), "{len} bytes");
        }
        assert_eq!(next(&whole), Ok(Some((4, 8..11))));
        assert_eq!(decode_datagram(&whole), Ok(Frame { id: 4, body: b"abc" }));
    }

    #[test]
    fn empty_bodies_are_legal() {
        let frame = framed(1, 0, b"");
        assert_eq!(next(&frame), Ok(Some((1, 8..8))));
        assert_eq!(decode_datagram(&frame), Ok(Frame { id: 1, body: b"" }));
    }

    #[test]
    fn impossible_lengths_are_refused_before_the_body_arrives() {
        assert_eq!(next(&framed(1, -1, b"")), Err(FrameError::NegativeLength(-1)));
        assert_eq!(next(&framed(1, i32::MIN, b"")), Err(FrameError::NegativeLength(i32::MIN)));
        assert_eq!(next(&framed(1, 65_528, b"")), Err(FrameError::BodyTooLong(65_528)));
        assert_eq!(next(&framed(1, 65_527, b"")), Ok(None));
    }

    #[test]
    fn a_datagram_is_one_frame_to_the_byte() {
        let long = framed(4, 2, b"abc");
        assert_eq!(decode_datagram(&long), Err(FrameError::DatagramLength { actual: 11 }));
        assert_eq!(decode_datagram(b""), Err(FrameError::DatagramLength { actual: 0 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_panic(bytes: Vec<u8>) {
            if let Ok(Some((_, body))) = next(&bytes) {
                prop_assert!(body.end <= bytes.len());
            }
            if let Ok(frame) = decode_datagram(&bytes) {
                prop_assert_eq!(frame.body.len() + HEADER_LEN, bytes.len());
            }
        }

        #[test]
        fn a_stream_comes_apart_as_it_was_put_together(
            frames in prop::collection::vec((any::<i32>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20),
        ) {
            let stream: Vec<u8> = frames.iter().flat_map(|(id, body)| framed(*id, body.len() as i32, body)).collect();
            let (mut rest, mut seen) = (&stream[..], Vec::new());
            while let Some((id, body)) = next(rest).expect("well formed") {
                seen.push((id, rest[body.clone()].to_vec()));
                rest = &rest[body.end..];
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(seen, frames);
        }
    }
}
