//! What the benchmarks are fed with.
//!
//! Each message is what it would be on the wire's inner side: lines that end in CRLF, the same in every run.

pub mod table;

/// Octets of a short message: a notification.
pub const SHORT: usize = 10 * 1024;
/// Octets of a long one: about the mean of real mail with its attachments.
pub const LONG: usize = 75 * 1024;

/// What the lines of a message look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// An attachment: 76 characters of base64, never a dot in front.
    Base64,
    /// Prose: lines of 20 to 78 characters, one in thirty begins with a dot.
    Prose,
}

/// A message of at least `octets` octets, at most one line longer; every line ends in CRLF.
pub fn message(lines: Lines, octets: usize) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(octets + 80);
    let mut seed = 0x9e37_79b9_u32;
    for line in 0_usize.. {
        if text.len() >= octets {
            break;
        }
        let length = match lines {
            Lines::Base64 => 76,
            Lines::Prose => 20 + line * 7 % 59,
        };
        if lines == Lines::Prose && line % 30 == 29 {
            text.push(b'.');
        }
        for _ in 0..length {
            // xorshift32: any text will do that no branch predictor learns.
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            text.push(ALPHABET[seed as usize % ALPHABET.len()]);
        }
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// The same message as a careless sender writes it: every line ends in LF alone, the end of data as it must be.
pub fn with_bare_lf(message: &[u8]) -> Vec<u8> {
    let mut wire: Vec<u8> = message.iter().copied().filter(|octet| *octet != b'\r').collect();
    wire.extend_from_slice(b"\r\n.\r\n");
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_they_say() {
        for lines in [Lines::Base64, Lines::Prose] {
            for octets in [SHORT, LONG] {
                let text = message(lines, octets);
                assert!(
                    (octets..octets + 82).contains(&text.len()),
                    "{lines:?}: {}",
                    text.len()
                );
                assert!(text.ends_with(b"\r\n") && text == message(lines, octets));
                let dots = text.windows(3).filter(|w| w == b"\r\n." || w == b"\n..").count();
                assert_eq!(dots > 0, lines == Lines::Prose, "{lines:?}");
                let bare = with_bare_lf(&text);
                assert_eq!(
                    bare.iter().filter(|b| **b == b'\r').count(),
                    2,
                    "only around the final dot"
                );
            }
        }
    }
}
