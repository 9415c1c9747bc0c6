//! A real Postfix as the intake: what it stores is what was sent, whichever extensions it offers.
//!
//! Postfix can only be started by root; for others there is nothing to show here.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on stops, and says when it cannot begin"
)]

mod rig;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rig::{Rig, config, eventually, intake};
use tdc_core::policy::Format;
use tempfile::TempDir;

const SERVICES: &str = "\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
";

/// An instance of its own, in a folder of its own.
struct Postfix {
    dir: TempDir,
    address: SocketAddr,
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = postfix(self.dir.path(), "abort");
    }
}

fn postfix(dir: &Path, verb: &str) -> bool {
    let mut command = Command::new("/usr/sbin/postfix");
    command.arg("-c").arg(dir.join("etc")).arg(verb);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Postfix {
    fn start(without: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["etc", "queue", "data", "mail"] {
            fs::create_dir(path.join(folder)).unwrap();
        }
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let home = path.display();
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {home}/queue\ndata_directory = {home}/data\n\
             maillog_file = {home}/log\nmaillog_file_prefixes = {home}\ninet_interfaces = 127.0.0.1\n\
             inet_protocols = ipv4\nmyhostname = intake.example\nmydestination =\n\
             virtual_mailbox_domains = intake.example\nvirtual_mailbox_base = {home}/mail\n\
             virtual_mailbox_maps = regexp:{{{{/.*/ journal/}}}}\nvirtual_uid_maps = static:65534\n\
             virtual_gid_maps = static:65534\nsmtpd_discard_ehlo_keywords = {without}\n"
        );
        fs::write(path.join("etc/main.cf"), main).unwrap();
        let master = format!("{address} inet n - n - - smtpd\n{SERVICES}");
        fs::write(path.join("etc/master.cf"), master).unwrap();
        for (folder, owner) in [("data", "postfix"), ("mail", "nobody")] {
            let chown = Command::new("chown").arg(owner).arg(path.join(folder)).status();
            assert!(
                chown.unwrap().success(),
                "the user {owner} is missing; `make test-tools` installs Postfix"
            );
        }
        assert!(
            postfix(path, "start"),
            "Postfix does not start; see `postfix -c {home}/etc start`"
        );
        Self { dir, address }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn stored(&self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.dir.path().join("mail/journal/new"));
        folder.map_or_else(
            |_| Vec::new(),
            |entries| entries.flatten().map(|entry| entry.path()).collect(),
        )
    }
}

#[tokio::test]
async fn what_postfix_stores_is_what_was_sent() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("skipped: only root can start Postfix");
        return;
    }
    // With the fields that Postfix would add to a raw copy.
    let original: &[u8] = b"From: a@x\r\nDate: Tue, 24 Nov 2026 07:00:00 +0000\r\nMessage-ID: <1@x>\r\nSubject: dots\r\n\r\n.\r\n..\r\n.leading\r\nBDAT 0 LAST\r\n\r\n.end\r\n";
    let cases = [
        ("", "bdat=1"),
        ("pipelining", "bdat=1"),
        ("chunking", "data=1"),
        ("chunking,pipelining,8bitmime,size", "data=1"),
    ];
    for (without, verb) in cases {
        let server = Postfix::start(without);
        for format in [Format::JournalReport, Format::Raw] {
            let mut intake = intake(server.address);
            intake.format = format;
            let before = server.stored().len();
            let rig = Rig::start(config(), intake).await;
            let key = rig.put(original, Duration::from_secs(100)).await;
            assert_eq!(
                rig.ended(1).await.delivered,
                1,
                "without {without:?}: {}",
                server.log()
            );
            rig.stop().await;
            let found = || {
                let texts = server
                    .stored()
                    .into_iter()
                    .filter_map(|path| fs::read_to_string(path).ok());
                texts.into_iter().find(|text| text.contains(&*key.id))
            };
            eventually("the copy in the mailbox", || {
                server.stored().len() > before && found().is_some()
            })
            .await;
            // In a mailbox lines end in LF.
            let stored = found().unwrap();
            let sent = std::str::from_utf8(original).unwrap().replace("\r\n", "\n");
            assert!(
                stored.contains(&format!("\n{sent}")),
                "without {without:?}: {stored}"
            );
        }
        eventually("the log of it", || server.log().contains(verb)).await;
    }
}
