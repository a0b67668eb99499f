//! `domain`: a route of the control API each, and its answer printed.

use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;
use jiff::Timestamp;

use super::directory::{OfTenant, day, encode, table};
use super::edges::EdgeKey;
use super::link::Link;
use super::{Failure, Target, say};
use crate::api::control::Listing;
use crate::api::control::domains::{DnsRecord, DomainView, NewDomain, NewKey, NewRotation};
use crate::keyring::Purpose;
use crate::published::RecordStatus;

/// Longest key file that is sent to the host, which says what is wrong with a longer one.
const KEY_FILE_BYTES: u64 = 64 << 10;

/// A domain that is there.
#[derive(Debug, Args)]
pub(crate) struct Known {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    of: OfTenant,
    /// The domain as `domain list` shows it.
    domain: String,
}

impl Known {
    /// Its path, with something below it.
    fn path(&self, below: &str) -> String {
        format!("domains/{}{below}{}", encode(&self.domain), self.of.query())
    }

    async fn show(&self) -> Result<DomainView, Failure> {
        Link::open(&self.target).await?.call(Method::GET, &self.path(""), &()).await
    }
}

/// Selectors of the user's choice.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The selector of the RSA key; the Ed25519 key's has `-ed25519` behind it. Left out, both are made up. A selector is
    /// never used for a second key.
    #[arg(long)]
    selector: Option<String>,
    /// Another selector of the Ed25519 key.
    #[arg(long, value_name = "SELECTOR")]
    ed25519_selector: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Domain {
    /// Add a sending domain: makes its DKIM keys and prints the DNS records to publish.
    Add {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        of: OfTenant,
        #[command(flatten)]
        named: Named,
        /// The domain in From addresses; its subdomains may send too.
        domain: String,
    },
    /// List sending domains, and which DKIM records are missing or wrong.
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        of: OfTenant,
    },
    /// Show a sending domain: its keys, and what the last look at its DNS records found.
    Show(Known),
    /// Look at the DNS records of a sending domain now: new keys whose records are there sign from then on.
    Check(Known),
    /// Print the DNS records of a sending domain again.
    Records(Known),
    /// Give a sending domain fresh DKIM keys: prints their records. They sign once these are seen in DNS; the old records
    /// must stay until the mail signed with them has arrived, which `domain show` tells.
    Rotate {
        #[command(flatten)]
        known: Known,
        /// A key has leaked: the new keys sign at once, and the old ones are deleted. Mail on its way that they signed may
        /// then fail, since their records should be revoked. Where a rotation is under way, its keys are taken.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        named: Named,
    },
    /// Bring along a DKIM key: RSA of 2048 to 4096 bits (PKCS#8 or PKCS#1) or Ed25519 (PKCS#8), in PEM. It signs, in the
    /// place of the one of its kind, once its record is seen in DNS.
    ImportKey {
        #[command(flatten)]
        known: Known,
        /// The selector that its record has.
        #[arg(long)]
        selector: String,
        /// The file with the private key; `-` is stdin.
        file: PathBuf,
        /// Sign with it at once, whether its record has been seen or not.
        #[arg(long)]
        now: bool,
    },
    /// Take a DKIM key away: one that waits is dropped, one that signs retires, one that signs no more is forgotten.
    RemoveKey {
        #[command(flatten)]
        known: Known,
        /// The selector as `domain show` tells it.
        selector: String,
    },
    /// Make DKIM keys for an edge: prints the value of its variable `dkim_keys` on stdout, this once, and the DNS records
    /// to publish on stderr. The private keys are kept nowhere else.
    EdgeKey(EdgeKey),
    /// Remove a sending domain and its keys: mail from it is refused from now on.
    Remove(Known),
}

