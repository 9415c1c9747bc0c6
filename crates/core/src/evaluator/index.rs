//! Finds the first row that takes a recipient without looking at every row.
//!
//! Each row of each policy gets a slot; slots are numbered in the order in which they are tried. Every pattern of an
//! `any_of` list leads to the slots that name it, in ascending order, through a map for its kind. A look-up walks
//! those short lists and checks each slot in full, so the maps only have to be complete, never exact. A slot with
//! patterns on both sides is filed under both; the recipient's side is walked, which proves a match by itself, unless
//! the sender's has far fewer slots for this message.
//!
//! Cost: for a recipient a handful of map look-ups and the slots on the walked lists up to the first match; nothing
//! that grows with the number of policies unless they share a pattern.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::address::{Mailbox, ReversePath};
use crate::envelope::Envelope;
use crate::pattern::Pattern;
use crate::policy::{Combine, Policy, Row};

/// A slot that was found by its sender must have the recipient searched among its patterns; one that was found by its
/// recipient need not. So the sender's lists are only walked when they are this many times shorter.
const WORTH_A_SEARCH: usize = 16;

#[derive(Debug)]
pub(super) struct Index {
    slots: Vec<Slot>,
    /// Slots that no pattern leads to: they have no `any_of`, or one of two alternatives has none.
    open: Vec<u32>,
    /// Slots with recipient patterns, and those that need them not (`Combine::Any`).
    by_recipient: PatternMap,
    /// Slots with sender patterns only, or with `Combine::Any`.
    by_sender: PatternMap,
    /// Slots that need a pattern on both sides, filed by each.
    both_by_recipient: PatternMap,
    both_by_sender: PatternMap,
}

/// One row, with its lists sorted for look-up.
#[derive(Debug)]
struct Slot {
    policy: u32,
    row: Option<u32>,
    senders: Option<[PatternSet; 2]>,
    recipients: Option<[PatternSet; 2]>,
    all_of: Vec<Pattern>,
    combine: Combine,
}

/// Sorted patterns.
#[derive(Debug)]
struct PatternSet(Box<[Pattern]>);

/// From a pattern to the slots that name it, ascending.
#[derive(Debug, Default)]
struct PatternMap {
    exact: HashMap<Arc<str>, Vec<u32>>,
    local: HashMap<Arc<str>, Vec<u32>>,
    domain: HashMap<Arc<str>, Vec<u32>>,
    parent: HashMap<Arc<str>, Vec<u32>>,
}

/// A mailbox in its compared forms, computed once.
struct Keys<'a> {
    exact: Cow<'a, str>,
    local: Cow<'a, str>,
    domain: Cow<'a, str>,
}

impl Index {
    pub(super) fn new(policies: &[Policy]) -> Self {
        let mut index = Self {
            slots: Vec::new(),
            open: Vec::new(),
            by_recipient: PatternMap::default(),
            by_sender: PatternMap::default(),
            both_by_recipient: PatternMap::default(),
            both_by_sender: PatternMap::default(),
        };
        for (at, policy) in policies.iter().enumerate() {
            let everyone = Row::default();
            if policy.rows.is_empty() {
                index.add(at as u32, None, &everyone);
            }
            for (number, row) in policy.rows.iter().enumerate() {
                index.add(at as u32, Some(number as u32), row);
            }
        }
        index
    }

    fn add(&mut self, policy: u32, number: Option<u32>, row: &Row) {
        let slot = self.slots.len() as u32;
        let senders = row
            .senders
            .as_ref()
            .map_or(&[][..], |condition| &condition.any_of);
        let recipients = row
            .recipients
            .as_ref()
            .map_or(&[][..], |condition| &condition.any_of);
        // With `Any` a condition that is present and lists nothing may hold by itself: no pattern leads there.
        let either = row.combine == Combine::Any && row.senders.is_some() && row.recipients.is_some();
        match (senders.is_empty(), recipients.is_empty()) {
            (false, false) if either => {
                self.by_sender.add(senders, slot);
                self.by_recipient.add(recipients, slot);
            }
            (false, false) => {
                self.both_by_sender.add(senders, slot);
                self.both_by_recipient.add(recipients, slot);
            }
            (false, true) if !either => self.by_sender.add(senders, slot),
            (true, false) if !either => self.by_recipient.add(recipients, slot),
            _ => self.open.push(slot),
        }
        let sets =
            |any_of: &[Pattern], none_of: &[Pattern]| [PatternSet::new(any_of), PatternSet::new(none_of)];
        self.slots.push(Slot {
            policy,
            row: number,
            senders: row
                .senders
                .as_ref()
                .map(|condition| sets(&condition.any_of, &condition.none_of)),
            recipients: row
                .recipients
                .as_ref()
                .map(|condition| sets(&condition.any_of, &condition.none_of)),
            all_of: row
                .recipients
                .as_ref()
                .map_or_else(Vec::new, |condition| condition.all_of.clone()),
            combine: row.combine,
        });
    }

