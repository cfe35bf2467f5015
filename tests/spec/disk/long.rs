//! Files so long that they are read on a thread of their own, ahead of the entries that are made of them.

use std::sync::Arc;

use bytes::Bytes;
use fanout::engine::{Entry, Event, Held, MatchedBy, Status, Timestamp, Verdict};
use fanout::journal::disk::Durability;
use fanout::journal::{Disk, Error, Journal};

use super::simulated::Drive;
use super::{open, spec, stored, try_open};

/// Each entry is appended by itself, and all are more than 4 MiB.
const LAST: u64 = 100;
const DOCUMENT_BYTES: usize = 50_000;
const TASKS: usize = 5_000;

fn document(sequence: u64) -> Bytes {
    format!("{sequence:08}").repeat(DOCUMENT_BYTES / 8).into()
}

fn record(sequence: u64) -> Arc<Entry> {
    let at = Timestamp(sequence);
    let held = Held {
        task: 0,
        revision: 1,
        sequence,
        at,
        verdict: Verdict {
            status: Status::Completed,
            successful: true,
        },
        has_outcome: false,
        matched_by: MatchedBy::Id,
        document: document(sequence),
    };
    Arc::new(Entry {
        sequence,
        at,
        event: Event::RecordAccepted(Arc::new(held)),
    })
}

async fn written() -> Drive {
    let drive = Drive::new(3);
    let disk = open(&drive);
    let history = disk.create("plan").wait().await.unwrap();
    let created = stored::created(Arc::into_inner(spec("plan", TASKS)).unwrap());
    history.append(0, &[created]).wait().await.unwrap();
    for sequence in 2..=LAST {
        let answer = history.append(sequence - 1, &[record(sequence)]);
        answer.wait().await.unwrap();
    }
    drive
}

/// Reads entries and looks whether they are what was appended; answers the first and the last sequence.
async fn read(disk: &Disk, after: u64, limit: usize) -> Option<(u64, u64)> {
    let history = disk.open("plan").wait().await.unwrap();
    let found = history.replay(after, limit).wait().await.unwrap();
    for (sequence, entry) in (after + 1..).zip(&found) {
        assert_eq!(entry.sequence, sequence);
        match &entry.event {
            Event::PlanCreated(spec) => assert_eq!(spec.tasks.len(), TASKS),
            Event::RecordAccepted(held) => assert_eq!(held.document, document(sequence)),
            other => panic!("{other:?}"),
        }
    }
    Some((found.first()?.sequence, found.last()?.sequence))
}

#[tokio::test]
async fn a_long_history_comes_back_from_any_sequence_and_in_any_number() {
    let drive = written().await;
    let disk = open(&drive);
    assert_eq!(disk.opening_report().entries, LAST);
    for (after, limit, expected) in [
        (0, usize::MAX, Some((1, LAST))),
        (0, 1, Some((1, 1))),
        (0, 2, Some((1, 2))),
        (0, 80, Some((1, 80))),
        (1, usize::MAX, Some((2, LAST))),
        (1, 1, Some((2, 2))),
        (40, 50, Some((41, 90))),
        (LAST - 1, 5, Some((LAST, LAST))),
        (LAST, 5, None),
        (7, 0, None),
    ] {
        let found = read(&disk, after, limit).await;
        assert_eq!(found, expected, "{limit} after {after}");
    }
}

#[tokio::test]
async fn damage_in_the_midst_of_a_long_file_is_found_where_it_is() {
    for (part, is_set_aside) in [(2, true), (4, false)] {
        let drive = written().await;
        let mut frame = 0;
        drive.edit("plans/plan.", |bytes| {
            let mut offset = 0;
            let mut offsets = Vec::new();
            while bytes[offset..offset + 4] != [0; 4] {
                offsets.push(offset);
                let length = &bytes[offset..offset + 4];
                offset += 64 + u32::from_le_bytes(length.try_into().unwrap()) as usize;
            }
            frame = offsets[(offsets.len() - 1) * part / 4];
            bytes[frame + 1_000] ^= 1;
        });
        let disk = open(&drive);
        let report = disk.opening_report();
        let offsets = match is_set_aside {
            true => report.set_aside.iter().map(|found| found.offset).collect(),
            // The last frame may be one that was torn.
            false => report
                .cut
                .iter()
                .map(|found| found.offset)
                .collect::<Vec<_>>(),
        };
        assert_eq!(offsets, [frame as u64]);
    }
}

#[tokio::test]
async fn what_is_damaged_after_a_start_is_an_error_and_not_the_beginning_of_a_history() {
    let drive = written().await;
    let disk = open(&drive);
    drive.edit("plans/plan.", |bytes| bytes[3_000_000] ^= 1);
    let history = disk.open("plan").wait().await.unwrap();
    let found = history.replay(0, usize::MAX).wait().await;
    let Err(Error::Damaged(problem)) = found else {
        panic!("expected damage");
    };
    assert!(
        problem.starts_with("a frame is not as it was written (offset 29"),
        "{problem}"
    );
    assert_eq!(read(&disk, 0, 10).await, Some((1, 10)));
}

#[tokio::test]
async fn with_os_nobody_writes_but_who_appends() {
    let drive = Drive::new(3);
    let disk = try_open(&drive, Durability::Os).unwrap();
    let history = disk.create("plan").wait().await.unwrap();
    let created = stored::created(Arc::into_inner(spec("plan", TASKS)).unwrap());
    history.append(0, &[created]).wait().await.unwrap();
    let syncs = drive.syncs();
    // The disk is asked after 16 MiB, by a thread of the journal, while the next append may come.
    for sequence in 2..=4 * LAST {
        let answer = history.append(sequence - 1, &[record(sequence)]);
        answer.wait().await.unwrap();
    }
    drop((history, disk));
    assert_eq!(drive.syncs(), syncs + 1);
    let by_the_journal = |drive: &Drive| {
        let writers = drive.writers();
        writers.iter().any(|name| name.starts_with("journal-"))
    };
    assert!(!by_the_journal(&drive));
    assert!(by_the_journal(&written().await));
}
