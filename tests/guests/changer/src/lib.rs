//! A transformer that does the first word of the attribute `do`, and leaves the others to the one behind it: for tests of
//! several transformers.

/// Bindings to the contract, as generated.
#[allow(unsafe_code)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit",
        world: "posthaste:worlds/transform-stage",
        generate_all,
        with: { "posthaste:types/types@0.1.0": contract },
    });

    use super::Changer;
    export!(Changer);
}

use bindings::exports::posthaste::transformer::transformer::Guest;
use contract::{StageError, Transformed, TransformerInput};

struct Changer;

/// What the message is told: of as many letters in every file that a test makes of this one.
const WORD: &str = "word 0";

impl Guest for Changer {
    fn transform(input: TransformerInput) -> Result<Transformed, StageError> {
        let TransformerInput { message, attributes, .. } = input;
        let told = attributes.into_iter().find(|(name, _)| name == "do").map(|(_, value)| value).unwrap_or_default();
        let (first, rest) = told.split_once(' ').unwrap_or((&told, ""));
        let message = match first {
            "add" => Some([format!("X-Word: {WORD}\r\n").as_bytes(), &message].concat()),
            "break" => Some(b"From: a@src.test\nno line ends so\n".to_vec()),
            "empty" => Some(Vec::new()),
            // As a component does that believes what it is promised.
            "trust" => {
                assert!(message.windows(2).any(|two| two == b"\r\n"), "no line ends");
                None
            }
            _ => None,
        };
        let attributes = vec![("do".to_owned(), rest.to_owned())];
        Ok(Transformed { message, attributes, ..Transformed::default() })
    }
}
