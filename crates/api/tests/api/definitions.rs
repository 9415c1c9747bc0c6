//! The definitions: stable, and equal to the defaults of the core.

use tdc_api::{Kind, compile, crd, crds, crds_yaml};

use crate::support::{document, load};

#[test]
fn the_text_is_stable_and_holds_three_definitions() {
    let text = crds_yaml();
    assert_eq!(text, crds_yaml());
    let names: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("  name: "))
        .collect();
    assert_eq!(
        names,
        [
            "threatdefenseconnectors.tdc.dev",
            "intakeaddresses.tdc.dev",
            "mailpolicies.tdc.dev"
        ]
    );
    assert_eq!(text.matches("---\n").count(), 3);
    assert!(!text.contains("resource-policy"), "that is the chart's to say");
}

#[test]
fn what_kubectl_shows() {
    for (kind, short, columns, selectable) in [
        (
            Kind::ThreatDefenseConnector,
            "tdconn",
            "Enabled Intake Failure Accepted Programmed Age",
            ".spec.defaultIntake",
        ),
        (
            Kind::IntakeAddress,
            "intake",
            "Address Format Reachable Programmed Age",
            ".spec.address .spec.format",
        ),
        (
            Kind::MailPolicy,
            "mpol",
            "Order Mode Intake Accepted Programmed Age",
            ".spec.journaling.mode .spec.journaling.intake",
        ),
    ] {
        let spec = crd(kind).spec;
        assert_eq!(spec.scope, "Namespaced");
        assert_eq!(spec.names.short_names, Some(vec![short.to_owned()]));
        assert_eq!(spec.names.categories, Some(vec!["tdc".to_owned()]));
        let version = &spec.versions[0];
        assert!(
            version
                .subresources
                .as_ref()
                .is_some_and(|subresources| subresources.status.is_some())
        );
        let all = version.additional_printer_columns.clone().unwrap_or_default();
        let (wide, narrow): (Vec<_>, Vec<_>) = all.iter().partition(|column| column.priority == Some(1));
        assert_eq!(
            narrow
                .iter()
                .map(|column| &*column.name)
                .collect::<Vec<_>>()
                .join(" "),
            columns
        );
        assert!(
            !wide.is_empty() && wide.iter().all(|column| column.json_path.ends_with(".reason")),
            "{kind}"
        );
        let fields = version.selectable_fields.clone().unwrap_or_default();
        assert_eq!(
            fields
                .iter()
                .map(|field| &*field.json_path)
                .collect::<Vec<_>>()
                .join(" "),
            selectable
        );
    }
    assert_eq!(crds().len(), Kind::ALL.len());
}

/// `kubectl explain` breaks lines itself.
#[test]
fn descriptions_flow() {
    fn look(place: &str, schema: &serde_json::Value) {
        match schema {
            serde_json::Value::Object(fields) => fields.iter().for_each(|(name, value)| look(name, value)),
            serde_json::Value::Array(items) => items.iter().for_each(|item| look(place, item)),
            serde_json::Value::String(text) if place == "description" => {
                let broken = text.replace("\n\n", "").contains('\n');
                assert!(!broken && !text.ends_with(' '), "{text:?}");
            }
            _ => {}
        }
    }
    for crd in crds() {
        look("", &serde_json::to_value(crd).unwrap());
    }
}

#[test]
fn an_empty_spec_means_the_defaults_of_the_core() {
    let compiled = compile(&load(&document("ThreatDefenseConnector", "default", "{}")).unwrap());
    let mut connector = compiled.table.connector;
    connector.object = Default::default();
    assert_eq!(connector, tdc_core::policy::Connector::default());
}

#[test]
fn the_reference_names_every_field_with_an_example_that_is_valid() {
    let examples = load(tdc_api::EXAMPLES).unwrap();
    assert_eq!(examples.len(), 3);
    let compiled = compile(&examples);
    let bad: Vec<_> = compiled
        .verdicts
        .iter()
        .filter(|verdict| !verdict.is_good())
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
    let text = tdc_api::reference();
    assert_eq!(text, tdc_api::reference());
    for (field, part) in [
        ("users[].recipients.noneOf", "each 2 to 320 characters"),
        ("journaling.mode", "`Disabled`, `Global`, `Custom`"),
        ("tls.minVersion", "`\"1.2\"`"),
        ("queueLifetime", "write hours, minutes, seconds or milliseconds"),
        ("connections.max", "| 1 to 1000 |"),
        ("address", "*required*"),
    ] {
        let row = format!("| `{field}` |");
        let line = text.lines().find(|line| line.starts_with(&row)).unwrap();
        assert!(line.contains(part), "{field}: {line}");
    }
    // Every field of a leaf has an example.
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let nested = cells[2].contains("see below") || cells[1].contains("object");
        assert!(nested || cells[5].contains('`'), "no example: {line}");
    }
}
