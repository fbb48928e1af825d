//! Thousands of connections at once.

mod support;

use std::{net::SocketAddr, sync::Arc};

use lars_runtime::{TcpServer, TcpServerConfig};
use lars_testkit::{connections_possible, eventually};
use support::*;

const CONNECTIONS_MAX: usize = 4_000;

#[test]
fn one_message_reaches_thousands_of_connections() {
    let count = connections_possible(CONNECTIONS_MAX);
    let shards = shards(2);
    let config = TcpServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = TcpServer::start(&shards, config, handlers()).expect("a server");
    let mut clients: Vec<_> = (0..count).map(|_| Client::connect(server.local_addr())).collect();
    eventually("all are open", || connections(&shards) == count);
    assert_eq!(pool_bytes_in_use(&shards), 0, "idle connections hold no buffers");

    let push: Arc<[u8]> = frame(GIVE, &[8; 1000]).into();
    for shard in shards.handles() {
        let push = Arc::clone(&push);
        let refused = shard.call(move |_, net| {
            let ids: Vec<_> = net.connection_ids().collect();
            ids.into_iter().filter(|id| net.send_shared(*id, &push).is_err()).count()
        });
        assert_eq!(refused, Ok(0));
    }
    for client in &mut clients {
        assert_eq!(client.receive(), (GIVE, vec![8; 1000]));
    }
    eventually("nothing holds on to the message", || Arc::strong_count(&push) == 1);

    for client in &mut clients {
        client.send(ECHO, b"all at once");
    }
    for client in &mut clients {
        assert_eq!(client.receive(), (ECHO, b"all at once".to_vec()));
    }
    // More at once than there are buffers to receive it into.
    for client in &mut clients {
        client.send(ECHO, &[9; 5_000]);
    }
    for client in &mut clients {
        assert_eq!(client.receive(), (ECHO, vec![9; 5_000]));
    }
    drop(clients);
    eventually("all are released", || server.stats().open == 0 && connections(&shards) == 0);
}
