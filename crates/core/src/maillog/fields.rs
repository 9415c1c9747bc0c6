//! An event as names and values.

use std::borrow::Cow;

use super::{MailEvent, clean};

/// A value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number.
    Number(u64),
    /// A text, already cleaned.
    Text(Cow<'a, str>),
}

impl MailEvent {
    /// Names and values, without the event's name.
    pub fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        let number = Value::Number;
        let text = |value| Value::Text(clean(value));
        let shown = |value: &dyn std::fmt::Display| Value::Text(Cow::Owned(value.to_string()));
        match self {
            Self::Connected {
                icid,
                local,
                peer,
                host,
            } => {
                let mut fields = vec![
                    ("icid", number(*icid)),
                    ("local", shown(local)),
                    ("peer", shown(peer)),
                ];
                fields.extend(host.as_deref().map(|host| ("host", text(host))));
                fields
            }
            Self::Accepted { icid } => vec![("icid", number(*icid))],
            Self::Refused { icid, reason } => vec![("icid", number(*icid)), ("reason", text(reason))],
            Self::TlsAccepted {
                icid,
                protocol,
                cipher,
            } => {
                vec![
                    ("icid", number(*icid)),
                    ("protocol", text(protocol)),
                    ("cipher", text(cipher)),
                ]
            }
            Self::TlsRefused { icid, reason } => vec![("icid", number(*icid)), ("reason", text(reason))],
            Self::Started { mid, icid, sender } => {
                vec![
                    ("mid", number(*mid)),
                    ("icid", number(*icid)),
                    ("from", text(sender)),
                ]
            }
            Self::Recipient {
                mid,
                icid,
                rid,
                recipient,
            } => vec![
                ("mid", number(*mid)),
                ("icid", number(*icid)),
                ("rid", number(*rid as u64)),
                ("to", text(recipient)),
            ],
            Self::RecipientRefused {
                mid,
                icid,
                recipient,
                reply,
            } => vec![
                ("mid", number(*mid)),
                ("icid", number(*icid)),
                ("to", text(recipient)),
                ("reply", text(reply)),
            ],
            Self::MessageId { mid, message_id } => {
                vec![("mid", number(*mid)), ("message_id", text(message_id))]
            }
            Self::Ready { mid, size, sender } => {
                vec![
                    ("mid", number(*mid)),
                    ("bytes", number(*size)),
                    ("from", text(sender)),
                ]
            }
            Self::Matched {
                mid,
                policy,
                recipients,
                ..
            } => {
                vec![
                    ("mid", number(*mid)),
                    ("policy", text(policy)),
                    ("recipients", number(*recipients as u64)),
                ]
            }
            Self::NotJournaled { mid, reason } => vec![("mid", number(*mid)), ("reason", text(reason))],
            Self::Enqueued {
                mid,
                message_id,
                intake,
                delivery_id,
            } => vec![
                ("mid", number(*mid)),
                ("message_id", text(message_id)),
                ("intake", text(intake)),
                ("delivery_id", text(delivery_id)),
            ],
            Self::Relayed { mid, reply } => vec![("mid", number(*mid)), ("reply", text(reply))],
            Self::Aborted { mid, reason } => vec![("mid", number(*mid)), ("reason", text(reason))],
            Self::Closed { icid } | Self::Lost { icid } => vec![("icid", number(*icid))],
            Self::IntakeConnected { dcid, local, peer } => {
                vec![
                    ("dcid", number(*dcid)),
                    ("local", shown(local)),
                    ("peer", shown(peer)),
                ]
            }
            Self::IntakeTls {
                dcid,
                protocol,
                cipher,
            } => {
                vec![
                    ("dcid", number(*dcid)),
                    ("protocol", text(protocol)),
                    ("cipher", text(cipher)),
                ]
            }
            Self::DeliveryStarted { mid, dcid } => vec![("mid", number(*mid)), ("dcid", number(*dcid))],
            Self::Expired {
                mid,
                dcid,
                delivery_id,
                detail,
            } => vec![
                ("mid", number(*mid)),
                ("dcid", number(*dcid)),
                ("delivery_id", text(delivery_id)),
                ("detail", text(detail)),
            ],
            Self::Delivered {
                mid,
                dcid,
                delivery_id,
                reply,
            } => vec![
                ("mid", number(*mid)),
                ("dcid", number(*dcid)),
                ("delivery_id", text(delivery_id)),
                ("reply", text(reply)),
            ],
            Self::IntakeTlsFailed { mid, dcid, reason } => {
                vec![
                    ("mid", number(*mid)),
                    ("dcid", number(*dcid)),
                    ("reason", text(reason)),
                ]
            }
            Self::IntakeConnectionError { dcid, peer, details } => {
                vec![
                    ("dcid", number(*dcid)),
                    ("peer", text(peer)),
                    ("details", text(details)),
                ]
            }
            Self::SoftBounced {
                mid,
                dcid,
                code,
                status,
                detail,
                ..
            }
            | Self::HardBounced {
                mid,
                dcid,
                code,
                status,
                detail,
                ..
            } => vec![
                ("mid", number(*mid)),
                ("dcid", number(*dcid)),
                ("code", number(u64::from(*code))),
                ("status", text(status)),
                ("detail", text(detail)),
            ],
            Self::PossibleDelivery {
                mid,
                dcid,
                delivery_id,
            } => {
                vec![
                    ("mid", number(*mid)),
                    ("dcid", number(*dcid)),
                    ("delivery_id", text(delivery_id)),
                ]
            }
            Self::IntakeClosed { dcid } => vec![("dcid", number(*dcid))],
        }
    }
}
