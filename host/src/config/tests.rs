//! Whole files: good ones resolve, each bad one tells exactly what its `.expect` says.
#![allow(clippy::unwrap_used)]

use super::super::*;
use super::*;

/// The repository's folder of configurations.
fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/configs")
}

fn good(text: &str) -> Config {
    parse(&configs().join("here.toml"), text, &|_| None).unwrap_or_else(|faults| panic!("{faults}"))
}

const SMALLEST: &str = "hostname = \"mail.example.com\"\ndata = \"d\"\n[http]\nlisten = \"127.0.0.1:0\"\n";

/// The file that the documentation shows first.
const SHOWN: &str = r#"
hostname = "relay.test"
data = "some/dir"
[http]
listen = "127.0.0.1:18080"
[smtp]
listen = ["127.0.0.1:12525"]
trusted = ["127.0.0.1/32"]
[dns]
servers = ["127.0.0.1:15353"]
[delivery]
port = 2526
[[route]]
domain = "relayed.test"      # or "*"
relay = "127.0.0.1:2527"
"#;

#[test]
fn the_shown_file_works_as_it_stands() {
    let config = good(SHOWN);
    assert_eq!(config.hostname.as_str(), "relay.test");
    assert_eq!(config.data, configs().join("some/dir"));
    assert_eq!(config.http.unwrap().listen, "127.0.0.1:18080".parse().unwrap());
    assert_eq!(config.smtp.listen, ["127.0.0.1:12525".parse().unwrap()]);
    assert_eq!(config.smtp.trusted, [IpNet { address: "127.0.0.1".parse().unwrap(), prefix: 32 }]);
    assert_eq!(config.dns.servers, ["127.0.0.1:15353".parse().unwrap()]);
    assert_eq!(config.delivery.port, 2526);
    assert_eq!(config.routes.len(), 1);
    let route = &config.routes[0];
    assert_eq!(route.domain, RouteDomain::Exact(mail::Domain::parse("relayed.test").unwrap()));
    assert_eq!(route.tls, TlsPolicy::Opportunistic);
    let NextHop::Relay { host, port, auth } = &route.next_hop else { panic!("{route:?}") };
    assert_eq!((host, *port, auth.is_none()), (&RelayHost::Ip("127.0.0.1".parse().unwrap()), 2527, true));
}

#[test]
fn what_is_left_out_has_the_defaults_of_the_schema() {
    let config = good(SMALLEST);
    assert!(
        config.https.is_none() && config.admin.is_none() && config.tls.is_none() && config.master_key_file.is_none()
    );
    assert_eq!(config.delivery.port, 25);
    assert_eq!(config.delivery.expire_after, Duration::from_secs(5 * 86_400));
    assert_eq!(config.delivery.retry_delays.first(), Some(&Duration::from_secs(60)));
    assert_eq!(config.delivery.timeouts.data_end, Duration::from_secs(600));
    assert_eq!(config.limits.message_bytes, 25 << 20);
    assert_eq!(config.smtp.max_connections, 1000);
    assert!(!config.smtp.plain_auth_on_loopback);
    assert_eq!(config.components, ComponentFiles::default());
}

#[test]
fn private_networks_are_for_those_who_ask() {
    let check = |text: &str, expect: bool| {
        assert_eq!(good(&format!("{SMALLEST}{text}")).delivery.allow_private, expect, "{text}");
    };
    check("", false);
    check("[delivery]\nallow_private = true\n", true);
    check("[dns]\nservers = [\"192.0.2.53:53\"]\n", false);
    check("[dns]\nservers = [\"10.0.0.53:53\"]\n", false);
    check("[dns]\nservers = [\"127.0.0.1:15353\"]\n", true);
    check("[dns]\nservers = [\"192.0.2.53:53\", \"[::1]:53\"]\n", true);
    check("[dns]\nservers = [\"127.0.0.1:53\"]\n[delivery]\nallow_private = false\n", false);
    assert!(good(SHOWN).delivery.allow_private);
}

