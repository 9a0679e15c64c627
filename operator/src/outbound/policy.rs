//! Which addresses may be called.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Which addresses may be called. Link-local addresses (cloud metadata among them), multicast, broadcast and the
/// unspecified address never are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Allow the operator's own machine: for tests and a Prometheus in the same pod.
    pub loopback: bool,
    /// Allow private ranges, in which a cluster's Services and pods have their addresses.
    pub private: bool,
    /// Ranges refused besides, such as the API server's Service address.
    pub denied: Vec<IpNet>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { loopback: false, private: true, denied: Vec::new() }
    }
}

impl Policy {
    /// Whether `address` may be called.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = unwrapped(address);
        if self.denied.iter().any(|range| range.contains(&address)) {
            return false;
        }
        match address {
            IpAddr::V4(address) => self.permits_v4(address),
            IpAddr::V6(address) => self.permits_v6(address),
        }
    }

    fn permits_v4(&self, address: Ipv4Addr) -> bool {
        let [first, second, ..] = address.octets();
        let never = first == 0
            || address.is_link_local()
            || address.is_multicast()
            || address.is_broadcast()
            || METADATA_V4.contains(&address);
        let private = address.is_private()
            || (first == 100 && second & 0xc0 == 64) // RFC 6598, pods of some clouds
            || (first == 198 && second & 0xfe == 18); // RFC 2544, our local cluster
        !never && (self.loopback || !address.is_loopback()) && (self.private || !private)
    }

    fn permits_v6(&self, address: Ipv6Addr) -> bool {
        let never = address.is_unspecified()
            || address.is_unicast_link_local()
            || address.is_multicast()
            || address == METADATA_V6;
        !never && (self.loopback || !address.is_loopback()) && (self.private || !address.is_unique_local())
    }
}

/// Metadata servers outside the link-local range: Alibaba Cloud, Oracle Cloud.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
/// Metadata server of AWS over IPv6.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);

/// The IPv4 address inside a mapped (RFC 4291), NAT64 (RFC 6052) or 6to4 (RFC 3056) one: that is where packets end up.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let halves = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            halves(high, low)
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permitted(policy: &Policy, addresses: &[&str]) -> Vec<bool> {
        addresses.iter().map(|address| policy.permits(address.parse().unwrap())).collect()
    }

    #[test]
    fn metadata_and_link_local_are_refused_in_every_disguise() {
        let open = Policy { loopback: true, private: true, denied: Vec::new() };
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "::ffff:0.0.0.0",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(!open.permits(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn loopback_private_and_denied_ranges_follow_the_configuration() {
        let addresses = ["127.0.0.1", "::1", "10.0.0.1", "198.18.0.1", "100.64.1.1", "fd12::1", "1.1.1.1", "2606::1"];
        let default = Policy::default();
        assert_eq!(permitted(&default, &addresses), [false, false, true, true, true, true, true, true]);
        let public = Policy { private: false, ..Policy::default() };
        assert_eq!(permitted(&public, &addresses), [false, false, false, false, false, false, true, true]);
        let local = Policy { loopback: true, private: true, denied: vec!["10.0.0.0/24".parse().unwrap()] };
        assert_eq!(permitted(&local, &addresses), [true, true, false, true, true, true, true, true]);
        assert!(!local.permits("::ffff:10.0.0.9".parse().unwrap()), "a mapped form must not slip past a denied range");
    }
}
