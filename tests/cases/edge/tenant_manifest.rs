//! `posthaste spin-manifest`: what it writes is composed as Spin does it, and run in front of a running host.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use tests::edge::{Loopback, Platform, Runner};
use tests::product::{Setup, root};
use tests::spin::Manifest;
use tests::world::World;
use tokio::runtime::Runtime;

use crate::judge::{Fate, Keys, judged};
use crate::manifest::nothing_is_missing;

/// A message is delivered after this at the latest, on a busy machine too.
const DELIVERED: Duration = Duration::from_secs(60);

fn email(key: &str, path: &str, subject: &str) -> Request<Bytes> {
    let email = json!({"from": "you@src.test", "to": "friend@dst.test", "subject": subject, "text": "It works."});
    let request = Request::post(format!("http://edge.test{path}")).header("authorization", format!("Bearer {key}"));
    request.header("content-type", "application/json").body(email.to_string().into()).unwrap()
}

#[test]
fn a_tenants_edge_is_written_composed_and_run() {
    let world = World::start();
    let setup = Setup::new().unwrap().dns(world.dns()).delivery(&format!("port = {}", world.mx_port()));
    let key = setup.command(&["key", "create", "--tenant", "acme"]).unwrap();
    setup.command(&["domain", "add", "--tenant", "acme", "src.test"]).unwrap();
    let misbehave = root().join("target/guests/misbehave.wasm").display().to_string();
    let pushed = ["component", "push", "--tenant", "acme", "--stage"];
    setup.command(&[&pushed[..], &["validator", &misbehave]].concat()).unwrap();
    // A signer of the tenant's own that wants the keys: here the same as the built-in one.
    let signer = root().join("target/components/sign.wasm").display().to_string();
    setup.command(&[&pushed[..], &["signer", &signer]].concat()).unwrap();

    let (file, built) = (setup.folder().join("acme.toml"), root().join("target/components"));
    let (file, built) = (file.display().to_string(), built.display().to_string());
    let write = ["spin-manifest", "--tenant", "acme", "--components", &built, "--out", &file];
    let said = setup.command(&write).unwrap();
    assert!(said.contains("validator:   pushed, version 1 (misbehave.wasm, "), "{said}");
    assert!(said.contains("renderer:    built-in") && said.contains("https://EDGE/acme/emails"), "{said}");
    setup.command(&write).unwrap();

    let manifest = Manifest::at(file.as_ref()).unwrap();
    let routes = manifest.routes().unwrap();
    assert_eq!((routes["/acme/..."].as_str(), routes["/acme/notify"].as_str()), ("submit", "notify"));
    let signer = manifest.dependencies("submit").unwrap().into_iter().find(|line| line.component == "signer").unwrap();
    assert_eq!(signer.inherits, ["variables"]);
    nothing_is_missing(&manifest);

    // The host knows the components no more: what answers from now on stands in the manifest.
    for stage in ["validator", "signer"] {
        setup.command(&["component", "remove", "--tenant", "acme", "--stage", stage]).unwrap();
    }
    let token = setup.command(&["key", "create", "--delivery", "--tenant", "acme"]).unwrap();
    let dkim_keys = setup
        .command(&[
            "domain",
            "edge-key",
            "--tenant",
            "acme",
            "src.test",
            "--algorithm",
            "ed25519",
            "--selector",
            "edge",
        ])
        .unwrap();
    let host = setup.start().unwrap();
    let url = format!("http://{}", host.http);
    let submit = Runner::new(&manifest.compose("submit").unwrap(), Platform::Spin, Arc::new(Loopback)).unwrap();
    let submit = submit.variables(&[
        ("delivery_url", &url),
        ("delivery_token", &token),
        ("dkim_keys", &dkim_keys),
        ("base_path", "/acme"),
    ]);
    let runtime = Runtime::new().unwrap();
    let ask = |request: Request<Bytes>| {
        let served = runtime.block_on(submit.serve(request)).unwrap();
        let body: Value = serde_json::from_slice(served.response.body()).unwrap();
        (served.response.status().as_u16(), body, served.log)
    };
    // The tenant's validator does what the subject says.
    let (status, body, log) = ask(email(&key, "/acme/emails", "unavailable"));
    assert!(status == 503 && log.contains("asked to be unavailable"), "{status} {body} {log}");
    let (status, body, _) = ask(email(&key, "/emails", "fine"));
    assert_eq!(status, 404, "{body}");
    let (status, body, _) = ask(email(&key, "/acmes/emails", "fine"));
    assert_eq!(status, 404, "{body}");
    let (status, body, log) = ask(email(&key, "/acme/emails", "fine"));
    assert_eq!(status, 200, "{body} {log}");
    let listed = Request::get("http://edge.test/acme/emails?limit=2").header("authorization", format!("Bearer {key}"));
    let (status, body, _) = ask(listed.body(Bytes::new()).unwrap());
    assert!(status == 200 && body["data"].as_array().is_some_and(|list| list.len() == 1), "{status} {body}");
    world.wait_until(DELIVERED, |received| match received.len() {
        1 => Ok(()),
        many => Err(format!("{many} are delivered")),
    });
    let message = world.received().remove(0).body;
    let mut keys = Keys::default();
    let item: Value = serde_json::from_str(&dkim_keys).unwrap();
    let records = setup.command(&["domain", "records", "--tenant", "acme", "src.test"]).unwrap();
    for line in records.lines().filter(|line| line.contains("._domainkey.")) {
        let strings: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        keys.publish(line.split(' ').next().unwrap().trim_end_matches('.'), &strings.concat());
    }
    assert_eq!(runtime.block_on(judged(&message, &keys)), [Fate::Pass], "{item}");
    assert!(String::from_utf8_lossy(&message).contains("s=edge;"), "the edge signed it");
}

/// What Spin could not do is told, and files of others stay.
#[test]
fn what_cannot_be_written_is_told() {
    let setup = Setup::new().unwrap();
    let validator = root().join("target/components/validate.wasm").display().to_string();
    let setup = setup.with(&format!("[tenant.acme.components]\nvalidator = [\"{validator}\", \"{validator}\"]"));
    let built = root().join("target/components").display().to_string();
    let out = setup.folder().join("spin.toml");
    let write = |tenant: &str, built: &str| {
        let out = out.display().to_string();
        setup.command(&["spin-manifest", "--tenant", tenant, "--components", built, "--out", &out])
    };
    let check = |tenant: &str, built: &str, expect: &str| {
        let error = write(tenant, built).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check("acme", &built, "has more than one validator for tenant acme");
    check("nobody", &built, "there is no tenant `nobody`");
    check("default", "/nowhere", "--components names their folder");
    std::fs::write(&out, "spin_manifest_version = 2").unwrap();
    check("default", &built, "name another with --out");
    std::fs::remove_file(&out).unwrap();
    // Of the default tenant, without a path: the same as the repository's own.
    write("default", &built).unwrap();
    let manifest = Manifest::at(&out).unwrap();
    assert_eq!(manifest.routes().unwrap(), Manifest::read().unwrap().routes().unwrap());
    nothing_is_missing(&manifest);
}
