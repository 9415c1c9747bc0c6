//! The commands of a client, parsed (RFC 5321 section 4.1.1).

use crate::capabilities::Extensions;
use crate::reply::Reply;

/// Octets of an address: a local part of 64, `@`, a domain of 255 (RFC 5321 section 4.5.3.1), and some mercy for
/// the long local parts of mailing lists.
pub const MAX_ADDRESS: usize = 512;
/// Octets of one XFORWARD or XCLIENT value as it is sent; Postfix takes names of up to 255.
const MAX_ATTRIBUTE: usize = 512;

/// `BODY=` (RFC 6152).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyType {
    /// `7BIT`
    SevenBit,
    /// `8BITMIME`
    EightBitMime,
}

/// `MAIL FROM`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailFrom {
    /// Without the angle brackets; empty for the null sender.
    pub address: String,
    /// `SIZE=` in octets.
    pub size: Option<u64>,
    /// `BODY=`.
    pub body: Option<BodyType>,
    /// `SMTPUTF8`.
    pub smtputf8: bool,
    /// Every parameter as it was spelt, to be passed on.
    pub params: Vec<String>,
}

/// `RCPT TO`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcptTo {
    /// Without the angle brackets.
    pub address: String,
    /// Every parameter as it was spelt, to be passed on.
    pub params: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Helo(String),
    Ehlo(String),
    Mail(MailFrom),
    Rcpt(RcptTo),
    Data,
    Bdat { size: u64, last: bool },
    StartTls,
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
    Xforward(Vec<(String, String)>),
    Xclient(Vec<(String, String)>),
}

impl Command {
    /// True for a command that may only be the last of a group, since the client cannot know what to send next
    /// before it has the reply (RFC 2920 section 3.1; XCLIENT begins the session anew).
    pub(crate) fn ends_group(&self) -> bool {
        matches!(
            self,
            Self::Helo(_) | Self::Ehlo(_) | Self::Data | Self::Noop | Self::Vrfy | Self::Xclient(_)
        )
    }
}

fn syntax(text: &str) -> Reply {
    Reply::new(501, format!("5.5.4 Syntax error: {text}"))
}

/// Reads a command line, without its end.
pub(crate) fn parse(line: &[u8], offered: &Extensions) -> Result<Command, Reply> {
    let line =
        std::str::from_utf8(line).map_err(|_| Reply::new(500, "5.5.2 The command is not UTF-8 text"))?;
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Reply::new(500, "5.5.2 The command holds a control character"));
    }
    let line = line.trim_end();
    let (verb, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let rest = rest.trim();
    match verb.to_ascii_uppercase().as_str() {
        "HELO" => Ok(Command::Helo(host(rest, "HELO hostname")?)),
        "EHLO" => Ok(Command::Ehlo(host(rest, "EHLO hostname")?)),
        "MAIL" => mail(rest, offered).map(Command::Mail),
        "RCPT" => rcpt(rest, offered).map(Command::Rcpt),
        "DATA" => bare(rest, "DATA", Command::Data),
        "BDAT" if offered.chunking => bdat(rest),
        "STARTTLS" => bare(rest, "STARTTLS", Command::StartTls),
        "RSET" => bare(rest, "RSET", Command::Rset),
        "QUIT" => bare(rest, "QUIT", Command::Quit),
        "NOOP" => Ok(Command::Noop),
        "VRFY" => Ok(Command::Vrfy),
        "HELP" => Ok(Command::Help),
        "XFORWARD" if !offered.xforward.is_empty() => {
            attributes(rest, &offered.xforward, "XFORWARD").map(Command::Xforward)
        }
        "XCLIENT" if !offered.xclient.is_empty() => {
            attributes(rest, &offered.xclient, "XCLIENT").map(Command::Xclient)
        }
        _ => Err(Reply::new(500, "5.5.2 Error: command not recognized")),
    }
}

fn bare(rest: &str, verb: &str, command: Command) -> Result<Command, Reply> {
    if rest.is_empty() {
        Ok(command)
    } else {
        Err(syntax(&format!("{verb} takes no argument")))
    }
}

fn host(rest: &str, usage: &str) -> Result<String, Reply> {
    if rest.is_empty() || rest.len() > 255 {
        Err(syntax(usage))
    } else {
        Ok(rest.to_owned())
    }
}

fn bdat(rest: &str) -> Result<Command, Reply> {
    let mut words = rest.split_ascii_whitespace();
    let size = words.next().and_then(|size| size.parse().ok());
    let last = match words.next() {
        None => Some(false),
        Some(word) if word.eq_ignore_ascii_case("LAST") => Some(true),
        Some(_) => None,
    };
    match (size, last, words.next()) {
        (Some(size), Some(last), None) => Ok(Command::Bdat { size, last }),
        _ => Err(syntax("BDAT octets [LAST]")),
    }
}

