//! Loss of power: what was acknowledged is there, in order, and of each append all or nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fanout::journal::Journal;
use fanout::journal::disk::Durability;

use super::simulated::{Drive, Faults};
use super::{entries, kept, try_open};

const PLANS: [&str; 3] = ["a", "b", "c"];
const APPEND_ENTRIES_MAX: u64 = 5;

/// What became of one plan's appends.
#[derive(Clone, Debug, Default)]
struct Story {
    /// The last sequence that was acknowledged.
    acknowledged: u64,
    /// Where appends ended, acknowledged or not, since the last time that the plan was read.
    ends: Vec<u64>,
}

/// Appends to three plans until power is lost.
async fn run(drive: &Drive, durability: Durability, stories: &Mutex<BTreeMap<&str, Story>>) {
    let Ok(disk) = try_open(drive, durability) else {
        return;
    };
    let disk = Arc::new(disk);
    let plans = PLANS.map(|name| {
        let disk = Arc::clone(&disk);
        let mut at = stories.lock().unwrap()[name].acknowledged;
        async move {
            let history = match at {
                0 => disk.create(name).wait().await,
                _ => disk.open(name).wait().await,
            };
            let Ok(history) = history else {
                return;
            };
            loop {
                // Up to three appends on their way at a time.
                let mut answers = Vec::new();
                for _ in 0..=drive.random(3) {
                    let end = at + 1 + drive.random(APPEND_ENTRIES_MAX as usize) as u64;
                    let story = &mut stories.lock().unwrap();
                    story.get_mut(name).unwrap().ends.push(end);
                    answers.push((end, history.append(at, &entries(at + 1..=end))));
                    at = end;
                }
                for (end, answer) in answers {
                    if answer.wait().await.is_err() {
                        return;
                    }
                    stories.lock().unwrap().get_mut(name).unwrap().acknowledged = end;
                }
            }
        }
    });
    let [a, b, c] = plans;
    tokio::join!(a, b, c);
}

/// Loses power a few times; answers how many acknowledged entries were lost.
async fn lost(seed: u64, durability: Durability, faults: Faults) -> u64 {
    let drive = Drive::new(seed);
    let stories = PLANS.map(|name| (name, Story::default()));
    let mut stories = Mutex::new(BTreeMap::from(stories));
    let mut lost = 0;
    for _ in 0..3 {
        let moment = 1 + drive.random(160) as u64;
        drive.faults(|now| {
            *now = Faults {
                power_is_lost_after: Some(moment),
                ..faults.clone()
            }
        });
        run(&drive, durability, &stories).await;
        drive.faults(|now| now.power_is_lost_after = None);
        drive.lose_power();

        let stories = stories.get_mut().unwrap();
        let disk = match try_open(&drive, durability) {
            Ok(disk) => disk,
            Err(error) => {
                let is_told = faults.files_are_not_synced || faults.directories_are_not_synced;
                assert!(is_told, "seed {seed}: {error}");
                return lost
                    + stories
                        .values()
                        .map(|story| story.acknowledged)
                        .sum::<u64>();
            }
        };
        for (name, story) in stories.iter_mut() {
            let kept = kept(&disk, name).await;
            lost += story.acknowledged.saturating_sub(kept);
            let whole = kept == story.acknowledged || story.ends.contains(&kept);
            let is_told = durability == Durability::Fsync && lost == 0;
            assert!(
                whole || !is_told,
                "seed {seed}: plan {name} has {kept} entries, which are not whole appends: {story:?}"
            );
            // What is there has been read, and so counts as acknowledged.
            story.acknowledged = kept;
            story.ends.clear();
        }
    }
    lost
}

async fn lost_in_all(seeds: std::ops::Range<u64>, durability: Durability, faults: Faults) -> u64 {
    let mut all = 0;
    for seed in seeds {
        let lost = lost(seed, durability, faults.clone()).await;
        if lost > 0 {
            println!("seed {seed}: {lost} acknowledged entries are lost");
        }
        all += lost;
    }
    all
}

#[tokio::test]
async fn what_was_acknowledged_survives_any_loss_of_power() {
    let lost = lost_in_all(0..60, Durability::Fsync, Faults::default()).await;
    assert_eq!(lost, 0);
}

#[tokio::test]
async fn it_does_so_with_short_writes_and_without_room_taken_ahead() {
    let faults = Faults {
        writes_are_short: true,
        reserves_nothing: true,
        ..Faults::default()
    };
    assert_eq!(
        lost_in_all(1_000..1_020, Durability::Fsync, faults).await,
        0
    );
}

#[tokio::test]
async fn without_syncing_files_it_would_not() {
    let faults = Faults {
        files_are_not_synced: true,
        ..Faults::default()
    };
    assert!(lost_in_all(0..10, Durability::Fsync, faults).await > 0);
}

#[tokio::test]
async fn without_syncing_directories_it_would_not() {
    let faults = Faults {
        directories_are_not_synced: true,
        ..Faults::default()
    };
    assert!(lost_in_all(0..10, Durability::Fsync, faults).await > 0);
}

#[tokio::test]
async fn left_to_the_operating_system_a_beginning_of_each_history_survives() {
    // That it is one is checked entry by entry; that some of it is lost shows that power is.
    assert!(lost_in_all(0..20, Durability::Os, Faults::default()).await > 0);
}
