//! What an API key may be used for.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One thing that an API key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Hand over mail, and cancel what waits for its time.
    Send,
    /// Look at mail, events, domains, templates, webhooks.
    Read,
    /// Change domains, templates, webhooks and keys.
    Manage,
}

impl Scope {
    const ALL: [Scope; 3] = [Scope::Send, Scope::Read, Scope::Manage];

    fn bit(self) -> u8 {
        match self {
            Scope::Send => 1,
            Scope::Read => 2,
            Scope::Manage => 4,
        }
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Scope::Send => "send",
            Scope::Read => "read",
            Scope::Manage => "manage",
        }
    }
}

/// All that an API key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Everything.
    pub const ALL: Scopes = Scopes(7);

    /// These; no scope at all stands for all of them.
    pub fn of(scopes: &[Scope]) -> Scopes {
        match scopes {
            [] => Scopes::ALL,
            some => Scopes(some.iter().fold(0, |bits, scope| bits | scope.bit())),
        }
    }

    pub fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// One after the other.
    pub fn list(self) -> Vec<Scope> {
        Scope::ALL.into_iter().filter(|scope| self.has(*scope)).collect()
    }

    pub(super) fn bits(self) -> u8 {
        self.0
    }

    pub(super) fn from_bits(bits: u8) -> Scopes {
        Scopes(bits & Scopes::ALL.0)
    }
}
