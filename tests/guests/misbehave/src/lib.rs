//! A validator that does what the subject says: it traps, loops, sleeps, grows, answers nonsense or refuses with its own name.
//! Any other subject passes.
//!
//! What the host makes of each is asserted in `tests/system/misbehaviour.rs`.

/// Bindings to the contract, as generated.
#[allow(unsafe_code)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit",
        world: "posthaste:worlds/validate-stage",
        generate_all,
        with: { "posthaste:types/types@0.1.0": contract },
    });

    use super::Misbehave;
    export!(Misbehave);
}

use std::time::Duration;

use bindings::exports::posthaste::validator::validator::Guest;
use contract::{Acceptance, Finding, FindingClass, StageError, ValidatorInput, Wants};

struct Misbehave;

/// What it refuses with that is asked who it is: of as many letters in every file that a test makes of this one.
const NAME: &str = "version 0";

impl Guest for Misbehave {
    fn describe() -> Result<Wants, StageError> {
        Ok(Wants::default())
    }

    fn validate(input: ValidatorInput) -> Result<Acceptance, StageError> {
        let subject = input.headers.iter().find(|header| header.name.eq_ignore_ascii_case("subject"));
        match subject.map_or("", |header| header.value.trim()) {
            "trap" => panic!("asked to trap"),
            "loop" => spin(),
            "sleep" => {
                std::thread::sleep(Duration::from_secs(3600));
                Ok(Acceptance::default())
            }
            "grow" => grow(),
            // As many as memory holds: far more than any host should take.
            "headers" => {
                let header = ("x-header".to_owned(), "h".repeat(1 << 20));
                Ok(Acceptance { attributes: vec![header; 40], ..Acceptance::default() })
            }
            // More than any host should take for an answer.
            "nonsense" => Ok(Acceptance { warnings: vec!["nonsense".repeat(1 << 20); 4], ..Acceptance::default() }),
            // It asked for none of them.
            "expect little" if input.text.is_some() || input.html.is_some() || input.raw.is_some() => {
                Err(StageError::Unavailable("it was shown what it did not ask for".to_owned()))
            }
            "who" => Err(StageError::Refused(Finding {
                class: FindingClass::Policy,
                text: std::hint::black_box(NAME).to_owned(),
                status: None,
                field: None,
                position: None,
            })),
            "unavailable" => Err(StageError::Unavailable("asked to be unavailable".to_owned())),
            _ => Ok(Acceptance::default()),
        }
    }
}

/// Never comes back, and is not optimized away.
fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

/// Allocates until the memory limit, then traps.
fn grow() -> ! {
    let mut all: Vec<Vec<u8>> = Vec::new();
    loop {
        all.push(std::hint::black_box(vec![1; 1 << 20]));
    }
}
