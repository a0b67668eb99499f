//! That the commands cover the control API: a command for each of its routes.

use std::collections::BTreeSet;

use clap::Parser as _;
use clap::error::ErrorKind;

use super::Command;
use crate::api::control::ROUTES;

/// Each route, and a command line that calls it.
const COMMANDS: &[(&str, &str)] = &[
    ("GET status", "status"),
    ("GET openapi.json", "openapi"),
    ("GET events", "events list"),
    ("POST reload", "reload"),
    ("GET queue", "queue list --tenant acme"),
    ("POST queue/{change}", "queue retry --all"),
    ("POST backup", "backup folder"),
    ("GET tenants", "tenant list"),
    ("POST tenants", "tenant create acme --per-day 10"),
    ("GET tenants/{tenant}", "tenant show acme"),
    ("PATCH tenants/{tenant}", "tenant update acme --per-day none"),
    ("DELETE tenants/{tenant}", "tenant delete acme --force"),
    ("POST tenants/{tenant}/pause", "tenant pause acme --reason unpaid"),
    ("POST tenants/{tenant}/resume", "tenant resume acme"),
    ("GET keys", "key list --tenant acme"),
    ("POST keys", "key create --tenant acme --scope send --expires-in 90d"),
    ("DELETE keys/{id}", "key revoke key_1"),
    ("POST keys/{id}/rotate", "key rotate key_1 --overlap 24h"),
    ("GET operator-keys", "key list --operator"),
    ("POST operator-keys", "key create --operator"),
    ("DELETE operator-keys/{id}", "key revoke --operator opk_1"),
    ("GET delivery-tokens", "key list --delivery"),
    ("POST delivery-tokens", "key create --delivery --tenant acme"),
    ("DELETE delivery-tokens/{id}", "key revoke --delivery dlv_1"),
    ("GET domains", "domain list"),
    ("POST domains", "domain add example.com --tenant acme"),
    ("GET domains/{domain}", "domain show example.com"),
    ("DELETE domains/{domain}", "domain remove example.com"),
    ("POST domains/{domain}/check", "domain check example.com"),
    ("POST domains/{domain}/rotate", "domain rotate example.com --now"),
    ("POST domains/{domain}/keys", "domain import-key example.com key.pem --selector s1 --now"),
    ("DELETE domains/{domain}/keys/{selector}", "domain remove-key example.com s1"),
    ("POST domains/{domain}/edge-keys", "domain edge-key example.com"),
    ("DELETE domains/{domain}/edge-keys/{selector}", "domain edge-key example.com --remove s1"),
    ("GET audit", "audit list --tenant acme"),
    ("POST master-key/rotate", "master-key rotate"),
    ("GET tenants/{tenant}/components", "component list --tenant acme"),
    ("GET tenants/{tenant}/components/{stage}", "component list --tenant acme --stage signer"),
    ("PUT tenants/{tenant}/components/{stage}", "component push --stage signer a.wasm"),
    ("DELETE tenants/{tenant}/components/{stage}", "component remove --stage signer"),
    ("POST tenants/{tenant}/components/{stage}/rollback", "component rollback --stage signer"),
    ("POST tenants/{tenant}/components/{stage}/activate", "component activate --stage signer"),
    ("POST tenants/{tenant}/components/{stage}/canary", "component canary --stage signer --percent 5"),
    ("DELETE tenants/{tenant}/components/{stage}/canary", "component canary --stage signer --off"),
    ("POST tenants/{tenant}/components/{stage}/shadow", "component shadow --stage signer"),
    ("DELETE tenants/{tenant}/components/{stage}/shadow", "component shadow --stage signer --off"),
    ("GET tenants/{tenant}/components/{stage}/settings", "component grant --stage signer"),
    ("PUT tenants/{tenant}/components/{stage}/settings", "component grant --stage signer --http keys.example.com"),
    ("GET tenants/{tenant}/component-limits", "component limit --tenant acme"),
    ("PUT tenants/{tenant}/component-limits", "component limit --tenant acme --cpu-percent 50"),
];

#[test]
fn every_route_has_its_command() {
    let routes: BTreeSet<String> = ROUTES.iter().map(|route| format!("{} {}", route.method, route.template)).collect();
    let known: BTreeSet<String> = COMMANDS.iter().map(|(route, _)| (*route).to_owned()).collect();
    assert_eq!(known, routes, "a route without a command, or a command for a route that is gone");
    for (route, command) in COMMANDS {
        let words: Vec<&str> = ["posthaste"].into_iter().chain(command.split(' ')).collect();
        let with = |more: &[&'static str]| Command::try_parse_from(words.iter().copied().chain(more.iter().copied()));
        let parsed = with(&["--config", "a.toml"]);
        assert!(
            parsed.is_ok(),
            "{route}: `posthaste {command}`: {}",
            parsed.err().map(|e| e.to_string()).unwrap_or_default()
        );
        let help = with(&["--help"]).err().map(|error| error.kind());
        assert_eq!(help, Some(ErrorKind::DisplayHelp), "{route}: `posthaste {command} --help`");
    }
}
