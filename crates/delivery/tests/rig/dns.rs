//! A name server with a small table, on UDP and TCP.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// What a name answers.
#[derive(Clone, Debug)]
pub enum Answer {
    Mx(Vec<(u16, &'static str)>),
    /// The same, and how many seconds it may be kept.
    MxFor(u32, Vec<(u16, &'static str)>),
    /// Too large for UDP: only TCP answers it.
    Large(Vec<(u16, &'static str)>),
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(&'static str),
    /// The name exists, with nothing.
    Empty,
    ServFail,
    /// Nothing comes back.
    Silence,
    /// SERVFAIL the first time, then this.
    Later(Vec<(u16, &'static str)>),
}

/// How often each question was asked.
type Asked = Arc<Mutex<HashMap<(String, RecordType), u32>>>;

pub struct Dns {
    pub address: SocketAddr,
    asked: Asked,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Dns {
    pub async fn start(table: Vec<(&'static str, Answer)>) -> Self {
        // A port that is free on both.
        let (socket, listener) = loop {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
                break (socket, listener);
            }
        };
        let address = socket.local_addr().unwrap();
        let asked = Asked::default();
        let zone = Arc::new(Zone {
            table: table.into_iter().collect(),
            asked: asked.clone(),
        });
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            let mut streams = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    received = socket.recv_from(&mut buffer) => {
                        let (size, peer) = received.unwrap();
                        if let Some(reply) = zone.reply(&buffer[..size], false) {
                            socket.send_to(&reply, peer).await.unwrap();
                        }
                    }
                    accepted = listener.accept() => {
                        streams.spawn(serve(zone.clone(), accepted.unwrap().0));
                    }
                }
            }
        });
        Self { address, asked, task }
    }

    /// How often that was asked.
    pub fn asked(&self, name: &str, kind: RecordType) -> u32 {
        let asked = self.asked.lock().unwrap();
        asked.get(&(name.to_owned(), kind)).copied().unwrap_or(0)
    }
}

async fn serve(zone: Arc<Zone>, mut stream: TcpStream) {
    while let Ok(size) = stream.read_u16().await {
        let mut query = vec![0; usize::from(size)];
        if stream.read_exact(&mut query).await.is_err() {
            return;
        }
        let Some(reply) = zone.reply(&query, true) else {
            return;
        };
        let size = u16::try_from(reply.len()).unwrap();
        if stream
            .write_all(&[&size.to_be_bytes()[..], &reply].concat())
            .await
            .is_err()
        {
            return;
        }
    }
}

struct Zone {
    table: HashMap<&'static str, Answer>,
    asked: Asked,
}

impl Zone {
    fn reply(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).ok()?;
        let question = &query.queries[0];
        let name = question.name().to_ascii();
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let found = self.table.get(&*name);
        let times = {
            let mut asked = self.asked.lock().unwrap();
            let times = asked.entry((name, question.query_type())).or_default();
            *times += 1;
            *times
        };
        Some(answer(&query, found, times, tcp)?.to_vec().unwrap())
    }
}

fn answer(query: &Message, found: Option<&Answer>, times: u32, tcp: bool) -> Option<Message> {
    let question = query.queries[0].clone();
    let (name, kind) = (question.name().clone(), question.query_type());
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_available = true;
    reply.add_query(question);
    let mut code = ResponseCode::NoError;
    let full = |host: &str| Name::from_ascii(format!("{}.", host.trim_end_matches('.'))).unwrap();
    let mut add = |ttl, data: RData| {
        if data.record_type() == kind || data.record_type() == RecordType::CNAME {
            reply.add_answer(Record::from_rdata(name.clone(), ttl, data));
        }
    };
    let mut mx = |ttl, hosts: &[(u16, &'static str)]| {
        for (preference, host) in hosts {
            add(ttl, RData::MX(MX::new(*preference, full(host))));
        }
    };
    match found {
        None => code = ResponseCode::NXDomain,
        Some(Answer::Silence) => return None,
        Some(Answer::ServFail) => code = ResponseCode::ServFail,
        // The client repeats a question at once, without its caller knowing.
        Some(Answer::Later(_)) if kind == RecordType::MX && times <= 3 => code = ResponseCode::ServFail,
        Some(Answer::Large(_)) if !tcp => reply.metadata.truncation = true,
        Some(Answer::Later(hosts) | Answer::Mx(hosts) | Answer::Large(hosts)) => mx(0, hosts),
        Some(Answer::MxFor(ttl, hosts)) => mx(*ttl, hosts),
        Some(Answer::A(ip)) => add(0, RData::A(A(*ip))),
        Some(Answer::Aaaa(ip)) => add(0, RData::AAAA(AAAA(*ip))),
        Some(Answer::Cname(host)) => add(0, RData::CNAME(CNAME(full(host)))),
        Some(Answer::Empty) => {}
    }
    reply.metadata.response_code = code;
    Some(reply)
}
