//! The PROXY header that a load balancer puts in front of a connection (HAProxy's PROXY protocol, versions 1 and 2).
//!
//! Whether a peer may send one is the caller's decision; so is the time it may take. This module says what the first
//! octets of a connection are and never needs more than [`MAX_V2`] of them.

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

/// Longest version 1 header with its CRLF (PROXY protocol, section 2.1).
pub const MAX_V1: usize = 107;
/// Longest version 2 header that is accepted, in octets. The format allows 64 KiB of attributes; those that balancers
/// send take a few hundred octets.
pub const MAX_V2: usize = 4096;
/// How a version 1 header begins.
pub(crate) const V1_START: &[u8] = b"PROXY ";
/// The signature of version 2.
pub(crate) const V2_START: &[u8] = v2::PROTOCOL_PREFIX;
/// Octets of a version 2 header before its addresses.
const V2_FIXED: usize = 16;

/// What the first octets of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyStatus {
    /// They may become a header; more are needed.
    Incomplete,
    /// They are no header and cannot become one.
    NotProxy,
    /// A header, which is the first `consumed` octets.
    Header {
        /// Octets of the header.
        consumed: usize,
        /// The client; `None` when the balancer speaks for itself (LOCAL) or does not know (UNKNOWN, a Unix socket).
        source: Option<SocketAddr>,
        /// The address that the client connected to.
        destination: Option<SocketAddr>,
    },
    /// They begin as a header and are none; the text says why.
    Invalid(&'static str),
}

/// Looks for a PROXY header at the start of `input`, which holds all octets since the connection began.
pub fn proxy_header(input: &[u8]) -> ProxyStatus {
    if input.starts_with(V2_START) {
        version_2(input)
    } else if input.starts_with(V1_START) {
        version_1(input)
    } else if V2_START.starts_with(input) || V1_START.starts_with(input) {
        ProxyStatus::Incomplete
    } else {
        ProxyStatus::NotProxy
    }
}

fn version_1(input: &[u8]) -> ProxyStatus {
    let window = input.get(..MAX_V1).unwrap_or(input);
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() == MAX_V1 {
            ProxyStatus::Invalid("the version 1 header has no end within 107 octets")
        } else {
            ProxyStatus::Incomplete
        };
    };
    let consumed = end + 1;
    let Some(line) = window.get(..consumed).filter(|line| line.ends_with(b"\r\n")) else {
        return ProxyStatus::Invalid("the version 1 header does not end in CRLF");
    };
    let Ok(header) = v1::Header::try_from(line) else {
        return ProxyStatus::Invalid("the version 1 header is malformed");
    };
    let pair = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(ip) => Some(pair(
            ip.source_address,
            ip.source_port,
            ip.destination_address,
            ip.destination_port,
        )),
        v1::Addresses::Tcp6(ip) => Some(pair(
            ip.source_address,
            ip.source_port,
            ip.destination_address,
            ip.destination_port,
        )),
    };
    ProxyStatus::Header {
        consumed,
        source: pair.map(|p| p.0),
        destination: pair.map(|p| p.1),
    }
}

