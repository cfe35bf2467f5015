//! Files that are not as they were written: a torn end is cut off, other damage is set aside, and neither is served.

use fanout::journal::Journal;
use fanout::journal::disk::OpeningReport;

use super::simulated::Drive;
use super::{entries, entry, kept, open};

const FRAME_HEAD_BYTES: usize = 64;
const LAST: u64 = 6;

/// A plan of six entries, each appended by itself, and another plan.
async fn written() -> Drive {
    let drive = Drive::new(7);
    let disk = open(&drive);
    for name in ["other", "plan"] {
        let history = disk.create(name).wait().await.unwrap();
        for sequence in 1..=LAST {
            let answer = history.append(sequence - 1, &[entry(sequence)]);
            answer.wait().await.unwrap();
        }
    }
    drop(disk);
    drive
}

/// Where frames begin, and where the last one ends.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut places = vec![0];
    loop {
        let at = places[places.len() - 1];
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        if length == 0 {
            return places;
        }
        places.push(at + FRAME_HEAD_BYTES + length);
    }
}

/// Changes the plan's file and opens the journal: what is there of the plan, and what is said of it.
async fn after(drive: &Drive, edit: impl FnOnce(&mut Vec<u8>)) -> (u64, OpeningReport) {
    let drive = drive.copy();
    drive.edit("plans/plan.", edit);
    let disk = open(&drive);
    let kept_of_other = kept(&disk, "other").await;
    assert_eq!(kept_of_other, LAST, "another plan is as it was");
    let kept_of_plan = kept(&disk, "plan").await;
    if kept_of_plan > 0 {
        // And goes on from there, also after opening it again.
        let history = disk.open("plan").wait().await.unwrap();
        let more = entries(kept_of_plan + 1..=kept_of_plan + 2);
        history.append(kept_of_plan, &more).wait().await.unwrap();
        let report = disk.opening_report().clone();
        drop((history, disk));
        let again = open(&drive);
        assert_eq!(kept(&again, "plan").await, kept_of_plan + 2);
        assert_eq!(again.opening_report().cut, []);
        return (kept_of_plan, report);
    }
    (0, disk.opening_report().clone())
}

#[tokio::test]
async fn a_file_cut_anywhere_in_its_last_frames_has_the_frames_before() {
    let drive = written().await;
    let bytes = drive.read("plans/plan.");
    let places = frames(&bytes);
    for length in places[4]..=places[7] {
        let (kept, report) = after(&drive, |bytes| bytes.truncate(length)).await;
        let whole = places.iter().filter(|place| **place <= length).count() as u64 - 2;
        assert_eq!(kept, whole, "cut at {length} of {places:?}");
        let is_cut = !places.contains(&length);
        assert_eq!(report.cut.len(), usize::from(is_cut));
        if let Some(cut) = report.cut.first() {
            let end = places[whole as usize + 1];
            let expected = ("plan", end as u64, (length - end) as u64);
            assert_eq!((&*cut.plan_id, cut.offset, cut.bytes), expected);
        }
        assert_eq!(report.set_aside, []);
    }
}

#[tokio::test]
async fn a_flipped_bit_is_never_served() {
    let drive = written().await;
    let places = frames(&drive.read("plans/plan."));
    for at in 0..places[7] {
        let (kept, report) = after(&drive, |bytes| bytes[at] ^= 1 << (at % 8)).await;
        let context = format!("bit {} of byte {at}, frames at {places:?}", at % 8);
        if at >= places[6] {
            assert_eq!(
                kept,
                LAST - 1,
                "the last frame may be one that was torn: {context}"
            );
            assert_eq!(report.cut.len(), 1, "{context}");
        } else {
            assert_eq!(kept, 0, "{context}");
            let wrong = places.iter().rfind(|place| **place <= at).unwrap();
            assert_eq!(report.set_aside.len(), 1, "{context}");
            let found = &report.set_aside[0];
            assert_eq!(found.offset, *wrong as u64, "{context}");
            assert!(found.path.starts_with("data/set-aside"), "{context}");
        }
    }
}

#[tokio::test]
async fn zeros_and_strange_bytes_are_no_end() {
    let drive = written().await;
    let places = frames(&drive.read("plans/plan."));
    let (kept, report) = after(&drive, |bytes| bytes[places[3]..places[4]].fill(0)).await;
    assert_eq!((kept, report.set_aside.len()), (0, 1), "a frame was erased");
    let (kept, report) = after(&drive, |bytes| bytes[places[7]..][..999].fill(0xa5)).await;
    assert_eq!(
        (kept, report.cut.len()),
        (LAST, 1),
        "something stands behind the end"
    );
    let (kept, report) = after(&drive, Vec::clear).await;
    assert_eq!(
        (kept, report.never_written),
        (0, 1),
        "an empty file holds nothing"
    );
}

#[tokio::test]
async fn a_plan_in_the_place_of_another_is_set_aside() {
    let drive = written().await;
    let other = drive.read("plans/other.");
    let (kept, report) = after(&drive, |bytes| *bytes = other).await;
    assert_eq!((kept, report.set_aside.len()), (0, 1));
    assert_eq!(
        report.set_aside[0].problem,
        r#"the file is of plan "other""#
    );
}

#[tokio::test]
async fn what_was_set_aside_leaves_its_name_free() {
    let drive = written().await;
    for number in 0..2 {
        drive.edit("plans/plan.", |bytes| bytes[100] ^= 1);
        let disk = open(&drive);
        let set_aside = &disk.opening_report().set_aside[0];
        assert!(
            set_aside
                .path
                .to_str()
                .unwrap()
                .ends_with(&format!(".{number}"))
        );
        let history = disk.create("plan").wait().await.unwrap();
        for sequence in 1..=2 {
            let answer = history.append(sequence - 1, &[entry(sequence)]);
            answer.wait().await.unwrap();
        }
    }
    assert_eq!(drive.paths("set-aside/plan.").len(), 2);
}
