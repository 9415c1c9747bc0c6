//! YAML documents as trees that know their lines.
//!
//! Input is bounded while it is read: depth, nodes in a file, nodes that aliases add. What YAML 1.1 and 1.2 read
//! differently (`yes`, `010`) is never a boolean or a number here: as text it meets the schema's type check, which
//! names the field, so that a file means the same to kubectl and to us.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::{Map, Number, Value};

use crate::path::{FieldPath, Step};

/// Levels of nesting in a document; the deepest kind needs 7.
const MAX_DEPTH: usize = 64;
/// Nodes in one file: 10,000 policies with 100 patterns each need 1.2 million.
const MAX_NODES: usize = 4_000_000;
/// Nodes that aliases may add in one file (the "billion laughs" of YAML).
const MAX_ALIAS_NODES: usize = 100_000;

/// A value, and the line on which it begins (from 1).
#[derive(Clone, Debug)]
pub struct Node {
    /// The line on which it begins.
    pub line: usize,
    /// Its content.
    pub data: Data,
}

/// The content of a [`Node`].
#[derive(Clone, Debug)]
pub enum Data {
    /// Text, a number, a boolean or nothing.
    Scalar(Value),
    /// `- a`, or `[a, b]`.
    List(Vec<Node>),
    /// `key: value`, in the order of the file.
    Mapping(Vec<Entry>),
}

/// A field of a mapping; the line is that of its key.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key as text.
    pub key: String,
    /// The key's line.
    pub line: usize,
    /// What the key stands for.
    pub value: Node,
}

/// The file is not YAML as we read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, from 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub message: String,
}

/// The documents of a file up to the first fault, and that fault. Empty documents are left out.
#[must_use]
pub fn documents(text: &str) -> (Vec<Node>, Option<Fault>) {
    let mut builder = Builder::default();
    let mut documents = Vec::new();
    let mut parser = Parser::new_from_str(text);
    let fault = builder.read(&mut parser, &mut documents).err();
    (documents, fault)
}

impl Node {
    /// The value as JSON. Fields without a value are left out, as the API server does.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match &self.data {
            Data::Scalar(value) => value.clone(),
            Data::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Data::Mapping(entries) => Value::Object(
                entries
                    .iter()
                    .filter(|entry| !entry.value.is_null())
                    .map(|entry| (entry.key.clone(), entry.value.to_json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// The line of the deepest value on the way to `path` that exists; for a field, that of its key.
    #[must_use]
    pub fn line_of(&self, path: &FieldPath) -> usize {
        let mut node = self;
        let mut line = self.line;
        for step in &path.0 {
            match (&node.data, step) {
                (Data::Mapping(entries), Step::Key(key)) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == *key) else {
                        break;
                    };
                    (line, node) = (entry.line, &entry.value);
                }
                (Data::List(items), Step::Index(index)) => {
                    let Some(item) = items.get(*index) else { break };
                    (line, node) = (item.line, item);
                }
                _ => break,
            }
        }
        line
    }

    /// The text of a field of this mapping.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match &self.field(key)?.data {
            Data::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// A field of this mapping.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&Self> {
        match &self.data {
            Data::Mapping(entries) => entries
                .iter()
                .find(|entry| entry.key == key)
                .map(|entry| &entry.value),
            Data::Scalar(_) | Data::List(_) => None,
        }
    }

    fn is_null(&self) -> bool {
        matches!(self.data, Data::Scalar(Value::Null))
    }

    fn count(&self) -> usize {
        1 + match &self.data {
            Data::Scalar(_) => 0,
            Data::List(items) => items.iter().map(Self::count).sum(),
            Data::Mapping(entries) => entries.iter().map(|entry| entry.value.count()).sum(),
        }
    }
}

/// A list or mapping that is not yet closed.
struct Open {
    node: Node,
    anchor: usize,
    /// A key that waits for its value.
    key: Option<(String, usize)>,
    keys: HashSet<String>,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    alias_nodes: usize,
}

