//! Who depends on whom, and on what of other people's.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{components, run};

const LIBRARIES: &[&str] = &["contract", "mail", "pipeline", "delivery-client"];

/// Which crates of ours a crate of ours may use. A crate that is not named here must be added on purpose.
const MAY_USE: &[(&str, &[&str])] = &[
    ("contract", &[]),
    ("mail", &[]),
    ("delivery-client", &[]),
    ("pipeline", &["contract", "mail"]),
    ("validate", &["contract", "mail"]),
    ("render", &["contract", "mail"]),
    ("sign", &["contract", "mail"]),
    ("submit", LIBRARIES),
    ("keys", &["contract", "mail"]),
    ("vars", &[]),
    ("track", &["contract", "mail"]),
    ("shape", &["contract", "mail"]),
    ("notify", &["contract", "delivery-client"]),
    // No component's shell: the host runs components, it is not made of them.
    ("posthaste", LIBRARIES),
    ("bare", &[]),
    ("misbehave", &["contract"]),
    ("guest-changer", &["contract"]),
    ("guest-signer", &["contract"]),
    ("guest-stage", &["contract"]),
    ("guest-trigger", &["contract"]),
    ("xtask", &[]),
];

/// Crates that do not build natively.
const WASM_ONLY: &[&str] = &["bare", "misbehave", "guest-changer", "guest-signer", "guest-stage", "guest-trigger"];

/// Licences whose terms a binary of ours meets, as crates spell them. A new spelling is added when it was read.
const LICENCES: &[&str] = &[
    "(Apache-2.0 OR MIT) AND BSD-3-Clause",
    "(MIT OR Apache-2.0) AND Apache-2.0",
    "(MIT OR Apache-2.0) AND Unicode-3.0",
    "0BSD OR MIT OR Apache-2.0",
    "Apache-2.0",
    "Apache-2.0 AND ISC",
    "Apache-2.0 / MIT",
    "Apache-2.0 OR ISC OR MIT",
    "Apache-2.0 OR MIT",
    "Apache-2.0 WITH LLVM-exception",
    "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
    "Apache-2.0/MIT",
    "BSD-2-Clause OR Apache-2.0 OR MIT",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0 OR MIT-0 OR Apache-2.0",
    // Data, not code: the list of root certificates.
    "CDLA-Permissive-2.0",
    "ISC",
    "ISC AND (Apache-2.0 OR ISC)",
    "ISC AND (Apache-2.0 OR ISC) AND Apache-2.0 AND MIT AND BSD-3-Clause AND (Apache-2.0 OR ISC OR MIT) AND (Apache-2.0 OR ISC OR MIT-0)",
    "MIT",
    "MIT / Apache-2.0",
    "MIT OR Apache-2.0",
    "MIT OR Apache-2.0 OR Zlib",
    "MIT OR Zlib OR Apache-2.0",
    "MIT/Apache-2.0",
    "Unicode-3.0",
    "Unlicense OR MIT",
    "Unlicense/MIT",
    "Zlib",
    "Zlib OR Apache-2.0 OR MIT",
];

/// One TLS library is enough, and it is rustls.
const BANNED: &[&str] = &["openssl", "openssl-sys", "native-tls"];

/// Every edge between crates of ours is allowed.
pub fn direction() -> Result<Vec<String>> {
    let metadata = Metadata::read()?;
    let ours: BTreeSet<&str> = metadata.ours().map(name).collect();
    let mut faults = Vec::new();
    for package in metadata.ours() {
        let user = name(package);
        if user == "tests" {
            continue; // It looks at everything, and nothing may use it (below).
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == user) else {
            faults.push(format!("what may `{user}` use? Say so in xtask/src/tidy/dependencies.rs"));
            continue;
        };
        for used in dependencies(package).filter(|used| ours.contains(used)) {
            if !allowed.contains(&used) {
                faults.push(format!("`{user}` must not use `{used}`"));
            }
        }
    }
    Ok(faults)
}

/// Every crate that is compiled in has a known licence.
pub fn licences() -> Result<Vec<String>> {
    let metadata = Metadata::read()?;
    let mut faults = Vec::new();
    for package in metadata.packages() {
        let licence = package["license"].as_str().unwrap_or("");
        if !LICENCES.contains(&licence) {
            faults.push(format!("{} is under `{licence}`", name(package)));
        }
    }
    Ok(faults)
}

/// No banned crate is compiled in.
pub fn banned() -> Result<Vec<String>> {
    let metadata = Metadata::read()?;
    Ok(metadata.packages().map(name).filter(|name| BANNED.contains(name)).map(str::to_owned).collect())
}

/// Plain `cargo check` and the tests cover all but what exists for WASM alone; what is shipped exists.
pub fn members() -> Result<Vec<String>> {
    let metadata = Metadata::read()?;
    let default: BTreeSet<&str> =
        metadata.0["workspace_default_members"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut faults = Vec::new();
    for package in metadata.ours() {
        if default.contains(package["id"].as_str().unwrap_or("")) == WASM_ONLY.contains(&name(package)) {
            faults.push(format!("`{}` must be a default member or stand in WASM_ONLY", name(package)));
        }
    }
    let members: BTreeSet<&str> = metadata.ours().map(name).collect();
    faults.extend(components::SHIPPED.iter().filter(|c| !members.contains(**c)).map(|c| format!("no crate `{c}`")));
    Ok(faults)
}

/// What cargo says about the workspace.
struct Metadata(Value);

impl Metadata {
    fn read() -> Result<Metadata> {
        let arguments =
            ["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"];
        let text = run::quiet(&mut run::cargo(&arguments))?;
        Ok(Metadata(serde_json::from_str(&text).context("cargo metadata")?))
    }

    fn packages(&self) -> impl Iterator<Item = &Value> {
        self.0["packages"].as_array().into_iter().flatten()
    }

    fn ours(&self) -> impl Iterator<Item = &Value> {
        self.packages().filter(|package| package["source"].is_null())
    }
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap_or("")
}

fn dependencies(package: &Value) -> impl Iterator<Item = &str> {
    package["dependencies"].as_array().into_iter().flatten().map(name)
}
