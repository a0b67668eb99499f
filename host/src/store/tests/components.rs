//! Pushed components: versions, their states, and the files.

use super::*;

fn version(tenant: &str, digest: &str, state: VersionState) -> NewVersion {
    NewVersion {
        tenant: tenant.to_owned(),
        stage: "validator".to_owned(),
        digest: digest.to_owned(),
        source: "acme.wasm".to_owned(),
        pushed_at: at(1),
        state,
    }
}

async fn states(store: &Embedded) -> Vec<(u32, VersionState)> {
    let versions = store.component_versions(Some("acme")).await.unwrap();
    versions.into_iter().map(|version| (version.version, version.state)).collect()
}

async fn push(store: &Embedded, digest: &str, state: VersionState) -> u32 {
    let file = Bytes::from(format!("file {digest}"));
    store.add_component(version("acme", digest, state), file).await.unwrap().version
}

#[tokio::test]
async fn versions_replace_each_other_and_come_back() {
    use VersionState::{Active, Canary, Removed, Retired, RolledBack, Shadow};
    let (folder, store) = fresh();
    assert_eq!(push(&store, "d1", Active).await, 1);
    assert_eq!(push(&store, "d2", Active).await, 2);
    assert_eq!(states(&store).await, [(1, Retired), (2, Active)]);
    store.roll_back_component("acme", "validator", Some("wrong".to_owned())).await.unwrap();
    assert_eq!(states(&store).await, [(1, Active), (2, RolledBack)]);
    assert_eq!(store.component_versions(None).await.unwrap()[1].note.as_deref(), Some("wrong"));
    push(&store, "d3", Canary(5)).await;
    push(&store, "d4", Shadow).await;
    push(&store, "d5", Canary(7)).await;
    let expect = [(1, Active), (2, RolledBack), (3, RolledBack), (4, Shadow), (5, Canary(7))];
    assert_eq!(states(&store).await, expect);
    // The canary is good: it takes the place of the active one.
    store.place_component("acme", "validator", 5, Active, None).await.unwrap();
    let expect = [(1, Retired), (2, RolledBack), (3, RolledBack), (4, Shadow), (5, Active)];
    assert_eq!(states(&store).await, expect);
    drop(store);
    let store = open(folder.path());
    assert_eq!(states(&store).await, expect);
    // Nothing is left to go back to but the configuration.
    store.roll_back_component("acme", "validator", None).await.unwrap();
    store.roll_back_component("acme", "validator", None).await.unwrap();
    let gone = store.roll_back_component("acme", "validator", None).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
    store.remove_components("acme", "validator").await.unwrap();
    assert_eq!(states(&store).await[3], (4, Removed));
    assert!(matches!(store.remove_components("acme", "validator").await, Err(StoreError::NotFound(_))));
    let missing = store.place_component("acme", "validator", 9, Active, None).await;
    assert!(matches!(missing, Err(StoreError::NotFound(_))), "{missing:?}");
}

/// Not what was pushed last: what was active before the change that is taken back.
#[tokio::test]
async fn a_roll_back_leads_to_what_was_active_before() {
    use VersionState::{Active, Canary, Retired, RolledBack, Shadow};
    let (folder, store) = fresh();
    for digest in ["d1", "d2", "d3"] {
        push(&store, digest, Active).await;
    }
    let place = async |version, state| store.place_component("acme", "validator", version, state, None).await.unwrap();
    let roll_back = async || store.roll_back_component("acme", "validator", None).await.unwrap();
    place(1, Active).await;
    roll_back().await;
    assert_eq!(states(&store).await, [(1, RolledBack), (2, Retired), (3, Active)]);
    place(1, Active).await;
    place(2, Active).await;
    roll_back().await;
    assert_eq!(states(&store).await, [(1, Active), (2, RolledBack), (3, Retired)], "1 was active before 2 was again");
    // The one before is on trial meanwhile, or was.
    place(3, Shadow).await;
    roll_back().await;
    assert_eq!(states(&store).await, [(1, RolledBack), (2, RolledBack), (3, Active)]);
    place(1, Active).await;
    place(3, Canary(5)).await;
    place(3, RolledBack).await;
    roll_back().await;
    assert_eq!(states(&store).await, [(1, RolledBack), (2, RolledBack), (3, Active)]);
    // However many were tried since, the one before is kept.
    for number in 0..VERSIONS_KEPT + 5 {
        push(&store, &format!("tried {number}"), Canary(5)).await;
    }
    push(&store, "new", Active).await;
    drop(store);
    let store = open(folder.path());
    store.roll_back_component("acme", "validator", None).await.unwrap();
    assert_eq!(states(&store).await[0], (3, Active));
    assert_eq!(store.component_file("d3").await.unwrap(), b"file d3");
    store.remove_components("acme", "validator").await.unwrap();
    push(&store, "d9", Active).await;
    store.roll_back_component("acme", "validator", None).await.unwrap();
    assert!(states(&store).await.iter().all(|(_, state)| !state.is_live() || matches!(state, Canary(_))));
}

/// A change that fails leaves everything as it was.
#[tokio::test]
async fn a_version_that_is_not_there_takes_no_place() {
    let (_folder, store) = fresh();
    push(&store, "d1", VersionState::Active).await;
    store.place_component("acme", "validator", 2, VersionState::Active, None).await.unwrap_err();
    assert_eq!(states(&store).await, [(1, VersionState::Active)]);
}

#[tokio::test]
async fn files_stay_as_long_as_a_version_names_them() {
    let (folder, store) = fresh();
    let files = || std::fs::read_dir(folder.path().join("components")).unwrap().count();
    for number in 0..VERSIONS_KEPT + 5 {
        push(&store, &format!("d{number}"), VersionState::Active).await;
    }
    assert_eq!((states(&store).await.len(), files()), (20, 20));
    assert_eq!(store.component_file("d24").await.unwrap(), b"file d24");
    assert!(matches!(store.component_file("d0").await, Err(StoreError::NotFound(_))));
    // A backup has them too.
    let backup = folder.path().join("backup");
    store.backup(&backup).await.unwrap();
    assert_eq!(open(&backup).component_file("d24").await.unwrap(), b"file d24");
    // The same file again is one file, and numbers go on.
    assert_eq!(push(&store, "d24", VersionState::Shadow).await, 26);
    assert_eq!(files(), 19, "the oldest went");
}

#[tokio::test]
async fn settings_are_kept_by_tenant_and_stage() {
    let (folder, store) = fresh();
    let settings = StageSettings { on_failure: Some(OnFailure::Reject), ..StageSettings::default() };
    store.set_stage_settings("acme", "validator", StageSettings::default()).await.unwrap();
    store.set_stage_settings("acme", "validator", settings.clone()).await.unwrap();
    let limits = TenantLimits { calls: Some(2), ..TenantLimits::default() };
    store.set_tenant_limits("acme", limits).await.unwrap();
    drop(store);
    let store = open(folder.path());
    let found = store.stage_settings(Some("acme")).await.unwrap();
    assert_eq!(found, [("acme".to_owned(), "validator".to_owned(), settings)]);
    assert_eq!(store.tenant_limits(None).await.unwrap(), [("acme".to_owned(), limits)]);
    assert!(store.stage_settings(Some("other")).await.unwrap().is_empty());
}
