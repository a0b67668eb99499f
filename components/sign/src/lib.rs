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
use bindings::exports::posthaste::signer::signer::Guest;
struct Sign;
impl Guest for Sign {
    fn sign(i: contract::SignerInput) -> Result<contract::Signatures, contract::StageError> {
        let ids = bindings::posthaste::keys::keys::identities(&i.domain)
            .map_err(|_| contract::StageError::Unavailable(String::new()))?;
        let s = bindings::posthaste::keys::keys::sign_digest(&ids[0].key_id, &i.body_hash).unwrap();
        Ok(contract::Signatures {
            headers: vec![contract::RawHeader { name: "x".into(), value: s }],
            attributes: vec![],
        })
    }
}
