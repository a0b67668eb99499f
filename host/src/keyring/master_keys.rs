//! The master keys that a host holds: the one that seals, and while it is exchanged those before it, which only unseal.
//!
//! Exchanging it takes steps, each of which may be the last one that a killed host takes: the new key is written beside
//! the old one (`master.key.next`), from then on it seals; every secret is sealed anew; then the new file takes the old
//! one's place. A host that starts on any of these states opens every secret and goes on from there. A key from an
//! environment variable is exchanged by its operator, who puts the old one into a second variable meanwhile.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use thiserror::Error;

use super::master::{self, MASTER_KEY_FILE, MASTER_KEY_VARIABLE, MasterKey, MasterKeyError, SealError};
use crate::scram::SALT_OCTETS;
use crate::store::{SealedSecret, SecretPlace, StoreError, Vault};

/// Holds the master key that was used before, in base64, while secrets may be sealed with it.
pub const PREVIOUS_KEY_VARIABLE: &str = "POSTHASTE_MASTER_KEY_PREVIOUS";

/// Behind the name of the key file: the key that is to take its place.
pub const NEXT_SUFFIX: &str = ".next";

/// Secrets that are sealed anew in one transaction.
const PAGE: usize = 200;

/// Why the master key is not exchanged.
#[derive(Debug, Error)]
pub enum RotationError {
    #[error(
        "the master key comes from the environment variable {MASTER_KEY_VARIABLE}: put the present one into {PREVIOUS_KEY_VARIABLE}, a new one into {MASTER_KEY_VARIABLE} (openssl rand -base64 32), and start the host again, which seals everything with the new one"
    )]
    FromVariable,
    #[error(transparent)]
    Key(#[from] MasterKeyError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where the key came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Variable,
    File(PathBuf),
    /// Out of the caller's hands.
    Given,
}

/// What was sealed anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Secrets there are.
    pub secrets: u64,
    /// Of them: those that were sealed with another key than the present one.
    pub resealed: u64,
    /// What no key opens.
    pub unreadable: Vec<String>,
    /// Sealed anew since all secrets were begun to be gone through.
    in_this_pass: u64,
}

/// The next step of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new key is written beside the present one.
    Write,
    /// The key beside it seals from now on.
    Switch,
    /// Secrets behind this place are sealed anew.
    Reseal(Option<SecretPlace>),
    /// The new key's file takes the place of the old one.
    Rename,
    Done,
}

struct Held {
    current: Arc<MasterKey>,
    /// Newest first.
    previous: Vec<Arc<MasterKey>>,
}

/// Seals with the present key; unseals with it and those before it.
pub struct MasterKeys {
    source: Source,
    held: RwLock<Arc<Held>>,
}

impl From<MasterKey> for MasterKeys {
    fn from(key: MasterKey) -> MasterKeys {
        MasterKeys::of(Source::Given, key, Vec::new())
    }
}

impl MasterKeys {
    pub(super) fn of(source: Source, current: MasterKey, previous: Vec<MasterKey>) -> MasterKeys {
        let previous = previous.into_iter().map(Arc::new).collect();
        MasterKeys { source, held: RwLock::new(Arc::new(Held { current: Arc::new(current), previous })) }
    }

