//! Processes that are killed at any moment, disks that lose their power: whatever happens, what is there is right, and the
//! same command goes on until all of it is there.
//!
//! What is here in the ordinary run is short. `cargo test -p ftx-tests --test crash -- --ignored` kills much more often;
//! `FTX_CRASH_KILLS` says how often, `FTX_CRASH_SEED` from which seed. A test that fails prints what replays it.

mod get;
mod power;
mod put;
mod served;
