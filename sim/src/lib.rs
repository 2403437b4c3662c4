//! See the description.