    /// The keys of a host: the environment's, else the given file's, else those in the data folder, where one is made if
    /// there is none.
    pub fn load(file: Option<&Path>, data: &Path) -> Result<MasterKeys, MasterKeyError> {
        let mut previous: Vec<MasterKey> = MasterKey::of_variable(PREVIOUS_KEY_VARIABLE)?.into_iter().collect();
        if let Some(key) = MasterKey::of_variable(MASTER_KEY_VARIABLE)? {
            return Ok(MasterKeys::of(Source::Variable, key, previous));
        }
        let path = file.map_or_else(|| data.join(MASTER_KEY_FILE), Path::to_owned);
        let next = next_to(&path);
        if file.is_none() && !path.exists() && !next.exists() {
            master::create(&path)?;
        }
        if !next.exists() {
            let current = MasterKey::read(&path)?;
            return Ok(MasterKeys::of(Source::File(path), current, previous));
        }
        // An exchange was broken off.
        let current = MasterKey::read(&next)?;
        if path.exists() {
            previous.insert(0, MasterKey::read(&path)?);
        }
        Ok(MasterKeys::of(Source::File(path), current, previous))
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Seals with the present key: see `MasterKey::seal`.
    pub fn seal(&self, id: &str, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        self.held().current.seal(id, secret)
    }

    /// Opens what any of the keys has sealed for this id.
    pub fn unseal(&self, id: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let held = self.held();
        let first = held.current.unseal(id, sealed);
        match first {
            Err(SealError::WrongKey) => {
                let opened = held.previous.iter().find_map(|key| key.unseal(id, sealed).ok());
                opened.ok_or(SealError::WrongKey)
            }
            first => first,
        }
    }

    /// See `MasterKey::salt_of`: by the present key.
    pub fn salt_of(&self, name: &str) -> [u8; SALT_OCTETS] {
        self.held().current.salt_of(name)
    }

    /// What is to be done first of an exchange that was broken off, or that the operator began with the variables.
    pub fn unfinished(&self) -> Option<Step> {
        match &self.source {
            Source::File(path) if next_to(path).exists() => Some(Step::Switch),
            Source::File(_) | Source::Variable | Source::Given => {
                (!self.held().previous.is_empty()).then_some(Step::Reseal(None))
            }
        }
    }

    /// The first step of an exchange that somebody asks for.
    pub fn first_step(&self) -> Result<Step, RotationError> {
        match (&self.source, self.unfinished()) {
            (Source::File(_), Some(Step::Switch)) => Ok(Step::Switch),
            (Source::File(_), _) => Ok(Step::Write),
            (Source::Variable | Source::Given, Some(step)) => Ok(step),
            (Source::Variable | Source::Given, None) => Err(RotationError::FromVariable),
        }
    }

    /// Takes a step. Killed in the midst of it or behind it, a host starts and goes on.
    ///
    /// `Switch` is for the caller to guard: what was sealed before it must be stored before secrets are gone through.
    pub async fn take(&self, step: Step, vault: &dyn Vault, told: &mut Resealed) -> Result<Step, RotationError> {
        match step {
            Step::Write => {
                if let Source::File(path) = &self.source {
                    // Before anything is sealed with the new key: its file must be able to take the old one's place.
                    master::can_be_replaced(path)?;
                    master::create(&next_to(path))?;
                }
                Ok(Step::Switch)
            }
            Step::Switch => {
                if let Source::File(path) = &self.source {
                    self.switch(MasterKey::read(&next_to(path))?);
                }
                Ok(Step::Reseal(None))
            }
            Step::Reseal(after) => {
                let is_first = after.is_none();
                let page = vault.secrets(after, PAGE).await?;
                if is_first {
                    (told.secrets, told.in_this_pass) = (0, 0);
                    told.unreadable.clear();
                }
                let Some(last) = page.last().map(|secret| secret.place.clone()) else {
                    // Only a pass that found nothing to do shows that nothing is left.
                    return Ok(if told.in_this_pass == 0 { Step::Rename } else { Step::Reseal(None) });
                };
                self.reseal(page, vault, told).await?;
                Ok(Step::Reseal(Some(last)))
            }
            Step::Rename => {
                if let Source::File(path) = &self.source
                    && next_to(path).exists()
                {
                    master::put_in_place(&next_to(path), path)?;
                }
                Ok(Step::Done)
            }
            Step::Done => Ok(Step::Done),
        }
    }

    /// The new key seals; the one before it goes on to unseal, for what is in memory.
    fn switch(&self, current: MasterKey) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let previous = std::iter::once(&held.current).chain(&held.previous).cloned().collect();
        *held = Arc::new(Held { current: Arc::new(current), previous });
    }

    async fn reseal(
        &self,
        page: Vec<SealedSecret>,
        vault: &dyn Vault,
        told: &mut Resealed,
    ) -> Result<(), RotationError> {
        let held = self.held();
        let mut changed = Vec::new();
        for secret in page {
            told.secrets += 1;
            if held.current.unseal(secret.id(), &secret.sealed).is_ok() {
                continue;
            }
            match self.unseal(secret.id(), &secret.sealed) {
                Ok(open) => {
                    let resealed = held.current.seal(secret.id(), &open)?;
                    changed.push((secret, resealed));
                }
                Err(_) => told.unreadable.push(secret.name()),
            }
        }
        told.resealed += changed.len() as u64;
        told.in_this_pass += changed.len() as u64;
        if changed.is_empty() { Ok(()) } else { Ok(vault.replace_secrets(changed).await?) }
    }

    fn held(&self) -> Arc<Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where the key lies that is to take the place of this one.
pub fn next_to(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NEXT_SUFFIX);
    PathBuf::from(name)
}
