//! A name server with a small table, on UDP.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, MX};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

/// What a name answers.
#[derive(Clone, Debug)]
pub enum Answer {
    Mx(Vec<(u16, &'static str)>),
    A(Ipv4Addr),
    /// The name exists, with nothing.
    Empty,
    ServFail,
    /// Nothing comes back.
    Silence,
    /// SERVFAIL the first time, then this.
    Later(Vec<(u16, &'static str)>),
}

pub struct Dns {
    pub address: SocketAddr,
    pub questions: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Dns {
    pub async fn start(table: Vec<(&'static str, Answer)>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let table: HashMap<_, _> = table.into_iter().collect();
        let questions = Arc::new(AtomicU32::new(0));
        let counted = questions.clone();
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            let mut asked: HashMap<String, u32> = HashMap::new();
            while let Ok((size, peer)) = socket.recv_from(&mut buffer).await {
                let Ok(query) = Message::from_vec(&buffer[..size]) else {
                    continue;
                };
                counted.fetch_add(1, Ordering::SeqCst);
                let name = query.queries[0].name().to_ascii();
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                let times = asked.entry(name.clone()).or_default();
                *times += 1;
                if let Some(reply) = answer(&query, table.get(&*name), *times) {
                    socket.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
                }
            }
        });
        Self {
            address,
            questions,
            task,
        }
    }
}

fn answer(query: &Message, found: Option<&Answer>, times: u32) -> Option<Message> {
    let question = query.queries[0].clone();
    let (name, kind) = (question.name().clone(), question.query_type());
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_available = true;
    reply.add_query(question);
    let mut code = ResponseCode::NoError;
    let mx = |reply: &mut Message, hosts: &[(u16, &'static str)]| {
        for (preference, host) in hosts.iter().filter(|_| kind == RecordType::MX) {
            let host = Name::from_ascii(format!("{}.", host.trim_end_matches('.'))).unwrap();
            reply.add_answer(Record::from_rdata(
                name.clone(),
                0,
                RData::MX(MX::new(*preference, host)),
            ));
        }
    };
    match found {
        None => code = ResponseCode::NXDomain,
        Some(Answer::Silence) => return None,
        Some(Answer::ServFail) => code = ResponseCode::ServFail,
        // The client repeats a question at once, without its caller knowing.
        Some(Answer::Later(_)) if times <= 3 => code = ResponseCode::ServFail,
        Some(Answer::Later(hosts) | Answer::Mx(hosts)) => mx(&mut reply, hosts),
        Some(Answer::A(ip)) if kind == RecordType::A => {
            reply.add_answer(Record::from_rdata(name.clone(), 0, RData::A(A(*ip))));
        }
        Some(Answer::A(_) | Answer::Empty) => {}
    }
    reply.metadata.response_code = code;
    Some(reply)
}
