//! Two contents under one name: nothing is fetched until the user has chosen.

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, Share, TestNet, listing, net};

use crate::folders::{NAME, SMALL, shared};

/// Two nodes with different contents under one name, both known to the network by their roots.
fn two_contents(net: &TestNet, seed: u64) -> ([Content; 2], [Share; 2]) {
    let contents = [Content::new(seed, MIB + 5), Content::new(seed + 1, 2 * MIB)];
    let shares = [0, 1].map(|i: usize| {
        let folder = net.folder();
        put(&folder, "report.pdf", &contents[i].bytes);
        let share = net.share(&folder);
        // Other nodes may be listed first; what counts is that this one has hashed its own.
        share.wait_until_root_is_listed(net, &contents[i].root());
        share
    });
    (contents, shares)
}

#[test]
fn both_are_shown_and_nothing_is_fetched() {
    let net = net!();
    let (contents, shares) = two_contents(&net, 601);
    let target = net.folder();

    let refused = net.get("report.pdf", &target.join("report.pdf")).run().expect_error(4, "ambiguous");

    assert_eq!(listing(&target), Vec::<String>::new());
    let shown = refused.last("error")["contents"].as_array().expect("the contents are listed");
    assert_eq!(shown.len(), 2, "{}", refused.said());
    for (content, share) in contents.iter().zip(&shares) {
        let group = shown.iter().find(|group| group["root"] == content.root().as_str());
        let group = group.unwrap_or_else(|| panic!("{} is not shown\n{}", content.root(), refused.said()));
        assert_eq!(group["size"], content.size(), "{}", refused.said());
        assert!(group["nodes"].to_string().contains(share.node()), "{}", refused.said());
    }
}

/// A folder is begun with the first offer; what was begun is gone again once the second one says something else.
#[test]
fn of_two_folders_nothing_is_left() {
    let net = net!();
    let [(_, first, share), (_, second, _other)] = [651, 652].map(|seed| shared(&net, seed, SMALL, &[]));
    let folder = net.folder();
    let target = folder.join("fetched");

    net.get(NAME, &target).run().expect_error(4, "ambiguous");
    assert_eq!(listing(&folder), Vec::<String>::new());

    // Into one that is there nothing is begun either.
    net.get(NAME, &target).args(["--from", share.node()]).run().done();
    first.as_fetched().expect_in(&target);
    net.get(NAME, &target).run().expect_error(4, "ambiguous");
    assert_eq!(listing(&folder), ["fetched"]);
    first.as_fetched().expect_in(&target);
    assert!(!second.differences(&target).is_empty());
}

#[test]
fn people_see_both_too() {
    let net = net!();
    let (contents, _shares) = two_contents(&net, 611);

    let refused = net.node(["get", "report.pdf"]).run().expect_status(4);

    let text = refused.said();
    for content in &contents {
        assert!(text.contains(&content.root()[..8]), "{text}");
        assert!(text.contains(&content.size().to_string()) || text.contains("MiB"), "{text}");
    }
}

#[test]
fn a_prefix_of_the_root_chooses() {
    let net = net!();
    let (contents, _shares) = two_contents(&net, 621);
    for content in &contents {
        let target = net.folder();
        let root = content.root();
        for (i, choice) in
            [format!("report.pdf@{}", &root[..8]), root[..10].to_owned(), root.clone()].iter().enumerate()
        {
            let path = target.join(i.to_string());
            let fetched = net.get(choice, &path).run();
            assert_eq!(fetched.done()["root"], root.as_str(), "{}", fetched.said());
            content.expect_in(&path);
        }
    }
}

#[test]
fn a_node_chooses() {
    let net = net!();
    let (contents, shares) = two_contents(&net, 631);
    for (content, share) in contents.iter().zip(&shares) {
        let target = net.folder().join("report.pdf");
        net.get("report.pdf", &target).args(["--from", share.node()]).run().done();
        content.expect_in(&target);
    }
}

#[test]
fn a_prefix_that_fits_neither_is_not_found() {
    let net = net!();
    let (contents, _shares) = two_contents(&net, 641);
    let other = Content::new(699, 10).root();
    assert!(contents.iter().all(|content| content.root()[..8] != other[..8]));

    let name = format!("report.pdf@{}", &other[..8]);
    net.get(&name, &net.folder().join("report.pdf"))
        .args(["--timeout", "3"])
        .run()
        .expect_error(3, "not_found");
}
