//! What an agent writes to disk for the one that starts after it, in bytes.
//!
//! ```text
//!  length of     frames: one GetRouteResponse     overloaded hosts, to the end: modid, cmdid (i32), address (u32),
//!  the frames    per module with hosts, as        port (u16), rule (u8), age in ms (u64), 23 bytes each
//!   u64
//! ```
//!
//! Numbers are little-endian. The whole lies in a [`StateFile`](lars_service::StateFile), which finds out whether it is
//! what was written.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::Ipv4Addr,
    time::Duration,
};

use lars_proto::{
    Endpoint, HostAddr, ModuleId, frame,
    messages::{GetRouteResponse, MessageId},
    route::{self, RouteReply},
};
use prost::Message;

use super::{
    balancer::{Ejection, EjectionRule},
    time::Moment,
};

/// The format of the body, in the file's header.
pub const FORMAT: u32 = 1;

const LEN_LEN: usize = 8;
const RECORD_LEN: usize = 4 + 4 + 4 + 2 + 1 + 8;

/// A module as an earlier agent knew it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedModule {
    pub module: ModuleId,
    pub route: Vec<Endpoint>,
    pub ejections: Vec<SavedEjection>,
}

/// One of its hosts that was overloaded then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedEjection {
    pub host: HostAddr,
    pub rule: EjectionRule,
    /// How long ago it was ejected.
    pub age: Duration,
}

/// Frames and records of some modules.
pub type SavedPart = (Vec<u8>, Vec<u8>);

/// Appends the frame of a module.
pub fn encode_frame(module: ModuleId, hosts: &[HostAddr], frames: &mut Vec<u8>) {
    route::encode(RouteReply::Dns, module, hosts.iter().copied(), frames);
}

/// Appends the records of a module's overloaded hosts.
pub fn encode_records(module: ModuleId, ejections: &[Ejection], now: Moment, records: &mut Vec<u8>) {
    for ejection in ejections {
        let age = now.elapsed().saturating_sub(ejection.since.elapsed());
        let (ip, port) = ejection.host.to_unsigned();
        records.extend_from_slice(&module.modid.to_le_bytes());
        records.extend_from_slice(&module.cmdid.to_le_bytes());
        records.extend_from_slice(&ip.to_le_bytes());
        records.extend_from_slice(&(port as u16).to_le_bytes());
        records.push(ejection.rule as u8);
        records.extend_from_slice(&(age.as_millis() as u64).to_le_bytes());
    }
}

/// Puts the frames and records of several shards together.
#[must_use]
pub fn join(parts: &[SavedPart]) -> Vec<u8> {
    let frames_len: usize = parts.iter().map(|(frames, _)| frames.len()).sum();
    let records_len: usize = parts.iter().map(|(_, records)| records.len()).sum();
    let mut body = Vec::with_capacity(LEN_LEN + frames_len + records_len);
    body.extend_from_slice(&(frames_len as u64).to_le_bytes());
    parts.iter().for_each(|(frames, _)| body.extend_from_slice(frames));
    parts.iter().for_each(|(_, records)| body.extend_from_slice(records));
    body
}

/// The modules of a body that was written `age` ago. One that was forgotten and learned again while it was collected
/// may be in it twice: what was collected later counts.
///
/// # Errors
/// If it is none; in words.
pub fn decode(body: &[u8], age: Duration) -> Result<Vec<SavedModule>, String> {
    let (len, rest) = body.split_first_chunk::<LEN_LEN>().ok_or("it ends before its routes")?;
    let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|error| error.to_string())?;
    let (mut frames, records) = rest.split_at_checked(len).ok_or("it ends within its routes")?;
    let (mut modules, mut by_id) = (Vec::new(), HashMap::new());
    while !frames.is_empty() {
        let found = frame::next(frames).map_err(|error| error.to_string())?;
        let (id, range) = found.ok_or("its last route is cut off")?;
        if id != MessageId::GetRouteResponse as i32 {
            return Err(format!("message {id} is no route"));
        }
        let end = range.end;
        let saved = decode_route(&frames[range])?;
        match by_id.entry(saved.module) {
            Entry::Occupied(at) => modules[*at.get()] = saved,
            Entry::Vacant(place) => {
                place.insert(modules.len());
                modules.push(saved);
            }
        }
        frames = &frames[end..];
    }
    let records = records.chunks(RECORD_LEN);
    for record in records {
        let record = record.try_into().map_err(|_| "its last host is cut off")?;
        let (module, ejection) = decode_record(record, age)?;
        let at = by_id.get(&module).ok_or_else(|| format!("it has no route of {module}"))?;
        let ejections = &mut modules[*at].ejections;
        match ejections.iter_mut().find(|before| before.host == ejection.host) {
            Some(before) => *before = ejection,
            None => ejections.push(ejection),
        }
    }
    Ok(modules)
}

