//! A client of a UDP server.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use super::PATIENCE;

pub fn client(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(server).expect("connect");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket
}

pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

/// One question, one answer: loopback drops only what does not fit into buffers.
pub fn ask(socket: &UdpSocket, request: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 65_507];
    socket.send(request).expect("send");
    let len = receive(socket, &mut buffer).expect("a reply");
    buffer.truncate(len);
    buffer
}
