//! Hashing and verifying files, without any network.

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, net};

#[test]
fn hash_prints_the_root() {
    let net = net!();
    let folder = net.folder();
    for size in [0, 1, 16_384, 16_385, MIB, MIB + 1, 5 * MIB + 3] {
        let content = Content::new(1700, size);
        let path = put(&folder, "file", &content.bytes);

        let plain = net.node(["hash"]).arg(&path).run().expect_status(0);
        assert!(String::from_utf8_lossy(&plain.stdout).contains(&content.root()), "{}", plain.said());

        let json = net.node(["hash", "--json"]).arg(&path).run().expect_status(0);
        let told = json.events.iter().any(|event| event["root"] == content.root().as_str());
        assert!(told, "{}", json.said());
    }
}

#[test]
fn hash_takes_several_files_and_names_those_it_cannot_read() {
    let net = net!();
    let folder = net.folder();
    let content = Content::new(1701, 1000);
    let path = put(&folder, "file", &content.bytes);

    let hashed = net.node(["hash"]).arg(folder.join("missing")).arg(&path).run();

    assert_ne!(hashed.status, 0, "{}", hashed.said());
    assert!(hashed.stderr.contains("missing"), "{}", hashed.said());
    assert!(String::from_utf8_lossy(&hashed.stdout).contains(&content.root()), "{}", hashed.said());
}

#[test]
fn verify_tells_right_from_wrong() {
    let net = net!();
    let folder = net.folder();
    let content = Content::new(1702, 2 * MIB + 5);
    let path = put(&folder, "file", &content.bytes);
    let verify = |root: &str| net.node(["verify"]).arg(&path).arg(root).arg("--json").run();

    verify(&content.root()).expect_status(0);

    let mut wrong = content.clone();
    wrong.bytes[MIB + 17] ^= 1;
    put(&folder, "file", &wrong.bytes);
    verify(&content.root()).expect_error(7, "integrity");
}
