//! Frames: messages in them, and [`Frames`], whole ones out of a stream that arrives in pieces.

use std::mem;

use lars_proto::{
    ModuleId,
    frame::{self, FrameError},
    messages::{GetRouteRequest, GetRouteResponse, HostInfo, MessageId},
};
use prost::Message;

/// The id of the frames that are echoed.
pub const ECHO_ID: i32 = 1;

/// A message in its frame.
///
/// # Panics
/// If it is too long for one.
pub fn framed(id: MessageId, message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(id, message, &mut bytes).expect("a short message");
    bytes
}

/// What asks for the route of a module: lars-dns with `GetRouteRequest`, an agent with `ApiGetRouteRequest`.
pub fn route_query(id: MessageId, ModuleId { modid, cmdid }: ModuleId) -> Vec<u8> {
    framed(id, &GetRouteRequest { modid, cmdid, ..Default::default() })
}

/// What tells the route of a module, `GetRouteResponse` or `ApiGetRouteResponse`.
pub fn route_reply(id: MessageId, ModuleId { modid, cmdid }: ModuleId, host: Vec<HostInfo>) -> Vec<u8> {
    framed(id, &GetRouteResponse { modid, cmdid, host, ..Default::default() })
}

/// The input of one connection. Bytes that come in whole frames are not copied.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    /// The beginning of a frame whose end has not come.
    partial: Vec<u8>,
}

impl Frames {
    /// Calls `each` with every frame, header and body, that `bytes` complete.
    ///
    /// # Errors
    /// If a header announces an impossible length.
    pub fn take(&mut self, bytes: &[u8], each: impl FnMut(&[u8])) -> Result<(), FrameError> {
        if self.partial.is_empty() {
            let end = split(bytes, each)?;
            self.partial.extend_from_slice(&bytes[end..]);
            return Ok(());
        }
        let mut joined = mem::take(&mut self.partial);
        joined.extend_from_slice(bytes);
        let end = split(&joined, each)?;
        joined.drain(..end);
        self.partial = joined;
        Ok(())
    }
}

/// Where the last whole frame ends.
fn split(bytes: &[u8], mut each: impl FnMut(&[u8])) -> Result<usize, FrameError> {
    let mut end = 0;
    while let Some((_, body)) = frame::next(&bytes[end..])? {
        each(&bytes[end..end + body.end]);
        end += body.end;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_out_whole_however_they_came(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20),
            piece_len in 1usize..100,
        ) {
            let header = |body: &[u8]| [ECHO_ID.to_le_bytes(), (body.len() as i32).to_le_bytes()].concat();
            let sent: Vec<Vec<u8>> = bodies.iter().map(|body| [header(body), body.clone()].concat()).collect();
            let (mut frames, mut received) = (Frames::default(), Vec::new());
            for piece in sent.concat().chunks(piece_len) {
                frames.take(piece, |frame| received.push(frame.to_vec())).expect("well formed");
            }
            prop_assert_eq!(received, sent);
        }
    }

    #[test]
    fn an_impossible_length_is_an_error() {
        let bytes = [ECHO_ID.to_le_bytes(), (-1_i32).to_le_bytes()].concat();
        assert_eq!(Frames::default().take(&bytes, |_| ()), Err(FrameError::NegativeLength(-1)));
    }
}
