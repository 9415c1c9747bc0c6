//! Who sends: what the connection itself shows, or what a trusted proxy says in its place.
//!
//! `XCLIENT` (Postfix XCLIENT_README) puts another client in the place of the connection's own, for every purpose.
//! `XFORWARD` (Postfix XFORWARD_README) only tells of a client further away, for one message: it is passed on to the
//! next hop, and it is the sender in a copy, but limits and `--allow-from` do not look at it.

use std::net::{IpAddr, SocketAddr};

use tdc_smtp::Reply;

/// Attributes of XCLIENT that are taken.
pub(crate) const XCLIENT: &[&str] = &["NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN"];
/// Attributes of XFORWARD that are taken.
pub(crate) const XFORWARD: &[&str] = &["NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"];
/// The value of what a proxy does not know.
const UNAVAILABLE: &str = "[UNAVAILABLE]";
/// The same, for now.
const TEMPORARILY_UNAVAILABLE: &str = "[TEMPUNAVAIL]";

/// The sender of one message.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) icid: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) helo: String,
    pub(crate) esmtp: bool,
    pub(crate) name: Option<String>,
    pub(crate) forwarded: Option<Attributes>,
}

/// What a proxy says of a client. `None`: it does not know, or does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) name: Option<String>,
    pub(crate) addr: Option<IpAddr>,
    pub(crate) port: Option<u16>,
    pub(crate) esmtp: Option<bool>,
    pub(crate) helo: Option<String>,
    pub(crate) login: Option<String>,
    ident: Option<String>,
    local: Option<bool>,
}

impl Attributes {
    /// Reads attributes, further to those that are there already; an attribute may be said again.
    pub(crate) fn read(&mut self, attributes: Vec<(String, String)>) -> Result<(), Reply> {
        for (name, value) in attributes {
            let value = Some(value).filter(|value| {
                !value.eq_ignore_ascii_case(UNAVAILABLE)
                    && !value.eq_ignore_ascii_case(TEMPORARILY_UNAVAILABLE)
            });
            let bad = || Reply::new(501, format!("5.5.4 Bad {name} attribute value"));
            match name.as_str() {
                "NAME" => self.name = value,
                "ADDR" => self.addr = value.map(|value| address(&value).ok_or_else(bad)).transpose()?,
                "PORT" => self.port = value.map(|value| value.parse().map_err(|_| bad())).transpose()?,
                "PROTO" => {
                    self.esmtp = match value.map(|value| value.to_ascii_uppercase()).as_deref() {
                        Some("SMTP") => Some(false),
                        Some("ESMTP") => Some(true),
                        None => None,
                        Some(_) => return Err(bad()),
                    }
                }
                "HELO" => self.helo = value,
                "LOGIN" => self.login = value,
                "IDENT" => self.ident = value,
                "SOURCE" => {
                    self.local = match value.map(|value| value.to_ascii_uppercase()).as_deref() {
                        Some("LOCAL") => Some(true),
                        Some("REMOTE") => Some(false),
                        None => None,
                        Some(_) => return Err(bad()),
                    }
                }
                _ => return Err(bad()),
            }
        }
        Ok(())
    }
}

/// `192.0.2.1` or `IPV6:2001:db8::1`; the prefix may be missing, as some proxies leave it out.
fn address(value: &str) -> Option<IpAddr> {
    let bare = value
        .split_at_checked(5)
        .filter(|(prefix, _)| prefix.eq_ignore_ascii_case("IPV6:"))
        .map_or(value, |(_, bare)| bare);
    bare.parse().ok()
}

impl Client {
    /// The address of the system that sent the message, as far as it is known.
    pub(crate) fn sender_ip(&self) -> IpAddr {
        let forwarded = self.forwarded.as_ref().and_then(|forwarded| forwarded.addr);
        forwarded.unwrap_or(self.peer.ip()).to_canonical()
    }

