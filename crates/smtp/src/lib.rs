//! SMTP (RFC 5321) as state machines that never touch a socket.
//!
//! # Why this crate exists
//! Two roles speak SMTP: the ingress as server and as client of the next hop, the delivery workers as client of an
//! intake. Both need the same exact bytes: a message must leave as it came, and the place where it ends must be the
//! same for us, for the next hop and for the queue, or mail can be smuggled inside mail. So the protocol lives here
//! once, without I/O, where every split of the input can be tested.
//!
//! # What always holds
//! * Nothing here reads a clock, a socket or a policy. Bytes come in through a `BytesMut`, bytes go out through one.
//! * How the input was cut into reads never changes what comes out, with one exception that is wanted: bytes that
//!   already wait behind `STARTTLS`, or behind its reply, end the session.
//! * A message octet that leaves [`DataDecoder`] is never NUL, never a CR without its LF, never an
//!   LF without its CR. A message is empty or ends in CRLF.
//! * Memory is bounded before it is used: line length, reply length, recipients. Nothing panics on input.
//!
//! # When something fails
//! A client that breaks the protocol gets the reply of RFC 5321 and, where being out of step is dangerous, a closed
//! connection ([`CloseReason`]). A server that breaks it is a [`ClientError`]: the connection cannot be used again.
//!
//! | room | holds |
//! |---|---|
//! | [`server`], [`client`] | the two sessions |
//! | [`data`] | the end of data, normalisation, dot-stuffing |
//! | [`reply`], [`command`], [`capabilities`] | the vocabulary of the wire |
//! | [`proxy`] | the PROXY header in front of a connection |

pub mod capabilities;
pub mod client;
pub mod command;
pub mod data;
pub mod proxy;
pub mod reply;
pub mod server;

pub use capabilities::Extensions;
pub use client::{ClientConfig, ClientError, ClientEvent, ClientSession, ClientTls, Phase, Verb};
pub use command::{BodyType, MailFrom, RcptTo};
pub use data::{BareLf, DataDecoder, DataEncoder};
pub use proxy::{ProxyStatus, proxy_header};
pub use reply::{Reply, ReplyError, parse_reply};
pub use server::{Ahead, BodyEnd, BodyFault, CloseReason, Limit, ServerConfig, ServerEvent, ServerSession};
