//! Route responses: a module's hosts, written straight into a frame.
//!
//! A route may have more hosts than a frame holds: an address from 128.0.0.0 up takes 17 bytes, so a frame
//! is full after 3,852 of those, and after some 5,400 of the lower ones. Then the hosts that fit are sent
//! and the true count goes into extension field 16, which deployed peers skip.

use prost::{
    Message,
    encoding::{self, WireType},
};

use crate::{
    HostAddr, ModuleId,
    frame::{self, BODY_LEN_MAX, DATAGRAM_BODY_LEN_MAX},
    messages::{GetRouteResponse, HostInfo, MessageId},
};

/// Bytes of the longest host in a response: tag and length, an address that is a negative number, a port.
pub const HOST_LEN_MAX: usize = 2 + (1 + 10) + (1 + 3);

/// The extensions of the wire that lars-dns knows, which it tells whoever tells his.
const PEER_VERSION: u32 = 1;

/// Bytes of field 19: a two-byte tag and [`PEER_VERSION`].
const PEER_VERSION_LEN: usize = 2 + 1;

/// Bytes kept free for field 16: a two-byte tag and a `u32` varint. Field 18 stands in routes without hosts only.
const HOSTS_TOTAL_LEN_MAX: usize = 2 + 5;

/// What a route says besides its hosts, to a peer that knows the extensions of the wire; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Which extensions the sender knows: the first answer of lars-dns to an agent that has said so of itself.
    pub announces: bool,
    /// If the route is empty, that is meant.
    pub confirms: bool,
}

/// The two places that send a route, which differ in message id and room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteReply {
    /// lars-dns to an agent: over TCP, as a reply or a push.
    Dns,
    /// Agent to a client: over UDP.
    Api,
}

impl RouteReply {
    const fn id(self) -> MessageId {
        match self {
            Self::Dns => MessageId::GetRouteResponse,
            Self::Api => MessageId::ApiGetRouteResponse,
        }
    }

    const fn body_len_max(self) -> usize {
        match self {
            Self::Dns => BODY_LEN_MAX,
            Self::Api => DATAGRAM_BODY_LEN_MAX,
        }
    }
}

/// Appends the route of `module` to `out` as one frame and returns how many hosts it holds. Fewer than
/// `hosts` has means that the others did not fit; the caller counts and logs that.
pub fn encode<I>(reply: RouteReply, module: ModuleId, hosts: I, out: &mut Vec<u8>) -> usize
where
    I: IntoIterator<Item = HostAddr, IntoIter: ExactSizeIterator>,
{
    encode_extended(reply, module, hosts, Extensions::default(), out)
}

/// Like [`encode`], and says what `extensions` has.
pub fn encode_extended<I>(
    reply: RouteReply,
    module: ModuleId,
    hosts: I,
    extensions: Extensions,
    out: &mut Vec<u8>,
) -> usize
where
    I: IntoIterator<Item = HostAddr, IntoIter: ExactSizeIterator>,
{
    let hosts = hosts.into_iter();
    let total = hosts.len();
    let start = out.len();
    // The real length is known only at the end.
    frame::put_header(reply.id(), 0, out);
    let body = out.len();
    GetRouteResponse { modid: module.modid, cmdid: module.cmdid, ..Default::default() }.encode_raw(out);

    let announcement_len = if extensions.announces { PEER_VERSION_LEN } else { 0 };
    let limit = body + reply.body_len_max() - HOSTS_TOTAL_LEN_MAX - announcement_len;
    let mut sent = 0;
    for host in hosts {
        let before = out.len();
        put_host(host, out);
        if out.len() > limit {
            out.truncate(before);
            break;
        }
        sent += 1;
    }
    if sent < total {
        encoding::uint32::encode(16, &u32::try_from(total).unwrap_or(u32::MAX), out);
    }
    if extensions.confirms && total == 0 {
        encoding::bool::encode(18, &true, out);
    }
    if extensions.announces {
        encoding::uint32::encode(19, &PEER_VERSION, out);
    }
    let len = (out.len() - body) as i32;
    out[start + 4..start + frame::HEADER_LEN].copy_from_slice(&len.to_le_bytes());
    sent
}

