//! Any text is refused, or is a path that stays below the folder it is put into and writes nothing to a terminal.
#![no_main]

use std::path::{Component, Path};

use ftx_proto::name::RelativePath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(path) = text.parse::<RelativePath>() else { return };
    assert_eq!(path.as_str(), text);
    assert!(Path::new(text).components().all(|part| matches!(part, Component::Normal(_))));
    assert_eq!(Path::new(text).components().count(), path.parts().count());
    assert_eq!(path.parts().next_back(), Some(path.file_name()));
    assert!(!path.to_string().chars().any(char::is_control));
});
