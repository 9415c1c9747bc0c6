//! `tdc tophosts` and `tdc hoststatus`: the counters of the queue as the original's operators know them.
//!
//! Everything is read from Redis, so that any machine that reaches it can ask. `the.tdc.queue` is the sum of all
//! intakes, as the original has one queue whatever the intake; each intake stands beside it under its own name.

mod layout;

use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use tdc_queue::{HardBounces, JournalQueue, LeaseStatus, QueueError, Stats};

use self::layout::{Host, Status};
use crate::args::RedisArgs;
use crate::error::CliError;
use crate::process;
use crate::say;

/// The name of all intakes together.
const WHOLE: &str = "the.tdc.queue";

#[derive(Debug, Args)]
pub(crate) struct TopHostsArgs {
    /// What decides the order, the largest first
    #[arg(value_enum, default_value = "active_rcpts", value_name = "ORDER")]
    order: Order,
    #[command(flatten)]
    redis: RedisArgs,
    /// How many hosts are shown
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
}

#[derive(Debug, Args)]
pub(crate) struct HostStatusArgs {
    /// the.tdc.queue, or the name of an intake
    #[arg(value_name = "HOST")]
    host: String,
    #[command(flatten)]
    redis: RedisArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Active recipients
    #[value(name = "active_rcpts")]
    Active,
    /// Connections out
    #[value(name = "conn_out")]
    Connections,
    /// Delivered recipients
    #[value(name = "deliv_rcpts")]
    Delivered,
    /// Soft bounced events
    #[value(name = "soft_bounced")]
    Soft,
    /// Hard bounced recipients
    #[value(name = "hard_bounced")]
    Hard,
}

pub(crate) async fn top(args: TopHostsArgs) -> Result<(), CliError> {
    let queue = process::redis(&args.redis.redis).await?;
    let all = read(&*queue).await.map_err(unread)?;
    let mut hosts: Vec<Host> = all.iter().map(Known::host).collect();
    hosts.push(merge(&all).host());
    say(layout::top_hosts(
        SystemTime::now(),
        &order(hosts, args.order, args.top),
    ));
    Ok(())
}

pub(crate) async fn status(args: HostStatusArgs) -> Result<(), CliError> {
    let queue = process::redis(&args.redis.redis).await?;
    let all = read(&*queue).await.map_err(unread)?;
    let known = if args.host == WHOLE {
        merge(&all)
    } else {
        let names: Vec<&str> = all.iter().map(|known| &*known.name).collect();
        let unknown = || {
            CliError::text(format!(
                "no host {:?}: there are {WHOLE}{}{}",
                args.host,
                if names.is_empty() {
                    ", and no intake yet"
                } else {
                    ", "
                },
                names.join(", ")
            ))
        };
        let found = all.iter().find(|known| known.name == args.host);
        found.ok_or_else(unknown)?.clone()
    };
    say(layout::host_status(SystemTime::now(), &known.status()));
    Ok(())
}

fn unread(error: QueueError) -> CliError {
    CliError::new("cannot read the queue (--redis)", error)
}

/// What is known of one intake, or of all together.
#[derive(Clone, Debug, Default)]
struct Known {
    name: String,
    stats: Stats,
    leases: LeaseStatus,
}

async fn read(queue: &dyn JournalQueue) -> Result<Vec<Known>, QueueError> {
    let mut all = Vec::new();
    for name in queue.intakes().await? {
        let (stats, leases) = (queue.stats(&name).await?, queue.leases(&name).await?);
        all.push(Known { name, stats, leases });
    }
    Ok(all)
}

/// The sum. It is down when one of them is: the rows beside it say which.
fn merge(all: &[Known]) -> Known {
    let mut sum = Known {
        name: WHOLE.to_owned(),
        ..Known::default()
    };
    for Known { stats, leases, .. } in all {
        let Stats {
            ready,
            in_flight,
            retrying,
            prepared,
            oldest,
            active_recipients,
            committed,
            in_doubt,
            delivered,
            hard_bounced,
            possible_delivery,
            expired,
            soft_bounced,
            aborted,
            hard,
            replayed,
            purged,
        } = stats;
        let HardBounces {
            reply,
            dns,
            tls,
            network,
            other,
        } = hard;
        let to = &mut sum.stats;
        let pairs = [
            (&mut to.ready, ready),
            (&mut to.in_flight, in_flight),
            (&mut to.retrying, retrying),
            (&mut to.prepared, prepared),
            (&mut to.active_recipients, active_recipients),
            (&mut to.committed, committed),
            (&mut to.in_doubt, in_doubt),
            (&mut to.delivered, delivered),
            (&mut to.hard_bounced, hard_bounced),
            (&mut to.possible_delivery, possible_delivery),
            (&mut to.expired, expired),
            (&mut to.soft_bounced, soft_bounced),
            (&mut to.aborted, aborted),
            (&mut to.hard.reply, reply),
            (&mut to.hard.dns, dns),
            (&mut to.hard.tls, tls),
            (&mut to.hard.network, network),
            (&mut to.hard.other, other),
            (&mut to.replayed, replayed),
            (&mut to.purged, purged),
        ];
        for (to, more) in pairs {
            *to = to.saturating_add(*more);
        }
        to.oldest = to.oldest.max(*oldest);
        let to = &mut sum.leases;
        to.total = to.total.saturating_add(leases.total);
        to.holders = to.holders.max(leases.holders);
        to.down_since_ms = [to.down_since_ms, leases.down_since_ms]
            .into_iter()
            .flatten()
            .min();
        to.last_activity_ms = to.last_activity_ms.max(leases.last_activity_ms);
        let newer = |error: &(String, u64)| to.last_error.as_ref().is_none_or(|old| old.1 < error.1);
        if let Some(error) = leases.last_error.as_ref().filter(|error| newer(error)) {
            to.last_error = Some(error.clone());
        }
    }
    sum
}

