//! Who has a port that cannot be had, as far as `/proc` tells.

use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::Path,
};

/// Where the system's own choice of ports is configured.
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The transport of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// Who has a port, and why: another copy of this program, or one that did not ask for this port but for any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortHolder {
    /// The program, if this process may see that.
    pub program: Option<Program>,
    /// Whether the system gives the port to programs that ask for any port.
    pub is_handed_out: bool,
    /// The ports that this program wants, the taken one among them: to be kept from being handed out.
    pub wanted: Option<(u16, u16)>,
}

/// A running program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its process.
    pub pid: u32,
    /// Its name, of 15 bytes at most.
    pub name: String,
    /// Whether it has this program's name.
    pub is_copy: bool,
}

impl PortHolder {
    /// Of `addr`, one of those that are `wanted`.
    pub(crate) fn find(addr: SocketAddr, transport: Transport, wanted: RangeInclusive<u16>) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            program: inode(addr, transport).and_then(program),
            is_handed_out: is_handed_out(addr.port(), &read(PORT_RANGE), &read(RESERVED_PORTS)),
            wanted: Some(wanted.into_inner()),
        }
    }
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Program { pid, name, .. }) = &self.program {
            write!(f, " by {name} (pid {pid})")?;
        }
        let is_copy = self.program.as_ref().map(|program| program.is_copy);
        if is_copy == Some(true) || is_copy.is_none() && !self.is_handed_out {
            return f.write_str(" (is another copy running?)");
        }
        if !self.is_handed_out {
            return Ok(());
        }
        f.write_str(match self.program {
            Some(_) => ", which the system may have given it",
            None => " (another copy is running, or a program was given this port by the system",
        })?;
        f.write_str(": keep it from being handed out with sysctl net.ipv4.ip_local_reserved_ports")?;
        match self.wanted {
            Some((first, last)) if first < last => write!(f, "={first}-{last}")?,
            Some((port, _)) => write!(f, "={port}")?,
            None => {}
        }
        f.write_str(match self.program {
            Some(_) => ", then end that program",
            None => ")",
        })
    }
}

/// The inode of the socket that has the address, or one that includes it.
fn inode(addr: SocketAddr, transport: Transport) -> Option<u64> {
    let tables = match transport {
        Transport::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Transport::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    tables.iter().find_map(|table| inode_in(&fs::read_to_string(table).ok()?, addr))
}

fn inode_in(table: &str, addr: SocketAddr) -> Option<u64> {
    let own_ip = hex(addr.ip());
    let is_any = |ip: &str| ip.bytes().all(|digit| digit == b'0');
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (ip, port) = fields.nth(1)?.split_once(':')?;
        let overlaps = ip == own_ip || is_any(ip) || addr.ip().is_unspecified();
        let inode = fields.nth(7)?.parse().ok()?;
        (overlaps && u16::from_str_radix(port, 16) == Ok(addr.port()) && inode != 0).then_some(inode)
    })
}

/// As the kernel's tables have it: words of four bytes in the machine's order.
fn hex(ip: IpAddr) -> String {
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let word = |word: &[u8]| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
    octets.chunks_exact(4).map(|bytes| format!("{:08X}", word(bytes))).collect()
}

/// The program that has the socket open.
fn program(inode: u64) -> Option<Program> {
    let socket = format!("socket:[{inode}]");
    let has_it = |process: &Path| -> io::Result<bool> {
        let links = fs::read_dir(process.join("fd"))?.flatten().map(|entry| fs::read_link(entry.path()));
        Ok(links.flatten().any(|link| link.as_os_str() == &*socket))
    };
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        // Of other users' processes the descriptors are not to be seen.
        has_it(&entry.path()).ok()?.then_some(())?;
        let name = |process: &Path| fs::read_to_string(process.join("comm"));
        let (found, own) = (name(&entry.path()).ok()?, name(Path::new("/proc/self")).ok()?);
        Some(Program { pid, name: found.trim_end().to_owned(), is_copy: found == own })
    })
}

