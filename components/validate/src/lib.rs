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
use bindings::exports::posthaste::validator::validator::Guest;
struct Validate;
impl Guest for Validate {
    fn describe() -> Result<contract::Wants, contract::StageError> {
        Ok(contract::Wants::default())
    }
    fn validate(_: contract::ValidatorInput) -> Result<contract::Acceptance, contract::StageError> {
        Ok(Default::default())
    }
}
