//! The engines of x86-64 processors.
//!
//! Each is a value that exists only where the processor was found to have its instructions.

mod avx2;
mod avx512;
mod rounds;
mod sha_ni;

pub(super) use avx2::Avx2;
pub(super) use avx512::Avx512;
pub(super) use sha_ni::ShaNi;
