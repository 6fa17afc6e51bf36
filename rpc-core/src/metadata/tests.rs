//! The map and its block.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::status::{Code, Status};

/// Text for text keys, bytes for keys that end in `-bin`.
fn map_of(entries: &[(&'static str, &[u8])]) -> MetadataMap {
    let mut map = MetadataMap::new();
    for &(key, value) in entries {
        if key.ends_with("-bin") {
            map.append_bin(key, MetadataValue::from_bytes(value));
        } else {
            map.append(key, value.try_into().unwrap());
        }
    }
    map
}

fn encoded(map: &MetadataMap) -> Vec<u8> {
    // Bytes that encoding must overwrite.
    let mut block = vec![0xA5; map.checked_encoded_len().unwrap()];
    map.encode(&mut block);
    block
}

mod map {
    use super::*;

    #[test]
    fn insert_replaces_and_append_adds() {
        let mut map = map_of(&[("a", b"1"), ("b", b"2"), ("a", b"3")]);
        assert_eq!((map.len(), map.keys_len()), (3, 2));
        assert_eq!(map.insert("a", "4".parse().unwrap()).unwrap(), "1");
        assert_eq!((map.len(), map.keys_len()), (2, 2));
        assert_eq!(map.get_all("a").iter().collect::<Vec<_>>(), ["4"]);
        assert!(map.append("a", "5".parse().unwrap()));
        assert!(!map.append("c", "6".parse().unwrap()));
        let all = map.get_all("a");
        assert_eq!(all.iter().collect::<Vec<_>>(), ["4", "5"]);
        assert_eq!(all.iter().rev().collect::<Vec<_>>(), ["5", "4"]);
        assert_eq!(map.get("a").unwrap(), "4");
        assert!(map.insert("new", "7".parse().unwrap()).is_none());
    }

    #[test]
    fn remove_takes_all_values_of_a_key() {
        let mut map = map_of(&[("a", b"1"), ("b-bin", b"2"), ("a", b"3"), ("b-bin", b"4")]);
        assert_eq!(map.remove("a").unwrap(), "1");
        assert!(map.remove("a").is_none());
        assert!(map.remove("b-bin").is_none(), "not text");
        assert_eq!(map.len(), 2);
        assert_eq!(map.remove_bin("B-BIN").unwrap(), "2");
        assert!(map.is_empty());
    }

    #[test]
    fn the_two_kinds_do_not_mix() {
        let mut map = map_of(&[("a", b"1"), ("a-bin", b"\xff\0")]);
        assert!(map.get("a-bin").is_none() && map.get_bin("a").is_none());
        assert!(map.get_mut("a-bin").is_none() && map.get_bin_mut("a").is_none());
        assert_eq!(map.get_all("a-bin").iter().count(), 0);
        assert_eq!(map.get_all_bin("a-bin").into_iter().count(), 1);
        assert!(map.contains_key("a-bin") && map.contains_key(String::from("A")));
        assert!(!map.contains_key("b") && !map.contains_key("not a key"));
    }

    #[test]
    fn values_are_changed_in_place() {
        let mut map = map_of(&[("a", b"1"), ("b-bin", b"2")]);
        *map.get_mut("a").unwrap() = 10.into();
        *map.get_bin_mut("b-bin").unwrap() = MetadataValue::from_bytes(b"20");
        for value in map.values_mut() {
            match value {
                ValueRefMut::Ascii(value) => value.set_sensitive(true),
                ValueRefMut::Binary(value) => assert_eq!(*value, "20"),
            }
        }
        for entry in map.iter_mut() {
            if let KeyAndMutValueRef::Binary(key, value) = entry {
                assert_eq!(*key, "b-bin");
                value.set_sensitive(true);
            }
        }
        assert_eq!(format!("{map:?}"), "{\"a\": Sensitive, \"b-bin\": Sensitive}");
        assert_eq!(map, map_of(&[("a", b"10"), ("b-bin", b"20")]));
    }

    #[test]
    fn iteration_keeps_the_order_of_insertion() {
        let map = map_of(&[("z", b"1"), ("a-bin", b"2"), ("z", b"3")]);
        let seen: Vec<_> = map
            .iter()
            .map(|entry| match entry {
                KeyAndValueRef::Ascii(key, value) => format!("{key}={value:?}"),
                KeyAndValueRef::Binary(key, value) => format!("{key}={value:?}"),
            })
            .collect();
        assert_eq!(seen, ["z=\"1\"", "a-bin=b\"2\"", "z=\"3\""]);
        assert_eq!(map.iter().len(), 3);
        assert_eq!(map.values().rev().count(), 3);
        assert_eq!(format!("{:?}", map.keys()), "[Ascii(\"z\"), Binary(\"a-bin\")]");
    }

    #[test]
    fn equality_is_by_key() {
        let map = map_of(&[("a", b"1"), ("b", b"2"), ("a", b"3")]);
        assert_eq!(map, map_of(&[("b", b"2"), ("a", b"1"), ("a", b"3")]));
        assert_ne!(map, map_of(&[("b", b"2"), ("a", b"3"), ("a", b"1")]));
        assert_ne!(map, map_of(&[("a", b"1"), ("b", b"2"), ("b", b"3")]));
        assert_ne!(map, map_of(&[("a", b"1"), ("b", b"2")]));
    }

    #[test]
    fn merge_replaces_what_both_have() {
        let mut map = map_of(&[("a", b"1"), ("b", b"2"), ("a", b"3")]);
        map.merge(map_of(&[("a", b"4"), ("c-bin", b"5"), ("a", b"6")]));
        assert_eq!(map, map_of(&[("b", b"2"), ("a", b"4"), ("a", b"6"), ("c-bin", b"5")]));
        map.merge(MetadataMap::new());
        assert_eq!(map.len(), 4);
    }

    #[test]
    fn keys_are_given_in_many_forms() {
        let key = AsciiMetadataKey::from_static("a");
        let mut map = MetadataMap::with_capacity(4);
        assert!(map.capacity() >= 4);
        map.insert(&key, "1".parse().unwrap());
        assert_eq!(map.get(&key), map.get("a"));
        assert_eq!(map.get(String::from("a")), map.get("a".to_string()));
        map.append(key, "2".parse().unwrap());
        assert_eq!(map.get_all("a").iter().count(), 2);
        map.clear();
        assert!(map.is_empty() && map.capacity() >= 4);
        assert_eq!(MetadataMap::new().capacity(), 0);
    }

    #[test]
    #[should_panic(expected = "\"a-bin\" is no metadata key")]
    fn a_text_value_under_a_binary_key_is_a_mistake() {
        MetadataMap::new().insert("a-bin", "v".parse().unwrap());
    }

    #[test]
    #[should_panic(expected = "\"Key\" is no metadata key: byte 0 of the key is 0x4b")]
    fn a_key_in_upper_case_is_a_mistake() {
        MetadataMap::new().insert("Key", "v".parse().unwrap());
    }

    #[test]
    #[should_panic(expected = "\"a b\" is no metadata key: byte 1 of the key is 0x20")]
    fn a_bad_key_is_a_mistake() {
        MetadataMap::new().append("a b", "v".parse().unwrap());
    }
}

mod block {
    use super::*;

    /// The vector in the module's documentation.
    const VECTOR: &[u8] = b"\x02\x00\
        \x06\x00\x03\x00\x00\x00x-userann\
        \x05\x00\x02\x00\x00\x00t-bin\x00\xff";

    #[test]
    fn the_documented_vector() {
        let map = map_of(&[("x-user", b"ann"), ("t-bin", b"\x00\xff")]);
        assert_eq!(map.encoded_len(), VECTOR.len());
        assert_eq!(encoded(&map), VECTOR);
        assert_eq!(MetadataMap::decode(VECTOR).unwrap(), map);
    }

    #[test]
    fn an_empty_map_is_no_bytes() {
        assert_eq!(MetadataMap::new().encoded_len(), 0);
        MetadataMap::new().encode(&mut []);
        let map = MetadataMap::decode(&[]).unwrap();
        assert!(map.is_empty());
        assert_eq!(map.capacity(), 0);
    }

    #[test]
    fn reserved_keys_stay_at_home() {
        let mut map = map_of(&[("x-user", b"ann"), ("t-bin", b"\x00\xff")]);
        for key in RESERVED_KEYS {
            map.insert(key, "0".parse().unwrap());
        }
        assert_eq!(encoded(&map), VECTOR);
        map.remove("x-user");
        map.remove_bin("t-bin");
        assert_eq!(map.len(), RESERVED_KEYS.len());
        assert_eq!(map.encoded_len(), 0);
        let map = map_of(&[("grpc-timeout", b"1S")]);
        assert_eq!(MetadataMap::decode(&encoded(&map)).unwrap(), map);
    }

    #[test]
    fn a_block_cut_short_at_any_byte_is_an_error() {
        for len in 1..VECTOR.len() {
            let error = MetadataMap::decode(&VECTOR[..len]).unwrap_err();
            assert!(error.offset() <= len, "{len}: {error}");
            assert!(error.to_string().contains("should follow"), "{len}: {error}");
        }
    }

    #[test]
    fn errors_name_the_byte_and_the_reason() {
        let too_long = vec![1; MAX_METADATA_BYTES + 1];
        let cases: &[(&[u8], &str)] = &[
            (b"\x01", "byte 0: 2 bytes or more should follow, 1 do"),
            (b"\x00\x00", "byte 0: the count is 0, not 1 to 1024"),
            (b"\x01\x04", "byte 0: the count is 1025, not 1 to 1024"),
            (b"\x02\x00aaaaaaaaaaaaa", "byte 2: 14 bytes or more should follow, 13 do"),
            (b"\x01\x00\x01\x01\x00\x00\x00\x00a", "byte 3: the flags are 0x01, not 0"),
            (b"\x01\x00\x01\x80\x00\x00\x00\x00a", "byte 3: the flags are 0x80, not 0"),
            (b"\x01\x00\x00\x00\x01\x00\x00\x00a", "byte 8: the key is empty"),
            (
                b"\x01\x00\x03\x00\x00\x00\x00\x00axB",
                "byte 10: byte 2 of the key is 0x42, not one of 0-9 a-z _ - .",
            ),
            (
                b"\x01\x00\x02\x00\x00\x00\x00\x00a:",
                "byte 9: byte 1 of the key is 0x3a, not one of 0-9 a-z _ - .",
            ),
            (
                b"\x01\x00\x01\x00\x02\x00\x00\x00av\n",
                "byte 10: a text value has the byte 0x0a, not 0x20 to 0x7e",
            ),
            (b"\x01\x00\x01\x00\x01\x00\x00\x00av!", "byte 10: 1 bytes follow the last entry"),
            (b"\x01\x00\x01\x00\x02\x00\x00\x00av", "byte 8: 3 bytes or more should follow, 2 do"),
            (
                b"\x01\x00\x01\x00\xff\xff\xff\xffav",
                "byte 8: 4294967296 bytes or more should follow, 2 do",
            ),
            (&too_long, "byte 0: the block has 65537 bytes, more than 65536"),
        ];
        for (block, expected) in cases {
            let error = MetadataMap::decode(block).unwrap_err();
            assert_eq!(error.to_string(), format!("metadata block, {expected}"));
        }
    }

    #[test]
    fn limits_are_met_exactly() {
        let mut map = MetadataMap::new();
        for number in 0..MAX_METADATA_ENTRIES {
            map.append("k", number.into());
        }
        assert_eq!(MetadataMap::decode(&encoded(&map)).unwrap(), map);
        map.append("k", 0.into());
        let error = map.checked_encoded_len().unwrap_err();
        assert!(error.to_string().contains("1025 entries"), "{error}");
        assert_eq!(Status::from(error).code(), Code::ResourceExhausted);

        let room = MAX_METADATA_BYTES - 2 - 6 - "k-bin".len();
        let mut map = map_of(&[("k-bin", &vec![7; room])]);
        assert_eq!(map.checked_encoded_len(), Ok(MAX_METADATA_BYTES));
        assert_eq!(MetadataMap::decode(&encoded(&map)).unwrap(), map);
        map.insert_bin("k-bin", MetadataValue::from_bytes(&vec![7; room + 1]));
        assert_eq!(map.encoded_len(), MAX_METADATA_BYTES + 1);
        assert!(map.checked_encoded_len().is_err());

        let key: AsciiMetadataKey = "k".repeat(255).parse().unwrap();
        let mut map = MetadataMap::new();
        map.insert(key, "".parse().unwrap());
        assert_eq!(MetadataMap::decode(&encoded(&map)).unwrap(), map);
    }

    #[test]
    #[should_panic(expected = "a metadata block of 12 bytes")]
    fn the_buffer_must_fit() {
        map_of(&[("key", b"v")]).encode(&mut [0; 13]);
    }

    fn entry() -> impl Strategy<Value = (String, Vec<u8>)> {
        prop_oneof![
            ("[0-9a-z_.-]{1,20}x", vec(0x20..=0x7Eu8, 0..40)),
            ("[0-9a-z_.-]{0,20}-bin", vec(any::<u8>(), 0..40)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(entries in vec(entry(), 0..20)) {
            let mut map = MetadataMap::new();
            for (key, value) in &entries {
                match key.parse::<BinaryMetadataKey>() {
                    Ok(key) => map.append_bin(key, MetadataValue::from_bytes(value)),
                    Err(_) => map.append(
                        key.parse::<AsciiMetadataKey>().unwrap(),
                        value.as_slice().try_into().unwrap(),
                    ),
                };
            }
            let block = encoded(&map);
            let decoded = MetadataMap::decode(&block).unwrap();
            prop_assert_eq!(&decoded, &map);
            prop_assert_eq!(encoded(&decoded), block);
        }

        #[test]
        fn garbage_is_refused_or_means_itself(block in vec(any::<u8>(), 0..200)) {
            check_any_block(&block)?;
        }

        #[test]
        fn a_damaged_block_is_refused_or_means_itself(
            entries in vec(entry(), 1..6),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut block = (entries.len() as u16).to_le_bytes().to_vec();
            for (key, value) in &entries {
                block.extend([key.len() as u8, 0]);
                block.extend((value.len() as u32).to_le_bytes());
                block.extend(key.bytes().chain(value.iter().copied()));
            }
            prop_assert!(MetadataMap::decode(&block).is_ok());
            let at = at.index(block.len());
            block[at] = byte;
            check_any_block(&block)?;
        }
    }

    /// Any bytes either give an error within them, or a map that encodes to the same bytes.
    fn check_any_block(block: &[u8]) -> Result<(), TestCaseError> {
        match MetadataMap::decode(block) {
            Err(error) => prop_assert!(error.offset() <= block.len()),
            Ok(map) if map.keys().any(|key| is_reserved(&key)) => {}
            Ok(map) => prop_assert_eq!(encoded(&map), block),
        }
        Ok(())
    }

    fn is_reserved(key: &KeyRef<'_>) -> bool {
        matches!(key, KeyRef::Ascii(key) if RESERVED_KEYS.contains(&key.as_str()))
    }
}
