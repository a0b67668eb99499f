//! Several pushed validators or transformers of one tenant: each position has versions and trials of its own, and whatever
//! file stands there is a component of its own.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use contract::{Header, StageError, TransformerInput, ValidatorInput, Wants};
use pipeline::Stages as _;

use super::pushed_tests::{Field, refusal, saying};
use super::tests::{Setup, ask, bytes, guest, told};
use super::*;
use crate::store::{OnFailure, StageSettings, TenantLimits, VersionState};

async fn push(field: &Field, position: u8, file: Vec<u8>) {
    field.try_push_at(position, file, VersionState::Active).await.unwrap();
}

/// What `misbehave` does; the others take it.
fn subject(what: &str) -> ValidatorInput {
    let subject = Header { name: "Subject".to_owned(), value: what.to_owned() };
    ValidatorInput { headers: vec![subject], ..ValidatorInput::default() }
}

#[tokio::test]
async fn positions_are_called_in_order_and_changed_one_by_one() {
    let field = Field::new(&Setup::new()).await;
    let second = Place::new(Stage::Validator, 2).unwrap();
    let says = async |expect: &str| assert_eq!(refusal(&field.edge.stages("acme")).await, expect);
    push(&field, 2, saying("wait 2")).await;
    says("told to wait 2").await;
    let before = field.edge.components("acme");
    push(&field, 1, saying("wait 1")).await;
    says("told to wait 1").await;
    assert_ne!(field.edge.components("acme").revision, before.revision, "edges are told");
    // The first takes what the second refuses: both are asked.
    push(&field, 1, bytes("misbehave").to_vec()).await;
    says("told to wait 2").await;
    let failed = field.edge.stages("acme").validate(subject("unavailable")).await.unwrap_err();
    assert_eq!(failed, StageError::Unavailable("asked to be unavailable".to_owned()));
    push(&field, 2, saying("wait 3")).await;
    says("told to wait 3").await;
    field.registry.roll_back("acme", second).await.unwrap();
    says("told to wait 2").await;
    field.registry.roll_back("acme", Stage::Validator).await.unwrap();
    says("told to wait 1").await;
    let view = field.registry.stages("acme").into_iter().find(|view| view.stage == Stage::Validator).unwrap();
    assert_eq!((view.source, view.own.len()), (Source::Pushed, 2));
    field.registry.remove("acme", Stage::Validator).await.unwrap();
    says("told to wait 2").await;
    field.registry.remove("acme", second).await.unwrap();
    says("told to refuse").await;
    assert_eq!(field.registry.versions("acme", second).await.unwrap().len(), 2);
}

#[tokio::test]
async fn at_an_empty_position_a_canary_is_compared_with_nobody() {
    let field = Field::new(&Setup::new()).await;
    push(&field, 1, bytes("misbehave").to_vec()).await;
    field.try_push_at(2, saying("wait 2"), VersionState::Canary(50)).await.unwrap();
    for _ in 0..100 {
        let _ = field.edge.stages("acme").validate(subject("fine")).await;
    }
    let view = field.registry.stages("acme").into_iter().find(|view| view.stage == Stage::Validator).unwrap();
    let (canary, active) = view.canary.unwrap().counted;
    assert!((1..100).contains(&canary.made), "{}", canary.made);
    assert_eq!(active.made, 0, "the first has a place of its own");
}

