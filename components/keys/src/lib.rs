//! Keeps an edge's DKIM keys: `posthaste:keys`, answered from the Spin variable `dkim_keys`.
//!
//! `ring` reads the variable and signs, natively too; this file is the component's shell. It is composed with `sign` into
//! one file, so that nobody else can call it. Whoever may read the variable holds the keys: at an edge that is the
//! trigger as well.

mod blinding;
mod ring;

pub use ring::Ring;

#[cfg(target_family = "wasm")]
mod shell {
    use std::cell::RefCell;

    use contract::{Identity, KeyError};

    use bindings::exports::posthaste::keys::keys::Guest;
    use bindings::fermyon::spin::variables::{self, Error};

    use super::Ring;

    /// Bindings to the contract, as generated.
    #[allow(unsafe_code)]
    mod bindings {
        wit_bindgen::generate!({
            path: "../../wit",
            world: "posthaste:worlds/keys-stage",
            generate_all,
            with: { "posthaste:types/types@0.1.0": contract },
        });

        use super::Keys;
        export!(Keys);
    }

    /// The Spin variable that holds the keys.
    const VARIABLE: &str = "dkim_keys";

    thread_local! {
        /// The keys of the last call, by the text that they were read from, because reading RSA keys is slow. A changed
        /// variable is seen at once.
        static READ: RefCell<Option<(String, Ring)>> = const { RefCell::new(None) };
    }

    struct Keys;

    impl Guest for Keys {
        fn identities(domain: String) -> Result<Vec<Identity>, KeyError> {
            with_ring(|ring| Ok(ring.identities(&domain)))
        }

        fn sign_digest(key_id: String, digest: Vec<u8>) -> Result<Vec<u8>, KeyError> {
            with_ring(|ring| ring.sign_digest(&key_id, &digest))
        }
    }

    /// Answers from the keys as the variable has them now. Without a variable there are none, which is no fault.
    fn with_ring<T>(answer: impl FnOnce(&Ring) -> Result<T, KeyError>) -> Result<T, KeyError> {
        let text = match variables::get(VARIABLE) {
            Ok(text) => text,
            Err(Error::Undefined(_)) => String::new(),
            Err(Error::InvalidName(cause) | Error::Provider(cause) | Error::Other(cause)) => {
                return Err(KeyError::Unavailable(format!("the variable `{VARIABLE}` cannot be read: {cause}")));
            }
        };
        READ.with_borrow_mut(|read| {
            if let Some((known, ring)) = read
                && *known == text
            {
                return answer(ring);
            }
            let ring = Ring::read(&text).map_err(KeyError::Unavailable)?;
            answer(&read.insert((text, ring)).1)
        })
    }
}
