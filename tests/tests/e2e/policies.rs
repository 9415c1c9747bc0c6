//! Policies are obeyed for each recipient, and a change of the files takes effect.

use tdc_core::journal::unwrap;

use crate::stage::{Options, Stage, wait_for};

#[test]
fn policies_are_obeyed_for_each_recipient() {
    let stage = Stage::build(Options::default());
    // From, recipients, and for each expected copy the intake and its recipients.
    type Case = (
        &'static str,
        &'static str,
        &'static [(&'static str, &'static [&'static str])],
        &'static str,
    );
    let cases: [Case; 8] = [
        (
            "a@x.example",
            "ann@company.example",
            &[("etd-eu", &["ann@company.example"])],
            "global",
        ),
        (
            "a@x.example",
            "cfo@finance.example",
            &[("etd-finance", &["cfo@finance.example"])],
            "custom",
        ),
        ("a@x.example", "t@hr.example", &[], "disabled"),
        (
            "a@x.example",
            "intern@finance.example",
            &[],
            "excluded, and no other policy takes it",
        ),
        (
            "a@mail.partner.example",
            "intern@finance.example,t@hr.example",
            &[("etd-finance", &["intern@finance.example"])],
            "a sender's policy takes the remaining recipients",
        ),
        (
            "<>",
            "ann@company.example",
            &[("etd-eu", &["ann@company.example"])],
            "the null sender",
        ),
        (
            "a@mail.partner.example",
            "cfo@finance.example,ann@company.example",
            &[("etd-finance", &["cfo@finance.example", "ann@company.example"])],
            "two policies, one intake, one copy",
        ),
        (
            "a@x.example",
            "ann@company.example,t@hr.example,CFO@Finance.Example,bob@company.example",
            &[
                ("etd-eu", &["ann@company.example", "bob@company.example"]),
                ("etd-finance", &["CFO@Finance.Example"]),
            ],
            "one copy for each intake, with its own recipients only",
        ),
    ];
    let mut seen = 0;
    for (number, (from, to, copies, why)) in cases.into_iter().enumerate() {
        let (sent, transcript) = stage.swaks(from, to, None);
        assert!(sent, "{why}: {transcript}");
        let originals = stage.mailbox();
        assert_eq!(originals.len(), number + 1, "{why}: one original");
        let original = &originals[number];
        assert_eq!(original.from(), from.trim_matches(['<', '>']), "{why}");
        assert_eq!(original.to(), to.split(',').collect::<Vec<_>>(), "{why}");
        let arrived = stage.intake(seen + copies.len());
        let new = &arrived[seen..];
        assert_eq!(new.len(), copies.len(), "{why}: as many copies as intakes");
        for (intake, recipients) in copies {
            let address = format!("{intake}@intake.example");
            let copy = new
                .iter()
                .find(|copy| copy.to() == [address.as_str()])
                .unwrap_or_else(|| panic!("{why}: {intake}"));
            assert_eq!(copy.from(), "", "{why}: from the null sender");
            assert!(!copy.record["tls"].is_null(), "{why}: over TLS");
            let report = unwrap(&copy.bytes).unwrap();
            assert_eq!(report.recipients, *recipients, "{why}");
            assert_eq!(report.sender, original.from(), "{why}");
            assert!(
                copy.bytes[report.original] == original.bytes,
                "{why}: byte for byte"
            );
        }
        seen += copies.len();
    }
    // Nothing more arrives for the messages that are not journaled.
    stage.swaks("a@x.example", "last@company.example", None);
    assert_eq!(stage.intake(seen + 1).len(), seen + 1);
}

#[test]
fn a_change_of_the_files_takes_effect_and_a_bad_one_does_not() {
    let stage = Stage::build(Options::default());
    let file = stage.dir.path().join("config/all.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    let applied = |count: usize| {
        wait_for("a new snapshot", || {
            (stage.ingress.log().matches("Applied a policy snapshot").count() >= count).then_some(())
        });
    };
    std::fs::write(&file, good.replace("mode: Disabled", "mode: Gobal")).unwrap();
    let policy = stage.policy.as_ref().unwrap();
    wait_for("the complaint", || {
        policy
            .log()
            .lines()
            .any(|line| line.contains("all.yaml") && line.contains("journaling"))
            .then_some(())
    });
    assert!(stage.swaks("a@x.example", "t@hr.example", None).0);
    std::fs::write(&file, good.replace("{ mode: Disabled }", "{ mode: Global }")).unwrap();
    applied(2);
    assert!(stage.swaks("a@x.example", "t@hr.example", None).0);
    let copies = stage.intake(1);
    assert_eq!(copies.len(), 1, "the bad file changed nothing, the good one did");
    assert_eq!(unwrap(&copies[0].bytes).unwrap().recipients, ["t@hr.example"]);
}
