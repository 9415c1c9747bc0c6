//! Takes a YAML tree apart: every value is asked for by its name and kind, what nobody asked for is an error.

use std::time::Duration;

use serde_json::Value;
use tdc_yaml::{Data, Entry, FileError, Node};

use super::Numbers;

/// Characters of a value that a message shows.
const MAX_SHOWN: usize = 60;
/// The longest time in a script: longer than any client waits.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(super) struct Problems {
    pub(super) file: String,
    pub(super) found: Vec<FileError>,
}

impl Problems {
    pub(super) fn add(&mut self, line: usize, field: &str, problem: impl Into<String>) {
        self.found.push(FileError {
            file: self.file.clone(),
            line: Some(line),
            field: field.to_owned(),
            problem: problem.into(),
        });
    }
}

/// A value with the way to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) node: &'a Node,
    pub(super) line: usize,
}

/// The fields of one mapping.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    pub(super) path: String,
    pub(super) line: usize,
    entries: &'a [Entry],
    asked: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// None, and a problem, when it is no mapping.
    pub(super) fn of(node: &'a Node, line: usize, path: &str, problems: &mut Problems) -> Option<Self> {
        let Data::Mapping(entries) = &node.data else {
            let what = format!(
                "is {}; write a mapping, as in {{ at: rcpt, do: close }}",
                shown(node)
            );
            problems.add(line, path, what);
            return None;
        };
        Some(Self {
            path: path.to_owned(),
            line,
            entries,
            asked: Vec::new(),
        })
    }

    /// The path of a field.
    pub(super) fn at(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    /// A field that has a value.
    pub(super) fn get(&mut self, name: &'static str) -> Option<Place<'a>> {
        self.asked.push(name);
        let entry = self.entries.iter().find(|entry| entry.key == name)?;
        let empty = matches!(entry.value.data, Data::Scalar(Value::Null));
        (!empty).then_some(Place {
            node: &entry.value,
            line: entry.line,
        })
    }

    /// Reads a field; a value that is not understood is a problem that says what to write instead.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        problems: &mut Problems,
        instead: &str,
        read: impl FnOnce(&Node) -> Option<T>,
    ) -> Option<T> {
        let place = self.get(name)?;
        let value = read(place.node);
        if value.is_none() {
            let problem = format!("is {}; {instead}", shown(place.node));
            problems.add(place.line, &self.at(name), problem);
        }
        value
    }

    pub(super) fn flag(&mut self, name: &'static str, problems: &mut Problems) -> Option<bool> {
        self.read(name, problems, "write true or false", |node| match &node.data {
            Data::Scalar(Value::Bool(flag)) => Some(*flag),
            _ => None,
        })
    }

    pub(super) fn number(&mut self, name: &'static str, problems: &mut Problems) -> Option<u64> {
        self.read(name, problems, "write a whole number", whole)
    }

    pub(super) fn numbers(&mut self, name: &'static str, problems: &mut Problems) -> Option<Numbers> {
        let instead = "write a number, as 1, or a range, as 2-5 or 2-";
        self.read(name, problems, instead, numbers)
    }

    pub(super) fn text(&mut self, name: &'static str, problems: &mut Problems) -> Option<String> {
        self.read(name, problems, "write text, in quotes where needed", text)
    }

    pub(super) fn time(&mut self, name: &'static str, problems: &mut Problems) -> Option<Duration> {
        self.read(name, problems, "write a length of time: 500ms, 5s, 2m", time)
    }

    /// What nobody asked for is a problem.
    pub(super) fn finish(self, problems: &mut Problems) {
        for entry in self.entries {
            if !self.asked.contains(&entry.key.as_str()) {
                let key: String = entry.key.chars().take(MAX_SHOWN).collect();
                let problem = format!("is not a field here; the fields are {}", self.asked.join(", "));
                problems.add(entry.line, &self.at(&key), problem);
            }
        }
    }
}

/// The items of a list, or the one value that stands for a list of one.
pub(super) fn items(node: &Node) -> Vec<&Node> {
    match &node.data {
        Data::List(items) => items.iter().collect(),
        Data::Scalar(_) | Data::Mapping(_) => vec![node],
    }
}

/// Text, or a number as text.
pub(super) fn text(node: &Node) -> Option<String> {
    match &node.data {
        Data::Scalar(Value::String(text)) => Some(text.clone()),
        Data::Scalar(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    }
}

pub(super) fn whole(node: &Node) -> Option<u64> {
    match &node.data {
        Data::Scalar(Value::Number(number)) => number.as_u64(),
        _ => None,
    }
}

/// From 0 to 1.
pub(super) fn share(node: &Node) -> Option<f64> {
    match &node.data {
        Data::Scalar(Value::Number(number)) => number.as_f64().filter(|share| (0.0..=1.0).contains(share)),
        _ => None,
    }
}

/// `5`, `2-5`, `2-`.
fn numbers(node: &Node) -> Option<Numbers> {
    if let Some(number) = whole(node) {
        return Some(Numbers {
            from: number,
            to: number,
        });
    }
    let text = text(node)?;
    let (from, to) = text.split_once('-')?;
    let from = from.trim().parse().ok()?;
    let to = match to.trim() {
        "" => u64::MAX,
        to => to.parse().ok()?,
    };
    (from <= to).then_some(Numbers { from, to })
}

/// `500ms`, `5s`, `2m`.
pub(super) fn time(node: &Node) -> Option<Duration> {
    let text = text(node)?;
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..unit].parse().ok()?;
    let millis = match &text[unit..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    };
    let time = Duration::from_millis(number.checked_mul(millis)?);
    (time <= MAX_TIME).then_some(time)
}

/// A value in a message: what it is, and its beginning.
pub(super) fn shown(node: &Node) -> String {
    match &node.data {
        Data::Scalar(value) => {
            let text: String = value.to_string().chars().take(MAX_SHOWN).collect();
            text
        }
        Data::List(_) => "a list".to_owned(),
        Data::Mapping(_) => "a mapping".to_owned(),
    }
}