fn version_2(input: &[u8]) -> ProxyStatus {
    let Some(fixed) = input.first_chunk::<V2_FIXED>() else {
        return ProxyStatus::Incomplete;
    };
    let consumed = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if consumed > MAX_V2 {
        return ProxyStatus::Invalid("the version 2 header is longer than 4096 octets");
    }
    let Some(whole) = input.get(..consumed) else {
        return ProxyStatus::Incomplete;
    };
    let Ok(header) = v2::Header::try_from(whole) else {
        return ProxyStatus::Invalid("the version 2 header is malformed");
    };
    let pair = match (header.command, header.addresses) {
        (v2::Command::Local, _) | (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some(pair(
            ip.source_address,
            ip.source_port,
            ip.destination_address,
            ip.destination_port,
        )),
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some(pair(
            ip.source_address,
            ip.source_port,
            ip.destination_address,
            ip.destination_port,
        )),
    };
    ProxyStatus::Header {
        consumed,
        source: pair.map(|p| p.0),
        destination: pair.map(|p| p.1),
    }
}

fn pair(from: impl Into<IpAddr>, port: u16, to: impl Into<IpAddr>, to_port: u16) -> (SocketAddr, SocketAddr) {
    (
        SocketAddr::new(from.into(), port),
        SocketAddr::new(to.into(), to_port),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(version_command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(payload.len()).unwrap();
        [V2_START, &[version_command, family], &len.to_be_bytes(), payload].concat()
    }

    fn header(consumed: usize, source: &str, destination: &str) -> ProxyStatus {
        ProxyStatus::Header {
            consumed,
            source: source.parse().ok(),
            destination: destination.parse().ok(),
        }
    }

    #[test]
    fn reads_both_versions_at_every_split() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0, 25];
        let v6 = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]; 2].concat();
        let v6 = [v6.as_slice(), &[0, 80, 0, 25]].concat();
        let with_tlv = [v4.as_slice(), &[0x04, 0, 2, 0, 0]].concat();
        let cases: Vec<(Vec<u8>, &str, &str, &str)> = vec![
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 25\r\n".to_vec(),
                "192.0.2.1:12345",
                "198.51.100.2:25",
                "v1",
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::1 80 25\r\n".to_vec(),
                "[2001:db8::1]:80",
                "[::1]:25",
                "v1, IPv6",
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), "", "", "v1, unknown"),
            (
                b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n".to_vec(),
                "",
                "",
                "v1, unknown with addresses",
            ),
            (v2(0x21, 0x11, &v4), "192.0.2.1:12345", "198.51.100.2:25", "v2"),
            (
                v2(0x21, 0x11, &with_tlv),
                "192.0.2.1:12345",
                "198.51.100.2:25",
                "v2 with an attribute",
            ),
            (
                v2(0x21, 0x21, &v6),
                "[2001:db8::1]:80",
                "[2001:db8::1]:25",
                "v2, IPv6",
            ),
            (v2(0x20, 0x00, &[]), "", "", "v2, LOCAL"),
            (v2(0x20, 0x11, &v4), "", "", "v2, LOCAL with addresses"),
            (v2(0x21, 0x31, &[7; 216]), "", "", "v2, Unix"),
        ];
        for (wire, source, destination, why) in cases {
            for n in 0..wire.len() {
                assert_eq!(
                    proxy_header(&wire[..n]),
                    ProxyStatus::Incomplete,
                    "{why}, {n} octets"
                );
            }
            let want = header(wire.len(), source, destination);
            assert_eq!(proxy_header(&wire), want, "{why}");
            assert_eq!(
                proxy_header(&[&wire, b"EHLO x\r\n".as_slice()].concat()),
                want,
                "{why}, with more behind"
            );
        }
    }

    #[test]
    fn tells_other_protocols_and_broken_headers() {
        let long = [V1_START, &[b'x'; MAX_V1]].concat();
        let huge = [V2_START, &[0x21, 0x11, 0xff, 0xff]].concat();
        let cases: &[(&[u8], bool, &str)] = &[
            (b"EHLO x\r\n", false, "SMTP"),
            (b"PROXIMA\r\n", false, "only looks like one"),
            (b"\r\n\r\nx", false, "only looks like version 2"),
            (b"PROXY TCP4 192.0.2.1\r\n", true, "addresses missing"),
            (b"PROXY TCP4 192.0.2.300 192.0.2.1 1 2\r\n", true, "no address"),
            (b"PROXY TCP4 192.0.2.1 192.0.2.1 1 70000\r\n", true, "no port"),
            (b"PROXY TCP4 192.0.2.1 192.0.2.1 1 2\n", true, "bare LF"),
            (
                b"PROXY TCP4 192.0.2.1 192.0.2.1 1 2 \n",
                true,
                "a space in place of the CR",
            ),
            (&long, true, "no end"),
            (&huge, true, "too long"),
            (&v2(0x31, 0x11, &[0; 12]), true, "version 3"),
            (&v2(0x21, 0x11, &[0; 4]), true, "addresses cut off"),
        ];
        for (wire, invalid, why) in cases {
            let got = proxy_header(wire);
            let fits = if *invalid {
                matches!(got, ProxyStatus::Invalid(_))
            } else {
                got == ProxyStatus::NotProxy
            };
            assert!(fits, "{why}: {got:?}");
        }
    }
}
