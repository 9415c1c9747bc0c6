//! From the files of a directory to objects, with every error placed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tdc_yaml::{FieldPath, FileError, FileErrors, Node};

use super::directory::{self, FileText};
use super::schema::{KindSchema, Violation};
use crate::compile::{Compiled, Verdict};
use crate::objects::{API_VERSION, Kind, Objects};

/// Errors that are kept of one directory; further ones are counted.
pub const MAX_ERRORS: usize = 1000;
/// The namespace of a directory whose objects state none.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads the objects of a directory.
///
/// Objects without a namespace get that of the directory; without `metadata.creationTimestamp` they count as equally
/// old, so that policies of the same order go by name.
///
/// # Errors
/// When anything in the directory cannot be used: every reason, at most [`MAX_ERRORS`]. A directory without any object
/// is an error too, because a table without policies would journal nothing and look healthy.
pub fn load_dir(dir: &Path) -> Result<Objects, FileErrors> {
    let texts = directory::read(dir).map_err(FileErrors)?;
    Directory::parse(dir, &texts).map(|directory| directory.objects)
}

/// The objects of a directory, and where each one stands.
pub(super) struct Directory {
    pub(super) objects: Objects,
    places: HashMap<(Kind, String), Place>,
}

/// A document.
struct Place {
    file: String,
    root: Node,
}

impl Directory {
    /// Parses and checks all files of a directory.
    pub(super) fn parse(dir: &Path, texts: &[FileText]) -> Result<Self, FileErrors> {
        let mut reader = Reader::default();
        for text in texts {
            reader.file(text);
        }
        if reader.objects.is_empty() && reader.errors.is_empty() {
            let problem = "holds no resource; write at least a ThreatDefenseConnector (spec.enabled: false journals nothing)";
            reader
                .errors
                .push(FileError::of_file(dir.display().to_string(), problem));
        }
        reader.finish()
    }

    /// What [`crate::compile`] found wrong, at its place in the files.
    pub(super) fn place_problems(&self, compiled: &Compiled) -> Vec<FileError> {
        compiled
            .verdicts
            .iter()
            .filter(|verdict| !verdict.is_good())
            .flat_map(|verdict| self.place(verdict))
            .collect()
    }

    fn place(&self, verdict: &Verdict) -> Vec<FileError> {
        let place = self.places.get(&(verdict.kind, verdict.name.clone()));
        let at = |problem: &crate::compile::Problem| FileError {
            file: place.map(|place| place.file.clone()).unwrap_or_default(),
            line: place.map(|place| place.root.line_of(&FieldPath::parse(&problem.field))),
            field: problem.field.clone(),
            problem: format!("{} {}: {}", verdict.kind, verdict.name, problem.message),
        };
        verdict.problems.iter().map(at).collect()
    }
}

#[derive(Default)]
struct Reader {
    objects: Objects,
    places: HashMap<(Kind, String), Place>,
    /// The namespace that objects state, and where the first of them stands.
    namespace: Option<(String, String)>,
    errors: Vec<FileError>,
    more_errors: usize,
}

impl Reader {
    fn file(&mut self, FileText { name, text }: &FileText) {
        let (documents, fault) = tdc_yaml::documents(text);
        for document in documents {
            self.document(name, document);
        }
        if let Some(fault) = fault {
            self.error(name, fault.line, String::new(), fault.message);
        }
    }

