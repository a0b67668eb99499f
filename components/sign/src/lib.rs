//! The signer stage: DKIM signatures (RFC 6376, RFC 8463) with keys that stay behind `posthaste:keys`.
//!
//! This file is the component's shell; `signature` runs natively too, over the same trait.

mod signature;

pub use signature::{Keys, sign};

#[cfg(target_family = "wasm")]
mod shell {
    use contract::{Identity, KeyError, Signatures, SignerInput, StageError};

    use bindings::exports::posthaste::signer::signer::Guest;
    use bindings::posthaste::keys::keys;

    /// Bindings to the contract, as generated.
    #[allow(unsafe_code)]
    mod bindings {
        wit_bindgen::generate!({
            path: "../../wit",
            world: "posthaste:worlds/sign-stage",
            generate_all,
            with: { "posthaste:types/types@0.1.0": contract },
        });

        use super::Sign;
        export!(Sign);
    }

    struct Sign;

    impl Guest for Sign {
        fn sign(input: SignerInput) -> Result<Signatures, StageError> {
            super::sign(&Imported, &input)
        }
    }

    /// The keys that whoever runs this component answers for.
    struct Imported;

    impl super::Keys for Imported {
        fn identities(&self, domain: &str) -> Result<Vec<Identity>, KeyError> {
            keys::identities(domain)
        }

        fn sign_digest(&self, key_id: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
            keys::sign_digest(key_id, digest)
        }
    }
}
