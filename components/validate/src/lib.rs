//! The validator stage that a tenant has until it brings its own: what no receiver would take, and what most would
//! frown on. It wants headers and parts only. This file is the component's shell; `rules` runs natively too.

mod rules;

pub use rules::{LOOP_LIMIT, validate};

#[cfg(target_family = "wasm")]
mod shell {
    use contract::{Acceptance, StageError, ValidatorInput, Wants};

    use bindings::exports::posthaste::validator::validator::Guest;

    /// Bindings to the contract, as generated.
    #[allow(unsafe_code)]
    mod bindings {
        wit_bindgen::generate!({
            path: "../../wit",
            world: "posthaste:worlds/validate-stage",
            generate_all,
            with: { "posthaste:types/types@0.1.0": contract },
        });

        use super::Validate;
        export!(Validate);
    }

    struct Validate;

    impl Guest for Validate {
        fn describe() -> Result<Wants, StageError> {
            Ok(Wants::default())
        }

        fn validate(input: ValidatorInput) -> Result<Acceptance, StageError> {
            super::validate(&input).map_err(StageError::Refused)
        }
    }
}
