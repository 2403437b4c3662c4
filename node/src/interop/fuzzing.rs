//! What fuzz targets try of what the older systems need.

use super::step_users::{text_of, users_in};

/// Any text as a file of users: a line of it is wrong, or it comes back as it was understood.
pub fn users(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match users_in(text) {
        Ok(users) => assert_eq!(users_in(&text_of(&users)), Ok(users)),
        Err(line) => assert!((1..=text.lines().count()).contains(&line)),
    }
}
