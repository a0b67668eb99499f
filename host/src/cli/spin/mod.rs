//! `posthaste spin-manifest`: the edge of one tenant as an application for Spin, with the components that answer for the
//! tenant here.
//!
//! An application is one set of components, so a tenant's own is what keeps tenants apart at an edge. All files are
//! copied beside the manifest: what is written can be carried away and deployed from anywhere.

mod compose;
mod manifest;

use std::path::{Path, PathBuf};

use clap::Args;
use http::Method;

use self::manifest::{Part, Parts};
use super::directory::{ForTenant, encode};
use super::link::Link;
use super::{Failure, Target, say};
use crate::DEFAULT_TENANT;
use crate::api::control::components::{TenantComponents, VersionView};
use crate::config::{ComponentFiles, Config};
use crate::edge::{self, Place, Stage, Survey};

/// The triggers, and the keeper of an edge's keys.
const SUBMIT: &str = "submit.wasm";
const NOTIFY: &str = "notify.wasm";
const KEYS: &str = "keys.wasm";

/// What a signer imports that wants to use keys without holding them.
const KEYS_INTERFACE: &str = "posthaste:keys/keys@0.1.0";

/// Digits of a digest that are shown.
const DIGITS: usize = 12;

#[derive(Debug, Args)]
pub(crate) struct SpinManifest {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    of: ForTenant,
    /// The folder with the edge's own components, as `cargo xtask build` leaves them.
    #[arg(long, value_name = "DIR", default_value = "target/components")]
    components: PathBuf,
    /// The manifest to write; the components go into a folder of the same name beside it. Default: spin-TENANT.toml.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The component of a stage, and where it comes from.
struct Chosen {
    path: PathBuf,
    source: String,
}

impl SpinManifest {
    pub async fn run(self) -> Result<(), Failure> {
        let SpinManifest { target, of, components, out } = self;
        let tenant = of.tenant;
        let out = out.unwrap_or_else(|| format!("spin-{tenant}.toml").into());
        let link = Link::open(&target).await?;
        let path = format!("tenants/{}/components", encode(&tenant));
        let found: TenantComponents = link.call(Method::GET, &path, &()).await?;
        let chosen = Stage::ALL.map(|stage| choose(stage, &tenant, &found.versions, link.config(), &components));
        let [renderer, validator, transformer, signer, shaper] = chosen;
        let folder = out.with_extension("");
        manifest::expect_own(&out)?;
        std::fs::create_dir_all(&folder).map_err(Failure::io(format!("cannot create {}", folder.display())))?;

        let keys = components.join(KEYS);
        let mut parts = Vec::new();
        for (stage, chosen) in [
            (Stage::Renderer, renderer?),
            (Stage::Validator, validator?),
            (Stage::Transformer, transformer?),
            (Stage::Signer, signer?),
            (Stage::Shaper, shaper?),
        ] {
            let (bytes, uses_keys) = component_of(stage, &chosen, &keys)?;
            write(&folder.join(format!("{stage}.wasm")), &bytes)?;
            say(format_args!("{:<12} {}", format!("{stage}:"), chosen.source))?;
            parts.push(Part { stage, source: chosen.source, uses_keys });
        }
        for trigger in [SUBMIT, NOTIFY] {
            write(&folder.join(trigger), &read(&components.join(trigger))?)?;
        }
        let base = if tenant == DEFAULT_TENANT { String::new() } else { format!("/{tenant}") };
        let folder = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = Parts { tenant: &tenant, base: &base, folder: &folder, stages: &parts }.manifest();
        write(&out, text.as_bytes())?;
        tell(&target, &tenant, &base, &out)
    }
}

/// What is to be done next.
fn tell(target: &Target, tenant: &str, base: &str, out: &Path) -> Result<(), Failure> {
    let out = out.display();
    let host = match (&target.config, &target.data) {
        (Some(file), _) => format!("--config {}", file.display()),
        (None, data) => format!("--data {}", data.as_deref().unwrap_or(Path::new("DIR")).display()),
    };
    say(format_args!("\n{out} is written. Its token is for this tenant alone:\n"))?;
    say(format_args!("posthaste key create --delivery --tenant {tenant} {host}"))?;
    let variables = "--variable delivery_url=https://mail.example.com --variable delivery_token=TOKEN";
    say(format_args!("spin up -f {out} {variables}"))?;
    say(format_args!("spin deploy -f {out} {variables}"))?;
    say(format_args!("\nApplications send to https://EDGE{base}/emails."))
}

/// What answers for a stage, in the order of the host: pushed, `[tenant.NAME.components]`, `[components]`, built-in.
fn choose(
    stage: Stage,
    tenant: &str,
    versions: &[VersionView],
    config: &Config,
    built_in: &Path,
) -> Result<Chosen, Failure> {
    let several = |where_from: &str| {
        Failure::Refused(format!(
            "{where_from} has more than one {stage} for tenant {tenant}, and Spin takes one: leave this tenant's stages to the host"
        ))
    };
    if !config.always.of(stage).is_empty() {
        return Err(Failure::Refused(format!(
            "[components.always] has a {stage}, which an edge of this tenant would leave out: leave its stages to the host"
        )));
    }
    let is_of = |version: &&VersionView| {
        version.state == "active" && version.stage.parse().is_ok_and(|place: Place| place.stage == stage)
    };
    let mut pushed = versions.iter().filter(is_of);
    let active = pushed.next();
    if pushed.next().is_some() {
        return Err(several("what was pushed"));
    }
    if let Some(VersionView { version, digest, source, .. }) = active {
        let path = config.data.join("components").join(format!("{digest}.wasm"));
        let source = format!("pushed, version {version} ({source}, {})", digest.get(..DIGITS).unwrap_or(digest));
        return Ok(Chosen { path, source });
    }
    let own = config.tenants.get(tenant).map(|tenant| &tenant.components);
    let of = |files: Option<&ComponentFiles>| files.map(|files| files.of(stage)).unwrap_or_default().to_vec();
    for (files, name) in
        [(of(own), format!("[tenant.{tenant}.components]")), (of(Some(&config.components)), "[components]".to_owned())]
    {
        match files.as_slice() {
            [] => {}
            [path] => {
                return Ok(Chosen { path: path.clone(), source: format!("{name} ({})", path.display()) });
            }
            _ => return Err(several(&name)),
        }
    }
    let file = match stage {
        Stage::Renderer => "render.wasm",
        Stage::Validator => "validate.wasm",
        Stage::Transformer => "track.wasm",
        Stage::Signer => "sign.wasm",
        Stage::Shaper => "shape.wasm",
    };
    Ok(Chosen { path: built_in.join(file), source: "built-in".to_owned() })
}

/// A stage's file as Spin can use it, and whether it reads the edge's keys: Spin composes one level only, so a signer
/// brings their keeper along.
fn component_of(stage: Stage, chosen: &Chosen, keys: &Path) -> Result<(Vec<u8>, bool), Failure> {
    let bytes = read(&chosen.path)?;
    let survey = edge::survey(&chosen.path).map_err(|error| Failure::Refused(error.to_string()))?;
    if !survey.stages.contains(&stage) {
        return Err(Failure::Refused(format!("{}: is no {stage}: it exports none", chosen.path.display())));
    }
    let Survey { imports, .. } = survey;
    if stage != Stage::Signer || !imports.iter().any(|import| import == KEYS_INTERFACE) {
        return Ok((bytes, false));
    }
    let composed = compose::signer_with_keys(bytes, read(keys)?);
    let composed = composed
        .map_err(|error| Failure::Refused(format!("{}: cannot be composed with keys: {error}", chosen.path.display())));
    Ok((composed?, true))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let hint = "; `cargo xtask build --components` makes an edge's own components, and --components names their folder";
    std::fs::read(path).map_err(|source| {
        let hint = if source.kind() == std::io::ErrorKind::NotFound { hint } else { "" };
        Failure::Io { what: format!("cannot read {}{hint}", path.display()), source }
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(Failure::io(format!("cannot write {}", path.display())))
}