#[test]
fn every_default_of_the_schema_reads() {
    for section in schema::SECTIONS {
        for key in section.keys {
            let Some(default) = key.default else { continue };
            let parsed = DeValue::parse(default);
            assert!(parsed.is_ok(), "{}.{} = {default}", section.path, key.name);
        }
        let table = section.path.split('.').next().unwrap();
        assert!(table.is_empty() || TABLES.contains(&table), "{table} is read nowhere");
    }
}

#[test]
fn routes_read_every_form() {
    let route = |text: &str| {
        let env = |name: &str| (name == "RELAY_PASSWORD").then(|| "geheim".to_owned());
        let text = format!("{SMALLEST}[[route]]\n{text}\n");
        let config = parse(&configs().join("here.toml"), &text, &env).unwrap_or_else(|faults| panic!("{faults}"));
        config.routes.into_iter().next().unwrap()
    };
    let mx = route("domain = \"*\"\nport = 2525\ntls = \"require\"");
    assert_eq!((mx.domain, mx.tls), (RouteDomain::Any, TlsPolicy::Require));
    assert!(matches!(mx.next_hop, NextHop::Mx { port: Some(2525) }));
    let relay = route(
        "domain = \"*.example.com\"\nrelay = \"[::1]:587\"\nauth = { username = \"u\", password_env = \"RELAY_PASSWORD\" }",
    );
    assert_eq!(relay.tls, TlsPolicy::Verify, "a password is not sent unverified unless that is asked for");
    let NextHop::Relay { auth: Some(auth), .. } = relay.next_hop else { panic!("no credentials") };
    assert_eq!((auth.username.as_str(), auth.password.as_str()), ("u", "geheim"));
    assert!(!format!("{auth:?}").contains("geheim"), "a password is never printed");
    let clear = route(
        "domain = \"*\"\nrelay = \"10.0.0.1:25\"\ntls = \"off\"\nauth = { username = \"u\", password_env = \"RELAY_PASSWORD\" }",
    );
    assert_eq!(clear.tls, TlsPolicy::Off);
}

#[test]
fn passwords_come_from_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "{SMALLEST}[[route]]\ndomain = \"*\"\nrelay = \"10.0.0.1:25\"\nauth = {{ username = \"u\", password_file = \"pw\" }}\n"
    );
    let check = |content: &str, expect: Result<&str, &str>| {
        std::fs::write(folder.path().join("pw"), content).unwrap();
        match (parse(&folder.path().join("here.toml"), &text, &|_| None), expect) {
            (Ok(config), Ok(password)) => match &config.routes[0].next_hop {
                NextHop::Relay { auth: Some(auth), .. } => assert_eq!(auth.password, password),
                other => panic!("{other:?}"),
            },
            (Err(faults), Err(part)) => assert!(faults.to_string().contains(part), "{faults}"),
            (got, _) => panic!("{content:?}: {got:?}"),
        }
    };
    check("geheim\n", Ok("geheim"));
    check("geheim\r\n", Ok("geheim"));
    check(" spaces count ", Ok(" spaces count "));
    check("", Err("is empty"));
    check("two\nlines\n", Err("more than one line"));
}

#[test]
fn tenants_and_components() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("v.wasm"), b"\0asm").unwrap();
    let text = format!(
        "{SMALLEST}[components]\nvalidator = \"v.wasm\"\n[tenant.acme.components]\nsigner = \"v.wasm\"\n[components.always]\nvalidator = [\"v.wasm\", \"v.wasm\"]\n"
    );
    let config = parse(&folder.path().join("here.toml"), &text, &|_| None).unwrap();
    let file = vec![folder.path().join("v.wasm")];
    assert_eq!(config.components, ComponentFiles { validator: file.clone(), ..ComponentFiles::default() });
    assert_eq!(config.always, ComponentFiles { validator: vec![file[0].clone(); 2], ..ComponentFiles::default() });
    assert_eq!(config.tenants["acme"].components, ComponentFiles { signer: file, ..ComponentFiles::default() });
    let wrong = |text: &str, expect: &str| {
        let faults = parse(&folder.path().join("here.toml"), &format!("{SMALLEST}{text}"), &|_| None).unwrap_err();
        assert!(faults.to_string().contains(expect), "{faults} does not say {expect}");
    };
    wrong("[components.always]\nsigner = \"v.wasm\"\n", "unknown key `components.always.signer`");
    wrong("[components]\nsigner = [\"v.wasm\", \"v.wasm\"]\n", "components.signer: ");
    wrong("[stages]\non_failure = \"ignore\"\n", "`ignore` is none of `defer`, `fallback`, `reject`");
}

