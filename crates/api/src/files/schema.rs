//! The CRDs' own schemas and rules, applied to documents from files: what a file may say is what the API server takes.
//!
//! Like the API server: fields without a value are absent, defaults are filled in, the schema is checked, then the
//! rules. Unlike it, unknown fields are errors (kubectl's strict validation) and `metadata` is checked here as well.

use std::sync::LazyLock;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::LocationSegment;
use jsonschema::{PatternOptions, Validator};
use kube::core::cel::{self, CompiledSchema};
use serde_json::{Value, json};
use tdc_yaml::{FieldPath, Step};

use crate::crds::crd;
use crate::objects::{API_VERSION, Kind};
use crate::syntax;

/// Characters of a value that a message shows.
const MAX_SHOWN: usize = 80;

/// Something that a document must not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// The field it is about; for a missing field, the field itself.
    pub(super) path: FieldPath,
    /// What is wrong, and what to do.
    pub(super) message: String,
}

/// What a kind allows.
pub(super) struct KindSchema {
    definition: Value,
    validator: Validator,
    rules: CompiledSchema,
}

impl KindSchema {
    /// The schema of a kind, made on first use.
    pub(super) fn of(kind: Kind) -> &'static Self {
        static SCHEMAS: LazyLock<[KindSchema; 3]> = LazyLock::new(|| Kind::ALL.map(KindSchema::new));
        &SCHEMAS[kind as usize]
    }

    fn new(kind: Kind) -> Self {
        let mut definition = definition(kind);
        definition["properties"]["metadata"] = metadata();
        definition["properties"]["apiVersion"] = json!({ "type": "string", "enum": [API_VERSION] });
        definition["properties"]["kind"] = json!({ "type": "string", "enum": [kind.as_str()] });
        definition["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
        if let Some(properties) = definition["properties"].as_object_mut() {
            properties.remove("status");
        }
        close(&mut definition);
        let mut ruled = definition.clone();
        keep_rules(&mut ruled);
        let rules = cel::compile_schema(&ruled);
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft7)
            .with_pattern_options(PatternOptions::regex())
            .should_validate_formats(false)
            .build(&definition)
            .expect("the schemas of the CRDs are valid JSON Schema, as the tests show");
        Self {
            definition,
            validator,
            rules,
        }
    }

    /// The document with its defaults, or everything that is wrong with it.
    ///
    /// One violation a field is enough. A `status` is not looked at, as the API server does when an object is applied.
    pub(super) fn check(&self, mut document: Value) -> Result<Value, Vec<Violation>> {
        if let Some(fields) = document.as_object_mut() {
            fields.remove("status");
        }
        let document = cel::apply_defaults(&self.definition, &document);
        let mut violations: Vec<Violation> = self
            .validator
            .iter_errors(&document)
            .flat_map(|error| violations(&error))
            .collect();
        violations.dedup_by(|later, first| later.path == first.path);
        if violations.is_empty() {
            violations = self.broken_rules(&document);
        }
        if violations.is_empty() {
            Ok(document)
        } else {
            Err(violations)
        }
    }

    fn broken_rules(&self, document: &Value) -> Vec<Violation> {
        let Err(errors) = cel::Validator::new().validate_compiled(&self.rules, document, None) else {
            return Vec::new();
        };
        let violation = |error: cel::ValidationError| Violation {
            path: FieldPath::parse(&error.field_path),
            // The rule about one text says what it is not: which text, the API server adds by itself.
            message: match text_at(document, &error.field_path)
                .filter(|_| error.message.starts_with("is not "))
            {
                Some(text) => format!("{text:?} {}", error.message),
                None => error.message,
            },
        };
        errors.into_vec().into_iter().map(violation).collect()
    }
}

/// The text at a place as `spec.users[0].combine`.
fn text_at<'a>(document: &'a Value, place: &str) -> Option<&'a str> {
    let steps = place.split(['.', '[', ']']).filter(|step| !step.is_empty());
    let mut at = document;
    for step in steps {
        at = match at {
            Value::Array(items) => items.get(step.parse::<usize>().ok()?)?,
            other => other.get(step)?,
        };
    }
    at.as_str()
}

