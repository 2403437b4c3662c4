//! End-to-end tests of the real binary, one file a topic. One test program, so that all topics run side by side: most of
//! their time is waiting, and linking twenty programs takes longer than running one.

mod changing_file;
mod datagram;
mod disk;
mod folders;
mod folders_changed;
mod folders_disk;
mod folders_hostile;
mod hash_verify;
mod hostile;
mod inbox;
mod json;
mod lan;
mod lan_discovery;
mod late_joiner;
mod lying_source;
mod memory;
mod names;
mod not_found;
mod output;
mod partial_serves;
mod publisher;
mod resume;
mod same_name;
mod secret;
mod several_sources;
mod sizes;
mod source_killed;
mod step_client;
mod step_server;
mod striped;
mod tcp_put;
mod trust;
mod two_fetches;
mod udp_get;
mod usage;