/// `NAME=value` pairs of XFORWARD and XCLIENT; the values are in xtext (RFC 3461 section 4).
fn attributes(rest: &str, taken: &[String], verb: &str) -> Result<Vec<(String, String)>, Reply> {
    let attribute = |word: &str| {
        let (name, value) = word.split_once('=')?;
        let name = name.to_ascii_uppercase();
        taken.contains(&name).then_some((name, xtext(value)?))
    };
    let attributes: Option<Vec<_>> = rest.split_ascii_whitespace().map(attribute).collect();
    attributes
        .filter(|attributes| !attributes.is_empty())
        .ok_or_else(|| syntax(&format!("{verb} attribute=value...")))
}

/// Decodes xtext: `+` and two hexadecimal digits are an octet. The result is text without control characters.
fn xtext(value: &str) -> Option<String> {
    if value.is_empty() || value.len() > MAX_ATTRIBUTE {
        return None;
    }
    let mut octets = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&octet, behind)) = rest.split_first() {
        rest = behind;
        if octet != b'+' {
            octets.push(octet);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        octets.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = behind;
    }
    let text = String::from_utf8(octets).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

fn mail(rest: &str, offered: &Extensions) -> Result<MailFrom, Reply> {
    let usage = || syntax("MAIL FROM:<address>");
    let (address, params) = path(strip_keyword(rest, "FROM:").ok_or_else(usage)?).ok_or_else(usage)?;
    if address.len() > MAX_ADDRESS {
        return Err(Reply::new(501, "5.1.7 The sender's address is too long"));
    }
    let mut mail = MailFrom {
        address,
        ..MailFrom::default()
    };
    for param in params {
        mail_parameter(&mut mail, &param, offered)?;
        mail.params.push(param);
    }
    if !mail.smtputf8 && !mail.address.is_ascii() {
        return Err(Reply::new(550, "5.6.7 The sender's address needs SMTPUTF8"));
    }
    if let (Some(limit @ 1..), Some(size)) = (offered.size, mail.size)
        && size > limit
    {
        return Err(Reply::new(
            552,
            format!("5.3.4 The message is larger than the limit of {limit} octets"),
        ));
    }
    Ok(mail)
}

fn mail_parameter(mail: &mut MailFrom, param: &str, offered: &Extensions) -> Result<(), Reply> {
    let (name, value) = param.split_once('=').unwrap_or((param, ""));
    match name.to_ascii_uppercase().as_str() {
        "SIZE" if offered.size.is_some() => {
            mail.size = Some(value.parse().map_err(|_| syntax("SIZE=octets"))?);
        }
        "BODY" if offered.eight_bit_mime => {
            mail.body = Some(match value.to_ascii_uppercase().as_str() {
                "7BIT" => BodyType::SevenBit,
                "8BITMIME" => BodyType::EightBitMime,
                _ => return Err(syntax("BODY=7BIT or BODY=8BITMIME")),
            });
        }
        "SMTPUTF8" if offered.smtputf8 && value.is_empty() => mail.smtputf8 = true,
        "RET" | "ENVID" if offered.dsn && !value.is_empty() => {}
        "REQUIRETLS" if offered.requiretls && value.is_empty() => {}
        _ => return Err(unsupported(name)),
    }
    Ok(())
}

fn rcpt(rest: &str, offered: &Extensions) -> Result<RcptTo, Reply> {
    let usage = || syntax("RCPT TO:<address>");
    let (address, params) = path(strip_keyword(rest, "TO:").ok_or_else(usage)?).ok_or_else(usage)?;
    if address.is_empty() {
        return Err(usage());
    }
    if address.len() > MAX_ADDRESS {
        return Err(Reply::new(501, "5.1.3 The recipient's address is too long"));
    }
    for param in &params {
        let (name, value) = param.split_once('=').unwrap_or((param, ""));
        let known = matches!(name.to_ascii_uppercase().as_str(), "NOTIFY" | "ORCPT");
        if !(offered.dsn && known && !value.is_empty()) {
            return Err(unsupported(name));
        }
    }
    Ok(RcptTo { address, params })
}

fn unsupported(name: &str) -> Reply {
    let name: String = name.chars().filter(char::is_ascii_graphic).take(32).collect();
    Reply::new(555, format!("5.5.4 Unsupported parameter: {name}"))
}

fn strip_keyword<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| rest.trim_start())
}

