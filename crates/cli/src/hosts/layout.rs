//! The screens of `tophosts` and `hoststatus`, as the original prints them. Times are UTC.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use tdc_core::maillog::asyncos_time;

/// One line of `tophosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: String,
    /// As of the last attempt to connect.
    pub(super) down: bool,
    pub(super) active: u64,
    pub(super) connections: u64,
    pub(super) delivered: u64,
    /// Events: a copy may soft bounce more than once.
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// What `hoststatus` says more.
#[derive(Clone, Debug)]
pub(super) struct Status {
    pub(super) host: Host,
    /// It was ever tried.
    pub(super) tried: bool,
    pub(super) dns: u64,
    pub(super) reply: u64,
    pub(super) expired: u64,
    pub(super) other: u64,
    pub(super) possible: u64,
    pub(super) attempted: u64,
    pub(super) oldest: Option<Duration>,
    pub(super) last_activity: Option<SystemTime>,
    pub(super) last_error: Option<(String, SystemTime)>,
}

/// Least width of the host's name.
const NAME: usize = 24;
/// The columns behind it: least width, and the two lines of the header.
const COLUMNS: [(usize, &str, &str); 5] = [
    (7, "Active", "Recip."),
    (7, "Conn.", "Out"),
    (10, "Deliv.", "Recip."),
    (9, "Soft", "Bounced"),
    (9, "Hard", "Bounced"),
];
/// Where the numbers of `hoststatus` end.
const NUMBERS: usize = 46;

/// The screen of `tophosts`.
pub(super) fn top_hosts(now: SystemTime, hosts: &[Host]) -> String {
    let rows: Vec<[String; 5]> = hosts
        .iter()
        .map(|host| {
            [
                host.active,
                host.connections,
                host.delivered,
                host.soft,
                host.hard,
            ]
            .map(thousands)
        })
        .collect();
    let name = hosts
        .iter()
        .map(|host| host.name.len())
        .max()
        .unwrap_or(0)
        .max(NAME);
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].len() + 1).max().unwrap_or(0);
        longest.max(COLUMNS[column].0)
    };
    let mut text = format!(
        "Status as of:                {}\nHosts marked with '*' were down as of the last delivery attempt.\n\n{:name$}    ",
        time(now),
        ""
    );
    let mut second = format!("#   {:name$}", "Recipient Host");
    for (column, (_, above, below)) in COLUMNS.into_iter().enumerate() {
        let width = width(column);
        let _ = write!(text, "{above:>width$}");
        let _ = write!(second, "{below:>width$}");
    }
    let _ = write!(text, "\n{second}");
    for (rank, (host, row)) in hosts.iter().zip(&rows).enumerate() {
        let rank = format!("{}{}", rank + 1, if host.down { "*" } else { "" });
        let _ = write!(text, "\n{rank:<3} {:name$}", host.name);
        for (column, number) in row.iter().enumerate() {
            let width = width(column);
            let _ = write!(text, "{number:>width$}");
        }
    }
    text
}

/// The screen of `hoststatus`.
pub(super) fn host_status(now: SystemTime, status: &Status) -> String {
    let Status {
        host,
        tried,
        dns,
        reply,
        expired,
        other,
        possible,
        attempted,
        oldest,
        last_activity,
        last_error,
    } = status;
    let state = match (host.down, tried) {
        (true, _) => "down",
        (false, true) => "up",
        (false, false) => "unknown",
    };
    let mut text = format!(
        "Host mail status for: '{}'\nStatus as of:         {}\nHost up/down:         {state}\n",
        host.name,
        time(now)
    );
    let lines: [(&str, Option<u64>); 20] = [
        ("", None),
        ("Counters:", None),
        ("  Queue", None),
        ("    Soft Bounced Events", Some(host.soft)),
        ("  Completion", None),
        ("    Completed Recipients", Some(host.hard + host.delivered)),
        ("      Hard Bounced Recipients", Some(host.hard)),
        ("        DNS Hard Bounces", Some(*dns)),
        ("        5XX Hard Bounces", Some(*reply)),
        ("        Expired Hard Bounces", Some(*expired)),
        ("        Other Hard Bounces", Some(*other)),
        ("      Delivered Recipients", Some(host.delivered)),
        ("        Possible Deliveries", Some(*possible)),
        ("", None),
        ("Gauges:", None),
        ("  Queue", None),
        ("    Active Recipients", Some(host.active)),
        (
            "      Unattempted Recipients",
            Some(host.active.saturating_sub(*attempted)),
        ),
        ("      Attempted Recipients", Some(*attempted)),
        ("  Connections", None),
    ];
    let connections = ("    Current Outbound Connections", Some(host.connections));
    for (label, number) in lines.into_iter().chain([connections]) {
        let _ = match number {
            Some(number) => {
                let width = NUMBERS.saturating_sub(label.len());
                writeln!(text, "{label}{:>width$}", thousands(number))
            }
            None => writeln!(text, "{label}"),
        };
    }
    let oldest = oldest.map_or_else(|| "No Messages".to_owned(), age);
    let last = last_activity.map_or_else(|| "No Activity".to_owned(), time);
    let _ = write!(
        text,
        "\nOldest Message        {oldest}\nLast Activity         {last}"
    );
    if let Some((error, at)) = last_error {
        let _ = write!(
            text,
            "\n\nLast Error:\n----------\n{}\n(at {})\n----------",
            printable(error),
            time(*at)
        );
    }
    text
}