/// Given the range of ports to hand out, and those in it that are not.
fn is_handed_out(port: u16, range: &str, reserved: &str) -> bool {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let mut ends = range.split_ascii_whitespace().map(number);
    let (Some(Some(first)), Some(Some(last))) = (ends.next(), ends.next()) else { return false };
    let is_reserved = reserved.trim().split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        number(first).zip(number(last)).is_some_and(|(first, last)| (first..=last).contains(&port))
    });
    (first..=last).contains(&port) && !is_reserved
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, UdpSocket},
        process,
    };

    use lars_testkit::eventually_some;

    use super::*;

    #[test]
    fn this_program_is_found_by_the_ports_it_has() {
        let find = |addr: SocketAddr, transport| PortHolder::find(addr, transport, addr.port()..=addr.port());
        for bind in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let udp = UdpSocket::bind(bind).expect("a port");
            let tcp = TcpListener::bind(bind).expect("a port");
            for (addr, transport) in [(udp.local_addr(), Transport::Udp), (tcp.local_addr(), Transport::Tcp)]
            {
                let addr = addr.expect("bound");
                // Other tests change the kernel's table while it is read.
                let program = eventually_some("it is found", || find(addr, transport).program);
                assert_eq!(program.pid, process::id(), "{bind}");
                assert!(program.is_copy, "{program:?}");
            }
        }
    }

    #[test]
    fn a_socket_of_another_address_is_not_the_one() {
        let table = "  sl  local_address rem_address   st\n \
            7: 0200007F:22B8 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 11 2 0 0\n \
            8: 0100007F:22B9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12 2 0 0\n \
            9: 0100007F:22B8 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 13 2 0 0\n";
        let at = |ip: [u8; 4]| inode_in(table, SocketAddr::from((ip, 8888)));
        if cfg!(target_endian = "little") {
            assert_eq!(
                [at([127, 0, 0, 1]), at([127, 0, 0, 2]), at([127, 0, 0, 3])],
                [Some(13), Some(11), None]
            );
        }
        assert_eq!(at([0, 0, 0, 0]), Some(11), "any of them is in the way");
    }

    #[test]
    fn the_system_hands_out_its_range_but_for_the_reserved_ports() {
        let usual = "32768\t60999\n";
        assert!(!is_handed_out(8888, usual, "\n"));
        assert!(is_handed_out(8888, "1024\t60999\n", "\n"));
        assert!(is_handed_out(8888, "1024\t60999\n", "80,8889-8890\n"));
        assert!(!is_handed_out(8888, "1024\t60999\n", "80,8887-8890\n"));
        assert!(!is_handed_out(8888, "1024\t60999\n", "8888\n"));
        assert!(!is_handed_out(8888, "", ""), "not told");
    }

    #[track_caller]
    fn check_text(program: Option<(&str, bool)>, is_handed_out: bool, expect: &str) {
        let program = program.map(|(name, is_copy)| Program { pid: 7, name: name.into(), is_copy });
        let holder = PortHolder { program, is_handed_out, wanted: Some((8888, 8890)) };
        assert_eq!(holder.to_string(), expect);
    }

    #[test]
    fn the_text_says_who_and_what_to_do() {
        check_text(None, false, " (is another copy running?)");
        check_text(Some(("nginx", false)), false, " by nginx (pid 7)");
        check_text(Some(("lars-agent", true)), true, " by lars-agent (pid 7) (is another copy running?)");
        check_text(
            Some(("curl", false)),
            true,
            " by curl (pid 7), which the system may have given it: keep it from being handed out with sysctl net.ipv4.ip_local_reserved_ports=8888-8890, then end that program",
        );
        check_text(
            None,
            true,
            " (another copy is running, or a program was given this port by the system: keep it from being handed out with sysctl net.ipv4.ip_local_reserved_ports=8888-8890)",
        );
    }
}
