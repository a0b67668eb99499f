//! The place of tracking in the pipeline: passes every message through.
//!
//! An edge needs a component for each import of `submit`, so this one is there before tracking is.

use contract::{Transformed, TransformerInput};

/// Leaves the message as it is.
pub fn transform(_input: &TransformerInput) -> Transformed {
    Transformed::default()
}

#[cfg(target_family = "wasm")]
mod shell {
    use contract::{StageError, Transformed, TransformerInput};

    use bindings::exports::posthaste::transformer::transformer::Guest;

    /// Bindings to the contract, as generated.
    #[allow(unsafe_code)]
    mod bindings {
        wit_bindgen::generate!({
            path: "../../wit",
            world: "posthaste:worlds/transform-stage",
            generate_all,
            with: { "posthaste:types/types@0.1.0": contract },
        });

        use super::Track;
        export!(Track);
    }

    struct Track;

    impl Guest for Track {
        fn transform(input: TransformerInput) -> Result<Transformed, StageError> {
            Ok(super::transform(&input))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_changes() {
        let input = TransformerInput { message: b"Subject: x\r\n\r\nhi\r\n".to_vec(), ..TransformerInput::default() };
        assert_eq!(transform(&input), Transformed { message: None, warnings: vec![], attributes: vec![] });
    }
}
