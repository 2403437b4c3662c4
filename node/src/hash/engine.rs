//! The engines that there are.

use ftx_proto::digest::Digest;

#[cfg(target_arch = "aarch64")]
use super::aarch64::ArmSha;
use super::lanes::LANES_MAX;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::lanes::hash_pass;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512, ShaNi};

/// A way to hash some messages side by side, which this processor has.
///
/// There is no other way to get one than [`Engine::available`]: an engine that exists can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Engine(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One after the other, with the crate `sha2`. That uses the processor's instructions for SHA-256 as well.
    Single,
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    ShaNi(ShaNi),
    #[cfg(target_arch = "aarch64")]
    ArmSha(ArmSha),
}

impl Engine {
    /// Hashes one message after the other. It is there everywhere.
    pub const SINGLE: Engine = Engine(Kind::Single);

    /// All that this processor has.
    pub fn available() -> Vec<Engine> {
        let kinds = [
            Some(Kind::Single),
            #[cfg(target_arch = "x86_64")]
            ShaNi::detect().map(Kind::ShaNi),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(Kind::Avx2),
            #[cfg(target_arch = "x86_64")]
            Avx512::detect().map(Kind::Avx512),
            #[cfg(target_arch = "aarch64")]
            ArmSha::detect().map(Kind::ArmSha),
        ];
        kinds.into_iter().flatten().map(Engine).collect()
    }

    /// What it is, for people.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Single => "one by one",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "AVX-512 x16",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "AVX2 x8",
            #[cfg(target_arch = "x86_64")]
            Kind::ShaNi(_) => "SHA-NI x2",
            #[cfg(target_arch = "aarch64")]
            Kind::ArmSha(_) => "ARMv8 SHA x2",
        }
    }

    /// How many messages it hashes in one pass, which takes as long as the longest of them. Fewer take no less.
    pub fn lanes(self) -> usize {
        match self.0 {
            Kind::Single => 1,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => Avx512::LANES,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Kind::ShaNi(_) => ShaNi::LANES,
            #[cfg(target_arch = "aarch64")]
            Kind::ArmSha(_) => ArmSha::LANES,
        }
    }

    /// Appends the SHA-256 of each message, in order, with this engine alone. [`super::hash_many`] knows better.
    pub fn hash_many(self, messages: &[&[u8]], out: &mut Vec<Digest>) {
        let mut digests = [Digest::ZERO; LANES_MAX];
        for pass in messages.chunks(self.lanes()) {
            let digests = &mut digests[..pass.len()];
            self.hash_pass(pass, digests);
            out.extend_from_slice(digests);
        }
    }

    /// Hashes up to as many messages as it has lanes, each digest to the place of its message.
    pub(super) fn hash_pass(self, messages: &[&[u8]], digests: &mut [Digest]) {
        match self.0 {
            Kind::Single => {
                for (message, digest) in messages.iter().zip(digests) {
                    *digest = Digest::of(message);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(engine) => {
                hash_pass(messages, digests, |states, blocks| engine.compress(states, blocks));
            }
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(engine) => {
                hash_pass(messages, digests, |states, blocks| engine.compress(states, blocks));
            }
            #[cfg(target_arch = "x86_64")]
            Kind::ShaNi(engine) => {
                hash_pass(messages, digests, |states, blocks| engine.compress(states, blocks));
            }
            #[cfg(target_arch = "aarch64")]
            Kind::ArmSha(engine) => {
                hash_pass(messages, digests, |states, blocks| engine.compress(states, blocks));
            }
        }
    }
}
