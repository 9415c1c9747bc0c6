//! Postfix, as an instance of its own: its own configuration, queue and data, started and stopped here.
//!
//! It relays everything to one sink, and `always_bcc` sends a copy of each message to the other: the nearest that
//! Postfix has to what the connector does. Each setting below that is not its default makes it faster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::fail::{Fail, Outcome};
use crate::interrupt::Noted;
use crate::proc::{self, Usage};

/// Where Debian has its daemons.
const DAEMONS: &str = "/usr/lib/postfix/sbin";
/// How long it may take to listen.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running instance; it stops with this.
#[derive(Debug)]
pub(crate) struct Postfix {
    etc: PathBuf,
    master: u32,
    pub(crate) port: u16,
    _noted: [Noted; 2],
}

impl Postfix {
    /// Starts one in `dir`, which belongs to it alone.
    pub(crate) fn start(dir: &Path, originals: u16, copies: u16) -> Outcome<Self> {
        let port = proc::free_port()?;
        let etc = dir.join("etc");
        let failed = || Fail::of(format!("cannot prepare Postfix in {}", dir.display()));
        for part in ["etc", "queue", "data"] {
            fs::create_dir_all(dir.join(part)).map_err(failed())?;
        }
        let owned = Command::new("chown")
            .arg("postfix")
            .arg(dir.join("data"))
            .status();
        if !owned.is_ok_and(|status| status.success()) {
            return Err(Fail(
                "Postfix must be started by root: run the benchmark as root, or with --without-postfix"
                    .into(),
            ));
        }
        fs::write(etc.join("main.cf"), main_cf(dir, originals, copies)).map_err(failed())?;
        fs::write(etc.join("master.cf"), master_cf(port)).map_err(failed())?;
        // The folder first: a signal clears away the newest first.
        let noted = [Noted::folder(dir), Noted::postfix(&etc)];
        postfix(&etc, "start")?;
        let pid = fs::read_to_string(dir.join("queue/pid/master.pid")).map_err(failed())?;
        let master = pid
            .trim()
            .parse()
            .map_err(Fail::of("cannot read Postfix's process id"))?;
        let instance = Self {
            etc,
            master,
            port,
            _noted: noted,
        };
        proc::wait_for_port(port, READY_WITHIN)?;
        Ok(instance)
    }

    pub(crate) fn usage(&self) -> Usage {
        proc::usage(self.master)
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // It says itself what went wrong.
        let _ = postfix(&self.etc, "stop");
        if let Some(dir) = self.etc.parent() {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

fn postfix(etc: &Path, verb: &str) -> Outcome<()> {
    let output = Command::new("postfix")
        .arg("-c")
        .arg(etc)
        .arg(verb)
        .output()
        .map_err(Fail::of("cannot run postfix; install the package postfix"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Fail(format!("postfix {verb} failed: {said}")))
}

fn main_cf(dir: &Path, originals: u16, copies: u16) -> String {
    let dir = dir.display();
    format!(
        "compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
command_directory = /usr/sbin
daemon_directory = {DAEMONS}
meta_directory = /etc/postfix
mail_owner = postfix
setgid_group = postdrop
myhostname = bench.example
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
message_size_limit = 104857600
# The job: everything to one server, a copy of everything to another.
relayhost = [127.0.0.1]:{originals}
always_bcc = journal@intake.example
transport_maps = inline:{{intake.example=smtp:[127.0.0.1]:{copies}}}
# No brake: mail is taken in as fast as it comes.
in_flow_delay = 0
# No look-ups of names, in or out.
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
# No counting of clients (this keeps anvil out of the way), one cheap restriction, no TLS.
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_relay_restrictions =
smtpd_recipient_restrictions = permit_mynetworks, reject
smtpd_tls_security_level = none
smtp_tls_security_level = none
# Enough processes for every session at both ends, which live as long as the run.
default_process_limit = 200
max_use = 1000000
# Deliver to each sink with many connections from the start, and keep them.
default_destination_concurrency_limit = 100
initial_destination_concurrency = 40
smtp_connection_cache_on_demand = yes
smtp_connection_reuse_count_limit = 0
qmgr_message_active_limit = 50000
qmgr_message_recipient_limit = 100000
"
    )
}

fn master_cf(port: u16) -> String {
    format!(
        "127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"
    )
}
