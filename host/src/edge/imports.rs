//! What a component may import: the interfaces that a stage is given here, and what is said to the author of one who
//! imports another.
//!
//! Told from the names alone, before anything is compiled: the engine's own words name neither what there is instead nor
//! what to do.

use super::component::Stage;

/// A package of interfaces in one version.
struct Package {
    name: &'static str,
    /// Whatever its third number is: releases of one minor version fit each other. Drafts (`0.3.0-rc-…`) fit nothing.
    version: &'static str,
    interfaces: &'static [&'static str],
}

/// The types of the contract, for every stage.
const TYPES: Package = Package { name: "posthaste:types", version: "0.1", interfaces: &["types"] };

/// For those who sign.
const KEYS: Package = Package { name: "posthaste:keys", version: "0.1", interfaces: &["keys"] };

/// All WASI that is linked (`component::Linkers`). Language runtimes want files and sockets to exist: they find none.
const WASI: &[Package] = &[
    Package {
        name: "wasi:cli",
        version: "0.2",
        interfaces: &[
            "environment",
            "exit",
            "stderr",
            "stdin",
            "stdout",
            "terminal-input",
            "terminal-output",
            "terminal-stderr",
            "terminal-stdin",
            "terminal-stdout",
        ],
    },
    Package { name: "wasi:clocks", version: "0.2", interfaces: &["monotonic-clock", "wall-clock"] },
    Package { name: "wasi:filesystem", version: "0.2", interfaces: &["preopens", "types"] },
    Package { name: "wasi:http", version: "0.2", interfaces: &["outgoing-handler", "types"] },
    Package { name: "wasi:io", version: "0.2", interfaces: &["error", "poll", "streams"] },
    Package { name: "wasi:random", version: "0.2", interfaces: &["insecure", "insecure-seed", "random"] },
    Package {
        name: "wasi:sockets",
        version: "0.2",
        interfaces: &[
            "instance-network",
            "ip-name-lookup",
            "network",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
        ],
    },
    Package {
        name: "wasi:cli",
        version: "0.3",
        interfaces: &[
            "environment",
            "exit",
            "stderr",
            "stdin",
            "stdout",
            "terminal-input",
            "terminal-output",
            "terminal-stderr",
            "terminal-stdin",
            "terminal-stdout",
            "types",
        ],
    },
    Package { name: "wasi:clocks", version: "0.3", interfaces: &["monotonic-clock", "system-clock", "types"] },
    Package { name: "wasi:filesystem", version: "0.3", interfaces: &["preopens", "types"] },
    Package { name: "wasi:http", version: "0.3", interfaces: &["client", "types"] },
    Package { name: "wasi:random", version: "0.3", interfaces: &["insecure", "insecure-seed", "random"] },
    Package { name: "wasi:sockets", version: "0.3", interfaces: &["ip-name-lookup", "types"] },
];

/// Characters of a stranger's import that are shown.
const SHOWN: usize = 120;

impl Package {
    fn has(&self, import: &Import<'_>) -> bool {
        self.name == import.package && self.interfaces.contains(&import.interface) && self.fits(import.version)
    }

    /// Whether a version is a release of this one.
    fn fits(&self, version: &str) -> bool {
        let patch = version.strip_prefix(self.version).and_then(|rest| rest.strip_prefix('.'));
        patch.is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// `wasi:io/{error, poll, streams}@0.2`
    fn shown(&self) -> String {
        match self.interfaces {
            [one] => format!("`{}/{one}@{}`", self.name, self.version),
            all => format!("`{}/{{{}}}@{}`", self.name, all.join(", "), self.version),
        }
    }
}

/// An import by its parts; those that it lacks are empty.
struct Import<'a> {
    package: &'a str,
    interface: &'a str,
    version: &'a str,
}

impl Import<'_> {
    fn read(name: &str) -> Import<'_> {
        let (name, version) = name.split_once('@').unwrap_or((name, ""));
        let (package, interface) = name.split_once('/').unwrap_or((name, ""));
        Import { package, interface, version }
    }
}

fn offered(stage: Stage) -> impl Iterator<Item = &'static Package> {
    let keys = (stage == Stage::Signer).then_some(&KEYS);
    [&TYPES].into_iter().chain(keys).chain(WASI)
}

/// Whether a component of this stage is given what it imports by this name.
pub fn is_offered(stage: Stage, import: &str) -> bool {
    let import = Import::read(import);
    offered(stage).any(|package| package.has(&import))
}

/// Whether it is WASI that some stage is given.
pub fn is_wasi(import: &str) -> bool {
    let import = Import::read(import);
    WASI.iter().any(|package| package.has(&import))
}

/// An import as errors show it.
pub fn shown(import: &str) -> String {
    import.chars().take(SHOWN).collect::<String>().escape_debug().to_string()
}