/// An error may hold what a stranger sent: nothing of it reaches the terminal but text.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// `104,163`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn time(at: SystemTime) -> String {
    let unix = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    format!("{} GMT", asyncos_time(unix))
}

/// `1 hour, 5 mins, 3 secs`; units that are zero are left out.
fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [
        (seconds / 3600, "hour"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "sec"),
    ];
    let mut text = Vec::new();
    for (count, unit) in parts {
        if count > 0 || (unit == "sec" && text.is_empty()) {
            text.push(format!("{count} {unit}{}", if count == 1 { "" } else { "s" }));
        }
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(unix)
    }

    fn host(name: &str, down: bool, numbers: [u64; 5]) -> Host {
        let [active, connections, delivered, soft, hard] = numbers;
        Host {
            name: name.to_owned(),
            down,
            active,
            connections,
            delivered,
            soft,
            hard,
        }
    }

    #[test]
    fn top_hosts_as_the_original_shows_them() {
        let hosts = [
            host("the.tdc.queue", true, [17, 6, 104_163, 5, 2]),
            host("etd-eu", false, [12, 3, 104_000, 0, 0]),
            host("etd-finance", true, [5, 3, 163, 5, 2]),
        ];
        let expected = "\
Status as of:                Thu Aug 13 14:29:42 2020 GMT
Hosts marked with '*' were down as of the last delivery attempt.

                             Active  Conn.    Deliv.     Soft     Hard
#   Recipient Host           Recip.    Out    Recip.  Bounced  Bounced
1*  the.tdc.queue                17      6   104,163        5        2
2   etd-eu                       12      3   104,000        0        0
3*  etd-finance                   5      3       163        5        2";
        assert_eq!(top_hosts(at(1_597_328_982), &hosts), expected);
    }

    #[test]
    fn columns_grow_with_what_they_hold() {
        let long = "a-name-that-is-longer-than-any-usual-one";
        let text = top_hosts(at(0), &[host(long, false, [u64::MAX; 5])]);
        let last = text.lines().last().unwrap_or_default();
        let words: Vec<&str> = last.split_whitespace().collect();
        assert_eq!(words.len(), 7, "still apart: {last}");
        assert_eq!(words[2], "18,446,744,073,709,551,615");
        let lengths: Vec<usize> = text.lines().skip(3).map(str::len).collect();
        assert!(
            lengths.windows(2).all(|pair| pair[0] == pair[1]),
            "all lines end alike: {lengths:?}"
        );
    }

    #[test]
    fn host_status_as_the_original_shows_it() {
        let status = Status {
            host: host("the.tdc.queue", true, [1_234, 6, 104_163, 5, 9]),
            tried: true,
            dns: 1,
            reply: 4,
            expired: 3,
            other: 1,
            possible: 2,
            attempted: 34,
            oldest: Some(Duration::from_secs(65)),
            last_activity: Some(at(1_597_329_437)),
            last_error: Some(("connection refused\x1b[2J".to_owned(), at(1_597_329_400))),
        };
        let expected = "\
Host mail status for: 'the.tdc.queue'
Status as of:         Thu Aug 13 14:37:17 2020 GMT
Host up/down:         down

Counters:
  Queue
    Soft Bounced Events                      5
  Completion
    Completed Recipients               104,172
      Hard Bounced Recipients                9
        DNS Hard Bounces                     1
        5XX Hard Bounces                     4
        Expired Hard Bounces                 3
        Other Hard Bounces                   1
      Delivered Recipients             104,163
        Possible Deliveries                  2

Gauges:
  Queue
    Active Recipients                    1,234
      Unattempted Recipients             1,200
      Attempted Recipients                  34
  Connections
    Current Outbound Connections             6

Oldest Message        1 min, 5 secs
Last Activity         Thu Aug 13 14:37:17 2020 GMT

Last Error:
----------
connection refused?[2J
(at Thu Aug 13 14:36:40 2020 GMT)
----------";
        assert_eq!(host_status(at(1_597_329_437), &status), expected);
        let fresh = Status {
            host: host("etd-eu", false, [0; 5]),
            tried: false,
            oldest: None,
            last_activity: None,
            last_error: None,
            ..status
        };
        let text = host_status(at(0), &fresh);
        assert!(text.contains("Host up/down:         unknown\n"), "{text}");
        assert!(
            text.ends_with("Oldest Message        No Messages\nLast Activity         No Activity"),
            "{text}"
        );
    }

    #[test]
    fn numbers_and_ages() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(thousands(number), text);
        }
        for (seconds, text) in [
            (0, "0 secs"),
            (1, "1 sec"),
            (3_600, "1 hour"),
            (3_725, "1 hour, 2 mins, 5 secs"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
