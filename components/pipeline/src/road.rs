//! The road itself.

use crate::{Ready, Refusal, Stages, Submission};

/// Takes a submission through every stage in order: render, compose, validate, transform, sign.
pub async fn run(stages: &impl Stages, submission: Submission) -> Result<Ready, Refusal> {
    let _ = (stages, submission);
    todo!()
}
