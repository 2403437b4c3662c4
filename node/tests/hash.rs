//! Every engine that hashes messages side by side, compared with one SHA-256 after the other.

use ftx_node::hash::{Engine, engine_name, hash_many, leaves};
use ftx_proto::digest::Digest;
use ftx_proto::geometry::CHUNK_SIZE;
use ftx_proto::merkle::leaf_hash;
use proptest::prelude::*;

/// Bytes that no two places of which a mistake could confuse have in common.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(next).take(len.div_ceil(8)).flatten().collect();
    bytes.truncate(len);
    bytes
}

fn one_by_one(messages: &[&[u8]]) -> Vec<Digest> {
    messages.iter().map(|message| Digest::of(message)).collect()
}

fn with(engine: Engine, messages: &[&[u8]]) -> Vec<Digest> {
    let mut digests = Vec::new();
    engine.hash_many(messages, &mut digests);
    digests
}

fn as_chosen(messages: &[&[u8]]) -> Vec<Digest> {
    let mut digests = Vec::new();
    hash_many(messages, &mut digests);
    digests
}

#[test]
fn there_is_always_an_engine_and_each_has_its_own_name() {
    let engines = Engine::available();
    assert!(engines.contains(&Engine::SINGLE));
    assert!(engines.iter().any(|engine| engine.name() == engine_name()));
    for (place, engine) in engines.iter().enumerate() {
        assert!((1..=16).contains(&engine.lanes()));
        assert!(engines[..place].iter().all(|other| other.name() != engine.name()));
    }
}

#[test]
fn every_length_up_to_some_blocks() {
    for engine in Engine::available() {
        for len in 0..=300 {
            // One message more than a pass takes.
            let content = bytes(len * (engine.lanes() + 1), len as u64);
            let messages: Vec<&[u8]> =
                (0..=engine.lanes()).map(|number| &content[number * len..][..len]).collect();
            assert_eq!(with(engine, &messages), one_by_one(&messages), "{} of {len} bytes", engine.name());
        }
    }
}

/// Where one message ends while others go on: every two lengths around the ends of blocks, in every order of the lanes.
#[test]
fn every_two_lengths_around_the_ends_of_blocks() {
    let lengths = [0, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 129, 200];
    let content = bytes(300, 3);
    for engine in Engine::available() {
        for long in lengths {
            for short in lengths {
                for odd in 0..engine.lanes() {
                    let messages: Vec<&[u8]> = (0..engine.lanes())
                        .map(|lane| &content[lane..][..if lane == odd { long } else { short }])
                        .collect();
                    assert_eq!(
                        with(engine, &messages),
                        one_by_one(&messages),
                        "{}: {long} bytes in lane {odd}, else {short}",
                        engine.name()
                    );
                }
            }
        }
    }
}

#[test]
fn every_number_of_messages() {
    let content = bytes(40 * 200, 1);
    let messages: Vec<&[u8]> = content.chunks(200).collect();
    let expected = one_by_one(&messages);
    for count in 0..=messages.len() {
        for engine in Engine::available() {
            assert_eq!(with(engine, &messages[..count]), expected[..count], "{} of {count}", engine.name());
        }
        assert_eq!(as_chosen(&messages[..count]), expected[..count], "{count}");
    }
}

#[test]
fn leaves_are_those_of_the_chunks_and_come_after_what_is_there() {
    let chunk = CHUNK_SIZE as usize;
    for len in [0, 1, chunk - 1, chunk, chunk + 1, 15 * chunk + 7, 16 * chunk, 16 * chunk + 1, 37 * chunk] {
        let content = bytes(len, len as u64);
        let mut found = vec![Digest::ZERO];
        leaves(&content, &mut found);
        let expected: Vec<Digest> =
            std::iter::once(Digest::ZERO).chain(content.chunks(chunk).map(leaf_hash)).collect();
        assert_eq!(found, expected, "{len} bytes");
    }
}

#[test]
fn words_of_a_standard_message() {
    // FIPS 180-4, "abc": not by way of another implementation.
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    for engine in Engine::available() {
        for digest in with(engine, &[b"abc".as_slice(); 19]) {
            assert_eq!(digest.to_string(), expected, "{}", engine.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_messages_at_any_place(
        len in 0_usize..=70_000,
        count in 1_usize..=40,
        // How far a message begins from where the one before begins: they overlap and stand at odd places.
        step in 1_usize..=300,
        seed: u64,
    ) {
        let content = bytes(len + count * step, seed);
        let messages: Vec<&[u8]> = (0..count).map(|number| &content[number * step..][..len]).collect();
        let expected = one_by_one(&messages);
        for engine in Engine::available() {
            prop_assert_eq!(with(engine, &messages), &expected[..], "{}", engine.name());
        }
        prop_assert_eq!(as_chosen(&messages), expected);
    }

    #[test]
    fn messages_of_different_lengths_are_hashed_side_by_side_and_keep_their_order(
        lengths in prop::collection::vec(
            prop_oneof![Just(64_usize), Just(1000), 0_usize..=200, 0_usize..=20_000],
            0..=40,
        ),
        seed: u64,
    ) {
        let content = bytes(20_100, seed);
        let messages: Vec<&[u8]> =
            lengths.iter().enumerate().map(|(place, len)| &content[place..][..*len]).collect();
        let expected = one_by_one(&messages);
        for engine in Engine::available() {
            prop_assert_eq!(with(engine, &messages), &expected[..], "{}", engine.name());
        }
        prop_assert_eq!(as_chosen(&messages), expected);
    }
}