    pub(super) fn query<'a>(&'a self, envelope: &'a Envelope) -> Query<'a> {
        let sender = match &envelope.sender {
            ReversePath::Null => None,
            ReversePath::Mailbox(mailbox) => Some(Keys::of(mailbox)),
        };
        Query {
            index: self,
            envelope,
            sender,
            addressed: None,
            memo: Vec::new(),
        }
    }
}

/// The look-ups for one envelope.
pub(super) struct Query<'a> {
    index: &'a Index,
    envelope: &'a Envelope,
    sender: Option<Keys<'a>>,
    /// Every pattern that some recipient matches; made when the first `all_of` asks.
    addressed: Option<HashSet<Pattern>>,
    /// For each slot what does not depend on the recipient, once it has been asked: with 1,000 recipients and 10,000
    /// rows it would be asked ten million times.
    memo: Vec<[Option<bool>; 2]>,
}

impl Query<'_> {
    /// The policy and row that take a recipient, as places in the table.
    pub(super) fn first_match(&mut self, recipient: &Mailbox) -> Option<(usize, Option<usize>)> {
        let index = self.index;
        let recipient = Keys::of(recipient);
        // The lists that the recipient's own patterns lead to, and the others.
        let (mut named, mut others): (Vec<&[u32]>, Vec<&[u32]>) = (Vec::new(), vec![&index.open]);
        index.by_recipient.lists(&recipient, &mut named);
        if let Some(sender) = &self.sender {
            index.by_sender.lists(sender, &mut others);
            let (mut by_sender, mut by_recipient) = (Vec::new(), Vec::new());
            index.both_by_sender.lists(sender, &mut by_sender);
            index.both_by_recipient.lists(&recipient, &mut by_recipient);
            let length = |lists: &[&[u32]]| lists.iter().map(|list| list.len()).sum::<usize>();
            if length(&by_sender) * WORTH_A_SEARCH < length(&by_recipient) {
                others.extend(by_sender);
            } else {
                named.extend(by_recipient);
            }
        }
        let mut best = u32::MAX;
        let named = named.into_iter().map(|list| (list, true));
        for (list, named) in named.chain(others.into_iter().map(|list| (list, false))) {
            for &slot in list.iter().take_while(|slot| **slot < best) {
                if self.takes(slot as usize, &recipient, named) {
                    best = slot;
                    break;
                }
            }
        }
        let slot = index.slots.get(best as usize)?;
        Some((slot.policy as usize, slot.row.map(|row| row as usize)))
    }

    /// Whether a slot takes the recipient; `named`: one of its recipient patterns is known to match.
    ///
    /// What does not depend on the recipient is asked first: with thousands of rows that share a pattern and thousands
    /// of recipients, a search among the row's patterns for each pair is what costs.
    fn takes(&mut self, number: usize, recipient: &Keys<'_>, named: bool) -> bool {
        let index = self.index;
        let slot = &index.slots[number];
        let sender = match &slot.senders {
            None => None,
            Some(_) if self.sender.is_none() => return false,
            Some(sets) => Some(self.sender_holds(number, sets)),
        };
        if sender == Some(false) && (slot.combine == Combine::All || slot.recipients.is_none()) {
            return false;
        }
        let needs_recipient = slot.combine == Combine::All || slot.senders.is_none();
        if needs_recipient && !self.all_hold(number, &slot.all_of) {
            return false;
        }
        let recipient = match &slot.recipients {
            None => None,
            Some([_, none_of]) if none_of.matches(recipient) => return false,
            Some([any_of, _]) => {
                let named = named || any_of.is_empty() || any_of.matches(recipient);
                Some(named && self.all_hold(number, &slot.all_of))
            }
        };
        match (sender, recipient, slot.combine) {
            (None, None, _) => true,
            (Some(only), None, _) | (None, Some(only), _) => only,
            (Some(sender), Some(recipient), Combine::All) => sender && recipient,
            (Some(sender), Some(recipient), Combine::Any) => sender || recipient,
        }
    }

    /// Whether a slot's condition on the sender holds; false for the null sender.
    fn sender_holds(&mut self, number: usize, [any_of, none_of]: &[PatternSet; 2]) -> bool {
        let Some(sender) = &self.sender else { return false };
        let known = memo(&mut self.memo, self.index.slots.len(), number);
        *known[0]
            .get_or_insert_with(|| (any_of.is_empty() || any_of.matches(sender)) && !none_of.matches(sender))
    }

    /// Whether the message is addressed to all that a slot names.
    fn all_hold(&mut self, number: usize, patterns: &[Pattern]) -> bool {
        if patterns.is_empty() {
            return true;
        }
        if let Some(known) = memo(&mut self.memo, self.index.slots.len(), number)[1] {
            return known;
        }
        let holds = self.addressed_to_all(patterns);
        self.memo[number][1] = Some(holds);
        holds
    }

    fn addressed_to_all(&mut self, patterns: &[Pattern]) -> bool {
        let envelope = self.envelope;
        let addressed = self.addressed.get_or_insert_with(|| addressed(envelope));
        patterns.iter().all(|pattern| addressed.contains(pattern))
    }
}