#[tokio::test]
async fn a_position_is_tried_beside_the_others() {
    let field = Field::new(&Setup::new()).await;
    push(&field, 1, bytes("misbehave").to_vec()).await;
    push(&field, 2, saying("wait 2")).await;
    field.try_push_at(2, saying("wait 3"), VersionState::Canary(50)).await.unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let stages = field.edge.stages("acme");
        seen.insert(refusal(&stages).await);
        // The first is called with either.
        assert!(stages.validate(subject("unavailable")).await.is_err());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["told to wait 2", "told to wait 3"]);
    let view = field.registry.stages("acme").into_iter().find(|view| view.stage == Stage::Validator).unwrap();
    let (canary, active) = view.canary.unwrap().counted;
    // Each request asked the second position once: the first refused the other question.
    assert_eq!((canary.made + active.made, canary.failed, active.failed), (200, 0, 0), "the first is not counted");
    let other = field.try_push_at(1, saying("wait 4"), VersionState::Canary(5)).await.unwrap_err().to_string();
    assert!(other.contains("version 2 of the validator-2 is on trial: end that trial first"), "{other}");
    let second = Place::new(Stage::Validator, 2).unwrap();
    field.registry.end_trial("acme", second, true).await.unwrap();
    // A shadow is compared with what has its position.
    field.try_push_at(2, saying("wait 2"), VersionState::Shadow).await.unwrap();
    field.edge.stages("acme").validate(told("refuse")).await.unwrap_err();
    drop(field.edge.inner.shadows.acquire_many(u32::try_from(SHADOWS).unwrap()).await.unwrap());
    let view = field.registry.stages("acme").into_iter().find(|view| view.stage == Stage::Validator).unwrap();
    assert_eq!(view.shadow.unwrap(), OnTrial { place: second, version: 3, counted: [1, 0, 0, 0] });
}

async fn put(field: &Field, tenant: &str, place: Place, file: Vec<u8>, state: VersionState) {
    let (tenant, source) = (tenant.to_owned(), "acme.wasm".to_owned());
    field.registry.push(Pushed { tenant, place, source, file: file.into(), state }).await.unwrap();
}

fn view(field: &Field, stage: Stage) -> StageView {
    field.registry.stages("acme").into_iter().find(|view| view.stage == stage).unwrap()
}

/// The instances tell: each counts the calls that it has seen.
#[tokio::test]
async fn the_same_file_in_two_seats_is_two_components() {
    let mut setup = Setup::new();
    setup.always.validator = vec![guest("guest_stage")];
    let field = Field::new(&setup).await;
    let file = || bytes("guest_stage").to_vec();
    push(&field, 1, file()).await;
    push(&field, 2, file()).await;
    for expect in ["1", "2"] {
        assert_eq!(ask(&field.edge.stages("acme"), "accept").await, expect);
    }
    // What stands behind for every tenant is nobody's: not the operator's, not the other position's, not another tenant's.
    put(&field, "other", Stage::Validator.into(), file(), VersionState::Active).await;
    assert_eq!(ask(&field.edge.stages("other"), "accept").await, "1");
    let limits = TenantLimits { memory_bytes: Some(8 << 20), ..TenantLimits::default() };
    field.registry.set_limits("acme", limits).await.unwrap();
    let failed = field.edge.stages("acme").validate(told("grow")).await.unwrap_err();
    let is_own = |why: &str| why.starts_with("pushed validator (") && why.contains("more than 8388608 bytes");
    assert!(matches!(&failed, StageError::Unavailable(why) if is_own(why)), "{failed:?}");
    let names = view(&field, Stage::Validator).own.into_iter().map(|one| (one.place.to_string(), one.name));
    let expect = ["validator", "validator-2"].map(|place| (place.to_owned(), "pushed validator".to_owned()));
    assert_eq!(names.collect::<Vec<_>>(), expect);
}

#[tokio::test]
async fn a_trial_is_told_from_the_same_file_at_another_position() {
    let second = Place::new(Stage::Validator, 2).unwrap();
    let file = || bytes("guest_stage").to_vec();
    for (active, canary) in [(saying("wait 2"), file()), (file(), saying("wait 3"))] {
        let field = Field::new(&Setup::new()).await;
        push(&field, 1, file()).await;
        push(&field, 2, active).await;
        put(&field, "acme", second, canary, VersionState::Canary(50)).await;
        for _ in 0..100 {
            ask(&field.edge.stages("acme"), "accept").await;
        }
        let OnTrial { place, counted: (canary, active), .. } = view(&field, Stage::Validator).canary.unwrap();
        assert_eq!((place, canary.made + active.made), (second, 100), "the first position is not counted");
    }
}

