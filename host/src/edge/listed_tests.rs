//! Several pushed validators of one tenant: each position has versions and trials of its own.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use contract::{Header, StageError, ValidatorInput};
use pipeline::Stages as _;

use super::pushed_tests::{Field, refusal, saying};
use super::tests::{Setup, bytes, told};
use super::*;
use crate::store::VersionState;

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
    let (_, canary, active) = view.canary.unwrap();
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
    let (_, canary, active) = view.canary.unwrap();
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
    assert_eq!(view.shadow.unwrap().1, [1, 0, 0, 0]);
}