fn memo(memo: &mut Vec<[Option<bool>; 2]>, slots: usize, number: usize) -> &mut [Option<bool>; 2] {
    if memo.is_empty() {
        memo.resize(slots, [None; 2]);
    }
    &mut memo[number]
}

fn addressed(envelope: &Envelope) -> HashSet<Pattern> {
    let mut patterns = HashSet::new();
    for recipient in &envelope.recipients {
        let keys = Keys::of(recipient);
        patterns.insert(Pattern::Exact(keys.exact.as_ref().into()));
        patterns.insert(Pattern::LocalPart(keys.local.as_ref().into()));
        patterns.insert(Pattern::Domain(keys.domain.as_ref().into()));
        patterns.extend(parents(&keys.domain).map(|parent| Pattern::SubDomains(parent.into())));
    }
    patterns
}

/// The domains above a domain: of `a.b.c` these are `b.c` and `c`.
fn parents(domain: &str) -> impl Iterator<Item = &str> {
    domain
        .char_indices()
        .filter(|(at, c)| *c == '.' && *at > 0)
        .map(|(at, _)| &domain[at + 1..])
}

impl<'a> Keys<'a> {
    fn of(mailbox: &'a Mailbox) -> Self {
        let (local, domain) = (mailbox.local_key(), mailbox.domain_key());
        let as_spelt = matches!((&local, &domain), (Cow::Borrowed(_), Cow::Borrowed(_)))
            && local.len() + domain.len() + 1 == mailbox.as_str().len();
        let exact = if as_spelt {
            Cow::Borrowed(mailbox.as_str())
        } else {
            Cow::Owned(format!("{local}@{domain}"))
        };
        Self { exact, local, domain }
    }
}

impl PatternSet {
    fn new(patterns: &[Pattern]) -> Self {
        let mut sorted = patterns.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        Self(sorted.into())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn matches(&self, keys: &Keys<'_>) -> bool {
        !self.0.is_empty()
            && (self.holds(0, &keys.exact)
                || self.holds(1, &keys.local)
                || self.holds(2, &keys.domain)
                || parents(&keys.domain).any(|parent| self.holds(3, parent)))
    }

    /// Whether the pattern of that kind and text is here; kinds are numbered in the order of [`Pattern`]'s variants.
    fn holds(&self, kind: u8, text: &str) -> bool {
        self.0
            .binary_search_by(|pattern| {
                let (other, other_text) = match pattern {
                    Pattern::Exact(text) => (0, text),
                    Pattern::LocalPart(text) => (1, text),
                    Pattern::Domain(text) => (2, text),
                    Pattern::SubDomains(text) => (3, text),
                };
                other.cmp(&kind).then_with(|| (**other_text).cmp(text))
            })
            .is_ok()
    }
}

impl PatternMap {
    fn add(&mut self, patterns: &[Pattern], slot: u32) {
        for pattern in patterns {
            let list = match pattern {
                Pattern::Exact(text) => self.exact.entry(text.clone()),
                Pattern::LocalPart(text) => self.local.entry(text.clone()),
                Pattern::Domain(text) => self.domain.entry(text.clone()),
                Pattern::SubDomains(text) => self.parent.entry(text.clone()),
            }
            .or_default();
            if list.last() != Some(&slot) {
                list.push(slot);
            }
        }
    }

    fn lists<'a>(&'a self, keys: &Keys<'_>, lists: &mut Vec<&'a [u32]>) {
        let found = [
            self.exact.get(&*keys.exact),
            self.local.get(&*keys.local),
            self.domain.get(&*keys.domain),
        ];
        lists.extend(found.into_iter().flatten().map(Vec::as_slice));
        if !self.parent.is_empty() {
            lists.extend(
                parents(&keys.domain)
                    .filter_map(|parent| self.parent.get(parent))
                    .map(Vec::as_slice),
            );
        }
    }
}
