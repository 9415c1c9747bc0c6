//! Changes of a directory while it is watched.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tdc_api::{ConfigWatcher, FileError, Loaded};
use tokio::sync::watch;

use crate::support::{dir, document};

const POLL: Duration = Duration::from_millis(20);
/// Far more than a change needs; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

fn policy(name: &str) -> String {
    document("MailPolicy", name, "{ journaling: { mode: Disabled } }")
}

/// Writes as an editor should: a new file that takes the place of the old one.
fn replace(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join("new"), text).unwrap();
    fs::rename(dir.join("new"), dir.join(name)).unwrap();
}

async fn names(loaded: &mut watch::Receiver<Arc<Loaded>>, wanted: &[&str]) -> u64 {
    let named = |state: &Arc<Loaded>| {
        let policies = &state.compiled.table.policies;
        policies
            .iter()
            .map(|policy| &*policy.object.name)
            .collect::<Vec<_>>()
            == wanted
    };
    let state = tokio::time::timeout(PATIENCE, loaded.wait_for(named)).await;
    state
        .unwrap_or_else(|_| panic!("{wanted:?} did not come"))
        .unwrap()
        .sequence
}

async fn errors(errors: &mut watch::Receiver<Arc<[FileError]>>, wanted: usize) -> String {
    let found = tokio::time::timeout(PATIENCE, errors.wait_for(|now| now.len() == wanted)).await;
    found
        .expect("the errors must change")
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[tokio::test]
async fn a_change_is_taken_up_and_a_bad_one_is_not() {
    let dir = dir(&[("a.yaml", &policy("one"))]);
    let watcher = ConfigWatcher::start(dir.path(), POLL).await.unwrap();
    let (mut loaded, mut wrong) = (watcher.subscribe(), watcher.errors());
    assert_eq!(names(&mut loaded, &["one"]).await, 1);

    replace(dir.path(), "a.yaml", &policy("two"));
    assert_eq!(names(&mut loaded, &["two"]).await, 2);

    replace(
        dir.path(),
        "a.yaml",
        "apiVersion: tdc.dev/v1alpha1\nkind: Nonsense\n",
    );
    assert!(
        errors(&mut wrong, 1)
            .await
            .starts_with("a.yaml:2: kind: \"Nonsense\" is not known")
    );
    assert_eq!(names(&mut loaded, &["two"]).await, 2, "the last good one stays");

    replace(dir.path(), "a.yaml", &policy("two"));
    errors(&mut wrong, 0).await;
    assert_eq!(
        names(&mut loaded, &["two"]).await,
        2,
        "back to what is in use: nothing changed"
    );

    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    assert!(errors(&mut wrong, 1).await.contains("holds no *.yaml"));
    assert_eq!(
        names(&mut loaded, &["two"]).await,
        2,
        "an empty directory is no table"
    );

    replace(dir.path(), "a.yaml", &policy("one"));
    replace(dir.path(), "b.yaml", &policy("three"));
    assert_eq!(names(&mut loaded, &["one", "three"]).await, 3);
    errors(&mut wrong, 0).await;
}

#[tokio::test]
async fn an_edit_in_place_of_the_same_length_is_seen() {
    let dir = dir(&[("a.yaml", &policy("one"))]);
    let watcher = ConfigWatcher::start(dir.path(), POLL).await.unwrap();
    let mut loaded = watcher.subscribe();
    for name in ["two", "six", "ten", "two"] {
        fs::write(dir.path().join("a.yaml"), policy(name)).unwrap();
        names(&mut loaded, &[name]).await;
    }
}

/// The way in which the kubelet swaps a mounted ConfigMap.
#[tokio::test]
async fn a_config_map_swap_is_seen() {
    let dir = dir(&[]);
    let path = dir.path();
    for (version, name) in [("..v1", "one"), ("..v2", "two")] {
        fs::create_dir(path.join(version)).unwrap();
        fs::write(path.join(version).join("policies.yaml"), policy(name)).unwrap();
    }
    symlink("..v1", path.join("..data")).unwrap();
    symlink("..data/policies.yaml", path.join("policies.yaml")).unwrap();
    let watcher = ConfigWatcher::start(path, POLL).await.unwrap();
    let mut loaded = watcher.subscribe();
    names(&mut loaded, &["one"]).await;

    symlink("..v2", path.join("..data_tmp")).unwrap();
    fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    fs::remove_dir_all(path.join("..v1")).unwrap();
    names(&mut loaded, &["two"]).await;
}

#[tokio::test]
async fn a_bad_start_is_an_error() {
    let bad = dir(&[("a.yaml", "apiVersion: v1\n")]);
    let empty = dir(&[]);
    for path in [bad.path(), empty.path(), Path::new("/nonexistent/tdc")] {
        assert!(
            ConfigWatcher::start(path, POLL).await.is_err(),
            "{}",
            path.display()
        );
    }
}
