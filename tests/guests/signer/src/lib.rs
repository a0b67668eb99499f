//! A signer that signs the body hash with every identity and nothing else: for tests of how keys are answered.

use contract::{KeyError, RawHeader, Signatures, SignerInput, StageError};

/// Bindings to the contract, as generated.
#[allow(unsafe_code)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit",
        world: "posthaste:worlds/sign-stage",
        generate_all,
        with: { "posthaste:types/types@0.1.0": contract },
    });

    use super::Signer;
    export!(Signer);
}

use bindings::exports::posthaste::signer::signer::Guest;
use bindings::posthaste::keys::keys;

struct Signer;

impl Guest for Signer {
    fn sign(input: SignerInput) -> Result<Signatures, StageError> {
        let headers = keys::identities(&input.domain)
            .map_err(unavailable)?
            .into_iter()
            .map(|identity| {
                let value = keys::sign_digest(&identity.key_id, &input.body_hash).map_err(unavailable)?;
                Ok(RawHeader { name: identity.selector, value })
            })
            .collect::<Result<_, StageError>>()?;
        Ok(Signatures { headers, attributes: Vec::new() })
    }
}

fn unavailable(error: KeyError) -> StageError {
    StageError::Unavailable(format!("{error:?}"))
}
