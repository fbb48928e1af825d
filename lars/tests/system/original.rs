//! In the place of the C++ original: its database is served as it is, and the bytes that its programs send
//! are answered with the bytes that its programs expect.

use std::{
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use lars_client::Outcome;
use lars_proto::{HostAddr, ModuleId};
use lars_testkit::{eventually, eventually_some};

use crate::world::{Sql, World};

/// The tables of the original with rows in them, as its tools left them.
const CPP_DATABASE: &str = include_str!("../../../lars-store/tests/data/cpp_schema.sql");

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex"))
        .collect()
}

fn addr(text: &str) -> HostAddr {
    text.parse().expect("a host")
}

/// What the agent at `port` answers to a captured datagram.
fn udp(world: &World, port_offset: u16, datagram: &str) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(("127.0.0.1", world.agent_port + port_offset)).expect("connects");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let mut buffer = [0; 2_048];
    let len = eventually_some("an answer", || {
        socket.send(&bytes(datagram)).ok()?;
        socket.recv(&mut buffer).ok()
    });
    buffer[..len].to_vec()
}

#[test]
fn a_database_of_the_original_is_served_and_edited() {
    let world = World::new(Sql::MariaDb);
    world.raw_sql(CPP_DATABASE);
    let _services = world.start_all();
    world.await_route(ModuleId::new(1, 1), &[addr("127.0.0.1:7777")]);
    // Two equal rows are one host; rows whose port is none are no host.
    let twice = addr("192.168.1.177:9999");
    world.await_route(ModuleId::new(1, 2), &[twice]);

    // The original's editor: rows, then the version, then the change.
    world.raw_sql(
        "INSERT INTO RouteData(modid, cmdid, serverip, serverport) VALUES (1, 1, 2130706434, 7778); \
         REPLACE INTO RouteVersion(id, version) VALUES (1, UNIX_TIMESTAMP()); \
         INSERT INTO RouteChange(modid, cmdid, version) VALUES (1, 1, UNIX_TIMESTAMP());",
    );
    world.await_route(ModuleId::new(1, 1), &[addr("127.0.0.1:7777"), addr("127.0.0.2:7778")]);
    world.lars(&["route", "rm", "1", "2", &twice.to_string(), "--last"]);
    world.await_route(ModuleId::new(1, 2), &[]);

    let host = world.client.get_host(ModuleId::new(1, 1)).expect("a host");
    world.client.report(&host, Outcome::Success);
    eventually("the call is in the original's table", || {
        world.stored(ModuleId::new(1, 1)).iter().any(|row| row.key.host == host.addr && row.succ == 1)
    });
}

#[test]
fn captured_bytes_are_answered_with_captured_bytes() {
    let world = World::new(Sql::Sqlite);
    world.add(ModuleId::new(1, 1), &[addr("127.0.0.1:7777")]);
    let _services = world.start_all();
    world.await_route(ModuleId::new(1, 1), &[addr("127.0.0.1:7777")]);

    let route = udp(&world, 2, "07000000 04000000 08011001");
    assert_eq!(route, bytes("08000000 0f000000 08011001 1a0908818080f80710e13c"));
    let host = udp(&world, 2, "04000000 04000000 10011801");
    assert_eq!(host, bytes("05000000 0f000000 10011801 2a0908818080f80710e13c"));
    let unknown = udp(&world, 0, "04000000 04000000 10091809");
    assert_eq!(unknown, bytes("05000000 06000000 10091809 2003"));

    let mut dns = TcpStream::connect(world.dns_addrs[0]).expect("connects");
    // An unknown module, then module 0/0, whose body is empty, in one write.
    dns.write_all(&bytes("01000000 04000000 08091009 01000000 00000000")).expect("writes");
    let mut reply = [0; 20];
    dns.read_exact(&mut reply).expect("two replies");
    assert_eq!(reply.to_vec(), bytes("02000000 04000000 08091009 02000000 00000000"));
}
