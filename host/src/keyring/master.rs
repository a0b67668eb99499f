//! The master key: seals secrets at rest with AES-256-GCM (NIST SP 800-38D), a random nonce each, bound to their id.
//!
//! It comes from the environment, from a file, or is made on first start in `data/master.key`. Who loses it loses the
//! private keys; so `posthaste` says where it lies and never replaces it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::scram::SALT_OCTETS;

/// Holds the master key in base64, where it is set.
pub const MASTER_KEY_VARIABLE: &str = "POSTHASTE_MASTER_KEY";

/// Where it is made, in the data folder.
pub const MASTER_KEY_FILE: &str = "master.key";

/// Octets of a master key.
const KEY_OCTETS: usize = 32;

/// The first octet of what is sealed: how it was done.
const VERSION: u8 = 1;

/// What sealed data is bound to besides its id.
const PURPOSE: &[u8] = b"posthaste sealed secret\0";

/// What the key for salts is derived with.
const SALTING: &[u8] = b"posthaste salts of unknown users\0";

/// Why there is no master key.
#[derive(Debug, Error)]
pub enum MasterKeyError {
    #[error("the environment variable {0} is not 32 octets in base64 (make one: openssl rand -base64 32)")]
    Variable(&'static str),
    #[error("cannot read the master key file {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the master key file {path} holds neither 32 octets nor their base64 (make one: openssl rand -base64 32)")]
    Form { path: PathBuf },
    #[error("cannot make the master key file {path}: {source}")]
    Create { path: PathBuf, source: io::Error },
    #[error("the master key file {path} cannot be replaced by another: {source}")]
    Replace { path: PathBuf, source: io::Error },
    #[error("the system's random number generator failed")]
    NoRandomness,
}

/// Why a secret stays sealed, or open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    #[error("it was sealed with another master key, or is damaged: start with the master key that made it")]
    WrongKey,
    #[error("it is sealed in a form that this version does not know")]
    UnknownForm,
    #[error("it cannot be sealed: the system's random number generator failed")]
    NoRandomness,
}

/// Seals and unseals.
pub struct MasterKey {
    sealing: RandomizedNonceKey,
    /// For salts of users who are not there.
    salting: hmac::Key,
}

impl MasterKey {
    /// The key in an environment variable; `None` where it is not set.
    pub(super) fn of_variable(name: &'static str) -> Result<Option<MasterKey>, MasterKeyError> {
        let Some(variable) = std::env::var_os(name) else { return Ok(None) };
        let key = variable.to_str().and_then(|text| decode(text.as_bytes())).and_then(|it| MasterKey::from_octets(&it));
        key.map(Some).ok_or(MasterKeyError::Variable(name))
    }

    /// From its octets; `None` where there are not 32.
    pub fn from_octets(octets: &[u8]) -> Option<MasterKey> {
        let sealing = RandomizedNonceKey::new(&AES_256_GCM, octets).ok()?;
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, octets), SALTING);
        Some(MasterKey { sealing, salting: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()) })
    }

    /// A salt that belongs to this name, and tells nobody that it was not made by chance.
    pub fn salt_of(&self, name: &str) -> [u8; SALT_OCTETS] {
        let tag = hmac::sign(&self.salting, name.as_bytes());
        let mut salt = [0; SALT_OCTETS];
        salt.iter_mut().zip(tag.as_ref()).for_each(|(octet, by_chance)| *octet = *by_chance);
        salt
    }

    pub(super) fn read(path: &Path) -> Result<MasterKey, MasterKeyError> {
        let failed = |source| MasterKeyError::Read { path: path.to_owned(), source };
        let content = fs::read(path).map_err(failed)?;
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(file = %path.display(), "the master key can be read by other users: chmod 600 it");
        }
        let octets = if content.len() == KEY_OCTETS { Some(content) } else { decode(&content) };
        octets
            .and_then(|octets| MasterKey::from_octets(&octets))
            .ok_or_else(|| MasterKeyError::Form { path: path.to_owned() })
    }

    /// Seals a secret: version, nonce, ciphertext, tag. Only `unseal` with the same id opens it.
    pub fn seal(&self, id: &str, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut ciphertext = secret.to_vec();
        let nonce = self
            .sealing
            .seal_in_place_append_tag(Aad::from(bound_to(id)), &mut ciphertext)
            .map_err(|_| SealError::NoRandomness)?;
        Ok([&[VERSION], nonce.as_ref().as_slice(), &ciphertext].concat())
    }

    /// Opens what `seal` made for this id.
    pub fn unseal(&self, id: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let rest = sealed.strip_prefix(&[VERSION]).ok_or(SealError::UnknownForm)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_LEN).ok_or(SealError::UnknownForm)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::UnknownForm)?;
        let mut octets = ciphertext.to_vec();
        let secret =
            self.sealing.open_in_place(nonce, Aad::from(bound_to(id)), &mut octets).map_err(|_| SealError::WrongKey)?;
        Ok(secret.to_vec())
    }
}

