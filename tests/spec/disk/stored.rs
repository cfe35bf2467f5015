//! What is stored is what was appended: every event, every word, and plans of many tasks.

use std::sync::Arc;

use fanout::engine::{Entry, Event, Spec, State, Terms, Violation};
use fanout::journal::disk::{Durability, OpenError, Options};
use fanout::journal::{Disk, Journal};
use fanout::json;
use fanout::plan::{self, Input, Keys};
use fanout::reconcile::{self, Page};
use proptest::prelude::*;
use proptest::sample::select;

use super::histories::{history, terms};
use super::simulated::Drive;
use super::{entries, entry, kept, open, replay, spec};
use crate::arbitrary::{self, cases};
use crate::harness::{parse, project};

/// Appends these entries, some at a time, and reads them from a journal that was opened again.
fn there_and_back(entries: &[Arc<Entry>], at_a_time: usize, part_bytes: usize) -> Vec<Arc<Entry>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let drive = Drive::new(0);
        let options = Options {
            durability: Durability::Os,
            part_bytes,
            ..super::options()
        };
        let disk = Disk::open_on(drive.boot(), &options).unwrap();
        let history = disk.create("plan").wait().await.unwrap();
        for some in entries.chunks(at_a_time) {
            let after = some[0].sequence - 1;
            history.append(after, some).wait().await.unwrap();
        }
        drop((history, disk));
        let disk = Disk::open_on(drive.boot(), &options).unwrap();
        assert_eq!(disk.opening_report().entries, entries.len() as u64);
        replay(&*disk.open("plan").wait().await.unwrap()).await
    })
}

pub(super) fn created(spec: Spec) -> Arc<Entry> {
    Arc::new(Entry {
        sequence: 1,
        at: spec.created_at,
        event: Event::PlanCreated(Arc::new(spec)),
    })
}

/// All that a plan is, and what its settings and names come to.
pub(super) fn shown(spec: &Spec) -> String {
    let settings = &spec.settings;
    let page = Page::default();
    let counts = page.reconciliation(spec.group_count);
    let result = reconcile::document(settings, &spec.result_head, page, &counts, "");
    let tasks = spec.tasks.numbers(0..spec.tasks.len()).map(|task| {
        let group_key = json::compact(&spec.group_key(task));
        (spec.task_id(task), group_key, spec.request(task))
    });
    format!(
        "{:?}",
        (
            (&spec.plan_id, &spec.digest, &spec.labels, &spec.completion),
            (spec.deadline, spec.retention, spec.created_at),
            (&spec.config, &spec.head, json::compact(&result.into())),
            (settings.strict_matching, settings.keeps_first),
            settings.counts_missing_as_successful(),
            settings.missing_records_may_have_outcomes(),
            (spec.item_count, spec.group_count),
            tasks.collect::<Vec<_>>(),
        )
    )
}