impl Domain {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Domain::Add { target, of, named, domain } => {
                let Named { selector, ed25519_selector } = named;
                let new = NewDomain { domain, tenant: of.tenant, selector, ed25519_selector };
                let made: DomainView = Link::open(&target).await?.call(Method::POST, "domains", &new).await?;
                print_records(&made.records)
            }
            Domain::List { target, of } => list(&target, &of).await,
            Domain::Show(known) => print_domain(&known.show().await?),
            Domain::Check(known) => {
                let link = Link::open(&known.target).await?;
                let found: DomainView = link.call(Method::POST, &known.path("/check"), &()).await?;
                print_domain(&found)
            }
            Domain::Records(known) => print_records(&known.show().await?.records),
            Domain::Rotate { known, now, named } => {
                let Named { selector, ed25519_selector } = named;
                let rotation = NewRotation { now, selector, ed25519_selector };
                let link = Link::open(&known.target).await?;
                let before: DomainView = link.call(Method::GET, &known.path(""), &()).await?;
                let after: DomainView = link.call(Method::POST, &known.path("/rotate"), &rotation).await?;
                match now {
                    true => print_revocation(&before, &after),
                    false => print_rotation(&known.domain, &after),
                }
            }
            Domain::ImportKey { known, selector, file, now } => {
                let key = NewKey { selector, private_key: read_key(&file)?, now };
                let link = Link::open(&known.target).await?;
                let made: DomainView = link.call(Method::POST, &known.path("/keys"), &key).await?;
                print_domain(&made)
            }
            Domain::RemoveKey { known, selector } => {
                let path = known.path(&format!("/keys/{}", encode(&selector)));
                let left: DomainView = Link::open(&known.target).await?.call(Method::DELETE, &path, &()).await?;
                print_domain(&left)
            }
            Domain::EdgeKey(edge_key) => edge_key.run().await,
            Domain::Remove(known) => {
                let link = Link::open(&known.target).await?;
                let _: serde_json::Value = link.call(Method::DELETE, &known.path(""), &()).await?;
                say(format_args!(
                    "{} is removed. Leave its DNS records until all mail signed with its keys has arrived (5 days).",
                    known.domain
                ))
            }
        }
    }
}

async fn list(target: &Target, of: &OfTenant) -> Result<(), Failure> {
    let path = format!("domains{}", of.query());
    let domains: Listing<DomainView> = Link::open(target).await?.call(Method::GET, &path, &()).await?;
    let rows = domains.data.into_iter().map(|domain| {
        let checked = domain.checked_at.map_or("never".to_owned(), minute);
        let (state, keys) = (state(&domain), keys(&domain));
        [domain.domain, domain.tenant, state, keys, checked, day(domain.created_at)]
    });
    table(["DOMAIN", "TENANT", "STATE", "KEYS", "CHECKED", "CREATED"], rows)
}

/// `sends`, and what is wrong with the records of keys that sign.
fn state(domain: &DomainView) -> String {
    let needed = domain.records.iter().filter(|record| record.required);
    let wrong = |status| needed.clone().filter(|record| record.status == Some(status)).count();
    let told = [(RecordStatus::Pending, "missing"), (RecordStatus::Failed, "wrong")].map(|(status, word)| {
        let count = wrong(status);
        (count > 0).then(|| format!("{count} DKIM {} {word}", if count == 1 { "record" } else { "records" }))
    });
    let told: Vec<String> = told.into_iter().flatten().collect();
    match told.is_empty() {
        true => domain.state.clone(),
        false => format!("{} ({})", domain.state, told.join(", ")),
    }
}

/// `2 active, 2 pending`.
fn keys(domain: &DomainView) -> String {
    let count = |state: &str| domain.keys.iter().filter(|key| key.state == state).count();
    let states = ["active", "pending", "retiring", "retired", "edge"];
    let told = states.iter().map(|state| (count(state), state)).filter(|(count, _)| *count > 0);
    told.map(|(count, state)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}

fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M").to_string()
}