#[test]
fn grants_of_a_tenant() {
    let text = "[tenant.acme.grants]\nsigner = [\"keys.test\", \"127.0.0.1:8443\"]\nprivate = true\n[tenant.b.grants]\nshaper = \"x.test\"\n";
    let tenants = good(&format!("{SMALLEST}{text}")).tenants;
    let hosts =
        |stage, hosts: &[&str]| BTreeMap::from([(stage, hosts.iter().map(|host| (*host).to_owned()).collect())]);
    let expect = hosts(Stage::Signer, &["keys.test", "127.0.0.1:8443"]);
    assert_eq!(tenants["acme"].grants, Grants { hosts: expect, private: true });
    assert_eq!(tenants["b"].grants, Grants { hosts: hosts(Stage::Shaper, &["x.test"]), private: false });
    let wrong = |text: &str, expect: &str| {
        let faults = parse(Path::new("a.toml"), &format!("{SMALLEST}{text}"), &|_| None).unwrap_err().to_string();
        assert!(faults.contains(expect), "{faults} does not say {expect}");
    };
    wrong(
        "[tenant.a.grants]\nsigner = \"https://keys.test\"\n",
        "tenant.a.grants.signer: `https://keys.test` is no host",
    );
    wrong(
        "[tenant.a.grants]\nsinger = \"keys.test\"\n",
        "unknown key `tenant.a.grants.singer`: did you mean `signer`?",
    );
    let many = (0..33).map(|number| format!("\"h{number}.test\"")).collect::<Vec<_>>().join(", ");
    wrong(&format!("[tenant.a.grants]\nsigner = [{many}]\n"), "33 hosts, at most 32 are granted");
}

#[test]
fn body_budget_follows_the_message_size() {
    assert_eq!(good(&format!("{SMALLEST}[limits]\nmessage_bytes = \"100MiB\"\n")).limits.http_body_bytes, 200 << 20);
    assert_eq!(good(&format!("{SMALLEST}[limits]\nmessage_bytes = \"1MiB\"\n")).limits.http_body_bytes, 64 << 20);
}

#[test]
fn development_needs_no_file() {
    let loopback = "127.0.0.1:0".parse().unwrap();
    let config = Config::development("/tmp/d".into(), loopback, loopback).unwrap();
    assert_eq!(config.data, Path::new("/tmp/d"));
    assert!(config.smtp.plain_auth_on_loopback);
    assert!(config.smtp.trusted.iter().any(|net| net.contains("::1".parse().unwrap())));
}

/// Each `NN-name.toml` beside its `NN-name.expect`: the faults, line for line, without the folder.
#[test]
fn bad_files_tell_all_their_faults() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(configs().join("bad"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut failed = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let faults = match parse(&file, &text, &|_| None) {
            Ok(_) => "no fault\n".to_owned(),
            Err(faults) => format!("{faults}\n"),
        };
        let folder = format!("{}/", file.parent().unwrap().display());
        let got = faults.replace(&folder, "");
        let expect = file.with_extension("expect");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&expect, &got).unwrap();
        }
        let expected = std::fs::read_to_string(&expect).unwrap_or_default();
        if got != expected {
            failed.push(format!("{}\n--- expected\n{expected}--- got\n{got}", file.display()));
        }
    }
    assert!(failed.is_empty(), "{}\nUPDATE_EXPECT=1 rewrites the expectations", failed.join("\n"));
}

#[test]
fn the_reference_page_is_the_schema() {
    let page = configs().join("../../docs/configuration.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&page, schema::reference_page()).unwrap();
    }
    let written = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(written == schema::reference_page(), "docs/configuration.md is stale: UPDATE_EXPECT=1 rewrites it");
}

#[test]
fn a_missing_file_is_a_fault() {
    let faults = load(Path::new("/nowhere/at/all.toml")).unwrap_err();
    assert_eq!(faults.to_string(), "/nowhere/at/all.toml: cannot read the configuration: there is no such file");
}
