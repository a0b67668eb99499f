//! Spin variables from the environment, for WASI hosts that have no Spin interfaces: composed with `submit` it makes
//! `submit-wasi.wasm`.
//!
//! The variable `delivery_url` is the environment variable `SPIN_VARIABLE_DELIVERY_URL`, the name that Spin's own
//! command line reads it by.

/// What the environment's names begin with.
const PREFIX: &str = "SPIN_VARIABLE_";

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No variable can have that name: lower-case letters, digits and single underscores between them, a letter first.
    InvalidName,
    /// The environment does not hold it.
    Undefined,
    /// The environment holds bytes that are not UTF-8.
    NotText,
}

/// The value of a variable, by what reads the environment.
pub fn get(name: &str, environment: impl Fn(&str) -> Result<String, std::env::VarError>) -> Result<String, Missing> {
    if !is_valid(name) {
        return Err(Missing::InvalidName);
    }
    environment(&format!("{PREFIX}{}", name.to_ascii_uppercase())).map_err(|error| match error {
        std::env::VarError::NotPresent => Missing::Undefined,
        std::env::VarError::NotUnicode(_) => Missing::NotText,
    })
}

fn is_valid(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('_')
        && !name.contains("__")
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(target_family = "wasm")]
mod shell {
    use bindings::exports::fermyon::spin::variables as sync;
    use bindings::exports::spin::variables::variables as waiting;

    use super::Missing;

    /// Bindings to Spin's interfaces, as generated.
    #[allow(unsafe_code)]
    mod bindings {
        wit_bindgen::generate!({ path: "../../wit", world: "posthaste:worlds/vars", generate_all });

        use super::Vars;
        export!(Vars);
    }

    struct Vars;

    impl sync::Guest for Vars {
        fn get(name: String) -> Result<String, sync::Error> {
            super::get(&name, |name| std::env::var(name)).map_err(|missing| match missing {
                Missing::InvalidName => sync::Error::InvalidName(name),
                Missing::Undefined => sync::Error::Undefined(name),
                Missing::NotText => sync::Error::Provider(format!("the value of {name} is not UTF-8")),
            })
        }
    }

    impl waiting::Guest for Vars {
        async fn get(name: String) -> Result<String, waiting::Error> {
            super::get(&name, |name| std::env::var(name)).map_err(|missing| match missing {
                Missing::InvalidName => waiting::Error::InvalidName(name),
                Missing::Undefined => waiting::Error::Undefined(name),
                Missing::NotText => waiting::Error::Provider(format!("the value of {name} is not UTF-8")),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::env::VarError;

    use super::*;

    fn check(name: &str, expect: Result<&str, Missing>) {
        let environment = |name: &str| match name {
            "SPIN_VARIABLE_DELIVERY_URL" => Ok("http://host.test".to_owned()),
            "SPIN_VARIABLE_EMPTY" => Ok(String::new()),
            "SPIN_VARIABLE_BYTES" => Err(VarError::NotUnicode("x".into())),
            _ => Err(VarError::NotPresent),
        };
        assert_eq!(get(name, environment), expect.map(str::to_owned), "{name}");
    }

    #[test]
    fn names_and_values() {
        check("delivery_url", Ok("http://host.test"));
        check("empty", Ok(""));
        check("dkim_keys", Err(Missing::Undefined));
        check("bytes", Err(Missing::NotText));
        for name in ["", "Delivery_url", "1a", "_a", "a_", "a__b", "a-b", "a b", "ä"] {
            check(name, Err(Missing::InvalidName));
        }
    }
}
