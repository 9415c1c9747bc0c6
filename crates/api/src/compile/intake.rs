//! Intakes: an intake is usable as a whole or not at all, because half an intake could send copies astray.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tdc_core::Mailbox;
use tdc_core::pattern::Pattern;
use tdc_core::policy;

use super::{IntakeStates, Judgement, Problem, Verdict, by_age, object_ref, sorted};
use crate::intake::{Connections, Format, IntakeAddress, Retry, Route, Tls, TlsMode, TlsVersion};
use crate::objects::Kind;
use crate::status::Reason;
use crate::syntax;

/// The usable intakes by name, and the state of all.
pub(super) fn compile(
    objects: &[Arc<IntakeAddress>],
    verdicts: &mut Vec<Verdict>,
) -> (Vec<policy::Intake>, IntakeStates) {
    let mut intakes = Vec::with_capacity(objects.len());
    let mut states = IntakeStates::default();
    for object in sorted(objects, by_age) {
        let identity = object_ref(object);
        let name = identity.name.clone();
        let mut problems = Vec::new();
        if states.0.contains_key(&name) {
            let message = format!("an older IntakeAddress has the name {name} already; choose another");
            problems.push(Problem::new("metadata.name", Reason::Conflicted, message));
        } else {
            let intake = one(object, &mut problems);
            states.0.insert(name.clone(), problems.is_empty());
            intakes.extend(
                intake
                    .filter(|_| problems.is_empty())
                    .map(|fields| fields.named(name, identity)),
            );
        }
        let accepted = Judgement::bad(&problems, "No mail is journaled to it until it is repaired.")
            .unwrap_or_else(|| Judgement::good(Reason::Accepted, "Policies may journal to it."));
        let resolved = Judgement::good(Reason::ResolvedRefs, "It refers to nothing.");
        verdicts.push(Verdict::new(
            Kind::IntakeAddress,
            object,
            accepted,
            resolved,
            problems,
        ));
    }
    intakes.sort_by(|a, b| a.name.cmp(&b.name));
    (intakes, states)
}

/// An intake without its identity.
struct Fields {
    address: Mailbox,
    format: policy::Format,
    route: Option<policy::Route>,
    tls: policy::IntakeTls,
    connections: policy::Connections,
    retry: policy::Retry,
}

impl Fields {
    fn named(self, name: Arc<str>, object: policy::ObjectRef) -> policy::Intake {
        let Self {
            address,
            format,
            route,
            tls,
            connections,
            retry,
        } = self;
        policy::Intake {
            name,
            object,
            address,
            format,
            route,
            tls,
            connections,
            retry,
        }
    }
}

/// Reads every field, so that all problems are found at once.
fn one(object: &IntakeAddress, problems: &mut Vec<Problem>) -> Option<Fields> {
    let spec = &object.spec;
    let address = keep(problems, address(&spec.address));
    let route = spec.route.as_ref().map(|wanted| keep(problems, route(wanted)));
    let tls = keep(problems, tls(&spec.tls));
    let connections = keep(problems, connections(&spec.connections));
    let retry = keep(problems, retry(&spec.retry));
    Some(Fields {
        address: address?,
        format: match spec.format {
            Format::JournalReport => policy::Format::JournalReport,
            Format::Raw => policy::Format::Raw,
        },
        route: match route {
            Some(read) => Some(read?),
            None => None,
        },
        tls: tls?,
        connections: connections?,
        retry: retry?,
    })
}

fn keep<T>(problems: &mut Vec<Problem>, read: Result<T, Problem>) -> Option<T> {
    read.map_err(|problem| problems.push(problem)).ok()
}

/// The mailbox, its domain in A-label form when it is not ASCII: the intake's server need not offer SMTPUTF8.
fn address(text: &str) -> Result<Mailbox, Problem> {
    let bad = |message: &str| {
        Problem::new(
            "spec.address",
            Reason::InvalidAddress,
            format!("{text:?} {message}"),
        )
    };
    if !syntax::is_mailbox(text) {
        return Err(bad(syntax::explain(syntax::MAILBOX).unwrap_or_default()));
    }
    let mailbox = Mailbox::new(text);
    match Pattern::parse(&format!("@{}", mailbox.domain())) {
        Ok(Pattern::Domain(_)) if mailbox.domain().is_ascii() => Ok(mailbox),
        Ok(Pattern::Domain(domain)) => Ok(Mailbox::new(format!("{}@{domain}", mailbox.local_part()))),
        Ok(_) | Err(_) => Err(bad("has no valid domain after the @; correct it")),
    }
}