    /// Every attribute of XFORWARD that the next hop may want to know.
    /// IDENT is the message's id, as in a queue, unless it comes from a proxy.
    pub(crate) fn xforward(&self, mid: u64) -> Vec<(&'static str, String)> {
        let known = |value: Option<String>| value.unwrap_or_else(|| UNAVAILABLE.to_owned());
        let proto = |esmtp: bool| if esmtp { "ESMTP" } else { "SMTP" }.to_owned();
        if let Some(forwarded) = &self.forwarded {
            let source = if forwarded.local == Some(true) {
                "LOCAL"
            } else {
                "REMOTE"
            };
            return vec![
                ("NAME", known(forwarded.name.clone())),
                ("ADDR", known(forwarded.addr.map(literal))),
                ("PORT", known(forwarded.port.map(|port| port.to_string()))),
                ("PROTO", known(forwarded.esmtp.map(proto))),
                ("HELO", known(forwarded.helo.clone())),
                (
                    "IDENT",
                    forwarded.ident.clone().unwrap_or_else(|| mid.to_string()),
                ),
                ("SOURCE", source.to_owned()),
            ];
        }
        vec![
            ("NAME", known(self.name.clone())),
            ("ADDR", literal(self.peer.ip())),
            ("PORT", self.peer.port().to_string()),
            ("PROTO", proto(self.esmtp)),
            (
                "HELO",
                known(Some(self.helo.clone()).filter(|helo| !helo.is_empty())),
            ),
            ("IDENT", mid.to_string()),
            ("SOURCE", "REMOTE".to_owned()),
        ]
    }
}

fn literal(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("IPV6:{ip}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Attributes, Reply> {
        let pairs = text.split_ascii_whitespace().map(|word| {
            word.split_once('=')
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .unwrap()
        });
        let mut attributes = Attributes::default();
        attributes.read(pairs.collect()).map(|()| attributes)
    }

    #[test]
    fn attributes_are_read() {
        let cases = [
            (
                "ADDR=192.0.2.1 PORT=4711",
                Some(("192.0.2.1", Some(4711))),
                "IPv4",
            ),
            ("ADDR=IPV6:2001:db8::1", Some(("2001:db8::1", None)), "IPv6"),
            (
                "ADDR=ipv6:2001:db8::1",
                Some(("2001:db8::1", None)),
                "in any case",
            ),
            (
                "ADDR=2001:db8::1",
                Some(("2001:db8::1", None)),
                "without its prefix",
            ),
            ("ADDR=mx.example", None, "a name is no address"),
            ("ADDR=192.0.2.1 PORT=70000", None, "no port"),
            ("ADDR=192.0.2.1 PROTO=HTTP", None, "no protocol"),
            ("ADDR=192.0.2.1 SOURCE=MARS", None, "no source"),
        ];
        for (text, expected, why) in cases {
            let read = read(text).ok().map(|a| (a.addr.unwrap().to_string(), a.port));
            let expected = expected.map(|(addr, port)| (addr.to_owned(), port));
            assert_eq!(read, expected, "{why}: {text}");
        }
        let nothing = read("NAME=[UNAVAILABLE] ADDR=[TEMPUNAVAIL] HELO=[unavailable]");
        assert_eq!(nothing.unwrap(), Attributes::default());
    }

    #[test]
    fn the_next_hop_hears_of_the_client_or_of_the_one_behind_it() {
        let mut client = Client {
            icid: 1,
            peer: "[::ffff:192.0.2.1]:4711".parse().unwrap(),
            helo: "mx.example".into(),
            esmtp: true,
            name: None,
            forwarded: None,
        };
        let text = |client: &Client| {
            let pairs = client.xforward(7);
            pairs
                .iter()
                .map(|(n, v)| format!("{n}={v}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            text(&client),
            "NAME=[UNAVAILABLE] ADDR=192.0.2.1 PORT=4711 PROTO=ESMTP HELO=mx.example IDENT=7 SOURCE=REMOTE"
        );
        assert_eq!(client.sender_ip().to_string(), "192.0.2.1");
        client.forwarded = read("NAME=spike.example ADDR=IPV6:2001:db8::7 PROTO=SMTP").ok();
        assert_eq!(
            text(&client),
            "NAME=spike.example ADDR=IPV6:2001:db8::7 PORT=[UNAVAILABLE] PROTO=SMTP HELO=[UNAVAILABLE] \
             IDENT=7 SOURCE=REMOTE"
        );
        assert_eq!(client.sender_ip().to_string(), "2001:db8::7");
    }
}