impl Builder {
    fn read(
        &mut self,
        parser: &mut Parser<'_, StrInput<'_>>,
        documents: &mut Vec<Node>,
    ) -> Result<(), Fault> {
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| Fault {
                line: error.marker().line(),
                message: format!(
                    "is not valid YAML: {}; correct it here or just above",
                    error.info()
                ),
            })?;
            if let Some(root) = self.on_event(event, span)? {
                documents.extend((!root.is_null()).then_some(root));
            }
        }
        Ok(())
    }

    /// Takes one event; the document's root when it is complete.
    fn on_event(&mut self, event: Event<'_>, span: Span) -> Result<Option<Node>, Fault> {
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let data = Data::Scalar(scalar(&text, style, tag.as_deref()).ok_or_else(|| bad_tag(line))?);
                self.place(Node { line, data }, anchor)
            }
            Event::SequenceStart(anchor, _) => self.begin(Data::List(Vec::new()), line, anchor),
            Event::MappingStart(anchor, _) => self.begin(Data::Mapping(Vec::new()), line, anchor),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.place(open.node, open.anchor),
                None => Ok(None),
            },
            Event::Alias(anchor) => {
                let Some(target) = self.anchors.get(&anchor) else {
                    return Err(fault(
                        line,
                        "has an alias inside its own anchor; write the value out",
                    ));
                };
                self.alias_nodes += target.count();
                if self.alias_nodes > MAX_ALIAS_NODES {
                    return Err(fault(
                        line,
                        "has aliases that expand too far; write the values out",
                    ));
                }
                let node = Node {
                    line,
                    data: target.data.clone(),
                };
                self.place(node, 0)
            }
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(None)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => Ok(None),
        }
    }

    fn begin(&mut self, data: Data, line: usize, anchor: usize) -> Result<Option<Node>, Fault> {
        if self.open.len() >= MAX_DEPTH {
            return Err(fault(
                line,
                &format!("is nested deeper than {MAX_DEPTH} levels; nothing that we read needs that"),
            ));
        }
        self.open.push(Open {
            node: Node { line, data },
            anchor,
            key: None,
            keys: HashSet::new(),
        });
        Ok(None)
    }

    /// Puts a complete value where it belongs.
    fn place(&mut self, node: Node, anchor: usize) -> Result<Option<Node>, Fault> {
        self.nodes += 1;
        if self.nodes + self.alias_nodes > MAX_NODES {
            return Err(fault(
                node.line,
                &format!("holds more than {MAX_NODES} values; split the file"),
            ));
        }
        if anchor != 0 {
            // The copy that is kept for aliases counts as one of them.
            self.anchors.insert(anchor, node.clone());
            self.alias_nodes += node.count();
        }
        let Some(open) = self.open.last_mut() else {
            return Ok(Some(node));
        };
        match &mut open.node.data {
            Data::List(items) => items.push(node),
            Data::Mapping(entries) => match open.key.take() {
                Some((key, line)) => entries.push(Entry {
                    key,
                    line,
                    value: node,
                }),
                None => {
                    let line = node.line;
                    let key = key(node)?;
                    if !open.keys.insert(key.clone()) {
                        return Err(fault(
                            line,
                            &format!("has the key {key:?} twice in one mapping; remove one"),
                        ));
                    }
                    open.key = Some((key, line));
                }
            },
            Data::Scalar(_) => {}
        }
        Ok(None)
    }
}

fn key(node: Node) -> Result<String, Fault> {
    match node.data {
        Data::Scalar(Value::String(key)) if key == "<<" => Err(fault(
            node.line,
            "has a merge key (<<), which is not supported; write the fields out",
        )),
        Data::Scalar(Value::String(key)) => Ok(key),
        Data::Scalar(Value::Number(key)) => Ok(key.to_string()),
        Data::Scalar(_) | Data::List(_) | Data::Mapping(_) => {
            Err(fault(node.line, "has a key that is not text; write it in quotes"))
        }
    }
}

fn fault(line: usize, message: &str) -> Fault {
    Fault {
        line,
        message: message.into(),
    }
}

fn bad_tag(line: usize) -> Fault {
    fault(line, "has a tag that does not fit its value; remove the tag")
}

/// The value of a scalar: quoted or tagged text is text; plain text follows the JSON-like rules of YAML 1.2, without
/// the forms that YAML 1.1 reads in another way.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Option<Value> {
    if let Some(tag) = tag {
        let plain = plain_scalar(text);
        return match tag.is_yaml_core_schema().then_some(tag.suffix.as_str())? {
            "str" => Some(Value::String(text.into())),
            "int" => Some(plain).filter(|value| value.is_i64() || value.is_u64()),
            "float" => Some(plain).filter(Value::is_number),
            "bool" => Some(plain).filter(Value::is_boolean),
            "null" => Some(plain).filter(Value::is_null),
            _ => None,
        };
    }
    Some(if style == ScalarStyle::Plain {
        plain_scalar(text)
    } else {
        Value::String(text.into())
    })
}

fn plain_scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && !(digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit());
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let read = if !number {
        None
    } else if let Ok(integer) = unsigned.parse::<i64>() {
        Some(Number::from(integer))
    } else {
        unsigned.parse::<f64>().ok().and_then(whole_or_fraction)
    };
    read.map_or_else(|| Value::String(text.into()), Value::Number)
}

