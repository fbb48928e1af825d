//! Values as people write them. What cannot be is refused with the words of what can.

use std::{net::IpAddr, str::FromStr};

use lars_proto::{HostAddr, HostAddrError};

/// One of the two numbers that name a module.
pub(crate) fn module_number(text: &str) -> Result<i32, String> {
    text.parse().map_err(|_| format!("'{text}' is not a whole number from {} to {}", i32::MIN, i32::MAX))
}

/// A host that somebody could call. Rows of other programs may hold other addresses, which can be listed and
/// removed.
pub(crate) fn callable_host(text: &str) -> Result<HostAddr, String> {
    let host: HostAddr = text.parse().map_err(|error: HostAddrError| error.to_string())?;
    let kind = match host.ip() {
        ip if ip.is_unspecified() => "stands for any address",
        ip if ip.is_multicast() => "is of a multicast group",
        IpAddr::V4(ip) if ip.is_broadcast() => "is the broadcast address",
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(host),
    };
    Err(format!("'{text}' {kind}, which cannot be called"))
}

/// A share of calls.
pub(crate) fn probability(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|p| (0.0..=1.0).contains(p));
    number.ok_or_else(|| format!("'{text}' is not a number from 0 to 1"))
}

/// A host and the share of its calls that fail: `10.0.0.7:8080=0.25`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HostErrorRate {
    pub(crate) host: HostAddr,
    pub(crate) error_rate: f64,
}

impl FromStr for HostErrorRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, rate) =
            text.split_once('=').ok_or("not of the form HOST:PORT=P, like 10.0.0.7:8080=0.5")?;
        let host = host.parse().map_err(|error: HostAddrError| error.to_string())?;
        Ok(Self { host, error_rate: probability(rate)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_can_be_called() {
        for text in ["127.0.0.1:1", "10.0.0.255:80", "223.255.255.255:80", "240.0.0.1:80", "0.0.0.1:80"] {
            assert_eq!(callable_host(text).map(|host| host.to_string()), Ok(text.to_owned()));
        }
        let check = |text: &str, words: &str| assert_eq!(callable_host(text), Err(words.to_owned()));
        check("0.0.0.0:80", "'0.0.0.0:80' stands for any address, which cannot be called");
        check("224.0.0.1:80", "'224.0.0.1:80' is of a multicast group, which cannot be called");
        check("255.255.255.255:1", "'255.255.255.255:1' is the broadcast address, which cannot be called");
        check("10.0.0.1:0", "port 0 is not in 1..=65535");
    }

    #[test]
    fn numbers_have_a_range() {
        assert_eq!(module_number("-2147483648"), Ok(i32::MIN));
        let range = "is not a whole number from -2147483648 to 2147483647";
        for text in ["abc", "", "1.5", "2147483648"] {
            assert_eq!(module_number(text), Err(format!("'{text}' {range}")));
        }
        assert!(probability("1.01").is_err() && probability("NaN").is_err());
    }
}
