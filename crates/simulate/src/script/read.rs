//! From YAML to a script, with every problem placed: `FILE:LINE: FIELD: what is wrong; what to do`.

use std::path::Path;

use tdc_yaml::{Data, FileError, FileErrors, Node};

use super::fault::fault;
use super::fields::{Fields, Problems, items, share, shown, text};
use super::{At, Fault, Rule, Script, When};

/// MiB of a script.
const MAX_SCRIPT: u64 = 1;
/// Rules of a script: each is asked at each stage.
const MAX_RULES: usize = 1000;

fn of_file(file: &str, problem: impl Into<String>) -> FileErrors {
    FileErrors(vec![FileError::of_file(file, problem)])
}

impl Script {
    /// Reads a script from a file, which a running server looks at again when it changes.
    ///
    /// # Errors
    /// When the file cannot be read or is not a script: all reasons.
    pub fn load(path: &Path) -> Result<Self, FileErrors> {
        let name = path.display().to_string();
        let text = tdc_yaml::read_text(path, MAX_SCRIPT)
            .map_err(|error| of_file(&name, format!("cannot be read: {error}")))?;
        let script = Self::parse(&name, &text)?;
        Ok(Self {
            path: Some(path.to_owned()),
            ..script
        })
    }

    /// Reads a script from text; the name stands in errors.
    ///
    /// # Errors
    /// When it is not a script: all reasons.
    pub fn parse(name: &str, text: &str) -> Result<Self, FileErrors> {
        let mut problems = Problems {
            file: name.to_owned(),
            found: Vec::new(),
        };
        let (documents, fault) = tdc_yaml::documents(text);
        if let Some(fault) = fault {
            problems.add(fault.line, "", fault.message);
        } else if let [_, second, ..] = documents.as_slice() {
            problems.add(
                second.line,
                "",
                "is a second document; a script is one, remove the ---",
            );
        }
        let script = documents.first().and_then(|root| script(root, &mut problems));
        match script {
            Some(script) if problems.found.is_empty() => Ok(script),
            None if problems.found.is_empty() => Err(of_file(
                name,
                "is empty; write rules, as in rules: [{ at: rcpt, do: close }]",
            )),
            _ => Err(FileErrors(problems.found)),
        }
    }
}

fn script(root: &Node, problems: &mut Problems) -> Option<Script> {
    let mut fields = Fields::of(root, root.line, "", problems)?;
    let seed = fields.number("seed", problems);
    let mut rules = Vec::new();
    match fields.get("rules") {
        None => problems.add(
            root.line,
            "rules",
            "is missing; write a list of rules, [] for none",
        ),
        Some(place) => match &place.node.data {
            Data::List(items) if items.len() > MAX_RULES => {
                problems.add(
                    place.line,
                    "rules",
                    format!("has more than {MAX_RULES} rules; remove some"),
                );
            }
            Data::List(items) => {
                for (number, item) in items.iter().enumerate() {
                    rules.extend(rule(item, number, problems));
                }
            }
            _ => problems.add(
                place.line,
                "rules",
                format!("is {}; write a list", shown(place.node)),
            ),
        },
    }
    fields.finish(problems);
    Some(Script {
        path: None,
        seed: seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000)),
        random_seed: seed.is_none(),
        rules,
    })
}

fn rule(node: &Node, number: usize, problems: &mut Problems) -> Option<Rule> {
    let mut fields = Fields::of(node, node.line, &format!("rules[{number}]"), problems)?;
    let before = problems.found.len();
    let name = fields.text("name", problems);
    let at = stages(&mut fields, problems);
    let when = match fields.get("when") {
        Some(place) => when(place.node, place.line, &fields.at("when"), &at, problems),
        None => When::default(),
    };
    let instead = "write a share from 0 to 1, as 0.1 for one case in ten";
    let odds = fields.read("odds", problems, instead, share);
    let after = fields.number("after", problems);
    let times = fields.number("times", problems);
    let keep = fields.flag("keep", problems);
    if keep == Some(true) && at != [At::Dot] {
        problems.add(
            fields.line,
            &fields.at("keep"),
            "belongs to at: dot alone; remove it",
        );
    }
    let done = match fields.get("do") {
        Some(place) => fault(place, &fields.at("do"), &at, problems),
        None => {
            let problem = "is missing; write what happens, as in do: close";
            problems.add(fields.line, &fields.at("do"), problem);
            None
        }
    };
    fields.finish(problems);
    let rule = Rule {
        name: name.unwrap_or_else(|| format!("rule {}", number + 1)),
        at,
        when,
        odds: odds.unwrap_or(1.0),
        after: after.unwrap_or(0),
        times,
        keep: keep.unwrap_or(false),
        fault: done.unwrap_or(Fault::Pass),
    };
    (problems.found.len() == before).then_some(rule)
}

fn stages(fields: &mut Fields<'_>, problems: &mut Problems) -> Vec<At> {
    let names = || At::ALL.map(At::as_str).join(", ");
    let Some(place) = fields.get("at") else {
        let problem = format!("is missing; write a stage: {}", names());
        problems.add(fields.line, &fields.at("at"), problem);
        return Vec::new();
    };
    let mut stages = Vec::new();
    for item in items(place.node) {
        match text(item).and_then(|text| At::ALL.into_iter().find(|at| at.as_str() == text)) {
            Some(at) => stages.push(at),
            None => {
                let problem = format!("is {}; the stages are {}", shown(item), names());
                problems.add(item.line, &fields.at("at"), problem);
            }
        }
    }
    stages
}

fn when(node: &Node, line: usize, path: &str, at: &[At], problems: &mut Problems) -> When {
    use At::{Between, Body, Data, Dot, Mail, Rcpt};
    let Some(mut fields) = Fields::of(node, line, path, problems) else {
        return When::default();
    };
    let when = When {
        connection: fields.numbers("connection", problems),
        message: fields.numbers("message", problems),
        attempt: fields.numbers("attempt", problems),
        recipient: fields.text("recipient", problems),
        sender: fields.text("sender", problems),
        tls: fields.flag("tls", problems),
        octets: fields.number("octets", problems),
        idle: fields.time("idle", problems),
    };
    let known: [(&str, bool, &[At]); 5] = [
        ("attempt", when.attempt.is_some(), &[Rcpt, Body, Dot]),
        ("recipient", when.recipient.is_some(), &[Rcpt, Data, Body, Dot]),
        ("sender", when.sender.is_some(), &[Mail, Rcpt, Data, Body, Dot]),
        ("octets", when.octets.is_some(), &[Body]),
        ("idle", when.idle.is_some(), &[Between]),
    ];
    for (field, is_set, stages) in known {
        if let (true, Some(unknown)) = (is_set, at.iter().find(|at| !stages.contains(at))) {
            let stages: Vec<_> = stages.iter().map(|at| at.as_str()).collect();
            let problem = format!("is not known at {unknown}; it is at {}", stages.join(", "));
            problems.add(fields.line, &fields.at(field), problem);
        }
    }
    fields.finish(problems);
    when
}
