//! The sample mail of the demonstration, and what must become of it.

use std::fmt::Write as _;

/// One message.
pub(super) struct Sample {
    pub(super) name: &'static str,
    pub(super) from: &'static str,
    pub(super) to: &'static [&'static str],
    pub(super) eight_bit: bool,
    pub(super) bytes: Vec<u8>,
    /// The policies that take its recipients, for the table.
    pub(super) policy: &'static str,
    /// For each copy the intake, and the recipients that it lists.
    pub(super) copies: &'static [(&'static str, &'static [&'static str])],
}

const ANN: &str = "ann@company.example";
const BOB: &str = "bob@company.example";
const CFO: &str = "cfo@finance.company.example";
const INTERN: &str = "intern@finance.company.example";
const HR: &str = "talent@hr.company.example";
const PARTNER: &str = "sales@partner.example";
const GLOBAL: &[(&str, &[&str])] = &[("etd-eu", &[ANN])];

/// All of them, in the order in which they are sent.
pub(super) fn samples() -> Vec<Sample> {
    let staff = |name, bytes: Vec<u8>| Sample {
        name,
        from: PARTNER,
        to: &[ANN],
        eight_bit: !bytes.is_ascii(),
        bytes,
        policy: "staff (Global)",
        copies: GLOBAL,
    };
    let to = |name, to, policy, copies| Sample {
        to,
        policy,
        copies,
        ..staff(name, text(name, "Hello.\r\n"))
    };
    vec![
        staff(
            "plain text",
            text("plain", "Good morning,\r\n\r\nsee you at ten.\r\n"),
        ),
        staff("multipart with attachment", multipart()),
        staff(
            "8-bit text",
            text("8-bit", "Grüße aus Zürich, 東京 и Москва.\r\n"),
        ),
        staff("DKIM-signed", dkim()),
        staff("5 MB attachment", attachment(5 * 1024 * 1024)),
        staff(
            "empty body",
            b"From: sales@partner.example\r\nSubject: empty\r\n\r\n".to_vec(),
        ),
        staff("nothing at all", Vec::new()),
        staff(
            "leading dots",
            text("dots", ".\r\n..\r\n.hidden\r\n...\r\n\r\n.\r\nend\r\n"),
        ),
        Sample {
            from: "",
            ..staff("null sender", text("bounce", "Undelivered mail.\r\n"))
        },
        to(
            "finance: another intake",
            &[CFO],
            "finance (Custom)",
            &[("etd-finance", &[CFO])],
        ),
        to("human resources: none", &[HR], "human-resources (Disabled)", &[]),
        to("excluded from finance", &[INTERN], "no policy", &[]),
        to(
            "five recipients",
            &[ANN, CFO, HR, INTERN, BOB],
            "staff, finance, human-resources",
            &[("etd-eu", &[ANN, BOB]), ("etd-finance", &[CFO])],
        ),
        Sample {
            policy: "staff, but not clean",
            copies: &[],
            ..staff(
                "spam by its header",
                [b"X-Spam-Flag: YES\r\n".as_slice(), &text("spam", "Win!\r\n")].concat(),
            )
        },
    ]
}

fn header(subject: &str) -> String {
    format!(
        "From: Sales <sales@partner.example>\r\nTo: Ann <ann@company.example>\r\nSubject: {subject}\r\n\
         Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{subject}@partner.example>\r\nMIME-Version: 1.0\r\n"
    )
}

fn text(subject: &str, body: &str) -> Vec<u8> {
    let subject = subject.replace([' ', ':'], "-");
    format!(
        "{}Content-Type: text/plain; charset=utf-8\r\n\r\n{body}",
        header(&subject)
    )
    .into_bytes()
}

fn multipart() -> Vec<u8> {
    let mut message = header("multipart");
    message.push_str("Content-Type: multipart/mixed; boundary=\"outer\"\r\n\r\nThis is MIME.\r\n--outer\r\n");
    message.push_str(
        "Content-Type: multipart/alternative; boundary=inner\r\n\r\n--inner\r\n\r\nplain\r\n--inner\r\n",
    );
    message.push_str("Content-Type: text/html\r\n\r\n<p>rich</p>\r\n--inner--\r\n--outer\r\n");
    message.push_str(
        "Content-Type: application/pdf; name=offer.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n",
    );
    message.push_str(&base64_lines(3000));
    message.push_str("--outer--\r\n");
    message.into_bytes()
}

/// A message whose signature breaks if one octet of it changes.
fn dkim() -> Vec<u8> {
    let mut message = String::from(
        "DKIM-Signature: v=1; a=rsa-sha256; c=simple/simple; d=partner.example; s=mail;\r\n\
         \th=From : To : Subject : Date; bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n\
         \tb=dzdVyOfAKCdLXdJOc9G2q8LoXSlEniSbav+yuU4zGeeruD00lszZVoG4ZHRNiYzR\r\n\t =\r\n",
    );
    message.push_str(&header("signed"));
    message.push_str("X-Odd:   spaces \t kept  \r\n\r\ntrailing space \r\n\r\n\r\n");
    message.into_bytes()
}

fn attachment(size: usize) -> Vec<u8> {
    let mut message = header("large");
    message.push_str("Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n");
    message.push_str(&base64_lines(size));
    message.into_bytes()
}

/// About `size` octets that look like base64, in lines of 76, never the same twice.
fn base64_lines(size: usize) -> String {
    let mut lines = String::with_capacity(size + 100);
    let mut number = 0_u64;
    while lines.len() < size {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let _ = write!(
            lines,
            "{number:016x}{:016x}{:016x}{:028x}\r\n",
            number >> 7,
            number >> 13,
            number >> 3
        );
    }
    lines
}
