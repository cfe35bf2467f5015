//! A journal's directory on the machine's own file system: one process, one format, and names.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fanout::journal::disk::{OpenError, Options};
use fanout::journal::{Disk, Error, Journal};

use super::{entries, kept};

fn open(path: &Path) -> Result<Disk, OpenError> {
    Disk::open(&Options::new(path))
}

fn names(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn write_plan(disk: &Disk, name: &str) {
    let history = disk.create(name).wait().await.unwrap();
    history.append(0, &entries(1..=3)).wait().await.unwrap();
}

#[tokio::test]
async fn a_directory_is_made_with_those_it_is_in_and_has_what_it_was_given() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/journal");
    let disk = open(&path).unwrap();
    write_plan(&disk, "Plan 1/é").await;
    drop(disk);
    assert_eq!(
        names(&path),
        ["deleted", "format", "lock", "plans", "set-aside"]
    );
    assert_eq!(
        fs::read_to_string(path.join("format")).unwrap(),
        "fanout journal 2\n"
    );
    assert_eq!(
        names(&path.join("plans")),
        ["_lan_1__.8e83d5135cdc3b64b70127c1dfdf82a9"]
    );
    let disk = open(&path).unwrap();
    assert_eq!(disk.opening_report().entries, 3);
    assert_eq!(disk.plans().wait().await.unwrap(), ["Plan 1/é".into()]);
    assert_eq!(kept(&disk, "Plan 1/é").await, 3);
}

/// Everything in a directory, with its mode.
fn modes(path: &Path) -> Vec<(PathBuf, u32)> {
    let mut modes = Vec::new();
    for name in names(path) {
        let path = path.join(name);
        let metadata = fs::metadata(&path).unwrap();
        modes.push((path.clone(), metadata.permissions().mode() & 0o777));
        if metadata.is_dir() {
            modes.extend(self::modes(&path));
        }
    }
    modes
}

#[tokio::test]
async fn what_is_made_is_for_its_owner_alone_and_what_was_there_keeps_its_mode() {
    let directory = tempfile::tempdir().unwrap();
    let plans = directory.path().join("there/journal/plans");
    write_plan(&open(plans.parent().unwrap()).unwrap(), "before").await;
    let of = |path: &Path| if path.is_dir() { 0o700 } else { 0o600 };
    let made = modes(directory.path());
    assert_eq!(made.len(), 9, "{made:?}");
    for (path, mode) in made {
        assert_eq!(mode, of(&path), "{}", path.display());
    }

    let before = plans.join(&names(&plans)[0]);
    let shared = [
        (plans.clone(), 0o755),
        (before.clone(), 0o750),
        (before.join("journal"), 0o644),
    ];
    for (path, mode) in &shared {
        fs::set_permissions(path, Permissions::from_mode(*mode)).unwrap();
    }
    let disk = open(plans.parent().unwrap()).unwrap();
    write_plan(&disk, "later").await;
    let history = disk.open("before").wait().await.unwrap();
    history.append(3, &entries(4..=4)).wait().await.unwrap();
    for (path, mode) in modes(directory.path()) {
        let kept = shared.iter().find(|(there, _)| *there == path);
        let expected = kept.map_or_else(|| of(&path), |(_, mode)| *mode);
        assert_eq!(mode, expected, "{}", path.display());
    }
}

#[tokio::test]
async fn one_process_has_a_directory_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let first = open(path).unwrap();
    let refused = open(path).err().unwrap();
    let expected = format!("{} is in use by another process", path.display());
    assert_eq!(refused.to_string(), expected);
    // Nor does another program get the lock.
    let mut flock = Command::new("flock");
    flock.arg("--nonblock").arg(path.join("lock")).arg("true");
    if let Ok(status) = flock.status() {
        assert!(!status.success());
    }
    drop(first);
    open(path).unwrap();
}

#[tokio::test]
async fn another_format_is_refused_and_left_alone() {
    for found in ["fanout journal 3\n", "fanout journal\n", "a diary\n"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        drop(open(path).unwrap());
        fs::write(path.join("format"), found).unwrap();
        let refused = open(path).err().unwrap();
        let path = path.join("format");
        let expected = format!(
            "{}: expected \"fanout journal 2\", found {:?}",
            path.display(),
            found.trim()
        );
        assert_eq!(refused.to_string(), expected);
        assert_eq!(fs::read_to_string(path).unwrap(), found);
    }
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("plans")).unwrap();
    let refused = open(directory.path()).err().unwrap();
    assert!(
        refused.to_string().ends_with("found \"nothing\""),
        "{refused}"
    );
}

#[tokio::test]
async fn what_was_begun_and_not_finished_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let disk = open(path).unwrap();
    write_plan(&disk, "kept").await;
    disk.create("empty").wait().await.unwrap();
    drop(disk);
    fs::create_dir(path.join("plans/begun")).unwrap();
    fs::create_dir_all(path.join("plans/strange/thing")).unwrap();
    fs::create_dir(path.join("deleted/old.0")).unwrap();
    fs::write(path.join("deleted/old.0/journal"), "x").unwrap();
    let disk = open(path).unwrap();
    assert_eq!(disk.opening_report().never_written, 2);
    assert_eq!(disk.plans().wait().await.unwrap(), ["kept".into()]);
    let left = names(&path.join("plans"));
    assert_eq!(
        (left.len(), &*left[1]),
        (2, "strange"),
        "what is not ours stays"
    );
    assert_eq!(names(&path.join("deleted")), [""; 0]);
}

#[tokio::test]
async fn a_deleted_plan_leaves_nothing_and_takes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let disk = open(path).unwrap();
    write_plan(&disk, "plan").await;
    let history = disk.open("plan").wait().await.unwrap();
    disk.delete("plan").wait().await.unwrap();
    let refused = history.append(3, &entries(4..=4)).wait().await;
    assert_eq!(refused, Err(Error::NotFound));
    let refused = history.replay(0, 9).wait().await;
    assert_eq!(refused.err(), Some(Error::NotFound));
    assert_eq!(names(&path.join("plans")), [""; 0]);
    assert_eq!(names(&path.join("deleted")), [""; 0]);
    drop((history, disk));
    assert_eq!(open(path).unwrap().plans().wait().await.unwrap(), []);
}

#[tokio::test]
async fn many_plans_do_not_need_many_open_files() {
    let directory = tempfile::tempdir().unwrap();
    let disk = open(directory.path()).unwrap();
    for number in 0..300 {
        write_plan(&disk, &number.to_string()).await;
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        let ours = open.filter(|file| {
            let target = fs::read_link(file.as_ref().unwrap().path());
            target.is_ok_and(|target| target.starts_with(directory.path()))
        });
        assert!(ours.count() < 140);
    }
    assert_eq!(kept(&disk, "0").await, 3);
    assert_eq!(kept(&disk, "299").await, 3);
}