/// Appends what prost would for an element of field 3, for half the instructions: room is made once, and the
/// length is known when the fields are written instead of being worked out before.
fn put_host(host: HostAddr, out: &mut Vec<u8>) {
    let HostInfo { ip, port } = host.to_wire();
    let start = out.len();
    out.extend_from_slice(&[0; HOST_LEN_MAX]);
    let Some(bytes) = out.last_chunk_mut() else { return };
    let end = put_int32(1, ip, 2, bytes);
    let end = put_int32(2, port, end, bytes);
    bytes[0] = tag(3, WireType::LengthDelimited);
    bytes[1] = (end - 2) as u8;
    out.truncate(start + end);
}

/// Writes a field at `at`, unless it is 0, and returns where the next one begins.
fn put_int32(field: u8, value: i32, mut at: usize, bytes: &mut [u8; HOST_LEN_MAX]) -> usize {
    if value == 0 {
        return at;
    }
    bytes[at] = tag(field, WireType::Varint);
    at += 1;
    // Negative numbers are extended to 64 bits first, as protobuf has it.
    let mut rest = i64::from(value).cast_unsigned();
    while rest >= 0x80 {
        bytes[at] = rest as u8 | 0x80;
        rest >>= 7;
        at += 1;
    }
    bytes[at] = rest as u8;
    at + 1
}

const fn tag(field: u8, wire_type: WireType) -> u8 {
    field << 3 | wire_type as u8
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn hosts(count: u32) -> Vec<HostAddr> {
        // Addresses above 128.0.0.0: the longest form there is.
        (0..count).map(|n| HostAddr::v4(Ipv4Addr::from_bits(0xc0a8_0000 + n), 65_000)).collect()
    }

    /// Numbers of every length in bits, 0 included.
    fn any_number_length() -> impl Strategy<Value = u32> {
        (any::<u32>(), 0u32..=32).prop_map(|(number, bits)| number.checked_shr(bits).unwrap_or(0))
    }

    fn decode(reply: RouteReply, bytes: &[u8]) -> GetRouteResponse {
        let frame = frame::decode_datagram(bytes).expect("one frame");
        assert_eq!(frame.id, reply.id() as i32);
        assert!(frame.body.len() <= reply.body_len_max());
        GetRouteResponse::decode(frame.body).expect("a route")
    }

    #[test]
    fn a_route_too_long_for_a_frame_says_how_long_it_is() {
        for reply in [RouteReply::Dns, RouteReply::Api] {
            let mut out = b"before".to_vec();
            let sent = encode(reply, ModuleId::new(-1, -2), hosts(10_000), &mut out);
            let route = decode(reply, &out[6..]);
            assert_eq!(route.module(), ModuleId::new(-1, -2));
            assert_eq!((route.host.len(), route.hosts_total), (sent, 10_000));
            assert!(sent > 3_500, "{sent} hosts in a frame");
        }
    }

    #[test]
    fn an_announcement_costs_a_host_at_most() {
        for count in [0, 3, 10_000] {
            let (mut plain, mut announcing) = (Vec::new(), Vec::new());
            let sent = encode(RouteReply::Dns, ModuleId::new(1, 2), hosts(count), &mut plain);
            let announced = encode_extended(
                RouteReply::Dns,
                ModuleId::new(1, 2),
                hosts(count),
                Extensions { announces: true, confirms: true },
                &mut announcing,
            );
            let route = decode(RouteReply::Dns, &announcing);
            assert_eq!((route.peer_version, route.host.len()), (1, announced));
            assert_eq!(decode(RouteReply::Dns, &plain).peer_version, 0);
            assert_eq!(route.confirmed, count == 0, "only of an empty route there is doubt");
            assert!(sent - announced <= 1, "{sent} and {announced}");
        }
    }

    proptest! {
        #[test]
        fn equals_what_prost_writes(
            modid: i32,
            cmdid: i32,
            hosts in prop::collection::vec((any_number_length(), any_number_length()), 0..50),
        ) {
            let host = |(ip, port): (u32, u32)| HostAddr::v4(Ipv4Addr::from_bits(ip), port as u16);
            let hosts: Vec<_> = hosts.into_iter().map(host).collect();
            let mut ours = Vec::new();
            encode(RouteReply::Dns, ModuleId::new(modid, cmdid), hosts.iter().copied(), &mut ours);
            let message = GetRouteResponse {
                modid, cmdid, host: hosts.iter().map(|host| host.to_wire()).collect(), ..Default::default()
            };
            let mut theirs = Vec::new();
            frame::encode(MessageId::GetRouteResponse, &message, &mut theirs).expect("fits");
            prop_assert_eq!(ours, theirs);
        }
    }
}
