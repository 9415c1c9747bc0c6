//! What a directory may hold, and what is said about what it may not hold.

use std::fmt::Write;
use std::fs;

use tdc_api::{MAX_ERRORS, load_dir};

use crate::support::{EXAMPLE, dir, document, load, policy};

fn errors(text: &str) -> Vec<String> {
    load(text)
        .unwrap_err()
        .0
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_example_loads() {
    let objects = load(EXAMPLE).unwrap();
    assert_eq!(
        (
            objects.connectors.len(),
            objects.intakes.len(),
            objects.policies.len()
        ),
        (1, 1, 1)
    );
    assert_eq!(
        objects.policies[0].spec.users[0]
            .recipients
            .as_ref()
            .unwrap()
            .any_of,
        ["cfo@", "@finance.example"]
    );
    assert_eq!(objects.intakes[0].metadata.namespace.as_deref(), Some("default"));
}

#[test]
fn good_documents() {
    for (kind, spec, why) in [
        ("ThreatDefenseConnector", "{}", "everything has a default"),
        (
            "ThreatDefenseConnector",
            "{ deadLetter: ~, clean: { notCleanHeaders: null } }",
            "no value is no field",
        ),
        (
            "ThreatDefenseConnector",
            "{ queueLifetime: 1m30s, failurePolicy: Ignore }",
            "a duration of two units",
        ),
        (
            "ThreatDefenseConnector",
            "{ defaultJournaling: Global, defaultIntake: x }",
            "Global with its intake",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example }",
            "only the address is required",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example, route: { host: '::1' } }",
            "the port has a default",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example, tls: { mode: None } }",
            "no TLS",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example, tls: { mode: Encrypt, caBundle: '' } }",
            "empty is absent",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example, connections: { min: 1, max: 1 } }",
            "min may be max",
        ),
        (
            "MailPolicy",
            "{ journaling: { mode: Disabled } }",
            "no rows: everyone",
        ),
        (
            "MailPolicy",
            "{ order: -5, users: [], journaling: { mode: Global } }",
            "a negative order",
        ),
        (
            "MailPolicy",
            "{ users: [{ senders: { noneOf: [a@] } }], journaling: { mode: Custom, intake: a.b-c }}",
            "Custom",
        ),
        (
            "MailPolicy",
            "{ users: [{ senders: { anyOf: [] } }], journaling: { mode: Global }}",
            "an empty list, said so",
        ),
    ] {
        let loaded = load(&document(kind, "x", spec));
        assert!(loaded.is_ok(), "{why}: {}", loaded.unwrap_err());
    }
}