fn decode_route(body: &[u8]) -> Result<SavedModule, String> {
    let route = GetRouteResponse::decode(body).map_err(|error| error.to_string())?;
    let hosts = route.host.iter().map(|host| HostAddr::from_wire(host).map(Endpoint::from));
    let hosts: Result<Vec<_>, _> = hosts.collect();
    let module = route.module();
    let hosts = hosts.map_err(|error| format!("a host of {module}: {error}"))?;
    Ok(SavedModule { module, route: hosts, ejections: Vec::new() })
}

fn decode_record(record: &[u8; RECORD_LEN], age: Duration) -> Result<(ModuleId, SavedEjection), String> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, rule, ms @ ..] = *record;
    let module = ModuleId::new(i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h]));
    let ip = Ipv4Addr::from_bits(u32::from_le_bytes([i, j, k, l]));
    let host = HostAddr::v4(ip, u16::from_le_bytes([m, n]));
    let rule = EjectionRule::from_byte(rule).ok_or_else(|| format!("{rule} is no rule"))?;
    let age = age.saturating_add(Duration::from_millis(u64::from_le_bytes(ms)));
    Ok((module, SavedEjection { host, rule, age }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MODULE: ModuleId = ModuleId::new(-7, i32::MAX);

    fn host(n: u16) -> HostAddr {
        HostAddr::v4(Ipv4Addr::new(200, 1, 2, 3), n)
    }

    fn body() -> Vec<u8> {
        let (mut frames, mut records) = (Vec::new(), Vec::new());
        encode_frame(MODULE, &[host(1), host(65_535)], &mut frames);
        let now = Moment::since_origin(Duration::from_secs(60));
        let since = Moment::since_origin(Duration::from_secs(58));
        let ejection = Ejection { host: host(65_535), rule: EjectionRule::ErrorsInARow, since };
        encode_records(MODULE, &[ejection], now, &mut records);
        join(&[(Vec::new(), Vec::new()), (frames, records)])
    }

    #[test]
    fn what_is_written_is_read() {
        let age = Duration::from_secs(5);
        let ejection = SavedEjection {
            host: host(65_535),
            rule: EjectionRule::ErrorsInARow,
            age: Duration::from_secs(7),
        };
        let route = vec![host(1).into(), host(65_535).into()];
        let expected = SavedModule { module: MODULE, route, ejections: vec![ejection] };
        assert_eq!(decode(&body(), age), Ok(vec![expected]));
        assert_eq!(decode(&join(&[]), age), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |body: &[u8], expect: &str| {
            let error = decode(body, Duration::ZERO).expect_err("it is wrong");
            assert!(error.contains(expect), "{error}");
        };
        let good = body();
        check(&[], "before its routes");
        check(&good[..10], "within its routes");
        check(&good[..good.len() - 1], "last host is cut off");
        let mut wrong = good.clone();
        wrong[LEN_LEN] = 9;
        check(&wrong, "message 9 is no route");
        let mut wrong = good.clone();
        let rule = wrong.len() - 9;
        wrong[rule] = 77;
        check(&wrong, "77 is no rule");
        let mut wrong = good;
        let module = wrong.len() - RECORD_LEN;
        wrong[module] ^= 1;
        check(&wrong, "it has no route of");
    }

    #[test]
    fn of_a_module_that_was_collected_twice_the_later_one_counts() {
        let now = Moment::since_origin(Duration::from_secs(60));
        let part = |ports: &[u16], age_s: u64| {
            let (mut frames, mut records) = (Vec::new(), Vec::new());
            let hosts: Vec<_> = ports.iter().map(|port| host(*port)).collect();
            encode_frame(MODULE, &hosts, &mut frames);
            let since = Moment::since_origin(Duration::from_secs(60 - age_s));
            let ejection = Ejection { host: host(1), rule: EjectionRule::ErrorRate, since };
            encode_records(MODULE, &[ejection], now, &mut records);
            (frames, records)
        };
        let (rule, age) = (EjectionRule::ErrorRate, Duration::from_secs(2));
        let ejections = vec![SavedEjection { host: host(1), rule, age }];
        let route = vec![host(1).into(), host(3).into()];
        let expected = SavedModule { module: MODULE, route, ejections };
        assert_eq!(decode(&join(&[part(&[1, 2], 9), part(&[1, 3], 2)]), Duration::ZERO), Ok(vec![expected]));
    }

    const RULES: [EjectionRule; 3] =
        [EjectionRule::ErrorRate, EjectionRule::ErrorsInARow, EjectionRule::WindowErrorRate];

    /// Modules of one shard, each with hosts of which some are overloaded.
    fn any_modules() -> impl Strategy<Value = Vec<SavedModule>> {
        let hosts = prop::collection::btree_map(
            (any::<u32>(), 1..=u16::MAX),
            (any::<bool>(), 0..3_usize, 0..60_u64),
            1..8,
        );
        prop::collection::btree_map(any::<(i32, i32)>(), hosts, 0..8).prop_map(|modules| {
            let saved = modules.into_iter().map(|((modid, cmdid), hosts)| {
                let addr = |(ip, port)| HostAddr::v4(Ipv4Addr::from_bits(ip), port);
                let route = hosts.keys().map(|key| addr(*key).into()).collect();
                let overloaded = hosts.iter().filter(|(_, (is_overloaded, ..))| *is_overloaded);
                let ejection = |(key, (_, rule, age_s)): (&_, &(_, usize, u64))| SavedEjection {
                    host: addr(*key),
                    rule: RULES[*rule],
                    age: Duration::from_secs(*age_s),
                };
                SavedModule {
                    module: ModuleId::new(modid, cmdid),
                    route,
                    ejections: overloaded.map(ejection).collect(),
                }
            });
            saved.collect()
        })
    }

    fn part(modules: &[SavedModule]) -> SavedPart {
        let (now, mut frames, mut records) = (Duration::from_secs(60), Vec::new(), Vec::new());
        for saved in modules {
            let hosts: Vec<_> = saved.route.iter().map(|endpoint| endpoint.addr).collect();
            let ejections = saved.ejections.iter().map(|ejection| Ejection {
                host: ejection.host,
                rule: ejection.rule,
                since: Moment::since_origin(now - ejection.age),
            });
            encode_frame(saved.module, &hosts, &mut frames);
            let ejections: Vec<_> = ejections.collect();
            encode_records(saved.module, &ejections, Moment::since_origin(now), &mut records);
        }
        (frames, records)
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read(modules in any_modules(), later_s in 0..60_u64, cut: prop::sample::Index) {
            let later = Duration::from_secs(later_s);
            let (one, other) = modules.split_at(cut.index(modules.len() + 1));
            let read = decode(&join(&[part(one), part(other)]), later);
            let mut expected = modules;
            let ejections = expected.iter_mut().flat_map(|saved| &mut saved.ejections);
            ejections.for_each(|ejection| ejection.age += later);
            prop_assert_eq!(read, Ok(expected));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, flip: prop::sample::Index, with: u8) {
            let _ = decode(&bytes, Duration::ZERO);
            let mut damaged = body();
            let at = flip.index(damaged.len());
            damaged[at] = with;
            let _ = decode(&damaged, Duration::MAX);
        }
    }
}
