//! The host's protocol, configuration and judgement of records, from the host's own files, without all that stands
//! around them: what these files name of other modules is stood in for below.

#![allow(dead_code, unused_imports)]

#[path = "../../../../host/src"]
mod files {
    pub mod config;
    #[path = "edge/grants.rs"]
    pub mod grants;
    pub mod published;
    pub mod scram;
    pub mod smtp;
}

pub use files::{config, published, scram, smtp};

/// What a stage is called, and which hosts it may be granted.
pub mod edge {
    pub use crate::files::grants::{HOSTS as GRANTED_HOSTS, host as granted_host};

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Stage {
        Renderer,
        Validator,
        Transformer,
        Signer,
        Shaper,
    }

    impl Stage {
        pub const ALL: [Stage; 5] =
            [Stage::Renderer, Stage::Validator, Stage::Transformer, Stage::Signer, Stage::Shaper];

        pub fn name(self) -> &'static str {
            match self {
                Stage::Renderer => "renderer",
                Stage::Validator => "validator",
                Stage::Transformer => "transformer",
                Stage::Signer => "signer",
                Stage::Shaper => "shaper",
            }
        }
    }
}

/// What a record is for.
pub mod keyring {
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Purpose {
        Dkim,
        Spf,
        Dmarc,
        ReturnPath,
        Tracking,
    }

    pub struct DnsRecord {
        pub name: String,
        pub purpose: Purpose,
        pub value: String,
    }
}

/// No DNS: a target brings its own records.
pub mod route {
    pub mod lookup {
        use std::net::IpAddr;

        use crate::config::Dns;

        pub struct Lookup;

        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Texts {
            pub records: Vec<String>,
            pub alias: Option<String>,
        }

        impl Lookup {
            pub fn new(_dns: &Dns) -> Result<Lookup, String> {
                Err("nobody is asked here".to_owned())
            }

            pub async fn text_records(&self, _name: &str) -> Result<Texts, String> {
                Ok(Texts::default())
            }

            pub async fn addresses(&self, _name: &str) -> Result<Vec<IpAddr>, String> {
                Ok(Vec::new())
            }
        }
    }
}

/// The settings that the configuration reads into.
pub mod store {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum OnFailure {
        Defer,
        Fallback,
        Reject,
    }

    #[derive(Clone, Debug, Default)]
    pub struct StageSettings {
        pub http_hosts: Vec<String>,
        pub private_hosts: bool,
    }
}

/// The guarded way out: nothing here takes it.
pub mod web {
    use std::time::Duration;

    #[derive(Clone, Copy, Debug)]
    pub struct Limits {
        pub time: Duration,
        pub body_bytes: usize,
    }

    pub struct Web;
}
