//! Every pair of 32-bit numbers is a module, on the command line, on the wire and in the tables.

use std::net::{Ipv4Addr, UdpSocket};

use lars_client::Outcome;
use lars_proto::{
    HostAddr, ModuleId, frame,
    messages::{GetHostRequest, GetHostResponse, MessageId},
};
use lars_testkit::{eventually, eventually_some};
use prost::Message;

use crate::world::{Sql, World, host};

fn odd_ids(sql: Sql) {
    let world = World::new(sql);
    let _services = world.start_all();
    let ids = [i32::MIN, -7, -1, 0, 1, i32::MAX];
    let modules: Vec<ModuleId> =
        ids.iter().flat_map(|&modid| ids.iter().map(move |&cmdid| ModuleId::new(modid, cmdid))).collect();
    for (n, module) in modules.iter().enumerate() {
        let (modid, cmdid) = (module.modid.to_string(), module.cmdid.to_string());
        let host = host(0, n as u8).to_string();
        world.lars(&["route", "add", &modid, &cmdid, &host]);
    }
    for (n, module) in modules.iter().enumerate() {
        world.await_route(*module, &[host(0, n as u8)]);
        let found = world.client.get_host(*module).expect("a host");
        assert_eq!(found.addr, host(0, n as u8));
        world.client.report(&found, Outcome::Success);
    }
    for (n, module) in modules.iter().enumerate() {
        eventually(&format!("the call of {module} is stored"), || {
            world.stored(*module).iter().any(|row| row.key.host == host(0, n as u8) && row.succ == 1)
        });
    }
}

#[test]
fn odd_ids_on_sqlite() {
    odd_ids(Sql::Sqlite);
}

#[test]
fn odd_ids_on_mariadb() {
    odd_ids(Sql::MariaDb);
}

#[test]
fn addresses_from_128_up_survive() {
    let world = World::new(Sql::MariaDb);
    let module = ModuleId::new(3, 4);
    let hosts =
        [Ipv4Addr::new(192, 168, 0, 1), Ipv4Addr::new(255, 255, 255, 254), Ipv4Addr::new(128, 0, 0, 0)]
            .map(|ip| HostAddr::v4(ip, 65_535));
    world.add(module, &hosts);
    let _services = world.start_all();
    world.await_route(module, &hosts);
}

#[test]
fn a_datagram_to_the_wrong_port_is_answered_from_there() {
    let world = World::new(Sql::Sqlite);
    let module = ModuleId::new(1, 1);
    world.add(module, &[host(0, 1)]);
    let _services = world.start_all();
    world.await_route(module, &[host(0, 1)]);
    for shard in 0..3 {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        // Connected, so that only answers from the very port it was sent to arrive.
        socket.connect(("127.0.0.1", world.agent_port + shard)).expect("connects");
        socket.set_read_timeout(Some(std::time::Duration::from_millis(500))).expect("a timeout");
        let mut request = Vec::new();
        let message = GetHostRequest { seq: 41, modid: 1, cmdid: 1, wait_ms: 0 };
        frame::encode(MessageId::GetHostRequest, &message, &mut request).expect("fits");
        let mut buffer = [0; 2_048];
        let len = eventually_some("an answer", || {
            socket.send(&request).ok()?;
            socket.recv(&mut buffer).ok()
        });
        let frame = frame::decode_datagram(&buffer[..len]).expect("a frame");
        let response = GetHostResponse::decode(frame.body).expect("a response");
        assert_eq!(
            (response.seq, response.module(), response.host),
            (41, module, Some(host(0, 1).to_wire()))
        );
    }
}