/// One error each: (kind, spec on line 5, what is said).
#[test]
fn bad_documents() {
    let long = format!("{{ address: {}@b.example }}", "a".repeat(250));
    let rows = format!(
        "{{ journaling: {{ mode: Global }}, users: [{}] }}",
        "{ senders: { anyOf: [a@] } },".repeat(1001)
    );
    for (kind, spec, said) in [
        ("MailPolicy", "{}", "spec.journaling: is missing; add it"),
        (
            "MailPolicy",
            "{ journaling: {} }",
            "spec.journaling.mode: is missing; add it",
        ),
        (
            "MailPolicy",
            "{ journaling: { mode: Off } }",
            "spec.journaling.mode: \"Off\" is not allowed; write \"Disabled\", \"Global\" or \"Custom\"",
        ),
        (
            "MailPolicy",
            "{ journaling: { mode: Custom } }",
            "spec.journaling.mode: mode Custom needs intake; name an IntakeAddress there, or use Global",
        ),
        (
            "MailPolicy",
            "{ journaling: { mode: Custom, intake: ~ } }",
            "spec.journaling.mode: mode Custom needs intake; name an IntakeAddress there, or use Global",
        ),
        (
            "MailPolicy",
            "{ journaling: { mode: Global, intake: x } }",
            "spec.journaling.intake: intake is only used with mode Custom; remove it, or set mode: Custom",
        ),
        (
            "MailPolicy",
            "{ journaling: { mode: Custom, intake: Not_A_Name } }",
            "spec.journaling.intake: \"Not_A_Name\" is not a resource name; use lower-case letters, digits, '-' and '.', as in metadata.name of the object",
        ),
        (
            "MailPolicy",
            "{ users: [{}], journaling: { mode: Global } }",
            "spec.users[0]: a row needs senders or recipients; to take everyone, leave users out",
        ),
        (
            "MailPolicy",
            "{ users: [{ recipients: {} }], journaling: { mode: Global } }",
            "spec.users[0].recipients: recipients needs anyOf, allOf or noneOf; for any recipient, leave recipients out",
        ),
        (
            "MailPolicy",
            "{ users: [{ senders: {} }], journaling: { mode: Global } }",
            "spec.users[0].senders: senders needs anyOf or noneOf; for any sender, leave senders out",
        ),
        (
            "MailPolicy",
            "{ users: [{ senders: { allOf: [a@] } }], journaling: { mode: Global } }",
            "spec.users[0].senders.allOf: is not a known field; correct its spelling or its indentation, or remove it",
        ),
        (
            "MailPolicy",
            "{ users: [{ senders: { anyOf: a@ } }], journaling: { mode: Global } }",
            "spec.users[0].senders.anyOf: \"a@\" is not a list; write [ ] around it, or - before each item",
        ),
        (
            "MailPolicy",
            "{ users: [{ senders: { anyOf: [~] } }], journaling: { mode: Global } }",
            "spec.users[0].senders.anyOf[0]: nothing is not text; write one value",
        ),
        (
            "MailPolicy",
            "{ order: '10', journaling: { mode: Global } }",
            "spec.order: \"10\" is not a number; write digits, without quotes and leading zeros",
        ),
        (
            "MailPolicy",
            "{ order: 010, journaling: { mode: Global } }",
            "spec.order: \"010\" is not a number; write digits, without quotes and leading zeros",
        ),
        (
            "MailPolicy",
            "{ order: 1.5, journaling: { mode: Global } }",
            "spec.order: 1.5 is not a number; write digits, without quotes and leading zeros",
        ),
        (
            "MailPolicy",
            "{ order: 99999999999, journaling: { mode: Global } }",
            "spec.order: 99999999999 is too large; write 1000000000 or less",
        ),
        (
            "MailPolicy",
            &rows,
            "spec.users: has 1001 items; write 1000 or fewer",
        ),
        (
            "ThreatDefenseConnector",
            "{ enabled: yes }",
            "spec.enabled: \"yes\" is not true or false; write one of them, without quotes",
        ),
        (
            "ThreatDefenseConnector",
            "{ queueLifetime: 120 }",
            "spec.queueLifetime: 120 is not text; put it in quotes",
        ),
        (
            "ThreatDefenseConnector",
            "{ queueLifetime: '120' }",
            "spec.queueLifetime: \"120\" is not a duration from 1s to 24h; write hours, minutes, seconds or milliseconds, as in \"120s\" or \"1m30s\"",
        ),
        (
            "ThreatDefenseConnector",
            "{ queueLifetime: 0s }",
            "spec.queueLifetime: \"0s\" is not a duration from 1s to 24h; write hours, minutes, seconds or milliseconds, as in \"120s\" or \"1m30s\"",
        ),
        (
            "ThreatDefenseConnector",
            "{ queueLifetime: 25h }",
            "spec.queueLifetime: \"25h\" is not a duration from 1s to 24h; write hours, minutes, seconds or milliseconds, as in \"120s\" or \"1m30s\"",
        ),
        (
            "ThreatDefenseConnector",
            "{ deadLetter: { retention: 800h } }",
            "spec.deadLetter.retention: \"800h\" is not a duration from 1s to 720h; write hours, minutes, seconds or milliseconds, as in \"120s\" or \"1m30s\"",
        ),
        (
            "ThreatDefenseConnector",
            "{ defaultJournaling: Global }",
            "spec.defaultJournaling: defaultJournaling Global needs defaultIntake; name an IntakeAddress there, or use Disabled",
        ),
        (
            "ThreatDefenseConnector",
            "{ senderIpHeader: 'X IP' }",
            "spec.senderIpHeader: \"X IP\" is not a header name; write printable ASCII without spaces and without the colon",
        ),
        (
            "ThreatDefenseConnector",
            "{ clean: { notCleanHeaders: [{ name: X }] } }",
            "spec.clean.notCleanHeaders[0].pattern: is missing; add it",
        ),
        (
            "ThreatDefenseConnector",
            "[]",
            "spec: a list is not a mapping; write its fields as key: value",
        ),
        (
            "IntakeAddress",
            "{ address: '' }",
            "spec.address: \"\" is too short; write 3 characters or more",
        ),
        (
            "IntakeAddress",
            "{ address: <a@b.example> }",
            "spec.address: \"<a@b.example>\" is not a mailbox; write it as user@domain, without brackets or spaces",
        ),
        (
            "IntakeAddress",
            &long,
            "spec.address: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"… is too long; write 254 characters or fewer",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example, tls: { minVersion: 1.2 } }",
            "spec.tls.minVersion: 1.2 is not text; put it in quotes",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example, tls: { mode: Encrypt, serverName: x } }",
            "spec.tls.serverName: serverName is only used with mode Verify; remove it, or set mode: Verify",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example, tls: { mode: None, caBundle: x } }",
            "spec.tls.caBundle: caBundle is only used with mode Verify; remove it, or set mode: Verify",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example, connections: { min: 5, max: 2 } }",
            "spec.connections.min: min must not be greater than max; lower min or raise max",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example, connections: { min: 51 } }",
            "spec.connections.min: min must not be greater than max; lower min or raise max",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example, route: {} }",
            "spec.route.host: is missing; add it",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example, route: { host: 'mx:25 x', port: 25 } }",
            "spec.route.host: \"mx:25 x\" is not a host; write a host name or an IP address, without brackets or port",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example, route: { host: mx, port: 0 } }",
            "spec.route.port: 0 is too small; write 1 or more",
        ),
        (
            "IntakeAddress",
            "{ address: a@b.example, retry: { tls: -1 } }",
            "spec.retry.tls: -1 is too small; write 0 or more",
        ),
    ] {
        assert_eq!(
            errors(&document(kind, "x", spec)),
            [format!("x.yaml:5: {said}")],
            "{kind} {spec:.80}"
        );
    }
}