/// A domain with its keys and what was found of its records.
fn print_domain(domain: &DomainView) -> Result<(), Failure> {
    let checked = domain.checked_at.map_or("its DNS records were not looked at yet".to_owned(), |at| {
        format!("its DNS records were looked at {} UTC", minute(at))
    });
    say(format_args!("{} of tenant {}: {}; {checked}", domain.domain, domain.tenant, state(domain)))?;
    say("")?;
    let keys = domain.keys.iter().map(|key| {
        let until = key.retire_at.map_or(String::new(), |at| format!("record stays until {} UTC", minute(at)));
        let made = key.created_at.map_or(String::new(), day);
        [key.selector.clone(), key.algorithm.clone(), key.state.clone(), made, until]
    });
    table(["SELECTOR", "ALGORITHM", "STATE", "CREATED", ""], keys)?;
    say("")?;
    for record in &domain.records {
        let found = record.message.as_deref().unwrap_or("was not looked at yet");
        say(format_args!("{} {}", record.name, found))?;
        if let Some(note) = record.note.as_ref().filter(|_| record.state.is_some()) {
            say(format_args!("  {note}"))?;
        }
        let is_there = matches!(record.status, Some(RecordStatus::Verified | RecordStatus::TemporaryFailure));
        if !is_there && record.state.as_deref() != Some("retired") {
            say(format_args!("  publish: {}", record.zone_line))?;
        }
    }
    Ok(())
}

/// What is to be done after a rotation.
fn print_rotation(name: &str, domain: &DomainView) -> Result<(), Failure> {
    say("; publish: the new keys sign once these are seen (`posthaste domain check` looks at once)")?;
    print_all(domain.records.iter().filter(|record| record.state.as_deref() == Some("pending")))?;
    say("; keep: the old keys sign until then, and `posthaste domain show` tells how long their records must stay")?;
    say(format_args!(";   posthaste domain show {name}"))
}

/// What is to be done after keys were deleted at once.
fn print_revocation(before: &DomainView, after: &DomainView) -> Result<(), Failure> {
    say("; publish now: these keys sign already")?;
    print_all(after.records.iter().filter(|record| record.state.as_deref() == Some("active")))?;
    say("; revoke: put these in the place of the old records, so that nobody signs with a key that has leaked")?;
    let gone = |record: &&DnsRecord| {
        after.records.iter().any(|it| it.name == record.name && it.state.as_deref() == Some("retired"))
            && record.state.as_deref() != Some("retired")
    };
    before
        .records
        .iter()
        .filter(gone)
        .try_for_each(|record| say(format_args!("{}. IN TXT \"v=DKIM1; p=\"", record.name)))
}

/// Lines of a zone file, so that they can be pasted as they stand.
fn print_records(records: &[DnsRecord]) -> Result<(), Failure> {
    let keys = |state: &'static str| {
        records.iter().filter(move |it| it.purpose == Purpose::Dkim && it.state.as_deref() == Some(state))
    };
    say("; needed: receivers verify signatures with these")?;
    print_all(records.iter().filter(|record| record.required))?;
    for (state, words) in [
        ("pending", "; new: these keys sign once they are seen"),
        ("retiring", "; to be kept: mail that these keys signed is on its way"),
        ("retired", "; to be removed: these keys are deleted"),
    ] {
        if keys(state).next().is_some() {
            say(words)?;
            for record in keys(state) {
                record.note.iter().try_for_each(|note| say(format_args!("; {note}")))?;
                say(&record.zone_line)?;
            }
        }
    }
    say("; advised: merge them with what is published already")?;
    for record in records.iter().filter(|record| record.purpose != Purpose::Dkim) {
        record.note.iter().try_for_each(|note| say(format_args!("; {note}")))?;
        say(&record.zone_line)?;
    }
    Ok(())
}

fn print_all<'a>(mut records: impl Iterator<Item = &'a DnsRecord>) -> Result<(), Failure> {
    records.try_for_each(|record| say(&record.zone_line))
}

fn read_key(file: &std::path::Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().take(KEY_FILE_BYTES).read_to_string(&mut text),
        false => std::fs::File::open(file).and_then(|file| file.take(KEY_FILE_BYTES).read_to_string(&mut text)),
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            let advice = "it is not PEM: convert it first (openssl pkey -inform DER -in key.der -out key.pem)";
            Err(Failure::Refused(format!("{}: {advice}", file.display())))
        }
        Err(error) => Err(Failure::io(format!("cannot read the key {}", file.display()))(error)),
    }
}
