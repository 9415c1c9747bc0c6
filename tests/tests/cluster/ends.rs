//! Both ends of the connector: what the mailbox server and the intake have, read from their volumes.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::kubectl::{DEMO, get, wait_for};

/// Every message at one end, by its Message-ID; several with the same are in the order of arrival.
pub(crate) type Messages = HashMap<String, Vec<Message>>;

/// A message at one end.
pub(crate) struct Message {
    /// What the simulator noted.
    pub(crate) record: Value,
    /// The original; at the intake, the one within the copy.
    pub(crate) original: Vec<u8>,
    /// All of it.
    pub(crate) octets: Vec<u8>,
}

impl Message {
    /// At the intake: it may be of a message that was not accepted.
    pub(crate) fn in_doubt(&self) -> bool {
        self.record["copy"]["in_doubt"] == true
    }

    /// At the intake: what is the same when a copy comes again.
    pub(crate) fn delivery_id(&self) -> &str {
        self.record["copy"]["delivery_id"].as_str().unwrap()
    }

    /// At the intake: the recipients that it lists.
    pub(crate) fn listed(&self) -> Vec<&str> {
        let recipients = self.record["copy"]["recipients"].as_array().unwrap();
        recipients
            .iter()
            .map(|recipient| recipient.as_str().unwrap())
            .collect()
    }

    /// The addresses it was sent to.
    pub(crate) fn to(&self) -> Vec<&str> {
        let to = self.record["rcpt_to"].as_array().unwrap();
        to.iter().map(|to| to["address"].as_str().unwrap()).collect()
    }
}

/// The folder of a claim of this cluster: its volumes are folders of this machine.
fn folder(claim: &str) -> PathBuf {
    let claim = get(&format!("pvc -n {DEMO} {claim}"));
    let volume = get(&format!("pv {}", claim["spec"]["volumeName"].as_str().unwrap()));
    PathBuf::from(volume["spec"]["hostPath"]["path"].as_str().unwrap()).join("mail")
}

fn read(claim: &str) -> Messages {
    let mut messages: Vec<Message> = std::fs::read_dir(folder(claim))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let hidden = path.file_name().unwrap().to_string_lossy().starts_with('.');
            !hidden && path.extension().is_some_and(|extension| extension == "eml")
        })
        .map(|path| {
            let octets = std::fs::read(&path).unwrap();
            let record: Value =
                serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
            let original = match record.get("copy") {
                Some(copy) => {
                    let number = |key: &str| copy[key].as_u64().unwrap() as usize;
                    let begin = number("original_offset");
                    octets[begin..begin + number("original_length")].to_vec()
                }
                None => octets.clone(),
            };
            Message {
                record,
                original,
                octets,
            }
        })
        .collect();
    messages.sort_by_key(|message| message.record["number"].as_u64());
    let mut by_id = Messages::new();
    for message in messages {
        by_id
            .entry(message_id(&message.original))
            .or_default()
            .push(message);
    }
    by_id
}

/// What the mailbox server has.
pub(crate) fn mailbox() -> Messages {
    read("mailbox")
}

/// What the intake has. Each copy is sound: the simulator has checked it.
pub(crate) fn intake() -> Messages {
    let messages = read("intake");
    for message in messages.values().flatten() {
        assert_eq!(
            message.record["copy"]["faults"],
            serde_json::json!([]),
            "{}",
            message.record
        );
        assert!(message.record["tls"].is_object(), "{}", message.record);
    }
    messages
}

/// Waits until the intake has copies of that message.
pub(crate) fn copies(id: &str, count: usize) -> Vec<Message> {
    wait_for(&format!("{count} copies of {id}"), || {
        intake().remove(id).filter(|copies| copies.len() >= count)
    })
}

/// The value of Message-ID, without brackets; empty when there is none.
fn message_id(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(&message[..message.len().min(8192)]).into_owned();
    let line = text
        .lines()
        .take_while(|line| !line.is_empty())
        .find(|line| line.to_ascii_lowercase().starts_with("message-id:"));
    line.and_then(|line| line.split(['<', '>']).nth(1))
        .unwrap_or_default()
        .to_owned()
}