pub(super) fn the_spec(entry: &Entry) -> &Spec {
    match &entry.event {
        Event::PlanCreated(spec) => spec,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn every_event_comes_back_as_it_was(
        mut expected in history(),
        at_a_time in 1..7_usize,
        part_bytes in select(&[1, 100, 1 << 20][..]),
    ) {
        expected.insert(0, entry(1));
        let found = there_and_back(&expected, at_a_time, part_bytes);
        prop_assert_eq!(format!("{:?}", &found[1..]), format!("{:?}", &expected[1..]));
    }

    #[test]
    fn every_plan_comes_back_as_it_was(terms in terms(), config in arbitrary::object_text()) {
        let config = parse(&config);
        let config = config.as_object().unwrap();
        let input = Input { config: config.clone(), items: None, groups: None };
        let Ok(plan) = plan::plan(input, &plan::Limits::default()) else {
            return Ok(());
        };
        if let Ok(spec) = Spec::new(terms, config, &plan, usize::MAX) {
            let expected = shown(&spec);
            let found = there_and_back(&[created(spec)], 1, 100);
            prop_assert_eq!(shown(the_spec(&found[0])), expected);
        }
    }
}

#[test]
fn a_plan_is_written_in_pieces_and_has_all_its_tasks() {
    for (tasks, part_bytes) in [(0, 1), (1, 1), (100, 1), (100, 250), (1_000, 10_000)] {
        let spec = Arc::into_inner(spec("plan", tasks)).unwrap();
        let expected = shown(&spec);
        let mut history = vec![created(spec)];
        history.extend(entries(2..=3));
        let found = there_and_back(&history, 3, part_bytes);
        assert_eq!(found.len(), 3);
        assert_eq!(shown(the_spec(&found[0])), expected);
    }
}

#[tokio::test]
async fn a_plan_of_which_a_piece_is_missing_is_not_there() {
    let drive = Drive::new(1);
    let options = Options {
        part_bytes: 250,
        ..super::options()
    };
    let disk = Disk::open_on(drive.boot(), &options).unwrap();
    let history = disk.create("plan").wait().await.unwrap();
    let spec = Arc::into_inner(spec("plan", 100)).unwrap();
    history.append(0, &[created(spec)]).wait().await.unwrap();
    drop((history, disk));
    let bytes = drive.read("plans/plan.");
    let mut offset = 0;
    let mut pieces = 0;
    while bytes[offset..offset + 4] != [0; 4] {
        let whole = drive.copy();
        let length = u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap()) as usize;
        whole.edit("plans/plan.", |bytes| bytes.truncate(offset));
        assert_eq!(
            kept(&open(&whole), "plan").await,
            0,
            "cut before piece {pieces}"
        );
        offset += 64 + length;
        pieces += 1;
    }
    assert!(pieces > 20, "{pieces}");
}