/// What there is instead of an import that is not offered, nearest first, and what to do.
pub fn advice(stage: Stage, import: &str) -> String {
    let import = Import::read(import);
    let listed = |packages: Vec<&Package>| packages.into_iter().map(Package::shown).collect::<Vec<_>>().join(" and ");
    let of_package: Vec<&Package> = offered(stage).filter(|package| package.name == import.package).collect();
    let of_name: Vec<&Package> =
        of_package.iter().copied().filter(|package| package.interfaces.contains(&import.interface)).collect();
    if import.package == KEYS.name && stage != Stage::Signer {
        return "only a signer is given the keys: sign in one, and leave the import out here".to_owned();
    }
    if let [one, ..] = of_name.as_slice() {
        let versions = of_name.iter().map(|package| package.version).collect::<Vec<_>>().join(" and ");
        return format!(
            "`{}/{}` is offered in version {versions}: build against `@{}`",
            one.name, import.interface, one.version
        );
    }
    if !of_package.is_empty() {
        return format!("of `{}` there is {}: build with those, or without it", import.package, listed(of_package));
    }
    let mut names: Vec<&str> = WASI.iter().filter_map(|package| package.name.strip_prefix("wasi:")).collect();
    names.sort_unstable();
    names.dedup();
    let keys = if stage == Stage::Signer { ", `posthaste:keys`" } else { "" };
    format!(
        "a {stage} is given `posthaste:types`{keys} and WASI 0.2 and 0.3 (`wasi:` {}): build it without this import, or put the \
         component that exports it inside (`wac plug`)",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered() {
        let check =
            |stage, import: &str, expect: bool| assert_eq!(is_offered(stage, import), expect, "{stage} {import}");
        check(Stage::Signer, "posthaste:keys/keys@0.1.0", true);
        check(Stage::Signer, "posthaste:keys/keys@0.1.7", true);
        check(Stage::Signer, "posthaste:keys/keys@0.2.0", false);
        check(Stage::Signer, "posthaste:keys/keys", false);
        check(Stage::Signer, "posthaste:keys/keys-more@0.1.0", false);
        check(Stage::Signer, "posthaste:signer/signer@0.1.0", false);
        check(Stage::Validator, "posthaste:keys/keys@0.1.0", false);
        check(Stage::Validator, "posthaste:types/types@0.1.0", true);
        check(Stage::Validator, "wasi:filesystem/types@0.2.6", true);
        check(Stage::Validator, "wasi:filesystem/types@0.2.99", true);
        check(Stage::Validator, "wasi:filesystem/types@0.3.0", true);
        check(Stage::Validator, "wasi:filesystem/types@0.3.0-rc-2025-09-16", false);
        check(Stage::Validator, "wasi:filesystem/types@0.2", false);
        check(Stage::Validator, "wasi:filesystem/types@0.2.", false);
        check(Stage::Validator, "wasi:filesystem/types@0.20.1", false);
        check(Stage::Validator, "wasi:filesystem/types", false);
        check(Stage::Validator, "wasi:http/client@0.2.0", false);
        check(Stage::Validator, "wasi:keyvalue/store@0.2.0", false);
        check(Stage::Validator, "spin:variables/variables@3.0.0", false);
        check(Stage::Validator, "", false);
    }

    #[test]
    fn what_is_said_instead() {
        let check = |stage, import: &str, parts: &[&str]| {
            let advice = advice(stage, import);
            let missing: Vec<_> = parts.iter().filter(|part| !advice.contains(**part)).collect();
            assert!(missing.is_empty(), "{import}: {advice} does not say {missing:?}");
        };
        let all = [
            "`posthaste:types` and WASI 0.2 and 0.3",
            "cli, clocks, filesystem, http, io, random, sockets",
            "wac plug",
        ];
        check(Stage::Validator, "foo:bar/x", &all);
        check(Stage::Validator, "wasi:keyvalue/store@0.2.0", &all);
        check(Stage::Signer, "env", &["`posthaste:types`, `posthaste:keys` and WASI"]);
        let http =
            ["of `wasi:http` there is `wasi:http/{outgoing-handler, types}@0.2` and `wasi:http/{client, types}@0.3`"];
        check(Stage::Validator, "wasi:http/bogus@0.2.0", &http);
        check(
            Stage::Validator,
            "wasi:http/types@0.3.0-rc-2025-09-16",
            &["`wasi:http/types` is offered in version 0.2 and 0.3: build against `@0.2`"],
        );
        check(Stage::Validator, "posthaste:types/types@0.2.0", &["is offered in version 0.1"]);
        check(Stage::Validator, "posthaste:keys/keys@0.1.0", &["only a signer is given the keys"]);
        assert_eq!(shown(&"x\n".repeat(1000)).len(), 180);
    }
}