fn route(route: &Route) -> Result<policy::Route, Problem> {
    if !syntax::is_host(&route.host) {
        let why = syntax::explain(syntax::HOST).unwrap_or_default();
        return Err(Problem::new(
            "spec.route.host",
            Reason::InvalidValue,
            format!("{:?} {why}", route.host),
        ));
    }
    Ok(policy::Route {
        host: route.host.as_str().into(),
        port: number("spec.route.port", route.port, 1, 65_535)?,
    })
}

fn tls(tls: &Tls) -> Result<policy::IntakeTls, Problem> {
    let server_name = tls.server_name.as_deref().filter(|name| !name.is_empty());
    let ca_bundle = tls.ca_bundle.as_deref().filter(|pem| !pem.trim().is_empty());
    if tls.mode != TlsMode::Verify && (server_name.is_some() || ca_bundle.is_some()) {
        let message =
            "serverName and caBundle are only used with mode Verify; remove them, or set mode: Verify";
        return Err(Problem::new("spec.tls", Reason::InvalidValue, message));
    }
    if let Some(name) = server_name
        && ServerName::try_from(name).is_err()
    {
        let message =
            format!("{name:?} cannot be the name in a certificate; write a host name or an IP address");
        return Err(Problem::new("spec.tls.serverName", Reason::InvalidValue, message));
    }
    if let Some(pem) = ca_bundle {
        check_ca_bundle(pem)?;
    }
    Ok(policy::IntakeTls {
        mode: match tls.mode {
            TlsMode::Verify => policy::TlsMode::Verify,
            TlsMode::Encrypt => policy::TlsMode::Encrypt,
            TlsMode::None => policy::TlsMode::None,
        },
        min_version: match tls.min_version {
            TlsVersion::V1_2 => policy::TlsVersion::V1_2,
            TlsVersion::V1_3 => policy::TlsVersion::V1_3,
        },
        server_name: server_name.map(Into::into),
        ca_bundle: ca_bundle.unwrap_or_default().into(),
    })
}

/// Every certificate must be usable as a trust anchor: one that is left out would show as a failed delivery.
fn check_ca_bundle(pem: &str) -> Result<(), Problem> {
    let bad = |message: String| Problem::new("spec.tls.caBundle", Reason::InvalidCertificate, message);
    let mut roots = RootCertStore::empty();
    for (at, certificate) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        let nth = at + 1;
        let certificate =
            certificate.map_err(|error| bad(format!("certificate {nth} is not valid PEM: {error}")))?;
        roots
            .add(certificate)
            .map_err(|error| bad(format!("certificate {nth} cannot be used: {error}")))?;
    }
    if roots.is_empty() {
        return Err(bad(
            "holds no certificate; write PEM blocks that begin with -----BEGIN CERTIFICATE-----".into(),
        ));
    }
    Ok(())
}

fn connections(wanted: &Connections) -> Result<policy::Connections, Problem> {
    let read = policy::Connections {
        min: number("spec.connections.min", wanted.min, 1, 1000)?,
        max: number("spec.connections.max", wanted.max, 1, 1000)?,
        messages_per_connection: number(
            "spec.connections.messagesPerConnection",
            wanted.messages_per_connection,
            1,
            10_000,
        )?,
    };
    if read.min > read.max {
        let message = "must not be greater than max; lower min or raise max";
        return Err(Problem::new(
            "spec.connections.min",
            Reason::InvalidValue,
            message,
        ));
    }
    Ok(read)
}

fn retry(wanted: &Retry) -> Result<policy::Retry, Problem> {
    Ok(policy::Retry {
        transient: number("spec.retry.transient", wanted.transient, 0, 10)?,
        network: number("spec.retry.network", wanted.network, 0, 10)?,
        tls: number("spec.retry.tls", wanted.tls, 0, 10)?,
    })
}

/// A number within the bounds that the schema states too.
fn number<T: TryFrom<i32>>(field: &str, value: i32, min: i32, max: i32) -> Result<T, Problem> {
    let within = (min..=max).contains(&value).then_some(value);
    within.and_then(|value| T::try_from(value).ok()).ok_or_else(|| {
        Problem::new(
            field,
            Reason::InvalidValue,
            format!("{value} is out of bounds; write {min} to {max}"),
        )
    })
}