#[tokio::test]
async fn failures_at_two_positions_are_two() {
    let field = Field::new(&Setup::new()).await;
    let mut notices = field.edge.notices().unwrap();
    let file = || bytes("misbehave").to_vec();
    push(&field, 1, file()).await;
    push(&field, 2, file()).await;
    let settings = StageSettings { on_failure: Some(OnFailure::Fallback), ..StageSettings::default() };
    field.registry.set_settings("acme", Stage::Validator, settings).await.unwrap();
    field.edge.stages("acme").validate(subject("trap")).await.unwrap();
    for expect in ["validator", "validator-2"] {
        let Ok(Notice::FellBack { place, .. }) = notices.try_recv() else { panic!("{expect} was not told") };
        assert_eq!(place.to_string(), expect);
    }
}

/// Whether a file answers all or is on trial, and where, makes another set of the same files.
#[tokio::test]
async fn sets_of_the_same_files_are_told_apart() {
    let field = Field::new(&Setup::new()).await;
    let [first, second] = [1, 2].map(|position| Place::new(Stage::Validator, position).unwrap());
    let mut seen = BTreeSet::new();
    let mut is_new = |field: &Field| seen.insert(field.edge.components("acme").revision);
    push(&field, 1, saying("wait 1")).await;
    assert!(is_new(&field));
    put(&field, "acme", second, saying("wait 2"), VersionState::Canary(5)).await;
    assert!(is_new(&field));
    field.registry.place("acme", second, None, VersionState::Active).await.unwrap();
    assert!(is_new(&field), "the same two files, and none on trial");
    field.registry.remove("acme", second).await.unwrap();
    put(&field, "acme", first, saying("wait 2"), VersionState::Canary(5)).await;
    assert!(is_new(&field), "the same two files, the second in the place of the first");
}

/// What one tenant's shadow computes is on that tenant's account, from the first thing that is pushed for it.
#[tokio::test]
async fn shadows_have_accounts_of_their_own() {
    let field = Field::new(&Setup::new()).await;
    let place = Stage::Validator.into();
    let meters = async |tenant: &str| {
        put(&field, tenant, place, saying("wait 1"), VersionState::Shadow).await;
        let first = field.edge.inner.library.set(tenant).shadow_meter.clone().unwrap();
        put(&field, tenant, place, saying("wait 2"), VersionState::Shadow).await;
        (first, field.edge.inner.library.set(tenant).shadow_meter.clone().unwrap())
    };
    let (acme, later) = meters("acme").await;
    assert!(Arc::ptr_eq(&acme, &later), "pushing fills it with nothing");
    let (other, _) = meters("other").await;
    assert!(!Arc::ptr_eq(&acme, &other));
}

/// Headers and a body of a message that its sender did not sign.
const MESSAGE: &[u8] = b"From: a@src.test\r\nSubject: x\r\n\r\nbody\r\n";