/// `1e3` is the integer 1000 in JSON Schema, and must be one for serde too.
fn whole_or_fraction(number: f64) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53: up to here every whole f64 is that integer
    if number.fract() == 0.0 && number.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
        return Some(Number::from(number as i64));
    }
    Number::from_f64(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars() {
        for (text, value, why) in [
            ("a: text", json!("text"), "text"),
            ("a: 12", json!(12), "integer"),
            ("a: -12", json!(-12), "negative"),
            ("a: +3", json!(3), "a plus sign"),
            (
                "a: 1.2",
                json!(1.2),
                "a version without quotes is a number, and the schema says so",
            ),
            ("a: \"1.2\"", json!("1.2"), "quotes make text"),
            ("a: 'true'", json!("true"), "quotes make text"),
            ("a: true", json!(true), "boolean"),
            ("a: 1e3", json!(1000), "a whole number in exponent form"),
            ("a: yes", json!("yes"), "a boolean in YAML 1.1 only"),
            ("a: 010", json!("010"), "8 in YAML 1.1, 10 in 1.2"),
            ("a: 0x10", json!("0x10"), "a number in some"),
            ("a: 1e400", json!("1e400"), "not finite"),
            ("a: .inf", json!(".inf"), "JSON has no infinity"),
            ("a: 120s", json!("120s"), "begins like a number"),
            ("a: 2001-01-01", json!("2001-01-01"), "no dates"),
            ("a: !!str 12", json!("12"), "tagged text"),
            ("a: !!int 12", json!(12), "tagged integer"),
            ("a: |\n  x\n  y\n", json!("x\ny\n"), "a block"),
            ("a: &x 5", json!(5), "an anchor"),
        ] {
            let (documents, fault) = documents(text);
            assert_eq!(fault, None, "{text}");
            assert_eq!(documents[0].to_json()["a"], value, "{text}: {why}");
        }
        assert_eq!(
            documents("a:\nb: ~").0[0].to_json(),
            json!({}),
            "fields without a value are absent"
        );
    }

    #[test]
    fn lines_of_fields() {
        let text =
            "# comment\nspec:\n  users:\n    - senders:\n        anyOf: [\n          a@,\n          b@]\n";
        let (documents, _) = documents(text);
        for (path, line, why) in [
            ("", 2, "the document"),
            ("spec", 2, "a key"),
            ("spec.users", 3, "a key whose value is below it"),
            ("spec.users[0]", 4, "an item"),
            ("spec.users[0].senders.anyOf[1]", 7, "an item of a flow list"),
            (
                "spec.users[7].senders",
                3,
                "what does not exist: its nearest parent",
            ),
            ("spec.order", 2, "a missing field: where it belongs"),
        ] {
            assert_eq!(
                documents[0].line_of(&FieldPath::parse(path)),
                line,
                "{path}: {why}"
            );
        }
    }

    #[test]
    fn faults_say_where() {
        let deep = format!("a: {}", "[".repeat(100));
        let deep_block = "- ".repeat(5000);
        let laughs = (0..30).fold("a0: &a0 [x, x]\n".to_owned(), |text, n| {
            format!("{text}a{}: &a{} [*a{n}, *a{n}]\n", n + 1, n + 1)
        });
        for (text, line, part) in [
            ("a: 1\nb: [1, 2\nc: 3\n", 3, "is not valid YAML"),
            ("a: 1\na: 2\n", 2, "has the key \"a\" twice"),
            ("a: *nowhere\n", 1, "is not valid YAML"),
            ("a: &x [*x]\n", 1, "alias inside its own anchor"),
            ("x: &x {a: 1}\ny:\n  <<: *x\n", 3, "merge key"),
            ("? [a]\n: b\n", 1, "not text"),
            ("a: !secret x\n", 1, "tag"),
            ("a: !!int x\n", 1, "tag"),
            (&deep, 1, "nested deeper than 64"),
            (&deep_block, 1, "nested deeper than 64"),
            (&laughs, 15, "aliases that expand too far"),
        ] {
            let fault = documents(text).1.unwrap();
            assert!(
                fault.message.contains(part),
                "{}: {}",
                text.get(..40).unwrap_or(text),
                fault.message
            );
            assert_eq!(fault.line, line, "{}", fault.message);
        }
    }

    #[test]
    fn documents_before_a_fault_are_kept() {
        let (documents, fault) = documents("a: 1\n---\n---\n# nothing\n---\nb: 2\n---\nc: [\n");
        assert_eq!(
            documents.iter().map(Node::to_json).collect::<Vec<_>>(),
            [json!({"a": 1}), json!({"b": 2})]
        );
        assert!(fault.is_some());
    }

    proptest! {
        #[test]
        fn never_panics(text in r"[-a-c:&*!|>{}\[\],\n \t'%#?0-9\.~<é]{0,200}") {
            let (documents, _) = documents(&text);
            for document in documents {
                let _ = document.to_json();
            }
        }

        #[test]
        fn json_is_yaml(value in prop::collection::btree_map("[a-z]{1,3}", "[ -~é\\n]{0,8}", 0..5)) {
            let (documents, fault) = documents(&serde_json::to_string(&value).unwrap());
            prop_assert_eq!(fault, None);
            prop_assert_eq!(documents[0].to_json(), serde_json::to_value(&value).unwrap());
        }
    }
}
