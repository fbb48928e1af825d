//! What lars-dns wants to know again after its next start, as bytes: the routes that it serves, and how far the database
//! was that they are from.
//!
//! ```text
//!  length of the   database   version,   newest id of    newest          the routes: GetRouteResponse frames,
//!  name u16 LE                if any:    RouteChange     acceptance      in the order of SQL; a long one takes
//!                             9 bytes    u64 LE          u64 LE          several
//! ```

use lars_proto::{
    HostAddr, frame, messages::GetRouteResponse, messages::MessageId, route, route::RouteReply,
};
use lars_store::RoutePosition;
use prost::Message;

use super::snapshot::{Snapshot, SnapshotBuilder};

/// The number of this form. Another form gets another one.
pub const SAVED_FORMAT: u32 = 1;

/// Hosts of one frame; so many fit always.
const HOSTS_PER_FRAME: usize = 3_000;

/// The routes, and where they are from.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedRoutes {
    /// Names the database, so that routes of another one are told from them.
    pub store: String,
    /// The routes.
    pub snapshot: Snapshot,
    /// How far the database was: what rows of `RouteChange` up to there say is in the routes.
    pub position: RoutePosition,
    /// The newest acceptance that does not count any more; 0 if there is none.
    pub spent_acceptance_id: u64,
}

/// Why bytes are no saved routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} of the routes is not understood")]
pub struct NotSaved {
    /// Where.
    pub at: usize,
}

impl SavedRoutes {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.store.len() + 17 * self.snapshot.host_count());
        let name = &self.store.as_bytes()[..self.store.len().min(usize::from(u16::MAX))];
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(name);
        out.push(u8::from(self.position.version.is_some()));
        out.extend_from_slice(&self.position.version.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.position.newest_change_id.to_le_bytes());
        out.extend_from_slice(&self.spent_acceptance_id.to_le_bytes());
        for (module, hosts) in self.snapshot.iter() {
            for hosts in hosts.chunks(HOSTS_PER_FRAME) {
                let sent = route::encode(RouteReply::Dns, module, hosts.iter().copied(), &mut out);
                debug_assert_eq!(sent, hosts.len(), "so many fit always");
            }
        }
        out
    }

    /// What [`SavedRoutes::encode`] made.
    ///
    /// # Errors
    /// If it did not make these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotSaved> {
        let mut input = Input { bytes, at: 0 };
        let name_len = u16::from_le_bytes(input.array()?);
        let name = input.take(usize::from(name_len))?;
        let store = String::from_utf8(name.to_vec()).map_err(|_| input.not_saved())?;
        let [has_version] = input.array()?;
        let version = u64::from_le_bytes(input.array()?);
        let position = RoutePosition {
            version: (has_version == 1).then_some(version),
            newest_change_id: u64::from_le_bytes(input.array()?),
        };
        let spent_acceptance_id = u64::from_le_bytes(input.array()?);
        let mut builder = SnapshotBuilder::default();
        while input.at < bytes.len() {
            input.route(&mut builder)?;
        }
        Ok(Self { store, snapshot: builder.finish(), position, spent_acceptance_id })
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn not_saved(&self) -> NotSaved {
        NotSaved { at: self.at }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], NotSaved> {
        let taken = self.bytes[self.at..].get(..len).ok_or(self.not_saved())?;
        self.at += len;
        Ok(taken)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], NotSaved> {
        let taken = self.bytes[self.at..].first_chunk().ok_or(self.not_saved())?;
        self.at += LEN;
        Ok(*taken)
    }

    fn route(&mut self, builder: &mut SnapshotBuilder) -> Result<(), NotSaved> {
        let Ok(Some((id, body))) = frame::next(&self.bytes[self.at..]) else { return Err(self.not_saved()) };
        if id != MessageId::GetRouteResponse as i32 {
            return Err(self.not_saved());
        }
        let end = body.end;
        let route = GetRouteResponse::decode(&self.bytes[self.at..][body]).map_err(|_| self.not_saved())?;
        for host in &route.host {
            let host = HostAddr::from_wire(host).map_err(|_| self.not_saved())?;
            builder.push(route.module(), host);
        }
        self.at += end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lars_proto::ModuleId;
    use proptest::prelude::*;

    use super::*;

    fn saved(routes: impl IntoIterator<Item = (ModuleId, HostAddr)>) -> SavedRoutes {
        let mut builder = SnapshotBuilder::default();
        routes.into_iter().for_each(|(module, host)| builder.push(module, host));
        SavedRoutes {
            store: "mysql:db:3306/lars".into(),
            snapshot: builder.finish(),
            position: RoutePosition { version: Some(7), newest_change_id: 9 },
            spent_acceptance_id: 3,
        }
    }

    fn any_route() -> impl Strategy<Value = (ModuleId, HostAddr)> {
        let module = (any::<i32>(), -2i32..3).prop_map(|(modid, cmdid)| ModuleId::new(modid, cmdid));
        let host = (any::<u32>(), 1u16..).prop_map(|(ip, port)| HostAddr::v4(Ipv4Addr::from_bits(ip), port));
        (module, host)
    }

    #[test]
    fn a_module_of_more_hosts_than_a_frame_holds_is_whole() {
        let host = |n: u32| HostAddr::v4(Ipv4Addr::from_bits(0xc000_0000 + n), 65_535);
        let whole = saved((0..20_000).map(|n| (ModuleId::new(-1, -1), host(n))));
        assert_eq!(SavedRoutes::decode(&whole.encode()), Ok(whole));
    }

    proptest! {
        #[test]
        fn what_is_saved_is_read(
            routes in prop::collection::vec(any_route(), 0..50),
            version: Option<u64>,
            newest_change_id: u64,
        ) {
            let position = RoutePosition { version, newest_change_id };
            let whole = SavedRoutes { position, ..saved(routes) };
            prop_assert_eq!(SavedRoutes::decode(&whole.encode()), Ok(whole));
        }

        #[test]
        fn other_bytes_are_refused_or_routes_and_never_a_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            at: prop::sample::Index,
            whole: bool,
        ) {
            if whole {
                let mut valid = saved([(ModuleId::new(1, 1), HostAddr::v4(Ipv4Addr::LOCALHOST, 80))]).encode();
                let at = at.index(valid.len());
                valid.truncate(at);
                valid.append(&mut bytes);
                bytes = valid;
            }
            let _ = SavedRoutes::decode(&bytes);
        }
    }
}
