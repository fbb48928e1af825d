//! The messages of a lookup, decoded and encoded by hand: [`GetHostRequest`], [`GetHostResponse`], [`ReportRequest`].
//!
//! A host's agent handles these for every call of every program on it, so they have a path of their own, beside
//! the one that prost generates. It reads the fields it knows, in any order and number, with keys and lengths not padded,
//! as everybody writes them; whatever else is in a body, the whole body is left to prost. So both
//! accept the same bytes and read the same from them, and what is written here is what prost writes, to the byte.

use prost::{DecodeError, Message};

use crate::{
    frame::{HEADER_LEN, put_header},
    messages::{GetHostRequest, GetHostResponse, HostInfo, MessageId, ReportRequest},
};

/// The longest varint: a negative number, or any that is padded.
const VARINT_LEN_MAX: usize = 10;

/// The longest [`HostInfo`]: two negative numbers and their keys.
const HOST_LEN_MAX: usize = 2 * (1 + VARINT_LEN_MAX);

/// The longest of the bodies that are written here: four numbers and a host, with their keys.
const BODY_LEN_MAX: usize = 4 * (1 + VARINT_LEN_MAX) + 2 + HOST_LEN_MAX;

/// Keys of fields: the field's number, and in the lower three bits the wire type.
const NUMBER_1: u8 = 0x08;
const NUMBER_2: u8 = 0x10;
const NUMBER_3: u8 = 0x18;
const NUMBER_4: u8 = 0x20;
const MESSAGE_3: u8 = 0x1a;
const MESSAGE_5: u8 = 0x2a;
/// From 16 up it takes two bytes.
const NUMBER_16: [u8; 2] = [0x80, 0x01];

/// What `GetHostRequest::decode` makes of `body`.
///
/// # Errors
/// Those of prost.
pub fn decode_get_host_request(body: &[u8]) -> Result<GetHostRequest, DecodeError> {
    usual_get_host_request(body).map_or_else(|| GetHostRequest::decode(body), Ok)
}

/// What `GetHostResponse::decode` makes of `body`.
///
/// # Errors
/// Those of prost.
pub fn decode_get_host_response(body: &[u8]) -> Result<GetHostResponse, DecodeError> {
    usual_get_host_response(body).map_or_else(|| GetHostResponse::decode(body), Ok)
}

/// What `ReportRequest::decode` makes of `body`.
///
/// # Errors
/// Those of prost.
pub fn decode_report_request(body: &[u8]) -> Result<ReportRequest, DecodeError> {
    usual_report_request(body).map_or_else(|| ReportRequest::decode(body), Ok)
}

/// Appends `message` to `out` as one frame.
pub fn encode_get_host_request(message: &GetHostRequest, out: &mut Vec<u8>) {
    let mut fields = Fields::default();
    fields.put_u32(NUMBER_1, message.seq);
    fields.put_i32(NUMBER_2, message.modid);
    fields.put_i32(NUMBER_3, message.cmdid);
    fields.put_number(&NUMBER_16, u64::from(message.wait_ms));
    fields.frame(MessageId::GetHostRequest, out);
}

/// Appends `message` to `out` as one frame.
pub fn encode_get_host_response(message: &GetHostResponse, out: &mut Vec<u8>) {
    let mut fields = Fields::default();
    fields.put_u32(NUMBER_1, message.seq);
    fields.put_i32(NUMBER_2, message.modid);
    fields.put_i32(NUMBER_3, message.cmdid);
    fields.put_i32(NUMBER_4, message.retcode);
    fields.put_host(MESSAGE_5, message.host.as_ref());
    fields.frame(MessageId::GetHostResponse, out);
}

/// Appends `message` to `out` as one frame.
pub fn encode_report_request(message: &ReportRequest, out: &mut Vec<u8>) {
    let mut fields = Fields::default();
    fields.put_i32(NUMBER_1, message.modid);
    fields.put_i32(NUMBER_2, message.cmdid);
    fields.put_host(MESSAGE_3, message.host.as_ref());
    fields.put_i32(NUMBER_4, message.retcode);
    fields.frame(MessageId::ReportRequest, out);
}

