//! Disks that are full or broken.

use std::io::ErrorKind;

use fanout::journal::{Error, Journal};

use super::simulated::Drive;
use super::{entries, kept, open, replay, try_open};
use fanout::journal::disk::Durability;

#[tokio::test]
async fn a_full_disk_refuses_changes_nothing_and_recovers() {
    for durability in [Durability::Fsync, Durability::Os] {
        let drive = Drive::new(1);
        let disk = try_open(&drive, durability).unwrap();
        let history = disk.create("plan").wait().await.unwrap();
        drive.faults(|faults| faults.capacity = Some(20_000));
        let mut at = 0;
        let refused = loop {
            match history.append(at, &entries(at + 1..=at + 3)).wait().await {
                Ok(()) => at += 3,
                Err(refused) => break refused,
            }
        };
        assert!(matches!(refused, Error::Full(_)), "{refused}");
        assert!(at > 0);
        assert_eq!(replay(&*history).await.len() as u64, at);
        assert_eq!(
            disk.create("other")
                .wait()
                .await
                .err()
                .map(|error| matches!(error, Error::Full(_))),
            None,
            "a first frame of a few bytes still fits"
        );
        assert_eq!(
            *disk.health().borrow(),
            None,
            "a full disk is not a broken one"
        );
        drive.faults(|faults| faults.capacity = None);
        history
            .append(at, &entries(at + 1..=at + 3))
            .wait()
            .await
            .unwrap();
        drop((history, disk));
        assert_eq!(kept(&open(&drive), "plan").await, at + 3);
    }
}

#[tokio::test]
async fn a_format_that_cannot_be_raised_is_one_of_the_two_and_the_plans_are_there() {
    for seed in 0..20 {
        let drive = Drive::new(seed);
        let disk = open(&drive);
        let history = disk.create("plan").wait().await.unwrap();
        history.append(0, &entries(1..=2)).wait().await.unwrap();
        drop((history, disk));
        drive.edit("data/format", |format| {
            *format = b"fanout journal 1\n".to_vec();
        });
        drive.faults(|faults| faults.sync_fails = Some("data/format".to_owned()));
        let refused = try_open(&drive, Durability::Fsync).err().unwrap();
        assert!(
            refused.to_string().starts_with("data/format: "),
            "{refused}"
        );
        drive.lose_power();
        drive.faults(|faults| faults.sync_fails = None);
        let found = String::from_utf8(drive.read("data/format")).unwrap();
        assert!(
            ["fanout journal 1\n", "fanout journal 2\n"].contains(&&*found),
            "{found:?}"
        );
        assert_eq!(kept(&open(&drive), "plan").await, 2);
        assert_eq!(drive.read("data/format"), b"fanout journal 2\n");
    }
}

#[tokio::test]
async fn a_plan_that_cannot_be_created_for_want_of_room_can_be_later() {
    let drive = Drive::new(2);
    let disk = open(&drive);
    drive.faults(|faults| faults.capacity = Some(50));
    let refused = disk.create("plan").wait().await.err();
    assert!(matches!(refused, Some(Error::Full(_))), "{refused:?}");
    drive.faults(|faults| faults.capacity = None);
    let history = disk.create("plan").wait().await.unwrap();
    history.append(0, &entries(1..=2)).wait().await.unwrap();
    assert_eq!(kept(&disk, "plan").await, 2);
}