#[test]
fn lines_and_several_errors() {
    let text = policy(
        "spec:\n  users:\n    - recipients:\n        anyOf:\n          - ok@example.com\n          - foo\n      combin: All\n  \
         journaling:\n    mode: Global\n  extra: 1\n",
    );
    let said = errors(&text);
    assert_eq!(
        said,
        [
            "x.yaml:10: spec.users[0].recipients.anyOf[1]: \"foo\" is not an address pattern; write user@example.com, user@, @example.com or @.example.com (sub-domains)",
            "x.yaml:11: spec.users[0].combin: is not a known field; correct its spelling or its indentation, or remove it",
            "x.yaml:14: spec.extra: is not a known field; correct its spelling or its indentation, or remove it",
        ]
    );
}

/// What is wrong with more than a field.
#[test]
fn bad_files() {
    let good = document("MailPolicy", "p", "{ journaling: { mode: Global } }");
    let named = |namespace: &str, name: &str| {
        format!(
            "---\napiVersion: tdc.dev/v1alpha1\nkind: MailPolicy\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec: {{ journaling: {{ mode: Global }} }}\n"
        )
    };
    for (text, said, why) in [
        ("kind: MailPolicy\n".to_owned(), "x.yaml:1: apiVersion: is missing; add it", "no apiVersion"),
        ("apiVersion: tdc.dev/v1alpha1\n".into(), "x.yaml:1: kind: is missing; add it", "no kind"),
        ("a: 1\n---\n".to_owned() + &good, "x.yaml:1: apiVersion: is missing; add it", "the good one is read too"),
        (
            "apiVersion: v1\nkind: ConfigMap\n".into(),
            "x.yaml:1: apiVersion: \"v1\" does not belong here; write tdc.dev/v1alpha1, or move the document away",
            "another group",
        ),
        (
            "apiVersion: tdc.dev/v1alpha1\nkind: Policy\n".into(),
            "x.yaml:2: kind: \"Policy\" is not known; write one of ThreatDefenseConnector, IntakeAddress, MailPolicy",
            "another kind",
        ),
        ("- a\n".into(), "x.yaml:1: is not a resource; begin with apiVersion: tdc.dev/v1alpha1", "a list"),
        (good.clone() + &good, "x.yaml:9: metadata.name: there is a MailPolicy \"p\" already, at x.yaml:2; rename or remove one", "twice"),
        (
            named("one", "a") + &named("two", "b"),
            "x.yaml:9: metadata.namespace: \"two\" is another namespace than \"one\" of x.yaml:4; a directory holds one namespace",
            "two namespaces",
        ),
        (
            document("MailPolicy", "Not_A_Name", "{ journaling: { mode: Global } }"),
            "x.yaml:4: metadata.name: \"Not_A_Name\" is not a resource name; use lower-case letters, digits, '-' and '.', as in metadata.name of the object",
            "a bad name",
        ),
        (
            "apiVersion: tdc.dev/v1alpha1\nkind: MailPolicy\nspec: { journaling: { mode: Global } }\n".into(),
            "x.yaml:1: metadata: is missing; add it",
            "no metadata",
        ),
        (
            "apiVersion: tdc.dev/v1alpha1\nkind: MailPolicy\nmetadata: { name: p, creationTimestamp: soon }\nspec: { journaling: { mode: Global } }\n".into(),
            "x.yaml:1: cannot be read as MailPolicy",
            "a bad time stamp",
        ),
        (good + "---\na: [\n", "x.yaml:8: is not valid YAML", "the end is missing"),
    ] {
        let said_in_full = errors(&text);
        assert_eq!(said_in_full.len(), 1, "{why}: {said_in_full:?}");
        assert!(said_in_full[0].starts_with(said), "{why}: {}", said_in_full[0]);
    }
}

