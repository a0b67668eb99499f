//! The text of a manifest.

use std::io::ErrorKind;
use std::path::Path;

use toml::Value;

use crate::cli::Failure;
use crate::edge::Stage;

/// The first line of every manifest that is written here: no other file is written over.
const MARK: &str = "# Written by `posthaste spin-manifest`; writing it again replaces it.";

/// One stage of the application.
pub(super) struct Part {
    pub stage: Stage,
    /// Where its file came from, for whoever reads the manifest.
    pub source: String,
    /// Whether it reads the edge's keys.
    pub uses_keys: bool,
}

/// What the application is made of.
pub(super) struct Parts<'a> {
    pub tenant: &'a str,
    /// The path that it stands below; empty: none.
    pub base: &'a str,
    /// Of the components, as seen from the manifest.
    pub folder: &'a str,
    pub stages: &'a [Part],
}

/// Refuses to write over a file that was not written here.
pub(super) fn expect_own(path: &Path) -> Result<(), Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.starts_with(MARK) => Ok(()),
        Ok(_) => Err(Failure::Refused(format!(
            "{}: is there already and was not written by this command: name another with --out",
            path.display()
        ))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::io(format!("cannot read {}", path.display()))(error)),
    }
}

impl Parts<'_> {
    pub(super) fn manifest(&self) -> String {
        let Parts { tenant, base, stages, .. } = self;
        let (submit, notify) = (self.source("submit"), self.source("notify"));
        let route = Value::from(format!("{base}/..."));
        let notified = Value::from(format!("{base}/notify"));
        let base = Value::from(*base);
        let of_submit = self.dependencies(stages.iter().filter(|part| part.stage != Stage::Shaper));
        let of_notify = self.dependencies(stages.iter().filter(|part| part.stage == Stage::Shaper));
        let mut text = format!(
            r#"{MARK}
# The edge of the tenant `{tenant}`: docs/spin.md tells the rest.
spin_manifest_version = 2

[application]
name = "posthaste-{tenant}"
version = "{version}"
description = "The edge of Posthaste for the tenant {tenant}"

[variables]
# The host: a bare origin such as https://mail.example.com:8443, without a path.
delivery_url = {{ required = true }}
# From `posthaste key create --delivery --tenant {tenant}`.
delivery_token = {{ required = true, secret = true }}
# From `posthaste domain edge-key`: JSON. Empty: the host signs.
dkim_keys = {{ default = "", secret = true }}

[[trigger.http]]
route = {route}
component = "submit"

[[trigger.http]]
route = {notified}
component = "notify"

[component.submit]
source = {submit}
description = "The sending API"
allowed_outbound_hosts = ["{{{{ delivery_url }}}}"]

[component.submit.variables]
delivery_url = "{{{{ delivery_url }}}}"
delivery_token = "{{{{ delivery_token }}}}"
# For the signer, which has no variables of its own.
dkim_keys = "{{{{ dkim_keys }}}}"
# What the paths of requests begin with here.
base_path = {base}

[component.submit.dependencies]
{of_submit}
[component.notify]
source = {notify}
description = "Sends events to the applications' webhooks"
allowed_outbound_hosts = ["http://*:*", "https://*:*"]

[component.notify.variables]
delivery_token = "{{{{ delivery_token }}}}"
base_path = {base}

[component.notify.dependencies]
{of_notify}"#,
            version = env!("CARGO_PKG_VERSION"),
        );
        for Part { stage, source, .. } in *stages {
            // A file's name may hold anything, a line break too.
            let source: String = source.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            text.push_str(&format!("\n# {source}\n[component.{stage}]\nsource = {}\n", self.source(stage.name())));
        }
        text
    }

    fn source(&self, name: &str) -> Value {
        format!("{}/{name}.wasm", self.folder).into()
    }

    fn dependencies<'p>(&self, parts: impl Iterator<Item = &'p Part>) -> String {
        let lines = parts.map(|Part { stage, uses_keys, .. }| {
            let inherits = if *uses_keys { ", inherit_configuration = [\"variables\"]" } else { "" };
            format!("\"posthaste:{stage}/{stage}@0.1.0\" = {{ component = \"{stage}\"{inherits} }}\n")
        });
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_quoted() {
        let part = |stage| Part { stage, source: "a\n[component.evil]".to_owned(), uses_keys: stage == Stage::Signer };
        let stages = Stage::ALL.map(part);
        let parts = Parts { tenant: "acme", base: "/acme", folder: "my \"own\"", stages: &stages };
        let manifest: toml::Table = parts.manifest().parse().unwrap();
        assert_eq!(manifest["component"].as_table().unwrap().len(), 7);
        assert_eq!(manifest["component"]["submit"]["source"].as_str(), Some("my \"own\"/submit.wasm"));
        assert_eq!(manifest["trigger"]["http"][0]["route"].as_str(), Some("/acme/..."));
        let lines = manifest["component"]["submit"]["dependencies"].as_table().unwrap();
        let inherits = |name: &str| lines[name].get("inherit_configuration").is_some();
        assert!(inherits("posthaste:signer/signer@0.1.0") && !inherits("posthaste:validator/validator@0.1.0"));
    }

    #[test]
    fn what_others_wrote_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("spin.toml");
        expect_own(&file).unwrap();
        std::fs::write(&file, MARK).unwrap();
        expect_own(&file).unwrap();
        std::fs::write(&file, "spin_manifest_version = 2").unwrap();
        assert!(expect_own(&file).unwrap_err().to_string().contains("name another with --out"));
    }
}