/// One frame after another, as the table in `src/journal/disk/frame.rs` has it.
fn frames(frames: &[(u32, u64, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut previous = [0; 16];
    for (entries, after, payload) in frames {
        let mut head = Vec::new();
        head.extend((payload.len() as u32).to_le_bytes());
        head.extend(entries.to_le_bytes());
        head.extend(after.to_le_bytes());
        head.extend((file.len() as u64).to_le_bytes());
        head.extend([0; 8]);
        head.extend(previous);
        let hash = blake3::hash(&[&head[..], payload].concat());
        previous.copy_from_slice(&hash.as_bytes()[..16]);
        file.extend(head);
        file.extend(previous);
        file.extend(payload);
    }
    file
}

/// A journal with this as the plan's file.
fn journal_of(file: Vec<u8>) -> Result<Disk, OpenError> {
    let drive = Drive::new(2);
    let disk = open(&drive);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async { disk.create("plan").wait().await.map(drop).unwrap() });
    drop(disk);
    drive.edit("plans/plan.", |bytes| *bytes = file);
    Disk::open_on(drive.boot(), &super::options())
}

/// `header { plan_id: "plan" }`.
const HEADER: &[u8] = b"\x0a\x06\x0a\x04plan";
/// `entries { sequence: 1 at: 5 plan_ended { reason: SEALED note: "so" } }`.
const ENDED: &[u8] = b"\x12\x0c\x08\x01\x10\x05\x4a\x06\x08\x02\x12\x02so";

#[test]
fn the_format_is_what_its_table_says() {
    let file = frames(&[(0, 0, HEADER.to_vec()), (1, 0, ENDED.to_vec())]);
    let disk = journal_of(file).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let found = runtime.block_on(async { replay(&*disk.open("plan").wait().await.unwrap()).await });
    assert_eq!(
        format!("{found:?}"),
        r#"[Entry { sequence: 1, at: Timestamp(5), event: PlanEnded { reason: Sealed, note: "so" } }]"#
    );
}

#[test]
fn what_a_later_version_wrote_is_refused() {
    let cases: [(&[u8], &str); 4] = [
        // An event of number 15.
        (
            b"\x12\x06\x08\x01\x10\x05\x7a\x00",
            "there is an unknown field",
        ),
        // A field of number 3 in an event that is known.
        (
            b"\x12\x0a\x08\x01\x10\x05\x4a\x04\x08\x02\x18\x01",
            "there is an unknown field",
        ),
        // A reason of number 9.
        (
            b"\x12\x08\x08\x01\x10\x05\x4a\x02\x08\x09",
            "EndReason 9 is unknown",
        ),
        // No event.
        (
            b"\x12\x04\x08\x01\x10\x05",
            "the event of sequence 1 is unknown",
        ),
    ];
    for (payload, problem) in cases {
        let file = frames(&[(0, 0, HEADER.to_vec()), (1, 0, payload.to_vec())]);
        let refused = journal_of(file).err().unwrap().to_string();
        let expected = format!("{problem}: written by a later version of this program");
        assert!(refused.ends_with(&expected), "{refused}");
    }
}

#[test]
fn what_no_version_writes_is_set_aside() {
    for payload in [
        &b"\x12\xff"[..],
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let file = frames(&[(0, 0, HEADER.to_vec()), (1, 0, payload.to_vec())]);
        let disk = journal_of(file).unwrap();
        assert_eq!(disk.opening_report().set_aside.len(), 1);
    }
}

#[test]
fn a_plan_that_was_read_back_knows_the_names_of_its_tasks() {
    let config = parse(
        r#"{"groups":[{"key":"a","items":[1]},{"key":"b","items":[2]},{"key":"b","items":[3]}],
            "task_request_template":{"task_id":"t{{group.index}}","id":" i{{group.index}} ",
            "sandbox_session_id":"\u0073{{group.index}}","group_key":"{{group.key}}"}}"#,
    );
    let config = config.as_object().unwrap();
    let input = Input {
        config: config.clone(),
        items: None,
        groups: None,
    };
    let planned = plan::plan(input, &plan::Limits::default()).unwrap();
    let spec = Spec::new(Terms::default(), config, &planned, usize::MAX).unwrap();
    let found = there_and_back(&[created(spec)], 1, 1 << 20);
    let spec = the_spec(&found[0]);
    let state = State::created(match &found[0].event {
        Event::PlanCreated(spec) => Arc::clone(spec),
        other => panic!("{other:?}"),
    });
    let tasks = |key: &str, text: &str| {
        let mut keys = Keys::<&str>::default();
        match key {
            "task_id" => keys.task_id = text,
            "id" => keys.id = text,
            "sandbox_session_id" => keys.sandbox_session_id = text,
            _ => keys.group_key = text,
        }
        let identified = spec.index.identify(&keys);
        format!("{:?}", spec.index.resolve(identified, &keys, &state))
    };
    for (key, text, expected) in [
        ("task_id", "t1", "task: 1, by: TaskId"),
        ("id", "i2", "task: 2, by: Id"),
        ("sandbox_session_id", "s0", "task: 0, by: SandboxSessionId"),
        ("group_key", "a", "task: 0, by: GroupKey"),
        ("group_key", "b", "[1, 2]"),
        ("id", "i3", "Unmatched"),
    ] {
        let found = tasks(key, text);
        assert!(found.contains(expected), "{key} {text}: {found}");
    }
}

/// What is appended has to be readable: a violation of a word that is not known could not be read back.
#[test]
fn every_word_of_a_violation_is_known() {
    for file in ["src/service/record.rs", "src/engine/receipt.rs"] {
        let text = std::fs::read_to_string(project(file)).unwrap();
        let words = text.split('"').skip(1).step_by(2);
        let is_one = |word: &&str| {
            word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_'))
                || word.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'_'))
        };
        for word in words.filter(is_one) {
            assert_eq!(Violation::word(word), Some(word), "in {file}");
        }
    }
}
