//! Backups that `--keep` makes and deletes, and those that are not whole.

use std::path::Path;

use pillarbox::archive::Manifest;
use serde_json::Value;

use crate::backup::{beside, bodies, create, large, manifest, str, verify, with_mail};
use crate::program;
use crate::server::TestServer;
use crate::wait::until;

/// Runs `pillarbox backup create --keep`. Returns its exit status and its output.
async fn keep(server: &TestServer, directory: &Path, count: &str) -> (Option<i32>, String) {
    let data_dir = str(&server.config.data_dir);
    let arguments = ["backup", "create", "--data-dir", data_dir, str(directory), "--keep", count];
    // The name has seconds.
    until("the name is free", async || {
        let (status, said) = program::status_of(&arguments, &[]).await;
        (!said.contains("exists; name a new")).then_some((status, said))
    })
    .await
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Changes what a backup says of itself.
fn change(backup: &Path, change: impl FnOnce(&mut Manifest)) {
    let path = backup.join("manifest.json");
    let mut manifest = Manifest::parse(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    std::fs::write(&path, manifest.sealed().to_json()).unwrap();
}

#[tokio::test]
async fn the_backup_that_was_just_made_stays_although_the_clock_was_ahead() {
    let (_dns, _mx, server, _account) = with_mail().await;
    let kept = beside(&server, "kept");
    assert_eq!(keep(&server, &kept, "1").await.0, Some(0));
    let ahead = names_in(&kept).remove(0);
    change(&kept.join(&ahead), |manifest| manifest.taken_at = "2040-01-01T00:00:00Z".parse().unwrap());
    let (status, said) = keep(&server, &kept, "1").await;
    assert_eq!(status, Some(0), "{said}");
    let left = names_in(&kept);
    assert!(left.len() == 1 && left[0] != ahead, "{left:?}");
    assert_eq!(verify(&kept.join(&left[0]), &[]).await.0, Some(0));
}

#[tokio::test]
async fn what_people_and_other_servers_made_in_the_directory_stays() {
    let (_dns, _mx, server, _account) = with_mail().await;
    let kept = beside(&server, "kept");
    let (ok, said) = create(&server, &kept.join("before-upgrade"), &[]).await;
    assert!(ok, "{said}");
    assert_eq!(keep(&server, &kept, "1").await.0, Some(0));
    let other = "2020-01-01T00-00-00Z";
    std::fs::rename(kept.join(&names_in(&kept)[0]), kept.join(other)).unwrap();
    change(&kept.join(other), |manifest| manifest.hostname = "other.example".to_owned());
    let (_, said) = keep(&server, &kept, "1").await;
    assert!(!said.contains("linked"), "{said}");
    let own = names_in(&kept)[1].clone();
    let (_, said) = keep(&server, &kept, "1").await;
    assert!(said.contains("1 body file linked"), "{said}");
    let left = names_in(&kept);
    assert_eq!((left.len(), left[0].as_str(), left[2].as_str()), (3, other, "before-upgrade"), "{left:?}");
    assert!(left[1] > own, "{left:?}");
}

#[tokio::test]
async fn a_backup_without_all_bodies_is_no_success_and_replaces_none() {
    let (_dns, _mx, server, account) = with_mail().await;
    let kept = beside(&server, "kept");
    assert_eq!(keep(&server, &kept, "1").await.0, Some(0));
    let whole = names_in(&kept).remove(0);
    let id = server.submit(&account, &["bob@b.test"], &large(&account, "second")).await;
    server.wait_for_status(&id, &["delivered"]).await;
    let body = bodies(&server.config.data_dir).into_iter().find(|body| str(body).contains(&id)).unwrap();
    std::fs::remove_file(body).unwrap();
    let (status, said) = keep(&server, &kept, "1").await;
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains(&format!("warning: the body of {id} has no file")), "{said}");
    let left = names_in(&kept);
    assert!(left.len() == 2 && left[0] == whole, "{left:?}");
    let partial = kept.join(&left[1]);
    assert_eq!(manifest(&partial)["missing_bodies"], Value::from(vec![id.as_str()]));
    let last = server.control.get("/v1/backup").await;
    assert_eq!(last["taken_at"], manifest(&kept.join(&whole))["taken_at"]);
    let (status, said) = verify(&partial, &[]).await;
    let fault = format!("damaged: {id}: its body was missing when the backup was made\n");
    assert!(status == Some(2) && said.contains(&fault), "{said}");
    let restored = beside(&server, "restored");
    let restore = ["backup", "restore", str(&partial), "--data-dir", str(&restored), "--yes"];
    let (ok, said) = program::run(&restore).await;
    assert!(ok && said.contains(&format!("its body is missing: {id}\n")), "{said}");
}
