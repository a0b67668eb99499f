//! `spin.toml` and the files that it names.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use posthaste::edge::BuiltIn;
use tests::edge::{Loopback, Platform, Runner};
use tests::spin::{Dependency, Manifest};

/// What the world `http-trigger` of Spin 4.1 offers to a component and ours may use: the package with its version, and
/// the interfaces of it. (The world includes `wasi:cli/imports` at 0.2.6 and 0.3.0, `wasi:http/client@0.3.0`,
/// `fermyon:spin/platform@2.0.0` and more that has nothing to do with us: databases, queues, models.)
const OFFERED: &[(&str, &str, &[&str])] = &[
    ("fermyon:spin", "2.0.0", &["variables"]),
    ("spin:variables", "3.0.0", &["variables"]),
    (
        "wasi:cli",
        "0.2.6",
        &[
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
    ),
    ("wasi:clocks", "0.2.6", &["monotonic-clock", "wall-clock"]),
    ("wasi:clocks", "0.3.0", &["monotonic-clock", "system-clock", "types"]),
    ("wasi:filesystem", "0.2.6", &["preopens", "types"]),
    ("wasi:http", "0.3.0", &["client", "types"]),
    ("wasi:io", "0.2.6", &["error", "poll", "streams"]),
    ("wasi:random", "0.2.6", &["insecure", "insecure-seed", "random"]),
    ("wasi:random", "0.3.0", &["insecure", "insecure-seed", "random"]),
];

/// What a dependency that inherits nothing is refused by Spin: the capabilities of its user.
const CAPABILITIES: &[&str] =
    &["variables", "wasi:http/client", "wasi:http/outgoing-handler", "wasi:sockets/", "wasi:config/", "key-value"];

/// An import of types alone needs nobody to fill it.
const TYPES: &str = "posthaste:types/types@0.1.0";

fn is_offered(import: &str) -> bool {
    let offered = OFFERED.iter().any(|(package, version, interfaces)| {
        interfaces.iter().any(|interface| import == format!("{package}/{interface}@{version}"))
    });
    offered || import == TYPES
}

/// The names of what a file imports.
fn imports(bytes: &[u8]) -> Vec<String> {
    let mut types = wac_graph::types::Types::default();
    let package = wac_graph::types::Package::from_bytes("test", None, bytes, &mut types).unwrap();
    types[package.ty()].imports.keys().cloned().collect()
}

#[test]
fn routes_and_variables() {
    let manifest = Manifest::read().unwrap();
    let routes = manifest.routes().unwrap();
    assert_eq!(routes.len(), 2);
    assert_eq!((routes["/..."].as_str(), routes["/notify"].as_str()), ("submit", "notify"));
    let variables = manifest.variables().unwrap();
    assert_eq!(variables["delivery_url"], (true, None));
    assert_eq!(variables["delivery_token"], (true, None));
    assert_eq!(variables["dkim_keys"], (false, Some(String::new())));
    assert_eq!(variables["submit_url"], (false, Some(String::new())));
}

/// Every variable that a component uses is the application's, and `submit` reaches the host alone.
#[test]
fn components_get_what_they_need() {
    let manifest = Manifest::read().unwrap();
    let declared = manifest.variables().unwrap();
    for (id, expect) in
        [("submit", vec!["delivery_token", "delivery_url", "dkim_keys"]), ("notify", vec!["delivery_token"])]
    {
        let table = manifest.component(id).unwrap()["variables"].as_table().unwrap();
        let mut names: Vec<&str> = table.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, expect);
        for (name, template) in table {
            assert_eq!(template.as_str().unwrap(), format!("{{{{ {name} }}}}"));
            assert!(declared.contains_key(name), "{name}");
        }
    }
    let hosts = manifest.component("submit").unwrap()["allowed_outbound_hosts"].as_array().unwrap();
    assert_eq!(hosts.iter().map(|host| host.as_str().unwrap()).collect::<Vec<_>>(), ["{{ delivery_url }}"]);
}

/// Composed as Spin does it, nothing is missing but what Spin 4.1 offers.
#[test]
fn nothing_is_left_unsatisfied() {
    nothing_is_missing(&Manifest::read().unwrap());
}

/// The same of any manifest with these two triggers.
pub fn nothing_is_missing(manifest: &Manifest) {
    for id in ["submit", "notify"] {
        let composed = manifest.compose(id).unwrap();
        let left = imports(&composed);
        let missing: Vec<&String> = left.iter().filter(|import| !is_offered(import)).collect();
        assert!(missing.is_empty(), "{id} imports what Spin does not have: {missing:?}");
        assert!(left.iter().any(|import| import == "wasi:http/client@0.3.0"), "{id}: {left:?}");
        Runner::new(&composed, Platform::Spin, Arc::new(Loopback)).unwrap();
    }
}

/// Each import of ours is filled by a line, and only the signer's keys reach the variables.
#[test]
fn dependencies_inherit_what_they_need() {
    let manifest = Manifest::read().unwrap();
    for id in ["submit", "notify"] {
        let dependencies = manifest.dependencies(id).unwrap();
        let ours = imports(&manifest.bytes(id).unwrap());
        let ours = ours.into_iter().filter(|import| import.starts_with("posthaste:") && import != TYPES);
        let mut filled: Vec<String> = dependencies.iter().map(|dependency| dependency.name.clone()).collect();
        filled.sort_unstable();
        assert_eq!(filled, {
            let mut ours: Vec<String> = ours.collect();
            ours.sort_unstable();
            ours
        });
        for Dependency { component, inherits, .. } in dependencies {
            let imports = imports(&manifest.bytes(&component).unwrap());
            let needs: Vec<&String> =
                imports.iter().filter(|import| CAPABILITIES.iter().any(|name| import.contains(name))).collect();
            if component == "sign-with-keys" {
                assert_eq!(
                    (inherits, needs),
                    (vec!["variables".to_owned()], vec![&"fermyon:spin/variables@2.0.0".to_owned()])
                );
            } else {
                assert!(inherits.is_empty() && needs.is_empty(), "{component} needs {needs:?}");
            }
            // It is a part of another component and has nothing of its own.
            let table = manifest.component(&component).unwrap().as_table().unwrap();
            assert_eq!(table.keys().collect::<Vec<_>>(), ["source"], "{component}");
        }
    }
}

#[test]
fn the_host_embeds_the_same_files() {
    let manifest = Manifest::read().unwrap();
    let check = |id: &str, embedded: Option<&[u8]>| {
        let embedded = embedded.unwrap_or_else(|| panic!("{id} is not embedded"));
        let sha256 = |bytes: &[u8]| digest(&SHA256, bytes).as_ref().to_vec();
        assert_eq!(sha256(&manifest.bytes(id).unwrap()), sha256(embedded), "{id}");
    };
    let built_in = BuiltIn::embedded();
    check("submit", built_in.submit);
    check("render", built_in.renderer);
    check("validate", built_in.validator);
    check("shape", built_in.shaper);
    check("notify", built_in.notify);
}

/// The file for other hosts needs WASI and nothing else.
#[test]
fn submit_for_wasi_needs_wasi_alone() {
    let file = Manifest::read().unwrap().source("submit").unwrap().with_file_name("submit-wasi.wasm");
    let left = imports(&std::fs::read(file).unwrap());
    let strange: Vec<&String> = left.iter().filter(|import| !import.starts_with("wasi:") && *import != TYPES).collect();
    assert!(strange.is_empty(), "{strange:?}");
}
