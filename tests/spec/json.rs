//! Documents pass through unchanged, and what is no document is refused with its place.

use fanout::json::{self, Limits, Number, Parsed, Value};
use proptest::prelude::*;

fn parse(text: &str) -> Result<Value, json::Error> {
    json::parse(text.as_bytes(), Limits::default())
}

fn printed(text: &str) -> String {
    json::compact(&parse(text).unwrap())
}

#[test]
fn integers_of_any_length_keep_their_digits() {
    for digits in [
        "9007199254740993",
        "18446744073709551615",
        "-9223372036854775808",
        "123456789012345678901234567890",
    ] {
        assert_eq!(printed(digits), digits);
    }
    assert_eq!(printed("-0"), "0");
}

#[test]
fn doubles_print_as_ecmascript_prints_them() {
    let cases = [
        ("1.0", "1"),
        ("1e2", "100"),
        ("0.1", "0.1"),
        ("1e21", "1e+21"),
        ("1e-7", "1e-7"),
        ("-0.0", "0"),
        ("0.000001", "0.000001"),
    ];
    for (text, expected) in cases {
        assert_eq!(printed(text), expected, "{text}");
    }
}

#[test]
fn a_repeated_key_takes_its_last_value_at_its_first_place() {
    assert_eq!(printed(r#"{"a":1,"b":2,"a":3}"#), r#"{"a":3,"b":2}"#);
}

#[test]
fn keys_of_other_parsers_are_plain_data() {
    let text = r#"{"$serde_json::private::Number":"1","__proto__":{"x":1}}"#;
    assert_eq!(printed(text), text);
}

#[test]
fn an_object_of_many_keys_is_read_in_linear_time_and_keeps_its_order() {
    let members: Vec<_> = (0..50_000).map(|n| format!("\"k{n}\":{n}")).collect();
    let text = format!("{{{}}}", members.join(","));
    let value = parse(&text).unwrap();
    assert_eq!(
        value.get("k49999"),
        Some(&Value::Number(Number::Int(49_999)))
    );
    assert_eq!(json::compact(&value), text);
}

#[test]
fn what_is_no_document_is_refused_with_line_and_column() {
    let cases = [
        ("", "1:1: expected a value, found the end of the document"),
        (
            "{\"a\":",
            "1:6: expected a value, found the end of the document",
        ),
        ("[1,\n 2,]", "2:4: expected a value, found \"]\""),
        ("{'a':1}", "1:2: expected a key in quotes, found \"'\""),
        (
            "[1] 2",
            "1:5: expected the end of the document, found \"2\"",
        ),
        ("\u{feff}{}", "1:1: expected a value, found \"\u{feff}\""),
        ("[01]", "1:3: expected ',' or ']', found \"1\""),
        ("[1e400]", "1:2: number is beyond the range of a double"),
        ("\"\\ud800\"", "1:2: lone surrogate in a string"),
        ("\"\\ud800\\u0041\"", "1:2: lone surrogate in a string"),
        ("\"\\x\"", "1:2: unknown escape in a string"),
        ("\"a\tb\"", "1:3: control character in a string; escape it"),
        ("\"é\nb\"", "1:3: control character in a string; escape it"),
        ("[NaN]", "1:2: expected a value, found \"N\""),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text:?}");
    }
    let invalid = json::parse(b"[\"\xff\"]", Limits::default()).unwrap_err();
    assert_eq!(invalid.to_string(), "1:3: invalid UTF-8");
}

#[test]
fn nesting_is_read_to_the_limit_and_refused_one_past_it() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(parse(&nested(512)).is_ok());
    let error = parse(&nested(513)).unwrap_err();
    assert_eq!(error.to_string(), "1:513: nested deeper than 512 levels");
    assert_eq!(error.limit, Some(512));
}

