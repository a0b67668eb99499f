//! The master key, which seals secrets at rest: whether all are sealed with the present one, and its exchange.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Call, Control, Problem, Route};
use crate::keyring::{MASTER_KEY_VARIABLE, PREVIOUS_KEY_VARIABLE, Resealed, RotationError, Source};

/// What an exchange of the master key did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MasterKeyView {
    /// Where the key is: a file, or an environment variable.
    pub source: String,
    /// Secrets at rest.
    pub secrets: u64,
    /// Of them: those that were sealed anew by this call.
    pub resealed: u64,
    /// What neither this key nor the one before it opens: sealed with yet another one, or damaged.
    pub unreadable: Vec<String>,
}

/// The routes of this family.
pub fn routes() -> Vec<Route> {
    vec![Route::new(
        Method::POST,
        "master-key/rotate",
        "Exchange the master key: every secret at rest is sealed with a new one",
        rotate,
    )]
}

async fn rotate(control: Arc<Control>, _: Call) -> Result<MasterKeyView, Problem> {
    let Resealed { secrets, resealed, unreadable, .. } =
        control.keyring.rotate_master_key(&*control.vault).await.map_err(|error| match error {
            RotationError::FromVariable => Problem::new(StatusCode::CONFLICT, "from_variable", error.to_string()),
            RotationError::Store(error) => error.into(),
            RotationError::Key(_) | RotationError::Seal(_) => {
                let text = format!("{error}; every secret can be opened, but keep both key files: where one ends in `.next`, secrets may be sealed with it");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "master_key", text)
            }
        })?;
    let source = match control.keyring.master_key_source() {
        Source::File(path) => path.display().to_string(),
        Source::Variable => format!("{MASTER_KEY_VARIABLE}; {PREVIOUS_KEY_VARIABLE} is needed no more"),
        Source::Given => "this process".to_owned(),
    };
    Ok(MasterKeyView { source, secrets, resealed, unreadable })
}