/// Whoever made what is none has failed, and not the one behind it that cannot read it.
#[tokio::test]
async fn what_a_transformer_made_is_checked_before_the_next_one_gets_it() {
    let field = Field::new(&Setup::new()).await;
    let [first, second] = [1, 2].map(|position| Place::new(Stage::Transformer, position).unwrap());
    let mut changed = bytes("guest_changer").to_vec();
    let at = changed.windows(6).position(|six| six == b"word 0").unwrap();
    changed[at..at + 6].copy_from_slice(b"word 1");
    put(&field, "acme", first, bytes("guest_changer").to_vec(), VersionState::Active).await;
    put(&field, "acme", second, bytes("guest_changer").to_vec(), VersionState::Active).await;
    put(&field, "acme", second, changed, VersionState::Canary(50)).await;
    let transform_message = async |what: &str, message: Vec<u8>| {
        let attributes = vec![("do".to_owned(), what.to_owned())];
        let input = TransformerInput { message, attributes, ..TransformerInput::default() };
        field.edge.stages("acme").transform(input).await
    };
    let transform = async |what: &str| transform_message(what, MESSAGE.to_vec()).await;
    let counted = || {
        let (canary, active) = view(&field, Stage::Transformer).canary.unwrap().counted;
        (canary.made + active.made, canary.failed + active.failed)
    };
    let message = transform("add add").await.unwrap().message.unwrap();
    assert!(message.starts_with(b"X-Word: word ") && message.ends_with(MESSAGE));
    assert_eq!(message.len(), MESSAGE.len() + 2 * "X-Word: word 0\r\n".len());
    assert_eq!(counted(), (1, 0));
    for what in ["break trust", "empty trust"] {
        for _ in 0..20 {
            let failed = transform(what).await.unwrap_err();
            let StageError::Unavailable(why) = &failed else { panic!("{failed:?}") };
            assert!(why.starts_with("pushed transformer (") && !why.contains("trapped"), "{why}");
        }
    }
    assert_eq!(counted(), (1, 0), "the second was never called");
    transform("keep break").await.unwrap_err();
    assert_eq!(counted(), (2, 1), "its own fault");
    let most = usize::try_from(field.edge.inner.sizes.stored_bytes()).unwrap();
    let line = b"a line of the body\r\n";
    let full = [MESSAGE, &line.repeat((most - MESSAGE.len()) / line.len())].concat();
    let failed = transform_message("keep add", full).await.unwrap_err();
    assert!(matches!(&failed, StageError::Unavailable(why) if why.contains("are allowed")), "{failed:?}");
    assert_eq!(counted(), (3, 2), "what is too large is a failure too");
    let mut notices = field.edge.notices().unwrap();
    while notices.try_recv().is_ok() {}
    // It follows what the tenant chose, as with any other failure.
    let settings = StageSettings { on_failure: Some(OnFailure::Fallback), ..StageSettings::default() };
    field.registry.set_settings("acme", Stage::Transformer, settings).await.unwrap();
    assert_eq!(transform("keep break").await.unwrap().message, None, "the message passes unchanged");
    let told = notices.try_recv();
    assert!(matches!(&told, Ok(Notice::FellBack { place, .. }) if *place == second), "{told:?}");
}

/// Subject and text of a message, as the validators of a request see it after they said what they want.
async fn seen(field: &Field) -> Result<Wants, StageError> {
    let stages = field.edge.stages("acme");
    let wants = stages.describe_validator().await?;
    let mut input = ValidatorInput { text: wants.text.then(|| "Hello".to_owned()), ..subject("expect little") };
    input.attributes = told("expect text").attributes;
    stages.validate(input).await?;
    drop(field.edge.inner.shadows.acquire_many(u32::try_from(SHADOWS).unwrap()).await.unwrap());
    Ok(wants)
}

/// `guest_stage` asks for the text, `misbehave` for nothing.
#[tokio::test]
async fn each_validator_is_shown_what_it_asked_for() {
    let field = Field::new(&Setup::new()).await;
    push(&field, 1, bytes("guest_stage").to_vec()).await;
    push(&field, 2, bytes("misbehave").to_vec()).await;
    assert!(seen(&field).await.unwrap().text);
    // The same beside an active one that asked for nothing.
    let second = Place::new(Stage::Validator, 2).unwrap();
    field.registry.remove("acme", second).await.unwrap();
    push(&field, 1, bytes("misbehave").to_vec()).await;
    field.try_push_at(1, bytes("guest_stage"), VersionState::Shadow).await.unwrap();
    let counted = async || {
        let view = field.registry.stages("acme").into_iter().find(|view| view.stage == Stage::Validator).unwrap();
        view.shadow.unwrap().counted
    };
    assert!(!seen(&field).await.unwrap().text, "no message waits for a shadow to be asked");
    assert_eq!(counted().await, [0, 0, 0, 1], "it could not see what it wants to");
    assert!(seen(&field).await.unwrap().text);
    assert_eq!(counted().await, [1, 0, 0, 1]);
}