    fn document(&mut self, file: &str, root: Node) {
        let Some(kind) = self.kind(file, &root) else {
            return;
        };
        let document = match KindSchema::of(kind).check(root.to_json()) {
            Ok(document) => document,
            Err(violations) => {
                let placed = |violation: Violation| (root.line_of(&violation.path), violation);
                let mut violations: Vec<_> = violations.into_iter().map(placed).collect();
                violations.sort_by_key(|(line, _)| *line);
                for (line, Violation { path, message }) in violations {
                    self.error(file, line, path.to_string(), message);
                }
                return;
            }
        };
        let name = document["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let place = (kind, name);
        if let Some(first) = self.places.get(&place) {
            let message = format!(
                "there is a {kind} {:?} already, at {}:{}; rename or remove one",
                place.1, first.file, first.root.line
            );
            let line = root.line_of(&FieldPath::parse("metadata.name"));
            return self.error(file, line, "metadata.name".into(), message);
        }
        self.namespace(file, &root, &document);
        if let Err(error) = self.objects.push(kind, document) {
            // The schema has accepted it: only a field that the schema leaves open (a time stamp) gets here.
            return self.error(
                file,
                root.line,
                String::new(),
                format!("cannot be read as {kind}: {error}"),
            );
        }
        self.places.insert(
            place,
            Place {
                file: file.into(),
                root,
            },
        );
    }

    /// The kind of a document, if it is one of ours.
    fn kind(&mut self, file: &str, root: &Node) -> Option<Kind> {
        if !matches!(root.data, tdc_yaml::Data::Mapping(_)) {
            let message = format!("is not a resource; begin with apiVersion: {API_VERSION}");
            self.error(file, root.line, String::new(), message);
            return None;
        }
        let missing = |key: &str| (key.to_owned(), "is missing; add it".to_owned());
        let (field, message) = match (root.text("apiVersion"), root.text("kind")) {
            (Some(API_VERSION), Some(kind)) => match Kind::parse(kind) {
                Some(kind) => return Some(kind),
                None => {
                    let known = Kind::ALL.map(Kind::as_str).join(", ");
                    (
                        "kind".into(),
                        format!("{kind:?} is not known; write one of {known}"),
                    )
                }
            },
            (Some(API_VERSION), None) => missing("kind"),
            (Some(other), _) => {
                let message =
                    format!("{other:?} does not belong here; write {API_VERSION}, or move the document away");
                ("apiVersion".into(), message)
            }
            (None, _) => missing("apiVersion"),
        };
        self.error(file, root.line_of(&FieldPath::parse(&field)), field, message);
        None
    }

    fn namespace(&mut self, file: &str, root: &Node, document: &Value) {
        let Some(stated) = document["metadata"]["namespace"].as_str() else {
            return;
        };
        let line = root.line_of(&FieldPath::parse("metadata.namespace"));
        match &self.namespace {
            None => self.namespace = Some((stated.into(), format!("{file}:{line}"))),
            Some((known, _)) if known == stated => {}
            Some((known, place)) => {
                let message = format!(
                    "{stated:?} is another namespace than {known:?} of {place}; a directory holds one namespace"
                );
                self.error(file, line, "metadata.namespace".into(), message);
            }
        }
    }

    fn error(&mut self, file: &str, line: usize, field: String, problem: String) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(FileError {
                file: file.into(),
                line: Some(line),
                field,
                problem,
            });
        } else {
            self.more_errors += 1;
        }
    }

    fn finish(mut self) -> Result<Directory, FileErrors> {
        if self.more_errors > 0 {
            let problem = format!("and {} more errors", self.more_errors);
            self.errors.push(FileError::of_file("", problem));
        }
        if !self.errors.is_empty() {
            return Err(FileErrors(self.errors));
        }
        let namespace = self
            .namespace
            .map_or_else(|| DEFAULT_NAMESPACE.to_owned(), |(stated, _)| stated);
        self.objects.set_missing_namespace(&namespace);
        Ok(Directory {
            objects: self.objects,
            places: self.places,
        })
    }
}

impl Objects {
    fn push(&mut self, kind: Kind, document: Value) -> Result<(), serde_json::Error> {
        fn add<T: DeserializeOwned>(
            list: &mut Vec<Arc<T>>,
            document: Value,
        ) -> Result<(), serde_json::Error> {
            list.push(Arc::new(serde_json::from_value(document)?));
            Ok(())
        }
        match kind {
            Kind::ThreatDefenseConnector => add(&mut self.connectors, document),
            Kind::IntakeAddress => add(&mut self.intakes, document),
            Kind::MailPolicy => add(&mut self.policies, document),
        }
    }

    fn set_missing_namespace(&mut self, namespace: &str) {
        let Self {
            connectors,
            intakes,
            policies,
            unreadable,
        } = self;
        let metas = (connectors
            .iter_mut()
            .map(|object| &mut Arc::make_mut(object).metadata))
        .chain(
            intakes
                .iter_mut()
                .map(|object| &mut Arc::make_mut(object).metadata),
        )
        .chain(
            policies
                .iter_mut()
                .map(|object| &mut Arc::make_mut(object).metadata),
        )
        .chain(unreadable.iter_mut().map(|object| &mut object.metadata));
        for meta in metas {
            meta.namespace.get_or_insert_with(|| namespace.into());
        }
    }
}
