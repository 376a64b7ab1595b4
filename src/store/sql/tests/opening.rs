//! Opening and closing a data directory: its lock, its master key, what belongs to it.

use super::*;

#[tokio::test]
async fn no_secret_stands_in_any_file_in_clear() {
    let bed = Bed::new().await;
    let mut new = new_tenant("a");
    let smart_host =
        serde_json::from_str(r#"{"host":"h.example","port":25,"user":null,"tls":"implicit"}"#).unwrap();
    let password = Some(Zeroizing::new("smart-host-password".to_owned()));
    new.smart_host = Some(NewSmartHost { smart_host, password });
    let tenant = bed.store.create_tenant(new, now()).await.unwrap().id;
    let domain = new_domain(Some(tenant), "example.com", Verification::Manual);
    let domain = bed.store.create_domain(domain, now()).await.unwrap().id;
    bed.store.add_dkim_key(domain, new_dkim_key("s2", DkimKeyState::Active), now()).await.unwrap();
    let secret = KeySecret::generate(Environment::Live);
    bed.store.create_key(new_key(Some(tenant), &secret), now()).await.unwrap();
    let seen = || -> Vec<u8> {
        files_below(bed.path()).iter().flat_map(|path| std::fs::read(path).unwrap()).collect()
    };
    for checkpoint in [false, true] {
        if checkpoint {
            bed.store.checkpoint().await.unwrap();
        }
        let octets = seen();
        assert!(contains(&octets, b"example.com"), "the search works");
        for part in ["smart-host-password", "private half", &secret.expose()[8..]] {
            assert!(!contains(&octets, part.as_bytes()), "{part}");
        }
    }
}

#[tokio::test]
async fn everything_in_the_data_directory_is_the_owners_alone() {
    let parent = tempfile::tempdir().unwrap();
    let data_dir = parent.path().join("deep/data");
    let store = open(SqliteOptions { inline_body_bytes_max: 0, ..options(&data_dir) }).unwrap();
    let tenant = store.create_tenant(new_tenant("a"), now()).await.unwrap().id;
    store.enqueue(new_message(tenant, &["x@one.example"], "body")).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data_dir), 0o700);
    let files = files_below(&data_dir);
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{file:?}");
    }
}

#[tokio::test]
async fn a_data_directory_is_served_by_one_process_and_managed_beside_it() {
    let bed = Bed::new().await;
    let second = open(options(bed.path()));
    assert!(matches!(second, Err(OpenError::InUse(path)) if path == bed.path()));
    let manager = open(SqliteOptions { access: Access::Manage, ..options(bed.path()) }).unwrap();
    let tenant = manager.create_tenant(new_tenant("a"), now()).await.unwrap();
    assert_eq!(bed.store.tenant(tenant.id).await.unwrap().unwrap().slug, "a");
    assert!(manager.enqueue(new_message(tenant.id, &["x@one.example"], "body")).await.is_err());
    manager.close().await;
    bed.store.close().await;
    assert!(matches!(bed.store.tenant(tenant.id).await, Err(StoreError::Closed)));
    assert!(matches!(bed.store.probe().await, Err(StoreError::Closed)));
    let next = open(options(bed.path())).unwrap();
    assert!(next.tenant(tenant.id).await.unwrap().is_some());
}

#[test]
fn the_server_removes_what_a_crash_left_unfinished_in_the_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let unfinished = dir.path().join(".new-0123456789abcdef-tls.key");
    let file = File::create(&unfinished).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    let access = Access::Initialize;
    drop(open(SqliteOptions { access, ..options(dir.path()) }).unwrap());
    assert!(unfinished.exists(), "a server may be running");
    drop(open(options(dir.path())).unwrap());
    assert!(!unfinished.exists());
}

#[test]
fn only_the_server_and_the_first_key_make_a_data_directory_and_not_without_the_key_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("a/b");
    let at = |access, master_key_file| {
        open(SqliteOptions { access, master_key_file, ..options(&absent) }).map(drop)
    };
    let error = at(Access::Manage, None).unwrap_err();
    assert!(matches!(&error, OpenError::Absent(path) if *path == absent), "{error}");
    let named = dir.path().join("named.key");
    for access in [Access::Serve, Access::Initialize] {
        let error = at(access, Some(named.clone())).unwrap_err().to_string();
        assert!(error.contains("named.key") && error.contains("make it with"), "{error}");
    }
    assert!(!dir.path().join("a").exists());
    at(Access::Initialize, None).unwrap();
    at(Access::Manage, None).unwrap();
    // The master key is elsewhere, or lost: a new one would be the end of the secrets.
    let kept = dir.path().join("kept.key");
    std::fs::rename(absent.join("master.key"), &kept).unwrap();
    for access in [Access::Serve, Access::Manage, Access::Initialize] {
        for key in [None, Some(named.clone())] {
            let error = at(access, key).unwrap_err().to_string();
            assert!(error.contains("restore it") && !error.contains("make it"), "{error}");
        }
    }
    let error = check_master_key(Some(&named), &absent).unwrap_err().to_string();
    assert!(error.contains("restore it") && !error.contains("make it"), "{error}");
    std::fs::rename(&kept, absent.join("master.key")).unwrap();
    at(Access::Serve, None).unwrap();
}