fn usual_get_host_request(mut body: &[u8]) -> Option<GetHostRequest> {
    let mut message = GetHostRequest::default();
    while let Some(key) = take_byte(&mut body) {
        match key {
            NUMBER_1 => message.seq = take_u32(&mut body)?,
            NUMBER_2 => message.modid = take_i32(&mut body)?,
            NUMBER_3 => message.cmdid = take_i32(&mut body)?,
            _ if key == NUMBER_16[0] && take_byte(&mut body)? == NUMBER_16[1] => {
                message.wait_ms = take_u32(&mut body)?;
            }
            _ => return None,
        }
    }
    Some(message)
}

fn usual_get_host_response(mut body: &[u8]) -> Option<GetHostResponse> {
    let mut message = GetHostResponse::default();
    while let Some(key) = take_byte(&mut body) {
        match key {
            NUMBER_1 => message.seq = take_u32(&mut body)?,
            NUMBER_2 => message.modid = take_i32(&mut body)?,
            NUMBER_3 => message.cmdid = take_i32(&mut body)?,
            NUMBER_4 => message.retcode = take_i32(&mut body)?,
            MESSAGE_5 => merge_host(&mut message.host, &mut body)?,
            _ => return None,
        }
    }
    Some(message)
}

fn usual_report_request(mut body: &[u8]) -> Option<ReportRequest> {
    let mut message = ReportRequest::default();
    while let Some(key) = take_byte(&mut body) {
        match key {
            NUMBER_1 => message.modid = take_i32(&mut body)?,
            NUMBER_2 => message.cmdid = take_i32(&mut body)?,
            MESSAGE_3 => merge_host(&mut message.host, &mut body)?,
            NUMBER_4 => message.retcode = take_i32(&mut body)?,
            _ => return None,
        }
    }
    Some(message)
}

/// A message that comes twice adds to itself.
fn merge_host(host: &mut Option<HostInfo>, body: &mut &[u8]) -> Option<()> {
    let len = take_byte(body).filter(|len| *len < 0x80)?;
    let (mut fields, rest) = body.split_at_checked(usize::from(len))?;
    *body = rest;
    let host = host.get_or_insert_default();
    while let Some(key) = take_byte(&mut fields) {
        match key {
            NUMBER_1 => host.ip = take_i32(&mut fields)?,
            NUMBER_2 => host.port = take_i32(&mut fields)?,
            _ => return None,
        }
    }
    Some(())
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (byte, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*byte)
}

/// Numbers are sent in 64 bits, of which the upper half is dropped, as prost does it.
fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take_varint(bytes).map(|value| value as u32)
}

fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    take_varint(bytes).map(|value| value as i32)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for index in 0..VARINT_LEN_MAX {
        let byte = *bytes.get(index)?;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            // Of the tenth byte only the lowest bit has a place in 64.
            let fits = index < VARINT_LEN_MAX - 1 || byte < 2;
            *bytes = &bytes[index + 1..];
            return fits.then_some(value);
        }
    }
    None
}

/// The body of a message that is being written.
struct Fields {
    bytes: [u8; BODY_LEN_MAX],
    len: usize,
}

impl Default for Fields {
    fn default() -> Self {
        Self { bytes: [0; BODY_LEN_MAX], len: 0 }
    }
}

impl Fields {
    fn put_i32(&mut self, key: u8, value: i32) {
        // Sign-extended: a negative number takes ten bytes.
        self.put_number(&[key], i64::from(value).cast_unsigned());
    }

    fn put_u32(&mut self, key: u8, value: u32) {
        self.put_number(&[key], u64::from(value));
    }

