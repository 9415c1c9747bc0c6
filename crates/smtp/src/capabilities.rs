//! Service extensions: what an EHLO reply offers (RFC 5321 section 4.1.1.1).

use crate::reply::Reply;

/// What a server offers. The default offers nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 1870: the largest message in octets; 0: no fixed limit.
    pub size: Option<u64>,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 2034.
    pub enhanced_status_codes: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 8689.
    pub requiretls: bool,
    /// Postfix XFORWARD: the attributes that are taken.
    pub xforward: Vec<String>,
    /// Postfix XCLIENT: the attributes that are taken.
    pub xclient: Vec<String>,
}

impl Extensions {
    /// Reads the reply to EHLO. Unknown keywords are passed over.
    pub fn from_reply(reply: &Reply) -> Self {
        let mut extensions = Self::default();
        for line in &reply.lines()[1..] {
            let mut words = line.split_ascii_whitespace();
            let Some(keyword) = words.next() else { continue };
            match keyword.to_ascii_uppercase().as_str() {
                "PIPELINING" => extensions.pipelining = true,
                "SIZE" => extensions.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
                "8BITMIME" => extensions.eight_bit_mime = true,
                "ENHANCEDSTATUSCODES" => extensions.enhanced_status_codes = true,
                "STARTTLS" => extensions.starttls = true,
                "CHUNKING" => extensions.chunking = true,
                "SMTPUTF8" => extensions.smtputf8 = true,
                "DSN" => extensions.dsn = true,
                "REQUIRETLS" => extensions.requiretls = true,
                "XFORWARD" => extensions.xforward = words.map(str::to_ascii_uppercase).collect(),
                "XCLIENT" => extensions.xclient = words.map(str::to_ascii_uppercase).collect(),
                _ => {}
            }
        }
        extensions
    }

    /// What both offer; of two sizes the smaller.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let size = match (self.size, other.size) {
            (Some(0), size) | (size, Some(0)) => size,
            (Some(a), Some(b)) => Some(a.min(b)),
            (None, _) | (_, None) => None,
        };
        Self {
            pipelining: self.pipelining && other.pipelining,
            size,
            eight_bit_mime: self.eight_bit_mime && other.eight_bit_mime,
            enhanced_status_codes: self.enhanced_status_codes && other.enhanced_status_codes,
            starttls: self.starttls && other.starttls,
            chunking: self.chunking && other.chunking,
            smtputf8: self.smtputf8 && other.smtputf8,
            dsn: self.dsn && other.dsn,
            requiretls: self.requiretls && other.requiretls,
            xforward: common(&self.xforward, &other.xforward),
            xclient: common(&self.xclient, &other.xclient),
        }
    }

    /// The reply to EHLO that offers this.
    pub fn to_reply(&self, hostname: &str) -> Reply {
        let mut lines = vec![hostname.to_owned()];
        let flags = [
            (self.pipelining, "PIPELINING"),
            (self.eight_bit_mime, "8BITMIME"),
            (self.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
            (self.starttls, "STARTTLS"),
            (self.chunking, "CHUNKING"),
            (self.smtputf8, "SMTPUTF8"),
            (self.dsn, "DSN"),
            (self.requiretls, "REQUIRETLS"),
        ];
        lines.extend(
            flags
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, keyword)| (*keyword).to_owned()),
        );
        match self.size {
            Some(0) => lines.push("SIZE".to_owned()),
            Some(limit) => lines.push(format!("SIZE {limit}")),
            None => {}
        }
        for (keyword, attributes) in [("XFORWARD", &self.xforward), ("XCLIENT", &self.xclient)] {
            if !attributes.is_empty() {
                lines.push(format!("{keyword} {}", attributes.join(" ")));
            }
        }
        Reply::multi(250, lines)
    }
}

fn common(these: &[String], those: &[String]) -> Vec<String> {
    these
        .iter()
        .filter(|name| those.contains(name))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_offer() {
        let reply = |lines: &[&str]| Extensions::from_reply(&Reply::multi(250, [&["host"], lines].concat()));
        let cases: [(&[&str], &[&str], &[&str]); 5] = [
            (&["PIPELINING", "DSN"], &["DSN", "CHUNKING"], &["DSN"]),
            (&["SIZE 10"], &["SIZE 20"], &["SIZE 10"]),
            (&["SIZE 10"], &["SIZE"], &["SIZE 10"]),
            (&["SIZE 10"], &[], &[]),
            (
                &["XFORWARD NAME ADDR"],
                &["XFORWARD ADDR HELO"],
                &["XFORWARD ADDR"],
            ),
        ];
        for (a, b, both) in cases {
            assert_eq!(reply(a).intersection(&reply(b)), reply(both), "{a:?} and {b:?}");
            assert_eq!(reply(b).intersection(&reply(a)), reply(both), "{b:?} and {a:?}");
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let all = Extensions {
            pipelining: true,
            size: Some(1000),
            eight_bit_mime: true,
            enhanced_status_codes: true,
            starttls: true,
            chunking: true,
            smtputf8: true,
            dsn: true,
            requiretls: true,
            xforward: vec!["NAME".into(), "ADDR".into()],
            xclient: vec!["ADDR".into(), "LOGIN".into()],
        };
        for extensions in [Extensions::default(), all] {
            assert_eq!(Extensions::from_reply(&extensions.to_reply("host")), extensions);
        }
        let odd = Reply::multi(250, ["PIPELINING", "size many", "8bitmime", "X-UNKNOWN a", ""]);
        let expected = Extensions {
            size: Some(0),
            eight_bit_mime: true,
            ..Extensions::default()
        };
        assert_eq!(
            Extensions::from_reply(&odd),
            expected,
            "the first line is the host's name"
        );
    }
}
