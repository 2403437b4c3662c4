//! Attacks, each named after what it tries. What is asked of the node is always the same: whoever is honest gets what is
//! right, and nothing that an attacker says is believed, kept, or passed on as it came.

mod amplification;
mod clocks;
mod crowds;
mod lies;
mod links;
mod names;
mod slow;
mod speech;
mod tls;

use crate::hostile::{NAME, SIZE, expect_dropped, shared, still_serves, with_an_honest_one};
