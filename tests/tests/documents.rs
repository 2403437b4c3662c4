//! What the documents say of the code is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder that all of the project is in.
fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = project().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of all tests of the project: functions behind an attribute that ends with `test]` or `test(…)]`.
fn tests_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            tests_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
                let behind = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
                if let Some((name, _)) = behind.and_then(|line| line.split_once(['(', '<'])) {
                    if is_test {
                        found.insert(name.to_owned());
                    }
                    is_test = false;
                }
            }
        }
    }
}

#[test]
fn every_test_that_the_security_promises_name_is_there() {
    let mut tests = BTreeSet::new();
    for folder in ["node", "proto", "sim", "tests"] {
        tests_in(&project().join(folder), &mut tests);
    }
    let text = read("SECURITY.md");
    let promises: Vec<&str> =
        text.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(promises.len() > 20, "the promises are rows of tables: {promises:?}");
    for promise in promises {
        let held_by = promise.split('|').nth(2).expect("a second column");
        let names: Vec<&str> = held_by.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing holds this: {promise}");
        for name in names {
            assert!(tests.contains(name), "there is no test {name}, which is to hold: {promise}");
        }
    }
}

#[test]
fn every_crate_that_is_asked_for_has_its_reason() {
    let manifest = read("Cargo.toml");
    let reasons = read("docs/dependencies.md");
    let asked = manifest.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    let asked = asked.take_while(|line| !line.starts_with('['));
    let names: Vec<&str> = asked.filter_map(|line| Some(line.split_once(" = ")?.0)).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names.into_iter().filter(|name| !name.starts_with("ftx-") && !name.starts_with('#')) {
        let row = reasons.lines().any(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
        assert!(row, "docs/dependencies.md does not say why `{name}` is there");
    }
}