fn bound_to(id: &str) -> Vec<u8> {
    [PURPOSE, id.as_bytes()].concat()
}

fn decode(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(text.trim_ascii()).ok().filter(|octets| octets.len() == KEY_OCTETS)
}

/// Makes a key file whole under another name and links it to its own, so that the first of two makers wins and nobody
/// reads half a key.
pub(super) fn create(path: &Path) -> Result<(), MasterKeyError> {
    let mut octets = [0; KEY_OCTETS];
    SystemRandom::new().fill(&mut octets).map_err(|_| MasterKeyError::NoRandomness)?;
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let written = (|| {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        writeln!(file, "{}", STANDARD.encode(octets))?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            linked => linked?,
        }
        sync_folder(path)
    })();
    // Left over where writing failed half-way.
    let _ = fs::remove_file(&draft);
    written.map_err(|source| MasterKeyError::Create { path: path.to_owned(), source })
}

/// Fails where another file could not take the place of this one for good: a file mounted by itself, a symbolic link, a
/// folder that cannot be written.
pub(super) fn can_be_replaced(path: &Path) -> Result<(), MasterKeyError> {
    let probe = path.with_extension(format!("{}.probe", std::process::id()));
    let tried = (|| {
        if fs::symlink_metadata(path)?.is_symlink() {
            return Err(io::Error::other("it is a symbolic link, which would be replaced instead of what it names"));
        }
        fs::hard_link(path, &probe)?;
        fs::remove_file(&probe)
    })();
    tried.map_err(|source| MasterKeyError::Replace { path: path.to_owned(), source })
}

/// Gives a key's file the name of another one, which is gone then. Either of the two is there at any time.
pub(super) fn put_in_place(next: &Path, path: &Path) -> Result<(), MasterKeyError> {
    let renamed = fs::rename(next, path).and_then(|()| sync_folder(path));
    renamed.map_err(|source| MasterKeyError::Create { path: path.to_owned(), source })
}

/// Names in a folder are durable once the folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::master_keys::MasterKeys;
    use super::*;

    fn key(octet: u8) -> MasterKey {
        MasterKey::from_octets(&[octet; KEY_OCTETS]).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_and_id_only() {
        let sealed = key(1).seal("a", b"secret").unwrap();
        assert_eq!(key(1).unseal("a", &sealed).unwrap(), b"secret");
        assert_ne!(sealed, key(1).seal("a", b"secret").unwrap(), "a fresh nonce each time");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(key(2).unseal("a", &sealed), Err(SealError::WrongKey));
        assert_eq!(key(1).unseal("b", &sealed), Err(SealError::WrongKey));
        let mut damaged = sealed.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(key(1).unseal("a", &damaged), Err(SealError::WrongKey));
        assert_eq!(key(1).unseal("a", &sealed[..10]), Err(SealError::UnknownForm));
        assert_eq!(key(1).unseal("a", b""), Err(SealError::UnknownForm));
        assert!(SealError::WrongKey.to_string().contains("another master key"));
    }

    #[test]
    fn a_key_file_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let first = MasterKeys::load(None, &data).unwrap();
        let path = data.join("master.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "no drafts are left");
        let second = MasterKeys::load(None, &data).unwrap();
        let sealed = first.seal("a", b"secret").unwrap();
        assert_eq!(second.unseal("a", &sealed).unwrap(), b"secret");
    }

    #[test]
    fn two_that_start_at_once_get_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        create(&path).unwrap();
        let first = fs::read(&path).unwrap();
        create(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
    }

    #[test]
    fn a_given_file_may_hold_octets_or_base64() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let check = |content: &[u8], opens: bool| {
            fs::write(&path, content).unwrap();
            let loaded = MasterKeys::load(Some(&path), folder.path());
            match loaded {
                Ok(loaded) => assert!(opens && loaded.unseal("a", &key(7).seal("a", b"x").unwrap()).is_ok()),
                Err(error) => assert!(!opens && error.to_string().contains(&path.display().to_string()), "{error}"),
            }
        };
        check(&[7; 32], true);
        check(STANDARD.encode([7; 32]).as_bytes(), true);
        check(format!("{}\n", STANDARD.encode([7; 32])).as_bytes(), true);
        check(b"too short", false);
        check(STANDARD.encode([7; 31]).as_bytes(), false);
        check(b"", false);
        fs::remove_file(&path).unwrap();
        let error = MasterKeys::load(Some(&path), folder.path()).err().unwrap().to_string();
        assert!(error.contains("cannot read"), "{error}");
    }
}
