//! Who may import whom. `ARCHITECTURE.md` has the same table in words.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::project;

/// Each room with the rooms it may import.
const MAY_IMPORT: [(&str, &[&str]); 15] = [
    ("main", &["cli"]),
    (
        "cli",
        &[
            "server",
            "journal",
            "config",
            "identity",
            "telemetry",
            "plan",
            "reconcile",
            "proto",
            "json",
        ],
    ),
    (
        "server",
        &[
            "service",
            "coordinator",
            "journal",
            "config",
            "identity",
            "engine",
            "plan",
            "proto",
            "telemetry",
        ],
    ),
    (
        "service",
        &[
            "coordinator",
            "registry",
            "engine",
            "identity",
            "plan",
            "reconcile",
            "config",
            "telemetry",
            "proto",
            "json",
        ],
    ),
    (
        "coordinator",
        &[
            "registry",
            "journal",
            "engine",
            "telemetry",
            "plan",
            "reconcile",
            "json",
        ],
    ),
    ("identity", &["engine"]),
    ("registry", &["journal", "engine"]),
    ("journal", &["engine", "telemetry"]),
    ("engine", &["reconcile", "plan", "json"]),
    ("reconcile", &["plan", "json"]),
    ("plan", &["json"]),
    ("json", &[]),
    ("proto", &[]),
    ("config", &[]),
    ("telemetry", &["engine"]),
];

/// Rooms that compute and nothing else.
const PURE: [&str; 4] = ["json", "plan", "reconcile", "engine"];
/// What a pure room must not name.
const IMPURE: [&str; 14] = [
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "SystemTime",
    "Instant",
    "tokio",
    "tonic",
    "prost",
    "rand::",
];

/// Every source file with the room it belongs to.
fn sources(root: &Path) -> Vec<(String, PathBuf, String)> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(root).unwrap();
                let first = relative
                    .components()
                    .next()
                    .unwrap()
                    .as_os_str()
                    .to_string_lossy();
                let room = first.trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).unwrap();
                files.push((room, path, text));
            }
        }
    }
    files
}

/// The rooms that a file names, in `use` lines and in paths, `fanout::` being this crate seen from the program.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.map(|line| format!("{line}\n")).collect();
    let mut rooms = BTreeSet::new();
    for prefix in ["crate::", "fanout::"] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$' || c == '"') {
                continue;
            }
            let rest = &code[at + prefix.len()..];
            let names = match rest.strip_prefix('{') {
                // `use crate::{engine, plan::Error};`
                Some(list) => top_level_names(list),
                None => vec![first_name(rest)],
            };
            rooms.extend(names);
        }
    }
    rooms
}

