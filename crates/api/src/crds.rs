//! The CustomResourceDefinitions, generated from the types.
//!
//! Three things are taken out of what the derive macros write. `nullable`: without it the API server treats `field:
//! null` like an absent field, which is what people mean, and `has(self.field)` in a rule says the same. `title`, which
//! only repeats the names of Rust types. And the line breaks within a paragraph of a description: `kubectl explain`
//! breaks lines itself.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use kube::CustomResourceExt;

use crate::{IntakeAddress, Kind, MailPolicy, ThreatDefenseConnector};

/// The definitions of the three kinds, in the order of [`Kind::ALL`].
pub fn crds() -> Vec<CustomResourceDefinition> {
    Kind::ALL.into_iter().map(crd).collect()
}

/// The definition of one kind.
pub fn crd(kind: Kind) -> CustomResourceDefinition {
    let mut crd = match kind {
        Kind::ThreatDefenseConnector => ThreatDefenseConnector::crd(),
        Kind::IntakeAddress => IntakeAddress::crd(),
        Kind::MailPolicy => MailPolicy::crd(),
    };
    for version in &mut crd.spec.versions {
        if let Some(schema) = version
            .schema
            .as_mut()
            .and_then(|s| s.open_api_v3_schema.as_mut())
        {
            tidy(schema);
        }
    }
    crd
}

/// The definitions as a YAML stream, one document each, always the same text for the same version of the program.
pub fn crds_yaml() -> String {
    let mut text = String::new();
    for crd in crds() {
        text.push_str("---\n");
        // A definition is a tree of structs and maps with string keys: there is nothing that YAML could not hold.
        text.push_str(&serde_yaml_ng::to_string(&crd).expect("a CRD is always representable as YAML"));
    }
    text
}

fn tidy(schema: &mut JSONSchemaProps) {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrArray::{
        Schema, Schemas,
    };
    schema.nullable = None;
    schema.title = None;
    if let Some(description) = &mut schema.description {
        *description = flowing(description);
    }
    for property in schema.properties.iter_mut().flat_map(|map| map.values_mut()) {
        tidy(property);
    }
    match &mut schema.items {
        Some(Schema(items)) => tidy(items),
        Some(Schemas(list)) => list.iter_mut().for_each(tidy),
        None => {}
    }
}

/// Paragraphs without line breaks.
fn flowing(text: &str) -> String {
    let paragraph = |text: &str| text.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
    text.split("\n\n").map(paragraph).collect::<Vec<_>>().join("\n\n")
}