impl Known {
    /// Hard bounces as the original counts them: what expired is one.
    fn hard(&self) -> u64 {
        self.stats.hard_bounced + self.stats.expired
    }

    /// Delivered as the original counts it: what may have been delivered is.
    fn delivered(&self) -> u64 {
        self.stats.delivered + self.stats.possible_delivery
    }

    fn host(&self) -> Host {
        Host {
            name: self.name.clone(),
            down: self.leases.down_since_ms.is_some(),
            active: self.stats.active_recipients,
            connections: u64::from(self.leases.total),
            delivered: self.delivered(),
            soft: self.stats.soft_bounced,
            hard: self.hard(),
        }
    }

    fn status(&self) -> Status {
        let Stats { hard, .. } = self.stats;
        let at = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        Status {
            host: self.host(),
            tried: self.leases.last_activity_ms.is_some(),
            dns: hard.dns,
            reply: hard.reply,
            expired: self.stats.expired,
            other: hard.tls + hard.network + hard.other,
            possible: self.stats.possible_delivery,
            attempted: self.stats.retrying,
            oldest: (self.stats.active_recipients > 0).then_some(self.stats.oldest),
            last_activity: self.leases.last_activity_ms.map(at),
            last_error: self
                .leases
                .last_error
                .as_ref()
                .map(|(text, ms)| (text.clone(), at(*ms))),
        }
    }
}

/// The first `top` in that order. Of equal ones the sum stands first, then they go by name.
fn order(mut hosts: Vec<Host>, by: Order, top: usize) -> Vec<Host> {
    let key = |host: &Host| match by {
        Order::Active => host.active,
        Order::Connections => host.connections,
        Order::Delivered => host.delivered,
        Order::Soft => host.soft,
        Order::Hard => host.hard,
    };
    hosts.sort_by(|a, b| {
        let whole = |host: &Host| host.name == WHOLE;
        (key(b), whole(b))
            .cmp(&(key(a), whole(a)))
            .then_with(|| a.name.cmp(&b.name))
    });
    hosts.truncate(top);
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str, active: u64, delivered: u64, expired: u64) -> Known {
        Known {
            name: name.to_owned(),
            stats: Stats {
                active_recipients: active,
                retrying: 1,
                delivered,
                possible_delivery: 2,
                hard_bounced: 3,
                expired,
                hard: HardBounces {
                    reply: 2,
                    tls: 1,
                    ..HardBounces::default()
                },
                oldest: Duration::from_secs(active),
                ..Stats::default()
            },
            leases: LeaseStatus {
                total: 3,
                last_activity_ms: Some(active * 1000),
                last_error: Some((name.to_owned(), active)),
                ..LeaseStatus::default()
            },
        }
    }

    #[test]
    fn the_queue_is_the_sum_of_its_intakes() {
        let mut down = known("etd-us", 7, 10, 1);
        down.leases.down_since_ms = Some(5);
        let sum = merge(&[known("etd-eu", 5, 100, 0), down]);
        let host = sum.host();
        assert_eq!(
            (host.name.as_str(), host.down, host.active, host.connections),
            ("the.tdc.queue", true, 12, 6),
            "down as soon as one of them is"
        );
        assert_eq!((host.delivered, host.hard), (110 + 4, 6 + 1));
        let status = sum.status();
        assert_eq!(
            (status.reply, status.other, status.expired, status.attempted),
            (4, 2, 1, 2)
        );
        assert_eq!(status.oldest, Some(Duration::from_secs(7)));
        assert_eq!(
            status.last_error.map(|(text, _)| text).as_deref(),
            Some("etd-us"),
            "the newest"
        );
        assert!(!merge(&[]).host().down);
    }

    #[test]
    fn orders() {
        let hosts = || {
            let all = [known("b", 5, 100, 0), known("a", 5, 7, 9), known("c", 0, 0, 0)];
            all.iter()
                .map(Known::host)
                .chain([merge(&all).host()])
                .collect::<Vec<_>>()
        };
        let cases = [
            (Order::Active, "the.tdc.queue a b c", "equal ones by name"),
            (Order::Delivered, "the.tdc.queue b a c", "the largest first"),
            (Order::Hard, "the.tdc.queue a b c", ""),
        ];
        for (by, expected, why) in cases {
            let names: Vec<String> = order(hosts(), by, 20).into_iter().map(|host| host.name).collect();
            assert_eq!(names.join(" "), expected, "{by:?}: {why}");
        }
        assert_eq!(order(hosts(), Order::Active, 2).len(), 2);
    }
}
