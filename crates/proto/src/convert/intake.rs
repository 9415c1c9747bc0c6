//! Intakes.

use std::sync::Arc;

use tdc_core::Mailbox;
use tdc_core::policy as core;

use super::{ConvertError, error, object, required, unknown};
use crate::v1;

impl From<&core::Intake> for v1::Intake {
    fn from(intake: &core::Intake) -> Self {
        let format = match intake.format {
            core::Format::JournalReport => v1::Format::JournalReport,
            core::Format::Raw => v1::Format::Raw,
        };
        let mode = match intake.tls.mode {
            core::TlsMode::Verify => v1::TlsMode::Verify,
            core::TlsMode::Encrypt => v1::TlsMode::Encrypt,
            core::TlsMode::None => v1::TlsMode::None,
        };
        let min_version = match intake.tls.min_version {
            core::TlsVersion::V1_2 => v1::TlsVersion::TlsVersion12,
            core::TlsVersion::V1_3 => v1::TlsVersion::TlsVersion13,
        };
        Self {
            object: Some((&intake.object).into()),
            name: intake.name.to_string(),
            address: intake.address.as_str().to_owned(),
            format: format.into(),
            route: intake.route.as_ref().map(|route| v1::Route {
                host: route.host.to_string(),
                port: u32::from(route.port),
            }),
            tls: Some(v1::IntakeTls {
                mode: mode.into(),
                min_version: min_version.into(),
                server_name: intake.tls.server_name.as_ref().map(|name| name.to_string()),
                ca_bundle: intake.tls.ca_bundle.to_string(),
            }),
            connections: Some(v1::Connections {
                min: intake.connections.min,
                max: intake.connections.max,
                messages_per_connection: intake.connections.messages_per_connection,
            }),
            retry: Some(v1::Retry {
                transient: intake.retry.transient,
                network: intake.retry.network,
                tls: intake.retry.tls,
            }),
        }
    }
}

pub(super) fn read(intake: v1::Intake) -> Result<core::Intake, ConvertError> {
    let format = match intake.format() {
        v1::Format::JournalReport => core::Format::JournalReport,
        v1::Format::Raw => core::Format::Raw,
        v1::Format::Unspecified => return Err(unknown("intakes.format", intake.format)),
    };
    let route = |route: v1::Route| {
        let port = u16::try_from(route.port).map_err(|_| error("intakes.route.port", "is no TCP port"))?;
        Ok(core::Route {
            host: route.host.into(),
            port,
        })
    };
    let connections = required(intake.connections, "intakes.connections")?;
    let retry = required(intake.retry, "intakes.retry")?;
    Ok(core::Intake {
        name: intake.name.into(),
        object: object(intake.object),
        address: Mailbox::new(intake.address),
        format,
        route: intake.route.map(route).transpose()?,
        tls: tls(required(intake.tls, "intakes.tls")?)?,
        connections: core::Connections {
            min: connections.min,
            max: connections.max,
            messages_per_connection: connections.messages_per_connection,
        },
        retry: core::Retry {
            transient: retry.transient,
            network: retry.network,
            tls: retry.tls,
        },
    })
}

fn tls(tls: v1::IntakeTls) -> Result<core::IntakeTls, ConvertError> {
    let mode = match tls.mode() {
        v1::TlsMode::Verify => core::TlsMode::Verify,
        v1::TlsMode::Encrypt => core::TlsMode::Encrypt,
        v1::TlsMode::None => core::TlsMode::None,
        v1::TlsMode::Unspecified => return Err(unknown("intakes.tls.mode", tls.mode)),
    };
    let min_version = match tls.min_version() {
        v1::TlsVersion::TlsVersion12 => core::TlsVersion::V1_2,
        v1::TlsVersion::TlsVersion13 => core::TlsVersion::V1_3,
        v1::TlsVersion::Unspecified => return Err(unknown("intakes.tls.min_version", tls.min_version)),
    };
    Ok(core::IntakeTls {
        mode,
        min_version,
        server_name: tls.server_name.map(Arc::from),
        ca_bundle: tls.ca_bundle.into(),
    })
}
