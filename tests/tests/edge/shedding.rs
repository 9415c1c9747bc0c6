//! Without room, new messages are turned away with 452; it recovers by itself.

use std::process::Command;

use tdc_tests::process::wait_for;
use tdc_tests::stage::{Options, Stage};

use crate::client::Client;
use crate::rig::Rig;

#[test]
fn memory_is_a_budget() {
    let rig = Rig::new(&["--memory-budget", "300000", "--max-size", "10000000"]);
    // Two large messages on their way hold what there is; a third one grows beyond it.
    let mut held: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = rig.greeted();
            assert_eq!(client.says("MAIL FROM:<a@x.example> SIZE=100000"), 250);
            assert_eq!(
                (client.says("RCPT TO:<b@y.example>"), client.says("DATA")),
                (250, 354)
            );
            client
        })
        .collect();
    let mut third = rig.greeted();
    assert_eq!(
        third.asks("MAIL FROM:<a@x.example> SIZE=100000"),
        "452 4.3.1 Error: insufficient system resources, try again later\r\n"
    );
    rig.edge.says("hold all the memory they may (--memory-budget)");
    rig.reaches("tdc_ingress_shedding{cause=\"memory\"}", 1.0);
    rig.reaches("tdc_ingress_messages_shed_total{cause=\"memory\"}", 1.0);
    // A small one still finds room, and grows until there is none: read to its end, then refused.
    third.begin();
    third.send("A: b\r\n\r\n");
    for _ in 0..100 {
        third.send("0123456789".repeat(100) + "\r\n");
    }
    third.send(".\r\n");
    assert_eq!(third.code(), 452, "in step, at the end of its data");
    for client in &mut held {
        client.send("A: b\r\n\r\nhello\r\n.\r\n");
        assert_eq!(client.code(), 250, "those that were let in are served");
    }
    rig.edge.says("There is memory for new messages again.");
    wait_for("the pressure to be over", || {
        (rig.metric("tdc_ingress_shedding{cause=\"memory\"}") == 0.0).then_some(())
    });
    assert_eq!(
        third.says("MAIL FROM:<a@x.example> SIZE=100000"),
        250,
        "it has recovered by itself"
    );
    assert_eq!(rig.mailbox().len(), 2);
    wait_for("all memory to be given back", || {
        drop(rig.client());
        (rig.metric("tdc_ingress_memory_held_bytes") <= 120_000.0).then_some(())
    });
}

#[test]
fn a_full_queue_stops_only_mail_whose_copy_is_due() {
    let stage = Stage::build(Options::default());
    let redis = |arguments: &[&str]| {
        let output = Command::new("redis-cli")
            .args(["-p", &stage.redis_port.to_string()])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let data = |recipient: &str| {
        let mut client = Client::connect(stage.smtp);
        assert_eq!(
            (
                client.code(),
                client.says("EHLO c"),
                client.says("MAIL FROM:<a@x.example>")
            ),
            (220, 250, 250)
        );
        assert_eq!(client.says(&format!("RCPT TO:<{recipient}>")), 250);
        let reply = client.asks("DATA");
        if reply.starts_with("354") {
            client.send("A: b\r\n\r\n.\r\n");
            return client.reply().unwrap();
        }
        reply
    };
    assert_eq!(&data("ann@company.example")[..3], "250");
    redis(&["config", "set", "maxmemory", "1"]);
    stage
        .ingress
        .says("The queue has no room; messages whose copy is due get 452 until it has.");
    assert_eq!(&data("ann@company.example")[..9], "452 4.3.1");
    assert_eq!(
        &data("ann@hr.example")[..3],
        "250",
        "nobody asks to journal that one"
    );
    redis(&["config", "set", "maxmemory", "0"]);
    stage.ingress.says("The queue has room for new messages again.");
    assert_eq!(
        &data("ann@company.example")[..3],
        "250",
        "it has recovered by itself"
    );
}