#[test]
fn a_number_is_read_to_the_limit_and_refused_one_past_it() {
    assert!(parse(&"1".repeat(1_024)).is_ok());
    let error = parse(&"1".repeat(1_025)).unwrap_err();
    assert_eq!(error.to_string(), "1:1: number longer than 1024 bytes");
    assert_eq!(error.limit, Some(1_024));
}

#[test]
fn a_file_of_lines_is_told_from_one_document() {
    let read = |text: &str| json::parse_lines(text.as_bytes(), Limits::default()).unwrap();
    let one = parse("{\"a\":1}").unwrap();
    assert_eq!(
        read("[{\"a\":1}]\n"),
        Parsed::One(Value::array(vec![one.clone()]))
    );
    assert_eq!(read("{\"a\":1}\n"), Parsed::Lines(vec![one.clone()]));
    assert_eq!(
        read("{\"a\":1}\n\n{\"a\":1}"),
        Parsed::Lines(vec![one.clone(), one])
    );
    let error = json::parse_lines(b"{}\n{\"a\" 1}\n", Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "2:6: expected ':', found \"1\"");
}

#[test]
fn lists_one_after_the_other_and_values_that_run_into_each_other_are_no_lines() {
    for (text, problem) in [
        (
            "[1]\n[2]",
            r#"2:1: expected the end of the document, found "[""#,
        ),
        (
            "[1]{}",
            r#"1:4: expected the end of the document, found "{""#,
        ),
        (
            "{}\n[1]",
            r#"2:1: expected an object on each line, found "[""#,
        ),
        (
            "1\n[1]",
            r#"2:1: expected an object on each line, found "[""#,
        ),
        ("01", r#"1:2: expected the end of the line, found "1""#),
        (
            "true false",
            r#"1:6: expected the end of the line, found "f""#,
        ),
        (
            "{} \"a\"",
            r#"1:4: expected the end of the line, found "\"""#,
        ),
    ] {
        let error = json::parse_lines(text.as_bytes(), Limits::default()).unwrap_err();
        assert_eq!(error.to_string(), problem, "{text}");
    }
    for (text, count) in [("{}{}", 2), ("{\n}\n{\n} {}", 3), ("1\n\"a\"\r\nnull", 3)] {
        let parsed = json::parse_lines(text.as_bytes(), Limits::default()).unwrap();
        assert!(
            matches!(&parsed, Parsed::Lines(lines) if lines.len() == count),
            "{text}"
        );
    }
}

/// A list of more than 256 KiB, of objects with what looks like the beginning of one where it is none.
fn long_list(between: &str, element: impl Fn(usize) -> String) -> String {
    let elements: Vec<String> = (0..20_000).map(element).collect();
    format!(" [{}] ", elements.join(between))
}

#[test]
fn a_long_list_reads_the_same_from_two_places_as_from_one() {
    let plain = |nth: usize| format!(r#"{{"n":{nth},"text":"quoted \" and }},{{ more"}}"#);
    let nested = |nth: usize| format!(r#"{{"n":{nth},"of":[{{"a":1}},{{"b":[2]}},{{}}]}}"#);
    let texts =
        [",", " ,\n  "].map(|between| [long_list(between, plain), long_list(between, nested)]);
    for text in texts.as_flattened() {
        let expected = parse(text).unwrap();
        let halves = json::Halves::of(text.as_bytes(), Limits::default()).unwrap();
        assert_eq!(halves.whole(|| halves.second()), Ok(expected.clone()));
        assert_eq!(halves.whole(|| None), Ok(expected));
    }
}

#[test]
fn what_is_wrong_in_a_long_list_is_refused_at_the_same_place_as_in_a_short_one() {
    let at = |wrong: usize| {
        long_list(",\n", |nth| match nth == wrong {
            true => "{\"n\" 1}".to_owned(),
            false => format!(r#"{{"n":{nth},"padding":"{nth:020}"}}"#),
        })
    };
    let cut = at(usize::MAX).trim_end().trim_end_matches(']').to_owned();
    for text in [
        at(0),
        at(9_000),
        at(11_000),
        at(19_999),
        cut,
        at(usize::MAX) + "x",
    ] {
        let halves = json::Halves::of(text.as_bytes(), Limits::default()).unwrap();
        let expected = parse(&text).unwrap_err();
        assert_eq!(halves.whole(|| halves.second()), Err(expected));
    }
}

#[test]
fn what_is_no_long_list_of_objects_is_not_read_from_two_places() {
    let numbers = format!("[{}1]", "1,".repeat(200_000));
    let object = format!(r#"{{"list":{}}}"#, long_list(",", |_| "{}".into()));
    for text in ["[{},{}]", &numbers, &object] {
        assert!(json::Halves::of(text.as_bytes(), Limits::default()).is_none());
    }
}

#[test]
fn pretty_documents_have_two_spaces_and_a_final_newline() {
    let value = parse(r#"{"a":[1,{"b":[]}],"c":{}}"#).unwrap();
    assert_eq!(
        json::pretty(&value),
        "{\n  \"a\": [\n    1,\n    {\n      \"b\": []\n    }\n  ],\n  \"c\": {}\n}\n"
    );
}

#[test]
fn objects_of_a_hundred_forms_at_many_depths_print_as_if_each_were_the_first() {
    let mut text = String::from("0");
    for depth in 0..30 {
        let forms = (0..100).map(|form| format!(r#"{{"k{form}":{depth},"\"":{{"k{form}":[]}}}}"#));
        let forms: Vec<_> = forms.collect();
        // Once more, in another order.
        let again: Vec<_> = forms.iter().rev().map(String::as_str).collect();
        let (forms, again) = (forms.join(","), again.join(","));
        text = format!(r#"{{"forms":[{forms},{again}],"deeper":{text}}}"#);
    }
    let other: serde_json::Value = serde_json::from_str(&text).unwrap();
    let printed = json::pretty(&parse(&text).unwrap());
    assert_eq!(
        printed,
        serde_json::to_string_pretty(&other).unwrap() + "\n"
    );
}

#[test]
fn only_what_must_be_is_escaped() {
    let text = Value::string("\"\\\u{8}\u{c}\n\r\t\u{1f}\u{7f}\u{2028}/é");
    assert_eq!(
        json::compact(&text),
        "\"\\\"\\\\\\b\\f\\n\\r\\t\\u001f\u{7f}\u{2028}/é\""
    );
}

/// Any document, within what another parser can hold as well.
fn documents() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>()
            .prop_filter("finite", |f| f.is_finite())
            .prop_map(Into::into),
        "\\PC{0,6}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec(("[a-c\"\\\\é]{0,2}", inner), 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn another_parser_reads_what_we_print_as_what_we_read(document in documents()) {
        let text = serde_json::to_string(&document).unwrap();
        let ours = printed(&text);
        let again: serde_json::Value = serde_json::from_str(&ours).unwrap();
        // Doubles such as 1.0 print as 1 here, so compare what they mean.
        let same = |value: &serde_json::Value| json::compact(&parse(&value.to_string()).unwrap());
        prop_assert_eq!(same(&again), same(&document));
        prop_assert_eq!(printed(&ours), ours.clone());
        prop_assert_eq!(parse(&json::pretty(&parse(&ours).unwrap())).unwrap(), parse(&ours).unwrap());
    }

    #[test]
    fn we_accept_what_another_strict_parser_accepts_and_nothing_else(text in "[\\[\\]{}:,\"\\\\0-9eE.+\\-atrufslen \\n]{0,12}") {
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        prop_assert_eq!(parse(&text).is_ok(), theirs.is_ok(), "{:?}", text);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = json::parse(&bytes, Limits::default());
        let _ = json::parse_lines(&bytes, Limits::default());
        let _ = json::scan::members(&bytes, Limits::default(), |_| {});
    }
}