#[test]
fn what_the_server_adds_is_accepted() {
    let text = "\u{feff}apiVersion: tdc.dev/v1alpha1\nkind: MailPolicy\nmetadata:\n  name: p\n  namespace: mail\n  uid: 1-2\n  generation: 3\n  \
        creationTimestamp: \"2026-01-02T03:04:05Z\"\n  resourceVersion: '7'\n  labels: { a.b/c: d }\n  managedFields: [{ manager: kubectl }]\n\
        spec: { journaling: { mode: Global } }\nstatus: { conditions: [] }\n";
    let objects = load(text).unwrap();
    let meta = &objects.policies[0].metadata;
    assert_eq!(
        (meta.namespace.as_deref(), meta.generation, meta.uid.as_deref()),
        (Some("mail"), Some(3), Some("1-2"))
    );
    assert!(meta.creation_timestamp.is_some());
}

#[test]
fn directories() {
    let good = document("MailPolicy", "p", "{ journaling: { mode: Global } }");
    let bad = "x: 1\n";
    for (files, said, why) in [
        (vec![], "holds no *.yaml or *.yml file", "nothing"),
        (
            vec![("readme.txt", "x")],
            "holds no *.yaml or *.yml file",
            "nothing that counts",
        ),
        (vec![("a.yaml", "# empty\n")], "holds no resource", "no document"),
        (
            vec![("a.yaml", &*good), ("b.yml", bad)],
            "b.yml:1: apiVersion: is missing",
            "both extensions",
        ),
        (
            vec![("a.yaml", &good), ("b.yaml", &good)],
            "b.yaml:4: metadata.name: there is a MailPolicy \"p\" already, at a.yaml:2",
            "twice",
        ),
    ] {
        let said_in_full = load_dir(dir(&files).path()).unwrap_err().to_string();
        assert!(said_in_full.contains(said), "{why}: {said_in_full}");
    }
    let directory = dir(&[("a.yaml", &good), (".hidden.yaml", bad), ("a.yaml.swp", bad)]);
    fs::create_dir(directory.path().join("sub.yaml")).unwrap();
    fs::write(directory.path().join("sub.yaml/b.yaml"), bad).unwrap();
    assert_eq!(
        load_dir(directory.path()).unwrap().len(),
        1,
        "hidden files and sub-directories are left out"
    );
    assert!(
        load_dir(&directory.path().join("missing"))
            .unwrap_err()
            .to_string()
            .contains("cannot be listed")
    );
    fs::write(directory.path().join("b.yaml"), b"a: 1\nb: \xff\n").unwrap();
    assert!(
        load_dir(directory.path())
            .unwrap_err()
            .to_string()
            .contains("b.yaml: cannot be read: line 2 is not UTF-8")
    );
}

#[test]
fn what_is_too_much_is_refused() {
    let mut text = String::new();
    for n in 0..MAX_ERRORS + 5 {
        write!(text, "---\nkind: X{n}\n").unwrap();
    }
    let errors = load(&text).unwrap_err().0;
    assert_eq!(errors.len(), MAX_ERRORS + 1);
    assert_eq!(errors[MAX_ERRORS].to_string(), ": and 5 more errors");

    let directory = dir(&[]);
    let file = fs::File::create(directory.path().join("big.yaml")).unwrap();
    file.set_len(tdc_api::MAX_FILE_BYTES + 1).unwrap();
    assert!(
        load_dir(directory.path())
            .unwrap_err()
            .to_string()
            .contains("larger than 16 MiB")
    );
}