#[tokio::test]
async fn the_schema_of_a_running_server_is_not_changed_under_it() {
    let bed = Bed::new().await;
    let database = rusqlite::Connection::open(bed.path().join("pillarbox.db")).unwrap();
    let version = || database.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0)).unwrap();
    let older = version() - 1;
    database.pragma_update(None, "user_version", older).unwrap();
    let manage = |dir: &Path| open(SqliteOptions { access: Access::Manage, ..options(dir) });
    let error = manage(bed.path()).err().unwrap();
    assert!(matches!(&error, OpenError::OlderServer(path) if path == bed.path()), "{error}");
    assert!(error.to_string().contains("restart the server with this version first"));
    assert_eq!(version(), older);
    // Where nobody serves, the first key command makes the database, and does not go on to hold the lock.
    let fresh = tempfile::tempdir().unwrap();
    let manager = open(SqliteOptions { access: Access::Initialize, ..options(fresh.path()) }).unwrap();
    let server = open(options(fresh.path())).unwrap();
    manager.close().await;
    server.close().await;
}

#[tokio::test]
async fn closing_writes_what_waits_and_empties_the_log() {
    let bed = Bed::new().await;
    let tenant = bed.tenant("a").await.id;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let store = Arc::clone(&bed.store);
        tasks.spawn(async move { store.enqueue(new_message(tenant, &["x@one.example"], "body")).await });
    }
    tokio::task::yield_now().await;
    bed.store.close().await;
    let written = tasks.join_all().await.iter().filter(|answer| answer.is_ok()).count();
    let log = bed.path().join("pillarbox.db-wal");
    assert_eq!(std::fs::metadata(log).map_or(0, |log| log.len()), 0);
    let bed = bed.restart().await;
    assert_eq!(bed.store.count_open().await.unwrap(), written as u64);
}

#[tokio::test]
async fn another_master_key_is_told_when_the_store_is_opened() {
    let bed = Bed::new().await;
    bed.store.close().await;
    let key_file = bed.path().join("master.key");
    let key = std::fs::read_to_string(&key_file).unwrap();
    assert_eq!((key.len(), key.ends_with('\n')), (65, true));
    let open_with = |text: Option<&str>| {
        match text {
            Some(text) => std::fs::write(&key_file, text).unwrap(),
            None => std::fs::remove_file(&key_file).unwrap(),
        }
        open(options(bed.path()))
    };
    let message = |opened: std::result::Result<Store, OpenError>| match opened {
        Err(OpenError::MasterKey { path, message }) => {
            assert_eq!(path, key_file);
            message
        }
        other => panic!("{:?}", other.err()),
    };
    assert!(message(open_with(Some(&"0".repeat(64)))).contains("not the key"));
    assert!(message(open_with(Some("short"))).contains("64 hexadecimal digits"));
    assert!(message(open_with(None)).contains("restore it"));
    assert!(!key_file.exists(), "a lost key is not replaced in silence");
    std::fs::write(&key_file, &key).unwrap();
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&key_file, readable).unwrap();
    assert!(message(open(options(bed.path()))).contains("644"));
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(open(options(bed.path())).is_ok());
}

#[test]
fn a_master_key_file_that_was_named_is_never_made() {
    let dir = tempfile::tempdir().unwrap();
    let named = dir.path().join("elsewhere.key");
    let opened = open(SqliteOptions { master_key_file: Some(named.clone()), ..options(dir.path()) });
    assert!(matches!(opened, Err(OpenError::MasterKey { path, .. }) if path == named));
    assert!(!named.exists());
}

#[tokio::test]
async fn a_data_directory_that_lost_its_database_is_refused_and_left_as_it_is() {
    let bed = Bed::with(|options| options.inline_body_bytes_max = 0);
    let tenant = bed.tenant("a").await.id;
    bed.enqueue(tenant, &["x@one.example"]).await;
    bed.store.close().await;
    let Bed { harness: SqliteHarness { dir }, store, .. } = bed;
    drop(store);
    let [database, key, bodies] = ["pillarbox.db", "master.key", "bodies"].map(|name| dir.path().join(name));
    let before = std::fs::read(&database).unwrap();
    let open = |access| open(SqliteOptions { access, ..options(dir.path()) });
    let refused = |access| match open(access).err() {
        Some(error @ OpenError::DatabaseMissing { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    std::fs::remove_file(&database).unwrap();
    for access in [Access::Serve, Access::Manage, Access::Initialize] {
        let said = refused(access);
        for part in [
            "pillarbox.db is missing",
            "master.key",
            "bodies",
            "restore the database",
            "start with an empty one",
        ] {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
        assert!(!database.exists());
    }
    std::fs::write(&database, "").unwrap();
    refused(Access::Serve);
    assert_eq!(std::fs::metadata(&database).unwrap().len(), 0);
    // Each of these files alone prevents a new database, and the bodies stay.
    let hidden = dir.path().join("hidden");
    std::fs::rename(&bodies, &hidden).unwrap();
    assert!(!refused(Access::Serve).contains("bodies"));
    std::fs::rename(&hidden, &bodies).unwrap();
    std::fs::rename(&key, &hidden).unwrap();
    assert!(!refused(Access::Serve).contains("master.key"));
    std::fs::rename(&hidden, &key).unwrap();
    assert_eq!(files_below(&bodies).len(), 1);
    std::fs::write(&database, before).unwrap();
    assert!(open(Access::Serve).unwrap().tenant(tenant).await.unwrap().is_some());
}

#[test]
fn what_others_leave_in_a_new_data_directory_does_not_keep_it_from_being_used() {
    let dir = tempfile::tempdir().unwrap();
    for directory in ["lost+found", "bodies/zz"] {
        std::fs::create_dir_all(dir.path().join(directory)).unwrap();
    }
    for file in ["lock", "self-signed.crt", "self-signed.key", "pillarbox.db"] {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    // A key that the operator named and made, as the manual says.
    let key = dir.path().join("master.key");
    std::fs::write(&key, format!("{}\n", "7".repeat(64))).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    open(SqliteOptions { master_key_file: Some(key), ..options(dir.path()) }).unwrap();
}