#[tokio::test]
async fn a_disk_that_fails_one_plan_is_never_asked_again_and_others_go_on() {
    let drive = Drive::new(3);
    let disk = open(&drive);
    let broken = disk.create("broken").wait().await.unwrap();
    let sound = disk.create("sound").wait().await.unwrap();
    broken.append(0, &entries(1..=2)).wait().await.unwrap();
    drive.faults(|faults| faults.sync_fails = Some("broken".into()));
    let failed = [
        broken.append(2, &entries(3..=3)),
        broken.append(3, &entries(4..=4)),
    ];
    for answer in failed {
        let error = answer.wait().await.unwrap_err();
        assert!(matches!(error, Error::Failed(_)), "{error}");
    }
    let health = disk.health().borrow().clone().unwrap();
    assert!(
        health.contains("broken") && health.contains("sync"),
        "{health}"
    );
    // Now a sync would succeed, and say nothing of what the one before has lost.
    drive.faults(|faults| faults.sync_fails = None);
    let syncs = drive.syncs();
    for after in [2, 3, 4] {
        let refused = broken
            .append(after, &entries(after + 1..=after + 1))
            .wait()
            .await;
        assert!(matches!(refused, Err(Error::Failed(_))), "{refused:?}");
    }
    assert_eq!(drive.syncs(), syncs);
    assert_eq!(
        replay(&*broken).await.len(),
        2,
        "what was acknowledged can be read"
    );
    sound.append(0, &entries(1..=1)).wait().await.unwrap();
    assert_eq!(kept(&disk, "sound").await, 1);

    drop((broken, sound, disk));
    drive.lose_power();
    let disk = open(&drive);
    assert!([2, 3, 4].contains(&kept(&disk, "broken").await));
    let again = disk.open("broken").wait().await.unwrap();
    let at = kept(&disk, "broken").await;
    again
        .append(at, &entries(at + 1..=at + 1))
        .wait()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_plan_that_could_not_be_forgotten_is_there_until_it_can_be() {
    for durability in [Durability::Fsync, Durability::Os] {
        let drive = Drive::new(8);
        let disk = try_open(&drive, durability).unwrap();
        let history = disk.create("plan").wait().await.unwrap();
        history.append(0, &entries(1..=2)).wait().await.unwrap();
        drive.faults(|faults| faults.rename_fails = Some(ErrorKind::StorageFull));
        let mut at = 2;
        for _ in 0..2 {
            // What is on its way may be done or not, and what was done stays.
            let on_its_way = history.append(at, &entries(at + 1..=at + 1));
            let refused = disk.delete("plan").wait().await.unwrap_err();
            assert!(matches!(refused, Error::Full(_)), "{refused}");
            match on_its_way.wait().await {
                Ok(()) => at += 1,
                Err(error) => assert_eq!(error, Error::NotFound),
            }
            assert_eq!(disk.plans().wait().await, Ok(vec!["plan".into()]));
            assert_eq!(kept(&disk, "plan").await, at);
            let next = entries(at + 1..=at + 1);
            history.append(at, &next).wait().await.unwrap();
            at += 1;
        }
        assert_eq!(*disk.health().borrow(), None);
        drive.faults(|faults| faults.rename_fails = None);
        disk.delete("plan").wait().await.unwrap();
        let gone = history.append(at, &entries(at + 1..=at + 1)).wait().await;
        assert_eq!(gone, Err(Error::NotFound));
        drop((history, disk));
        drive.lose_power();
        assert_eq!(open(&drive).plans().wait().await, Ok(vec![]));
    }
}

/// What the system says of a process with too many open files, and of a machine with too little memory.
const TOO_MANY_FILES: i32 = 24;
const TOO_LITTLE_MEMORY: i32 = 12;

fn is_away<T>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::Away(_)))
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_for_a_while_changes_nothing() {
    for durability in [Durability::Fsync, Durability::Os] {
        let drive = Drive::new(9);
        let disk = try_open(&drive, durability).unwrap();
        for plan in ["plan", "deleted"] {
            let history = disk.create(plan).wait().await.unwrap();
            history.append(0, &entries(1..=2)).wait().await.unwrap();
        }
        drop(disk);
        let disk = try_open(&drive, durability).unwrap();
        let history = disk.open("plan").wait().await.unwrap();
        for number in [TOO_MANY_FILES, TOO_LITTLE_MEMORY] {
            drive.faults(|faults| faults.opens_nothing = Some(number));
            assert!(is_away(&history.append(2, &entries(3..=3)).wait().await));
            assert!(is_away(&history.replay(0, 100).wait().await));
            assert!(is_away(&disk.create("other").wait().await));
            assert!(is_away(&disk.delete("deleted").wait().await));
        }
        assert_eq!(*disk.health().borrow(), None, "the disk is well");
        drive.faults(|faults| faults.opens_nothing = None);
        assert_eq!(kept(&disk, "deleted").await, 2);
        disk.delete("deleted").wait().await.unwrap();
        let other = disk.create("other").wait().await.unwrap();
        other.append(0, &entries(1..=1)).wait().await.unwrap();
        history.append(2, &entries(3..=4)).wait().await.unwrap();
        drop((history, other, disk));
        let disk = open(&drive);
        assert_eq!(kept(&disk, "plan").await, 4);
        assert_eq!(kept(&disk, "other").await, 1);
        assert_eq!(disk.plans().wait().await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn appends_that_have_their_place_lose_it_together_when_the_file_cannot_be_opened() {
    let drive = Drive::new(10);
    let disk = open(&drive);
    let history = disk.create("plan").wait().await.unwrap();
    history.append(0, &entries(1..=2)).wait().await.unwrap();
    // There is room in the file, and so many others are open by now that it is not.
    for other in 0..200 {
        let other = disk.create(&format!("other-{other}")).wait().await.unwrap();
        other.append(0, &entries(1..=1)).wait().await.unwrap();
    }
    drive.faults(|faults| faults.opens_nothing = Some(TOO_MANY_FILES));
    let both = [
        history.append(2, &entries(3..=3)),
        history.append(3, &entries(4..=5)),
    ];
    for answer in both {
        let refused = answer.wait().await;
        let is_too_late = matches!(refused, Err(Error::Conflict { at: 2 }));
        assert!(is_away(&refused) || is_too_late, "{refused:?}");
    }
    assert_eq!(*disk.health().borrow(), None);
    drive.faults(|faults| faults.opens_nothing = None);
    history.append(2, &entries(3..=9)).wait().await.unwrap();
    drop((history, disk));
    assert_eq!(kept(&open(&drive), "plan").await, 9);
}

#[tokio::test]
async fn a_plan_whose_creation_left_its_directory_behind_can_be_created_again() {
    let drive = Drive::new(11);
    let disk = open(&drive);
    let history = disk.create("plan").wait().await.unwrap();
    drive.faults(|faults| faults.opens_nothing = Some(TOO_MANY_FILES));
    let refused = [
        history.append(0, &entries(1..=1)).wait().await,
        disk.delete("plan").wait().await,
    ];
    assert!(refused.iter().all(is_away), "{refused:?}");
    drive.faults(|faults| faults.opens_nothing = None);
    let again = disk.create("plan").wait().await.unwrap();
    again.append(0, &entries(1..=3)).wait().await.unwrap();
    assert_eq!(*disk.health().borrow(), None);
    drop((history, again, disk));
    assert_eq!(kept(&open(&drive), "plan").await, 3);
}

#[tokio::test]
async fn a_write_that_fails_is_a_failure_too() {
    for durability in [Durability::Fsync, Durability::Os] {
        let drive = Drive::new(4);
        let disk = try_open(&drive, durability).unwrap();
        let history = disk.create("plan").wait().await.unwrap();
        history.append(0, &entries(1..=1)).wait().await.unwrap();
        drive.faults(|faults| faults.write_fails = Some("plan".into()));
        let failed = history.append(1, &entries(2..=2)).wait().await;
        assert!(matches!(failed, Err(Error::Failed(_))), "{failed:?}");
        assert!(disk.health().borrow().is_some());
    }
}

#[tokio::test]
async fn a_plan_that_cannot_be_created_on_a_broken_disk_is_reported() {
    let drive = Drive::new(7);
    let disk = open(&drive);
    drive.faults(|faults| faults.sync_fails = Some("plans/plan.".into()));
    let failed = disk.create("plan").wait().await.err().unwrap();
    assert!(matches!(failed, Error::Failed(_)), "{failed}");
    assert!(disk.health().borrow().is_some());
    disk.create("other").wait().await.unwrap();
    drive.faults(|faults| faults.sync_fails = None);
    disk.create("plan").wait().await.unwrap();
}

#[tokio::test]
async fn appends_that_come_together_wait_for_the_disk_together() {
    let drive = Drive::new(5);
    let disk = open(&drive);
    let history = disk.create("plan").wait().await.unwrap();
    history.append(0, &entries(1..=1)).wait().await.unwrap();
    let before = drive.syncs();
    let all = entries(2..=1_001);
    let answers = (1..)
        .zip(&all)
        .map(|(after, entry)| history.append(after, std::slice::from_ref(entry)));
    for answer in answers.collect::<Vec<_>>() {
        answer.wait().await.unwrap();
    }
    let syncs = drive.syncs() - before;
    assert!(syncs < 500, "{syncs} for 1000 appends");
    assert_eq!(kept(&disk, "plan").await, 1_001);
}

#[tokio::test]
async fn a_journal_that_is_dropped_finishes_what_was_appended() {
    let drive = Drive::new(6);
    let disk = open(&drive);
    let history = disk.create("plan").wait().await.unwrap();
    let answer = history.append(0, &entries(1..=9));
    drop(disk);
    answer.wait().await.unwrap();
    let closed = history.append(9, &entries(10..=10)).wait().await;
    assert_eq!(closed, Err(Error::Failed("the journal was closed".into())));
    drop(history);
    assert_eq!(kept(&open(&drive), "plan").await, 9);
}