/// The address of a path and the parameters behind it. Tolerates a missing pair of brackets; drops a source route
/// (RFC 5321 appendix C).
fn path(text: &str) -> Option<(String, Vec<String>)> {
    let (address, rest) = match text.strip_prefix('<') {
        Some(inner) => {
            let end = closing_bracket(inner)?;
            (&inner[..end], &inner[end + 1..])
        }
        None => text.split_at(text.find(' ').unwrap_or(text.len())),
    };
    if !(rest.is_empty() || rest.starts_with(' ')) || (address.is_empty() && !text.starts_with('<')) {
        return None;
    }
    let address = match address.strip_prefix('@') {
        Some(route) => route.split_once(':')?.1,
        None => address,
    };
    if !is_one_word(address) {
        return None;
    }
    Some((
        address.to_owned(),
        rest.split_ascii_whitespace().map(str::to_owned).collect(),
    ))
}

/// Whether spaces and angle brackets stand only inside quotes, and every quote is closed: then `<address>` is read
/// everywhere as what it is here.
fn is_one_word(address: &str) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for c in address.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '<' | '>' | '\t' if !quoted => return false,
            _ => {}
        }
    }
    !quoted
}

/// Where the first `>` outside of a quoted local part stands.
fn closing_bracket(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered() -> Extensions {
        Extensions {
            size: Some(1000),
            eight_bit_mime: true,
            smtputf8: true,
            dsn: true,
            chunking: true,
            ..Extensions::default()
        }
    }

    #[test]
    fn addresses() {
        let cases = [
            ("RCPT TO:<a@b>", Some("a@b"), "plain"),
            ("rcpt to: <a@b>", Some("a@b"), "a space after the colon, any case"),
            ("RCPT TO:a@b", Some("a@b"), "no brackets"),
            (
                "RCPT TO:<\"a b>@c\"@d>",
                Some("\"a b>@c\"@d"),
                "a quoted local part",
            ),
            ("RCPT TO:<\"a\\\"b\"@d>", Some("\"a\\\"b\"@d"), "an escaped quote"),
            ("RCPT TO:<@r1,@r2:a@b>", Some("a@b"), "a source route"),
            ("RCPT TO:<Postmaster>", Some("Postmaster"), "no domain"),
            ("RCPT TO:<ü@b>", Some("ü@b"), "UTF-8"),
            ("RCPT TO:<>", None, "no recipient"),
            ("RCPT TO:<a@b", None, "no end"),
            ("RCPT TO:<a@b>x", None, "something behind it"),
            ("RCPT TO:<a @b>", None, "a bare space"),
            ("RCPT TO:<a \"b\"@c>", None, "a bare space in front of quotes"),
            ("RCPT TO:a>b\"@c", None, "a bracket in front of a quote"),
            ("RCPT <a@b>", None, "no TO:"),
            ("RCPT TO:", None, "nothing"),
        ];
        for (line, address, why) in cases {
            let parsed = match parse(line.as_bytes(), &offered()) {
                Ok(Command::Rcpt(rcpt)) => Some(rcpt.address),
                _ => None,
            };
            assert_eq!(parsed.as_deref(), address, "{why}: {line}");
        }
    }

    #[test]
    fn parameters_and_codes() {
        let long = format!("MAIL FROM:<{}@b>", "a".repeat(600));
        let cases = [
            ("MAIL FROM:<> SIZE=10 BODY=8BITMIME", 0),
            ("MAIL FROM:<a@b> SMTPUTF8 RET=HDRS ENVID=x", 0),
            ("MAIL FROM:<a@b> SIZE=1001", 552),
            ("MAIL FROM:<a@b> SIZE=x", 501),
            ("MAIL FROM:<a@b> BODY=BINARYMIME", 501),
            ("MAIL FROM:<a@b> AUTH=<>", 555),
            ("MAIL FROM:<ü@b>", 550),
            ("MAIL FROM:<ü@b> SMTPUTF8", 0),
            ("RCPT TO:<a@b> NOTIFY=NEVER", 0),
            ("RCPT TO:<a@b> FOO=1", 555),
            (long.as_str(), 501),
            ("DATA now", 501),
            ("BDAT 10 LAST", 0),
            ("BDAT ten", 501),
            ("EHLO", 501),
            ("EXPN x", 500),
            ("NOOP \u{7}", 500),
        ];
        for (line, code) in cases {
            let parsed = parse(line.as_bytes(), &offered());
            assert_eq!(parsed.err().map_or(0, |reply| reply.code()), code, "{line}");
        }
        let nothing = Extensions::default();
        assert_eq!(
            parse(b"MAIL FROM:<a> SIZE=1", &nothing).unwrap_err().code(),
            555,
            "not offered"
        );
        assert_eq!(parse(b"NOOP \xff", &offered()).unwrap_err().code(), 500);
    }
}
