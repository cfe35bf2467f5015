//! Objects share their keys, and nobody can tell.

use std::sync::Arc;

use fanout::json::{self, Object, Setter, Shape, Shapes, Value};
use proptest::prelude::*;

use crate::arbitrary::cases;
use crate::harness::parse;

fn shape_of(value: &Value) -> &Arc<Shape> {
    value.as_object().unwrap().shape()
}

#[test]
fn objects_of_one_list_share_their_keys_and_those_of_another_form_have_their_own() {
    let list = parse(r#"[{"a":1,"b":2},{"a":3,"b":4},{"b":5},{"a":6},{"a":7,"b":8}]"#);
    let list = list.as_array().unwrap();
    assert!(Arc::ptr_eq(shape_of(&list[0]), shape_of(&list[1])));
    assert!(Arc::ptr_eq(shape_of(&list[0]), shape_of(&list[4])));
    let keys = |value| shape_of(value).keys().join(",");
    assert_eq!(keys(&list[2]), "b");
    assert_eq!(keys(&list[3]), "a");
}

#[test]
fn a_key_set_in_one_object_is_not_in_the_others_of_its_shape() {
    let list = parse(r#"[{"a":1},{"a":2}]"#).into_list();
    let mut object = list[0].as_object().unwrap().clone();
    object.set("b", 3);
    object.remove("a");
    assert_eq!(json::compact(&object.into()), r#"{"b":3}"#);
    assert_eq!(json::compact(&list[1]), r#"{"a":2}"#);
}

#[test]
#[should_panic(expected = "a value for each key")]
fn an_object_has_as_many_values_as_keys() {
    let shape: Shape = [Arc::from("a")].into_iter().collect();
    let _ = Object::of_shape(Arc::new(shape), Vec::new());
}

#[test]
fn short_and_long_strings_print_with_every_escape_in_every_place() {
    for length in 0..40 {
        for place in 0..length {
            for special in [
                '"', '\\', '\n', '\r', '\t', '\u{8}', '\u{c}', '\u{1f}', '\u{0}', '/', 'é',
                '\u{7f}',
            ] {
                let text: String = (0..length)
                    .map(|at| if at == place { special } else { 'x' })
                    .collect();
                let printed = json::compact(&Value::string(&text));
                assert_eq!(printed, serde_json::to_string(&text).unwrap());
            }
        }
    }
}

/// What may be done to an object.
#[derive(Clone, Debug)]
enum Change {
    Set(u8, usize),
    SetMark(usize),
    Remove(u8),
    RemoveAll(Vec<usize>),
    Share,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        6 => (0..40_u8, 0..9_usize).prop_map(|(key, value)| Change::Set(key, value)),
        2 => (0..9_usize).prop_map(Change::SetMark),
        1 => (0..40_u8).prop_map(Change::Remove),
        1 => prop::collection::vec(0..40_usize, 0..5).prop_map(Change::RemoveAll),
        2 => Just(Change::Share),
    ];
    prop::collection::vec(change, 0..60)
}

/// Sets a key of a list of members.
fn set(members: &mut Vec<(String, usize)>, key: &str, value: usize) {
    match members.iter_mut().find(|(name, _)| name == key) {
        Some(member) => member.1 = value,
        None => members.push((key.to_owned(), value)),
    }
}

/// Objects as text, member by member, with repeated keys.
fn objects() -> impl Strategy<Value = Vec<Vec<(String, u8)>>> {
    let key = prop::sample::select(&["a", "b", "c", "ab", "ba", "index", "\\\"", ""][..]);
    let member = (key.prop_map(str::to_owned), 0..9_u8);
    prop::collection::vec(prop::collection::vec(member, 0..6), 0..30)
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn whatever_is_done_to_an_object_it_is_a_list_of_members(all in prop::collection::vec(changes(), 1..6)) {
        let mut mark = Setter::new("mark");
        let mut shapes = Shapes::default();
        for changes in all {
            let mut object = Object::default();
            let mut members: Vec<(String, usize)> = Vec::new();
            for change in changes {
                match change {
                    Change::Set(key, value) => {
                        let key = format!("key-{key}");
                        set(&mut members, &key, value);
                        object.set(key, value);
                    }
                    Change::SetMark(value) => {
                        set(&mut members, "mark", value);
                        mark.set(&mut object, value);
                    }
                    Change::Remove(key) => {
                        let key = format!("key-{key}");
                        members.retain(|(name, _)| *name != key);
                        object.remove(&key);
                    }
                    Change::RemoveAll(mut positions) => {
                        positions.retain(|position| *position < members.len());
                        let mut position = 0..;
                        members.retain(|_| !positions.contains(&position.next().unwrap()));
                        object.remove_all(&positions);
                    }
                    Change::Share => shapes.share(&mut object),
                }
                prop_assert_eq!(object.len(), members.len());
            }
            let found: Vec<_> = object.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
            let expected: Vec<_> = members.iter().map(|(key, value)| (key.clone(), Value::from(*value))).collect();
            prop_assert_eq!(found, expected);
            for key in (0..40).map(|key| format!("key-{key}")).chain(["mark".to_owned()]) {
                let member = members.iter().find(|(name, _)| *name == key);
                prop_assert_eq!(object.get(&key).cloned(), member.map(|(_, value)| Value::from(*value)));
            }
        }
    }

    #[test]
    fn objects_that_begin_alike_are_read_as_another_parser_reads_them(objects in objects()) {
        let objects: Vec<_> = objects.iter().map(|members| {
            let members: Vec<_> = members.iter().map(|(key, value)| format!(r#""{key}":{value}"#)).collect();
            format!("{{{}}}", members.join(","))
        }).collect();
        let text = format!("[{}]", objects.join(","));
        let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(json::compact(&parse(&text)), expected.to_string());
    }
}