fn first_name(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

fn top_level_names(list: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = vec![first_name(list.trim_start())];
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(first_name(list[at + 1..].trim_start())),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Every import that the table does not allow.
fn violations(files: &[(String, PathBuf, String)]) -> Vec<String> {
    let table: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    let mut violations = Vec::new();
    for (room, path, text) in files.iter().filter(|(room, ..)| room != "lib") {
        let Some(allowed) = table.get(&**room) else {
            violations.push(format!(
                "{}: room {room} is not in the table",
                path.display()
            ));
            continue;
        };
        for imported in imports(text)
            .into_iter()
            .filter(|imported| imported != room)
        {
            if !allowed.contains(&&*imported) {
                violations.push(format!(
                    "{}: {room} must not import {imported}",
                    path.display()
                ));
            }
        }
        if PURE.contains(&&**room) {
            for word in IMPURE.iter().filter(|word| text.contains(**word)) {
                violations.push(format!(
                    "{}: {room} is pure and must not name {word}",
                    path.display()
                ));
            }
        }
    }
    violations
}

#[test]
fn every_room_imports_only_what_the_table_allows() {
    let found = violations(&sources(&project("src")));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_planted_fault_is_found() {
    let plant = |room: &str, text: &str| {
        let file = (
            room.to_owned(),
            PathBuf::from("planted.rs"),
            text.to_owned(),
        );
        violations(&[file])
    };
    assert_eq!(
        plant("plan", "use crate::engine::State;"),
        ["planted.rs: plan must not import engine"]
    );
    assert_eq!(
        plant(
            "engine",
            "use crate::{plan, proto};\nfn f() { let _ = std::time::SystemTime::now(); }"
        ),
        [
            "planted.rs: engine must not import proto",
            "planted.rs: engine is pure and must not name SystemTime"
        ]
    );
    assert_eq!(
        plant("registry", "fn f(plan: &crate::coordinator::PlanView) {}"),
        ["planted.rs: registry must not import coordinator"]
    );
    assert_eq!(
        plant("drawer", ""),
        ["planted.rs: room drawer is not in the table"]
    );
    assert_eq!(
        plant(
            "plan",
            "// crate::engine is not for us\nuse crate::json::Value;"
        ),
        [""; 0]
    );
}

#[test]
fn only_the_service_chooses_a_status_code() {
    let names_codes = |text: &str| text.contains("Code::");
    let files = sources(&project("src"));
    let rooms: BTreeSet<_> = files
        .iter()
        .filter(|(.., text)| names_codes(text))
        .map(|(room, ..)| room.as_str())
        .collect();
    assert_eq!(rooms, BTreeSet::from(["cli", "service"]));
}

#[test]
fn the_architecture_document_names_every_room() {
    let text = fs::read_to_string(project("ARCHITECTURE.md")).unwrap();
    for (room, _) in MAY_IMPORT {
        assert!(
            text.contains(&format!("{room}.rs")),
            "ARCHITECTURE.md does not name {room}.rs"
        );
    }
}

#[test]
fn every_test_file_is_part_of_the_specification() {
    let main = fs::read_to_string(project("tests/spec/main.rs")).unwrap();
    for entry in fs::read_dir(project("tests/spec")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(
            module == "main" || main.contains(&format!("mod {module};")),
            "{name} is not declared"
        );
    }
}

/// String literals that look like a reason.
fn reasons(text: &str) -> BTreeSet<String> {
    let quoted = text.split('"').skip(1).step_by(2);
    let looks_like_one = |text: &&str| {
        text.len() > 3
            && text
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    };
    quoted.filter(looks_like_one).map(str::to_owned).collect()
}

#[test]
fn the_document_of_errors_has_every_reason_and_no_other() {
    let rooms = ["service", "coordinator", "engine"];
    let sources = sources(&project("src"));
    let in_sources: BTreeSet<String> = sources
        .iter()
        .filter(|(room, ..)| rooms.contains(&room.as_str()))
        .flat_map(|(.., text)| reasons(text))
        // Kinds of records, as people read them.
        .filter(|text| text != "STARTED" && text != "PROGRESS")
        .collect();
    let document = fs::read_to_string(project("docs/errors.md")).unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.split('|').nth(2));
    let in_document: BTreeSet<String> = cells
        .filter_map(|cell| cell.trim().strip_prefix('`')?.strip_suffix('`'))
        .map(str::to_owned)
        .collect();
    assert_eq!(in_sources, in_document);
}

/// Names in code type, in the order in which they stand.
fn in_code_type(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// What a table of SECURITY.md names in its last column: files of tests, each with tests that it has.
fn shown_by(document: &str) -> Vec<(String, String)> {
    let mut shown = Vec::new();
    let rows = document.lines().filter(|line| line.starts_with("| "));
    for row in rows {
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let mut file = None;
        for name in in_code_type(last) {
            if name.ends_with(".rs") {
                file = Some(name);
            } else {
                shown.push((file.unwrap_or("no file").to_owned(), name.to_owned()));
            }
        }
    }
    shown
}

#[test]
fn every_line_of_the_threat_model_names_a_test_that_there_is() {
    let document = fs::read_to_string(project("SECURITY.md")).unwrap();
    let rows = document
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| tries |"));
    for row in rows {
        assert!(!shown_by(row).is_empty(), "no test is named: {row}");
    }
    let shown = shown_by(&document);
    assert!(shown.len() >= 40, "{} tests are named", shown.len());
    for (file, name) in shown {
        let path = project("tests/spec").join(&file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let (before, _) = text
            .split_once(&format!("fn {name}("))
            .unwrap_or_else(|| panic!("{file} has no test {name}"));
        let above: Vec<_> = before.lines().rev().take(4).collect();
        let is_test = above
            .iter()
            .take_while(|line| !line.starts_with('}'))
            .any(|line| line.contains("test"));
        assert!(is_test, "{name} in {file} is no test");
    }
}

#[test]
fn a_line_of_the_threat_model_is_read_as_it_is_written() {
    let row = "| to ask `x` | `y` | `a.rs`: `one`, `two`; `b/c.rs`: `three` |";
    let pair = |file: &str, name: &str| (file.to_owned(), name.to_owned());
    assert_eq!(
        shown_by(row),
        [
            pair("a.rs", "one"),
            pair("a.rs", "two"),
            pair("b/c.rs", "three")
        ]
    );
    assert_eq!(shown_by("| a | b | nothing |"), []);
}
