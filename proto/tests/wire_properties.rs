//! What holds for all messages, and for all bytes that are none.

mod messages;

use ftx_proto::digest::{Instance, NodeId, Root};
use ftx_proto::limits::{
    DATAGRAM_SIZE_MAX, FRAME_META_MAX, FRAME_PAYLOAD_MAX, HAVE_RANGES_MAX, LISTING_ENTRIES_MAX,
    NODE_NAME_BYTES_MAX, PATH_BYTES_MAX, TEXT_BYTES_MAX,
};
use ftx_proto::name::RelativePath;
use ftx_proto::wire::codec::DecodeError;
use ftx_proto::wire::discovery::{
    Announce, Datagram, MAGIC, Offer, OfferEntry, OfferedKind, OfferedManifest, OfferedRoot, Query, Want,
};
use ftx_proto::wire::session::{HEADER_LEN, Header, Hello, ListingEntry, Message, RequestId};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn datagrams_come_back_as_they_were(datagram in messages::any_datagram()) {
        let bytes = datagram.encode();
        prop_assert!(bytes.len() <= DATAGRAM_SIZE_MAX);
        prop_assert_eq!(Datagram::decode(&bytes), Ok(datagram));
    }

    #[test]
    fn a_datagram_cut_anywhere_is_refused(datagram in messages::any_datagram(), at in any::<prop::sample::Index>()) {
        let bytes = datagram.encode();
        prop_assert!(Datagram::decode(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn bytes_behind_a_datagram_are_refused(datagram in messages::any_datagram(), behind in vec(any::<u8>(), 1..9)) {
        let mut bytes = datagram.encode();
        bytes.extend(behind);
        prop_assert!(Datagram::decode(&bytes).is_err());
    }

    #[test]
    fn padding_is_zero(datagram in messages::any_datagram(), value in 1u8..) {
        let mut bytes = datagram.encode();
        if let Some(last @ 0) = bytes.last_mut().filter(|_| bytes_are_padded(&datagram)) {
            *last = value;
            prop_assert!(Datagram::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_flipped_byte_is_refused_or_another_datagram(
        datagram in messages::any_datagram(), at in any::<prop::sample::Index>(), value in any::<u8>(),
    ) {
        let mut bytes = datagram.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= value;
        if let Ok(other) = Datagram::decode(&bytes) {
            prop_assert!(value == 0 || other != datagram);
        }
    }

    #[test]
    fn random_bytes_behind_the_magic_do_no_harm(body in vec(any::<u8>(), 0..1300)) {
        let bytes = [&MAGIC[..], &body].concat();
        if let Ok(datagram) = Datagram::decode(&bytes) {
            prop_assert_eq!(Datagram::decode(&datagram.encode()), Ok(datagram));
        }
    }

    #[test]
    fn without_the_magic_it_is_none_of_ours(bytes in vec(any::<u8>(), 0..1200)) {
        prop_assume!(!bytes.starts_with(&MAGIC));
        prop_assert_eq!(Datagram::decode(&bytes), Err(DecodeError::Magic));
    }

    #[test]
    fn messages_come_back_as_they_were((message, payload_len) in messages::any_message()) {
        let bytes = message.encode(payload_len);
        let (header, meta) = bytes.split_first_chunk::<HEADER_LEN>().expect("a header comes first");
        prop_assert_eq!(Header::decode(*header), Ok(Header { meta_len: meta.len(), payload_len }));
        prop_assert_eq!(Message::decode(meta, payload_len), Ok(message));
    }

    #[test]
    fn a_message_cut_anywhere_is_refused(
        (message, payload_len) in messages::any_message(), at in any::<prop::sample::Index>(),
    ) {
        let bytes = message.encode(payload_len);
        let meta = &bytes[HEADER_LEN..];
        prop_assert!(Message::decode(&meta[..at.index(meta.len())], payload_len).is_err());
    }

    #[test]
    fn bytes_behind_a_message_are_refused(
        (message, payload_len) in messages::any_message(), behind in vec(any::<u8>(), 1..9),
    ) {
        let mut bytes = message.encode(payload_len);
        bytes.extend(&behind);
        prop_assert_eq!(
            Message::decode(&bytes[HEADER_LEN..], payload_len),
            Err(DecodeError::Trailing(behind.len()))
        );
    }

    #[test]
    fn only_chunks_and_hashes_have_a_payload((message, payload_len) in messages::any_message()) {
        let bytes = message.encode(payload_len);
        let meta = &bytes[HEADER_LEN..];
        match message {
            Message::Chunks { .. } => prop_assert!(Message::decode(meta, 0).is_err()),
            Message::Hashes { .. } => prop_assert!(Message::decode(meta, payload_len + 1).is_err()),
            _ => prop_assert!(Message::decode(meta, 1).is_err()),
        }
    }

    #[test]
    fn random_bytes_are_no_harm_to_a_session(meta in vec(any::<u8>(), 0..600), payload_len in 0..300_000usize) {
        if let Ok(message) = Message::decode(&meta, payload_len) {
            let bytes = message.encode(payload_len.min(FRAME_PAYLOAD_MAX));
            prop_assert_eq!(Message::decode(&bytes[HEADER_LEN..], payload_len), Ok(message));
        }
    }

    #[test]
    fn a_header_is_within_its_bounds_or_refused(bytes in any::<[u8; HEADER_LEN]>()) {
        if let Ok(header) = Header::decode(bytes) {
            prop_assert!(header.meta_len <= FRAME_META_MAX && header.payload_len <= FRAME_PAYLOAD_MAX);
        }
    }

    #[test]
    fn a_name_is_refused_or_stays_inside(text in "[a./\\\\:\\x00C ]{0,20}") {
        if let Ok(path) = text.parse::<RelativePath>() {
            prop_assert_eq!(path.as_str(), text);
            prop_assert!(path.parts().all(|part| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0'])));
        }
    }
}

fn bytes_are_padded(datagram: &Datagram) -> bool {
    matches!(datagram, Datagram::Query(_) | Datagram::Hello(_))
}

fn announce(name: String) -> Announce {
    Announce { node: NodeId([1; 32]), instance: Instance(1), port: 1, name }
}

#[test]
fn lengths_at_the_bounds_pass_and_beyond_are_refused() {
    let header = |meta: usize, payload: usize| {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&(meta as u32).to_be_bytes());
        bytes[4..].copy_from_slice(&(payload as u32).to_be_bytes());
        Header::decode(bytes).is_ok()
    };
    assert!(header(0, 0) && header(FRAME_META_MAX, FRAME_PAYLOAD_MAX));
    assert!(!header(FRAME_META_MAX + 1, 0) && !header(0, FRAME_PAYLOAD_MAX + 1));
    assert!(!header(u32::MAX as usize, 0) && !header(0, u32::MAX as usize));

    let passes = |message: Message| Message::decode(&message.encode(0)[HEADER_LEN..], 0).is_ok();
    let hello = |len| Message::Hello(Hello { instance: Instance(1), name: "n".repeat(len) });
    assert!(passes(hello(NODE_NAME_BYTES_MAX)) && !passes(hello(NODE_NAME_BYTES_MAX + 1)));
    let goodbye = |len| Message::Goodbye("n".repeat(len));
    assert!(passes(goodbye(TEXT_BYTES_MAX)) && !passes(goodbye(TEXT_BYTES_MAX + 1)));
    let have = |count| Message::Have { root: Root([1; 32]), pieces: vec![(u32::MAX, u32::MAX); count] };
    assert!(passes(have(HAVE_RANGES_MAX)) && !passes(have(HAVE_RANGES_MAX + 1)));
    let listing = |count| Message::Listing {
        entries: vec![
            ListingEntry {
                name: "a".parse().expect("a name"),
                is_folder: false,
                size: 0,
                mtime: 0,
                root: None
            };
            count
        ],
        more: false,
    };
    assert!(passes(listing(LISTING_ENTRIES_MAX)) && !passes(listing(LISTING_ENTRIES_MAX + 1)));
    let chunks = Message::Chunks { request: RequestId(1), first: 0 }.encode(1);
    assert!(Message::decode(&chunks[HEADER_LEN..], 0).is_err());
}

#[test]
fn claims_of_hostile_length_are_refused_before_anything_is_allocated() {
    // Variable-length integers of the codec: 251, 252 and 253 announce two, four and eight bytes.
    let huge: [&[u8]; 4] = [&[250], &[251, 255, 255], &[252, 255, 255, 255, 127], &[253; 9]];
    for length in huge {
        // A name of a query, the entries of an offer, the name of a node.
        let announce = [&[2; 32][..], &[3; 8], &[9]].concat();
        for before in [
            [&[0, 1][..], &[5; 8], &[0]].concat(),
            [&[1, 1][..], &announce, &[0]].concat(),
            [&[3][..], &announce].concat(),
        ] {
            let mut bytes = [&MAGIC[..], &before, length].concat();
            if before[0] == 0 {
                bytes.resize(DATAGRAM_SIZE_MAX, 0);
            }
            assert!(matches!(Datagram::decode(&bytes), Err(DecodeError::Malformed(_))), "{bytes:?}");
        }
        // The name of a listing's beginning, its entries, the ranges of a `Have`, the reason of a `Goodbye`.
        for before in [&[1, 1][..], &[2], &[[5].as_slice(), &[1; 32]].concat(), &[14]] {
            let meta = [before, length].concat();
            assert!(matches!(Message::decode(&meta, 0), Err(DecodeError::Malformed(_))), "{meta:?}");
        }
    }
}

#[test]
fn a_number_written_the_long_way_does_not_save_the_padding() {
    let query = Datagram::Query(Query { nonce: 1, instance: Instance(1), want: Want::All }).encode();
    let hello = Datagram::Hello(announce("n".into())).encode();
    for padded in [query, hello] {
        let body = &padded[MAGIC.len() + 1..];
        for variant in [vec![padded[MAGIC.len()]], vec![251, padded[MAGIC.len()], 0]] {
            for len in 20..DATAGRAM_SIZE_MAX {
                let mut bytes = [&MAGIC[..], &variant, body].concat();
                bytes.truncate(len);
                assert!(Datagram::decode(&bytes).is_err(), "{len} bytes");
            }
        }
    }
}

#[test]
fn an_offer_holds_as_many_entries_as_fit() {
    let entry = |number: usize, len: usize| OfferEntry {
        name: format!("{number}-{}", "x".repeat(len)).parse().expect("a name"),
        kind: OfferedKind::File,
        size: u64::MAX,
        mtime: i64::MIN,
        root: OfferedRoot::Partial { root: Root([255; 32]), pieces: u32::MAX },
    };
    for (count, len) in [(0, 1), (1, 250), (3, 250), (4, 250), (10, 1), (2000, 1), (2000, 250)] {
        let entries: Vec<_> = (0..count).map(|number| entry(number, len)).collect();
        let from = announce("n".repeat(NODE_NAME_BYTES_MAX));
        let offer = Offer { nonce: u64::MAX, from, entries: entries.clone(), more: false };
        let bytes = Datagram::Offer(offer).encode();
        let Ok(Datagram::Offer(decoded)) = Datagram::decode(&bytes) else {
            panic!("{count} entries of {len}")
        };
        let kept = decoded.entries.len();
        assert_eq!(decoded.entries, entries[..kept]);
        assert_eq!(decoded.more, kept < count);
        let next = 80 + len;
        assert!(kept == count || bytes.len() + next > DATAGRAM_SIZE_MAX, "{kept} of {count}, {len} each");
    }
}

#[test]
fn the_longest_name_fits_an_offer_and_a_query() {
    let long = format!("{}/{}/{}/{}", "a".repeat(255), "b".repeat(255), "c".repeat(255), "d".repeat(132));
    assert_eq!(long.len(), PATH_BYTES_MAX);
    let name: RelativePath = long.parse().expect("a name");
    let root = OfferedRoot::Partial { root: Root([255; 32]), pieces: u32::MAX };
    let kind = OfferedKind::Folder(Some(OfferedManifest { root: Root([255; 32]), size: u64::MAX }));
    let entry = OfferEntry { name: name.clone(), kind, size: u64::MAX, mtime: i64::MIN, root };
    let from = announce("n".repeat(NODE_NAME_BYTES_MAX));
    for datagram in [
        Datagram::Offer(Offer { nonce: u64::MAX, from, entries: vec![entry], more: false }),
        Datagram::Query(Query { nonce: u64::MAX, instance: Instance(u64::MAX), want: Want::Name(name) }),
    ] {
        assert_eq!(Datagram::decode(&datagram.encode()), Ok(datagram));
    }
}

#[test]
fn a_listing_holds_as_many_entries_as_fit() {
    for (count, len) in [(0, 1), (512, 1), (513, 1), (512, 250), (60, 890), (70, 890)] {
        let name = vec!["x".repeat(len.min(222)); (len / 222).max(1)].join("/");
        let name: RelativePath = name.parse().expect("a name");
        let entry = ListingEntry {
            name,
            is_folder: true,
            size: u64::MAX,
            mtime: i64::MIN,
            root: Some(Root([255; 32])),
        };
        let bytes = Message::listing(vec![entry; count], false).encode(0);
        let Ok(Message::Listing { entries, more }) = Message::decode(&bytes[HEADER_LEN..], 0) else {
            panic!("{count} entries of {len}")
        };
        assert_eq!(more, entries.len() < count);
        let full = entries.len() == LISTING_ENTRIES_MAX || bytes.len() + len + 100 > FRAME_META_MAX * 9 / 10;
        assert!(!more || full, "{} of {count} entries of {len}", entries.len());
    }
}

#[test]
fn a_reason_is_cut_between_characters() {
    let bytes = Message::goodbye(&"ü".repeat(300)).encode(0);
    assert_eq!(
        Message::decode(&bytes[HEADER_LEN..], 0),
        Ok(Message::Goodbye("ü".repeat(TEXT_BYTES_MAX / 2)))
    );
}