/// The `openAPIV3Schema` of a kind.
fn definition(kind: Kind) -> Value {
    let version = crd(kind).spec.versions.into_iter().next();
    let schema = version.and_then(|version| version.schema?.open_api_v3_schema);
    serde_json::to_value(schema).expect("a schema is a tree of structs and maps with string keys")
}

/// What may stand in `metadata`: what a person writes, and what `kubectl get -o yaml` adds.
fn metadata() -> Value {
    let texts = json!({ "type": "object", "maxProperties": 256,
        "additionalProperties": { "type": "string", "maxLength": 262_144 } });
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": { "type": "string", "minLength": 1, "maxLength": 253, "pattern": syntax::OBJECT_NAME },
            "namespace": { "type": "string", "minLength": 1, "maxLength": 63, "pattern": syntax::NAMESPACE },
            "labels": texts,
            "annotations": texts,
            "creationTimestamp": { "type": "string", "maxLength": 64 },
            "generation": { "type": "integer", "minimum": 0 },
            "resourceVersion": { "type": "string", "maxLength": 256 },
            "uid": { "type": "string", "maxLength": 256 },
            "managedFields": { "type": "array", "maxItems": 1000 },
            "ownerReferences": { "type": "array", "maxItems": 1000 },
            "finalizers": { "type": "array", "maxItems": 1000 },
        }
    })
}

/// Refuses unknown fields in every object that lists its fields.
fn close(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    if schema.contains_key("properties") && !schema.contains_key("additionalProperties") {
        schema.insert("additionalProperties".into(), Value::Bool(false));
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(close);
    }
    if let Some(items) = schema.get_mut("items") {
        close(items);
    }
}

/// Takes out what holds no rule, so that evaluation does not walk over every pattern of every list; whether a rule is
/// left. Values keep all of their fields.
fn keep_rules(schema: &mut Value) -> bool {
    let mut ruled = !schema["x-kubernetes-validations"].is_null();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.retain(|_, property| keep_rules(property));
        ruled |= !properties.is_empty();
    }
    if schema.get_mut("items").is_some_and(keep_rules) {
        ruled = true;
    } else if let Some(schema) = schema.as_object_mut() {
        schema.remove("items");
    }
    ruled
}

/// A validator's error in the words of this project; one for each unknown field.
fn violations(error: &jsonschema::ValidationError<'_>) -> Vec<Violation> {
    let path = field_path(error);
    let value = shown(error.instance());
    let message = match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let unknown = |key: &String| Violation {
                path: path.clone().key(key),
                message: "is not a known field; correct its spelling or its indentation, or remove it".into(),
            };
            return unexpected.iter().map(unknown).collect();
        }
        ValidationErrorKind::Required { property } => {
            return vec![Violation {
                path: path.key(property.as_str().unwrap_or_default()),
                message: "is missing; add it".into(),
            }];
        }
        ValidationErrorKind::Type { kind } => format!("{value} is not {}", type_name(kind, error.instance())),
        ValidationErrorKind::Enum { options } => {
            format!("{value} is not allowed; write {}", alternatives(options))
        }
        ValidationErrorKind::Pattern { pattern } => {
            format!(
                "{value} {}",
                syntax::explain(pattern).unwrap_or("has not the required form")
            )
        }
        ValidationErrorKind::Minimum { limit } => {
            format!("{value} is too small; write {} or more", number(limit))
        }
        ValidationErrorKind::Maximum { limit } => {
            format!("{value} is too large; write {} or less", number(limit))
        }
        ValidationErrorKind::MinLength { limit } if *limit == 1 => {
            "is empty; write a value or remove it".into()
        }
        ValidationErrorKind::MinLength { limit } => {
            format!("{value} is too short; write {limit} characters or more")
        }
        ValidationErrorKind::MaxLength { limit } => {
            format!("{value} is too long; write {limit} characters or fewer")
        }
        ValidationErrorKind::MaxItems { limit } => {
            let items = error.instance().as_array().map_or(0, Vec::len);
            format!("has {items} items; write {limit} or fewer")
        }
        ValidationErrorKind::MaxProperties { limit } => {
            format!("has too many entries; write {limit} or fewer")
        }
        other => format!("{value} breaks the rule {:?} of the schema", other.keyword()),
    };
    vec![Violation { path, message }]
}

