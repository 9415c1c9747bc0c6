//! Directories with files, and objects from YAML.

use std::fs;

use tdc_api::{FileErrors, Objects, load_dir};
use tempfile::TempDir;

/// The resources that the project's documentation shows.
pub(crate) const EXAMPLE: &str = r#"
apiVersion: tdc.dev/v1alpha1
kind: ThreatDefenseConnector
metadata: { name: default }
spec:
  enabled: true
  defaultIntake: etd-eu
  defaultJournaling: Disabled
  failurePolicy: Fail
  queueLifetime: 120s
  deadLetter: { mode: Drop, retention: 24h }
  senderIpHeader: X-IronPort-RemoteIP
  clean:
    notCleanHeaders:
      - { name: X-Spam-Flag, pattern: "^YES" }
---
apiVersion: tdc.dev/v1alpha1
kind: IntakeAddress
metadata: { name: etd-eu }
spec:
  address: b5986efe-374c-47a5-aade-b8d98847e1a6@intake.example
  format: JournalReport
  route: { host: mx.intake.example, port: 25 }
  tls: { mode: Verify, minVersion: "1.2", serverName: mx.intake.example, caBundle: "" }
  connections: { min: 3, max: 50, messagesPerConnection: 10 }
  retry: { transient: 1, network: 1, tls: 0 }
---
apiVersion: tdc.dev/v1alpha1
kind: MailPolicy
metadata: { name: finance }
spec:
  order: 10
  users:
    - senders:    { anyOf: ["@.partner.example"], noneOf: [] }
      recipients: { anyOf: ["cfo@", "@finance.example"], allOf: [], noneOf: ["intern@finance.example"] }
      combine: All
  journaling: { mode: Custom, intake: etd-finance }
"#;

/// A directory with these files.
pub(crate) fn dir(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// What a directory with this one file holds.
pub(crate) fn load(text: &str) -> Result<Objects, FileErrors> {
    load_dir(dir(&[("x.yaml", text)]).path())
}

/// A document of `kind` named `name`, with the spec in flow style.
pub(crate) fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: tdc.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec: {spec}\n")
}

/// A policy with that spec, in block style from line 5 on.
pub(crate) fn policy(spec: &str) -> String {
    format!("apiVersion: tdc.dev/v1alpha1\nkind: MailPolicy\nmetadata:\n  name: p\n{spec}")
}
