//! A redis-server of the test's own, in a temporary directory, on a Unix socket.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

pub struct RedisServer {
    child: Child,
    dir: TempDir,
    args: Vec<String>,
}

impl RedisServer {
    /// Starts a server with more arguments, and waits until it answers.
    pub async fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let child = spawn(dir.path(), &args);
        let mut server = Self { child, dir, args };
        server.answers().await;
        server
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.dir.path().join("redis.sock").display())
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A plain connection, to look behind the queue.
    pub async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("a good URL");
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .expect("connects")
    }

    /// As a power cut: nothing is flushed or said.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Starts it again on the same data.
    pub async fn restart(&mut self) {
        self.child = spawn(self.dir.path(), &self.args);
        self.answers().await;
    }

    /// Changes an argument of its next start; the last one given counts.
    pub fn set(&mut self, name: &str, value: &str) {
        self.args.extend([name.to_owned(), value.to_owned()]);
    }

    /// Sends it a signal: `STOP` and `CONT` make it hang and go on.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status();
        assert!(
            status.expect("kill runs").success(),
            "the server is there to be signalled"
        );
    }

    async fn answers(&mut self) {
        for _ in 0..500 {
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("redis-server ended at its start: {status}");
            }
            let client = redis::Client::open(self.url()).expect("a good URL");
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
                let pong = redis::cmd("PING").exec_async(&mut connection).await;
                // Asking for a password is an answer too; reading its data in is none.
                if pong.is_ok() || pong.is_err_and(|error| error.code() == Some("NOAUTH")) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("redis-server does not answer");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path, args: &[String]) -> Child {
    Command::new("redis-server")
        .args([
            "--port",
            "0",
            "--unixsocket",
            "redis.sock",
            "--save",
            "",
            "--loglevel",
            "warning",
        ])
        .args(["--maxmemory-policy", "noeviction"])
        .args(args)
        .current_dir(dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server: {error}; install it: apt-get install redis-server"))
}
