//! The documents that the existing tool's users have, with the answers they must get.

use crate::harness::project;
use crate::vectors;

fn all_hold(file: &str, expected: usize) {
    let text = std::fs::read_to_string(project("tests/vectors").join(file)).unwrap();
    let lines: Vec<_> = text
        .split('\n')
        .filter(|line| !line.trim().is_empty())
        .collect();
    assert_eq!(lines.len(), expected, "{file} is whole");
    let failures: Vec<_> = lines
        .iter()
        .filter_map(|line| vectors::check(line).err())
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {expected} fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn every_public_vector_holds_with_its_key_order() {
    all_hold("public.jsonl", 163);
}

#[test]
fn every_extra_vector_holds() {
    all_hold("extra.jsonl", 5);
}

#[test]
fn where_the_existing_tool_errs_the_recommended_answer_is_given() {
    all_hold("divergent.jsonl", 60);
}

#[test]
fn a_vector_whose_answer_differs_is_reported_with_the_place() {
    let vector =
        r#"{"name":"x","kind":"plan","input":{"items":[{"k":1}]},"expected":{"schema":"other"}}"#;
    let failure = vectors::check(vector).unwrap_err();
    assert!(
        failure.starts_with("x: : expected keys [\"schema\"]"),
        "{failure}"
    );
    let vector = r#"{"name":"x","kind":"findings_items","input":{},"expected":[]}"#;
    assert_eq!(vectors::check(vector), Ok(()));
}