fn field_path(error: &jsonschema::ValidationError<'_>) -> FieldPath {
    let step = |segment: LocationSegment<'_>| match segment {
        LocationSegment::Property(key) => Step::Key(key.into_owned()),
        LocationSegment::Index(index) => Step::Index(index),
    };
    FieldPath(error.instance_path().into_iter().map(step).collect())
}

/// What a value of another type must be, with a hint for the usual slips.
fn type_name(kind: &TypeKind, value: &Value) -> String {
    let wanted = match kind {
        TypeKind::Single(kind) => kind.to_string(),
        TypeKind::Multiple(_) => return "of an allowed type".into(),
    };
    match (wanted.as_str(), value) {
        ("string", Value::Number(_) | Value::Bool(_)) => "text; put it in quotes",
        ("string", _) => "text; write one value",
        ("boolean", _) => "true or false; write one of them, without quotes",
        ("integer" | "number", _) => "a number; write digits, without quotes and leading zeros",
        ("array", _) => "a list; write [ ] around it, or - before each item",
        ("object", _) => "a mapping; write its fields as key: value",
        _ => "of an allowed type",
    }
    .into()
}

/// A value as a message shows it: on one line and not too long.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().count() > MAX_SHOWN => {
            format!("{:?}…", text.chars().take(MAX_SHOWN).collect::<String>())
        }
        Value::String(text) => format!("{text:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a mapping".into(),
        Value::Null => "nothing".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// `1, 2 or 3`.
fn alternatives(options: &Value) -> String {
    let options: Vec<String> = options.as_array().into_iter().flatten().map(shown).collect();
    match options.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "another value".into(),
    }
}

/// The schema's bounds are floating-point numbers; all of them are whole.
fn number(limit: &Value) -> String {
    limit
        .as_f64()
        .map_or_else(|| limit.to_string(), |limit| format!("{limit:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every schema node.
    fn walk<'a>(schema: &'a Value, path: &str, visit: &mut impl FnMut(&str, &'a Value)) {
        visit(path, schema);
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(property, &format!("{path}.{name}"), visit);
        }
        if schema["items"].is_object() {
            walk(&schema["items"], &format!("{path}[]"), visit);
        }
    }

    #[test]
    fn every_value_is_bounded_and_explained() {
        for kind in Kind::ALL {
            walk(&definition(kind), kind.as_str(), &mut |path, schema| {
                let has = |key: &str| !schema[key].is_null();
                match schema["type"].as_str() {
                    Some("string") => assert!(has("maxLength") || has("enum"), "{path} has no maxLength"),
                    Some("array") => assert!(has("maxItems"), "{path} has no maxItems"),
                    Some("integer") => assert!(has("minimum"), "{path} has no minimum"),
                    Some("object" | "boolean") => {}
                    other => panic!("{path} has the type {other:?}"),
                }
                assert!(
                    schema["nullable"].is_null() && schema["title"].is_null(),
                    "{path}"
                );
                if let Some(pattern) = schema["pattern"].as_str() {
                    assert!(
                        syntax::explain(pattern).is_some(),
                        "{path}: no words for {pattern}"
                    );
                }
                let explained = path.ends_with("[]") || path == kind.as_str() || has("description");
                assert!(explained, "{path} has no description");
            });
        }
    }

    #[test]
    fn every_rule_compiles_and_has_a_message() {
        fn rules(schema: &CompiledSchema) -> usize {
            assert!(!schema.has_errors(), "{:?}", schema.compilation_errors());
            let children = schema.properties.values().chain(schema.items.as_deref());
            schema.validations.len() + children.map(rules).sum::<usize>()
        }
        let counts = Kind::ALL.map(|kind| rules(&KindSchema::of(kind).rules));
        assert_eq!(counts, [6, 6, 6], "the rules of the three kinds");
        for kind in Kind::ALL {
            walk(&definition(kind), kind.as_str(), &mut |path, schema| {
                for rule in schema["x-kubernetes-validations"]
                    .as_array()
                    .into_iter()
                    .flatten()
                {
                    assert!(rule["message"].is_string(), "{path}: {rule}");
                }
            });
        }
    }
}