    /// Zero is what a field is that is absent.
    fn put_number(&mut self, key: &[u8], mut value: u64) {
        if value == 0 {
            return;
        }
        key.iter().for_each(|byte| self.put(*byte));
        while value >= 0x80 {
            self.put(value as u8 | 0x80);
            value >>= 7;
        }
        self.put(value as u8);
    }

    fn put_host(&mut self, key: u8, host: Option<&HostInfo>) {
        let Some(host) = host else { return };
        self.put(key);
        let len_at = self.len;
        self.put(0);
        self.put_i32(NUMBER_1, host.ip);
        self.put_i32(NUMBER_2, host.port);
        self.bytes[len_at] = (self.len - len_at - 1) as u8;
    }

    fn put(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn frame(&self, id: MessageId, out: &mut Vec<u8>) {
        out.reserve(HEADER_LEN + self.len);
        put_header(id, self.len, out);
        out.extend_from_slice(&self.bytes[..self.len]);
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;
    use crate::frame;

    type Decode<M> = fn(&[u8]) -> Result<M, DecodeError>;

    /// The same message, or both refuse.
    #[track_caller]
    fn check_decode<M: Message + Default + PartialEq + Debug>(ours: Decode<M>, body: &[u8]) {
        assert_eq!(ours(body), M::decode(body), "{body:02x?}");
    }

    #[track_caller]
    fn check_body(body: &[u8]) {
        check_decode(decode_get_host_request, body);
        check_decode(decode_get_host_response, body);
        check_decode(decode_report_request, body);
    }

    #[track_caller]
    fn check_encode<M: Message>(ours: fn(&M, &mut Vec<u8>), id: MessageId, message: &M) {
        let (mut out, mut expect) = (b"before".to_vec(), b"before".to_vec());
        ours(message, &mut out);
        frame::encode(id, message, &mut expect).expect("fits");
        assert_eq!(out, expect);
    }

    #[test]
    fn the_usual_needs_no_help() {
        let host = Some(HostInfo { ip: -1, port: 65_535 });
        let (seq, modid, cmdid, retcode) = (u32::MAX, i32::MIN, i32::MAX, -1);
        let request = GetHostRequest { seq, modid, cmdid, wait_ms: u32::MAX };
        assert_eq!(usual_get_host_request(&request.encode_to_vec()), Some(request));
        let response = GetHostResponse { seq, modid, cmdid, retcode, host };
        assert_eq!(usual_get_host_response(&response.encode_to_vec()), Some(response));
        let report = ReportRequest { modid, cmdid, host, retcode };
        assert_eq!(usual_report_request(&report.encode_to_vec()), Some(report));
    }

    #[test]
    fn the_unusual_is_read_as_prost_reads_it() {
        let bodies: [&[u8]; 20] = [
            b"",
            // Twice: the last one counts.
            &[NUMBER_1, 1, NUMBER_1, 2],
            // An upper half, which is dropped.
            &[NUMBER_1, 0x81, 0x80, 0x80, 0x80, 0x10],
            // Ten bytes that fit 64 bits, ten that do not, eleven.
            &[NUMBER_1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[NUMBER_1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            &[NUMBER_1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0],
            // Padded: the number, the key, the length.
            &[NUMBER_1, 0x81, 0],
            &[NUMBER_1 | 0x80, 0, 1],
            &[MESSAGE_3, 0x82, 0, NUMBER_1, 1],
            // Cut short: in the number, before it, in the host.
            &[NUMBER_1, 0x80],
            &[NUMBER_1],
            &[MESSAGE_3, 3, NUMBER_1, 1],
            // A host in two parts; a number that reaches out of its host.
            &[MESSAGE_3, 2, NUMBER_1, 1, MESSAGE_3, 2, NUMBER_2, 2],
            &[MESSAGE_3, 2, NUMBER_1, 0x80, 0],
            // Another wire type; a group with an unknown field in it.
            &[NUMBER_1 | 5, 1, 2, 3, 4],
            &[0x7b, 0x80, 0x01, 7, 0x7c],
            // The key of two bytes: whole, padded, cut short, before its number.
            &[NUMBER_16[0], NUMBER_16[1], 0x81, 1],
            &[NUMBER_16[0], NUMBER_16[1] | 0x80, 0, 1],
            &NUMBER_16[..1],
            &NUMBER_16,
        ];
        bodies.into_iter().for_each(check_body);
    }

    /// Numbers of every length, small ones for each other's lengths, counts and keys.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..4_u64,
            any::<u8>().prop_map(u64::from),
            any::<i32>().prop_map(|n| n as u64),
            any::<u64>()
        ]
    }

    /// A field with its key and what belongs there, or does not.
    fn field() -> impl Strategy<Value = Vec<u8>> {
        let known = prop_oneof![6 => 1..=6_u64, 1 => Just(16)];
        let key = (known, prop_oneof![4 => Just(0_u64), 4 => Just(2), 1 => 0..8_u64]);
        let varints = prop::collection::vec(number(), 0..3);
        (key, number(), prop_oneof![4 => Just(true), 1 => Just(false)], varints).prop_map(
            |((field, wire_type), value, is_right, varints)| {
                let mut out = Vec::new();
                prost::encoding::encode_varint(field << 3 | wire_type, &mut out);
                match (wire_type, is_right) {
                    (2, true) => {
                        let mut fields = Vec::new();
                        for (index, value) in varints.into_iter().enumerate() {
                            fields.push([NUMBER_1, NUMBER_2, NUMBER_3][index]);
                            prost::encoding::encode_varint(value, &mut fields);
                        }
                        prost::encoding::encode_varint(fields.len() as u64, &mut out);
                        out.extend(fields);
                    }
                    _ => prost::encoding::encode_varint(value, &mut out),
                }
                out
            },
        )
    }

    fn host() -> impl Strategy<Value = Option<HostInfo>> {
        prop::option::of((any::<i32>(), any::<i32>()).prop_map(|(ip, port)| HostInfo { ip, port }))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_bytes_are_read_as_prost_reads_them(body: Vec<u8>) {
            check_body(&body);
        }

        #[test]
        fn any_fields_are_read_as_prost_reads_them(
            fields in prop::collection::vec(field(), 0..6), cut in any::<prop::sample::Index>(), whole: bool,
        ) {
            let body = fields.concat();
            let len = if whole { body.len() } else { cut.index(body.len() + 1) };
            check_body(&body[..len]);
        }

        #[test]
        fn what_is_written_is_what_prost_writes(
            seq: u32, small in 0..300_u32, modid: i32, cmdid: i32, retcode in -2..5, host in host(), wait_ms: u32,
        ) {
            for (seq, wait_ms) in [(seq, wait_ms), (small, 0), (0, small)] {
                let request = GetHostRequest { seq, modid, cmdid, wait_ms };
                check_encode(encode_get_host_request, MessageId::GetHostRequest, &request);
                let response = GetHostResponse { seq, modid, cmdid, retcode, host };
                check_encode(encode_get_host_response, MessageId::GetHostResponse, &response);
            }
            let report = ReportRequest { modid, cmdid: small as i32, host, retcode };
            check_encode(encode_report_request, MessageId::ReportRequest, &report);
        }
    }

    #[test]
    fn the_longest_messages_have_room() {
        let host = Some(HostInfo { ip: -1, port: i32::MIN });
        let (modid, cmdid, retcode, wait_ms) = (-1, i32::MIN, -1, u32::MAX);
        let request = GetHostRequest { seq: u32::MAX, modid, cmdid, wait_ms };
        check_encode(encode_get_host_request, MessageId::GetHostRequest, &request);
        let response = GetHostResponse { seq: u32::MAX, modid, cmdid, retcode, host };
        check_encode(encode_get_host_response, MessageId::GetHostResponse, &response);
        let report = ReportRequest { modid, cmdid, host, retcode };
        check_encode(encode_report_request, MessageId::ReportRequest, &report);
    }
}
