//! Putting components to work for a tenant, and taking them back: `push`, `list`, `rollback`, `activate`, `canary`,
//! `shadow`, `remove`, `grant`, `limit`.

use std::cmp::Reverse;
use std::io::Write as _;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use http::Method;

use super::tell;
use crate::api::control::components::{
    CallsView, FetchComponent, NameView, NewCanary, ShadowView, StageAnswer, TenantComponents, VersionView,
    WhichVersion,
};
use crate::cli::directory::{ForTenant, day, encode, table};
use crate::cli::link::Link;
use crate::cli::{Failure, Target, say};
use crate::edge::{POSITIONS, Place, Stage};
use crate::store::{OnFailure, StageSettings, TenantLimits};

/// Digits of a digest that a list shows.
const DIGITS: usize = 12;

/// Which stage of which tenant.
#[derive(Debug, Args)]
pub(crate) struct OfStage {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    of: ForTenant,
    /// The stage: validator, renderer, transformer, signer or shaper.
    #[arg(long)]
    stage: Stage,
}

/// Which of a stage's pushed components.
#[derive(Debug, Args)]
pub(crate) struct Which {
    #[command(flatten)]
    of: OfStage,
    /// Which of several validators or transformers, in the order of calls: 1 to 8. Each has versions of its own.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(POSITIONS)))]
    position: u8,
}

/// What is done to the components of a running host, or of its store.
#[derive(Debug, Subcommand)]
pub(crate) enum Deploy {
    /// Check a component and put it to work for a tenant, at once and without a restart.
    Push {
        #[command(flatten)]
        which: Which,
        /// The file, or its URL together with --sha256.
        file: String,
        /// Hexadecimal SHA-256 of the file at the URL.
        #[arg(long, value_name = "DIGEST")]
        sha256: Option<String>,
        /// Only for this share of the requests, 1 to 99, watched, and taken back by itself where it does badly.
        #[arg(long, value_name = "PERCENT", conflicts_with = "shadow")]
        canary: Option<u8>,
        /// Only beside what answers now: its answers are compared and never used.
        #[arg(long)]
        shadow: bool,
    },
    /// Show what answers for each stage of a tenant, where it comes from, and every version that was pushed.
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        of: ForTenant,
        /// Only this stage, at all of its positions.
        #[arg(long)]
        stage: Option<Stage>,
    },
    /// Take back what was changed last: a canary, or the active version for the one before it.
    Rollback(Which),
    /// Make a version that was pushed the active one.
    Activate {
        #[command(flatten)]
        which: Which,
        /// The version's number, as `component list` shows it. Default: the newest.
        #[arg(long, value_name = "VERSION")]
        number: Option<u32>,
    },
    /// Let a version that was pushed answer a share of the requests, or end that with --off.
    Canary {
        #[command(flatten)]
        which: Which,
        /// Its share of the requests: 1 to 99.
        #[arg(long, value_name = "PERCENT", required_unless_present = "off", conflicts_with = "off")]
        percent: Option<u8>,
        /// The version's number, as `component list` shows it. Default: the newest.
        #[arg(long, value_name = "VERSION", conflicts_with = "off")]
        number: Option<u32>,
        /// End the trial: the active version answers all requests again.
        #[arg(long)]
        off: bool,
    },
    /// Let a version that was pushed run beside what answers now, or end that with --off.
    Shadow {
        #[command(flatten)]
        which: Which,
        /// The version's number, as `component list` shows it. Default: the newest.
        #[arg(long, value_name = "VERSION", conflicts_with = "off")]
        number: Option<u32>,
        /// End the trial.
        #[arg(long)]
        off: bool,
    },
    /// Take a component away; with its last one a stage goes back to the configuration, or to what is built in.
    Remove(Which),
    /// Say which hosts a stage may reach by HTTP, and what follows when it fails. Without options: show it.
    Grant {
        #[command(flatten)]
        which: OfStage,
        /// A host, as name or name:port; may stand several times, and replaces what was granted before.
        #[arg(long, value_name = "HOST")]
        http: Vec<String>,
        /// These hosts may stand on this machine or in private networks.
        #[arg(long, requires = "http")]
        private: bool,
        /// Grant nothing by command any more; what the configuration grants holds then.
        #[arg(long, conflicts_with = "http")]
        none: bool,
        /// What becomes of a message when the component fails.
        #[arg(long, value_enum)]
        on_failure: Option<OnFailure>,
    },
    /// Limit what a tenant's own components take; `none` takes a limit away. Without options: show it.
    Limit(Limit),
}

/// `component limit`.
#[derive(Debug, Args)]
pub(crate) struct Limit {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    of: ForTenant,
    /// Time of one call, in milliseconds.
    #[arg(long, value_name = "NUMBER")]
    time_ms: Option<Change<u64>>,
    /// Memory of one instance, in bytes.
    #[arg(long, value_name = "NUMBER")]
    memory_bytes: Option<Change<usize>>,
    /// Size of one answer, in bytes.
    #[arg(long, value_name = "NUMBER")]
    output_bytes: Option<Change<usize>>,
    /// Calls of one stage at once.
    #[arg(long, value_name = "NUMBER")]
    calls: Option<Change<usize>>,
    /// Share of one core that all stages together take on average: 100 is a whole core.
    #[arg(long, value_name = "NUMBER")]
    cpu_percent: Option<Change<usize>>,
}

/// What becomes of a limit: a number sets it, `none` takes it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change<T> {
    Set(T),
    Remove,
}

impl<T: FromStr> FromStr for Change<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Change<T>, String> {
        match text {
            "none" => Ok(Change::Remove),
            _ => text.parse().map(Change::Set).map_err(|_| "write a whole number, or `none`".to_owned()),
        }
    }
}

impl<T> Change<T> {
    fn apply(change: Option<Change<T>>, before: Option<T>) -> Option<T> {
        match change {
            Some(Change::Set(value)) => Some(value),
            Some(Change::Remove) => None,
            None => before,
        }
    }
}

impl Which {
    /// The route of the stage, and what hangs on it.
    fn path(&self, below: &str) -> String {
        // A position that a stage does not have is told by the host.
        let place = Place { stage: self.of.stage, position: self.position };
        format!("{}/{place}{below}", components(&self.of.of))
    }

    async fn link(&self) -> Result<Link, Failure> {
        Link::open(&self.of.target).await
    }
}

fn components(of: &ForTenant) -> String {
    format!("tenants/{}/components", encode(&of.tenant))
}

impl Deploy {
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Deploy::Push { which, file, sha256, canary, shadow } => push(&which, file, sha256, canary, shadow).await,
            Deploy::List { target, of, stage } => list(&target, &of, stage).await,
            Deploy::Rollback(which) => change(&which, Method::POST, "/rollback", &()).await,
            Deploy::Activate { which, number: version } => {
                change(&which, Method::POST, "/activate", &WhichVersion { version }).await
            }
            Deploy::Canary { which, percent: Some(percent), number: version, .. } => {
                change(&which, Method::POST, "/canary", &NewCanary { percent, version }).await
            }
            Deploy::Canary { which, percent: None, .. } => change(&which, Method::DELETE, "/canary", &()).await,
            Deploy::Shadow { which, off: true, .. } => change(&which, Method::DELETE, "/shadow", &()).await,
            Deploy::Shadow { which, number: version, off: false } => {
                change(&which, Method::POST, "/shadow", &WhichVersion { version }).await
            }
            Deploy::Remove(which) => change(&which, Method::DELETE, "", &()).await,
            Deploy::Grant { which, http, private, none, on_failure } => {
                grant(&which, http, private, none, on_failure).await
            }
            Deploy::Limit(limit) => limit.run().await,
        }
    }
}

async fn push(
    which: &Which,
    file: String,
    sha256: Option<String>,
    canary: Option<u8>,
    shadow: bool,
) -> Result<(), Failure> {
    let made: VersionView = match sha256 {
        Some(sha256) => {
            let link = which.link().await?;
            let _ = writeln!(std::io::stderr(), "{file}: the host fetches, compiles and tests it");
            let fetch = FetchComponent { url: file, sha256, canary, shadow };
            link.call(Method::PUT, &which.path(""), &fetch).await?
        }
        None if file.contains("://") => {
            let text = "the host fetches no URL without the digest of its file: add --sha256 DIGEST";
            return Err(Failure::Refused(format!("{file}: {text}")));
        }
        None => {
            let path = PathBuf::from(&file);
            let bytes = tokio::fs::read(&path).await.map_err(Failure::io(format!("cannot read {file}")))?;
            let name = path.file_name().map_or(file.clone(), |name| name.to_string_lossy().into_owned());
            let canary = canary.map_or(String::new(), |percent| format!("&canary={percent}"));
            let query = format!("?source={}{canary}{}", encode(&name), if shadow { "&shadow=true" } else { "" });
            let link = which.link().await?;
            tell(&name, bytes.len(), "compiling and testing");
            link.upload(&which.path(&query), bytes).await?
        }
    };
    say(became(&made))
}

/// What a pushed version is now.
fn became(made: &VersionView) -> String {
    let VersionView { stage, version, digest, state, percent, activated_ms, .. } = made;
    let state = match percent {
        Some(percent) => format!("a canary for {percent} % of the requests"),
        None if state == "shadow" => "a shadow".to_owned(),
        None => state.clone(),
    };
    let after = activated_ms.map_or(String::new(), |ms| format!(", {ms} ms after its checks"));
    format!("{stage} version {version} ({}) is {state}{after}", short(digest))
}

/// Changes a stage and shows what it is then.
async fn change(which: &Which, method: Method, below: &str, body: &impl serde::Serialize) -> Result<(), Failure> {
    let found: TenantComponents = which.link().await?.call(method, &which.path(below), body).await?;
    show(&found)
}

async fn list(target: &Target, of: &ForTenant, stage: Option<Stage>) -> Result<(), Failure> {
    let path = stage.map_or_else(|| components(of), |stage| format!("{}/{}", components(of), stage.name()));
    let found: TenantComponents = Link::open(target).await?.call(Method::GET, &path, &()).await?;
    show(&found)
}

fn show(found: &TenantComponents) -> Result<(), Failure> {
    if !found.stages.is_empty() {
        let rows = found.stages.iter().flat_map(answering);
        table(["STAGE", "SOURCE", "COMPONENT", "ON TRIAL"], rows)?;
    }
    if found.versions.is_empty() {
        return Ok(());
    }
    say("")?;
    let rows = by_place(&found.versions).into_iter().map(|version| {
        let VersionView { stage, version, digest, source, pushed_at, state, percent, note, .. } = version.clone();
        let state = percent.map_or(state.clone(), |percent| format!("{state} {percent} %"));
        let digest = short(&digest).to_owned();
        [stage, version.to_string(), state, digest, day(pushed_at), source, note.unwrap_or_default()]
    });
    table(["STAGE", "VERSION", "STATE", "DIGEST", "PUSHED", "FILE", "NOTE"], rows)
}

/// In the order of calls, each place with its newest version first.
fn by_place(versions: &[VersionView]) -> Vec<&VersionView> {
    let mut sorted: Vec<&VersionView> = versions.iter().collect();
    sorted.sort_by_key(|version| (version.stage.parse::<Place>().ok(), Reverse(version.version)));
    sorted
}

/// What is called for a stage, in order: a row each, and each trial in the row of its position.
fn answering(stage: &StageAnswer) -> Vec<[String; 4]> {
    let row = |source: &str, component: &NameView| {
        let shown = format!("{} ({})", component.name, component.digest);
        [component.stage.clone(), source.to_owned(), shown, String::new()]
    };
    let mut own: Vec<[String; 4]> = stage.components.iter().map(|component| row(&stage.source, component)).collect();
    if own.is_empty() && stage.always.is_empty() {
        let nothing = "none: messages pass unchanged".to_owned();
        own.push([stage.stage.clone(), stage.source.clone(), nothing, String::new()]);
    }
    for (place, how) in trials(stage) {
        let at = match own.iter().position(|[known, ..]| known == place) {
            Some(at) => at,
            // Nothing but the trial stands there.
            None => {
                let position = |name: &str| name.parse::<Place>().map_or(0, |place| place.position);
                let at = own.partition_point(|[known, ..]| position(known) < position(place));
                own.insert(at, [place.to_owned(), "pushed".to_owned(), "none".to_owned(), String::new()]);
                at
            }
        };
        if let Some([.., on_trial]) = own.get_mut(at) {
            *on_trial = if on_trial.is_empty() { how } else { format!("{on_trial}; {how}") };
        }
    }
    stage.always.iter().map(|component| row("[components.always]", component)).chain(own).collect()
}

/// Where the trials of a stage stand, and how they go.
fn trials(stage: &StageAnswer) -> impl Iterator<Item = (&str, String)> {
    let calls = |calls: &CallsView| {
        format!("{} calls, {} failed, 95 % in {} ms", calls.calls, calls.failed, calls.p95_us as f64 / 1e3)
    };
    let canary = stage.canary.as_ref().map(move |canary| {
        let how = format!("canary {}: {} (active: {})", canary.version, calls(&canary.canary), calls(&canary.active));
        (canary.stage.as_str(), how)
    });
    let shadow = stage.shadow.as_ref().map(|shadow| {
        let ShadowView { stage, version, same, different, failed, skipped } = shadow;
        let how = format!("shadow {version}: {same} same, {different} different, {failed} failed, {skipped} skipped");
        (stage.as_str(), how)
    });
    canary.into_iter().chain(shadow)
}

async fn grant(
    which: &OfStage,
    http: Vec<String>,
    private: bool,
    none: bool,
    on_failure: Option<OnFailure>,
) -> Result<(), Failure> {
    let link = Link::open(&which.target).await?;
    let path = format!("{}/{}/settings", components(&which.of), which.stage);
    let mut settings: StageSettings = link.call(Method::GET, &path, &()).await?;
    if none || !http.is_empty() {
        (settings.http_hosts, settings.private_hosts) = (http.clone(), private);
    }
    settings.on_failure = on_failure.or(settings.on_failure);
    if none || on_failure.is_some() || !http.is_empty() {
        settings = link.call(Method::PUT, &path, &settings).await?;
    }
    let private = if settings.private_hosts { " (on this machine or in private networks too)" } else { "" };
    match settings.http_hosts.as_slice() {
        [] => say("may reach: whom [tenant.NAME.grants] names in the configuration, and nobody else")?,
        hosts => say(format_args!("may reach: {}{private}", hosts.join(", ")))?,
    }
    let follows = match settings.on_failure {
        Some(OnFailure::Defer) => "defer",
        Some(OnFailure::Fallback) => "fallback",
        Some(OnFailure::Reject) => "reject",
        None => "as [stages] says",
    };
    say(format_args!("on failure: {follows}"))
}

impl Limit {
    async fn run(self) -> Result<(), Failure> {
        let Limit { target, of, time_ms, memory_bytes, output_bytes, calls, cpu_percent } = self;
        let link = Link::open(&target).await?;
        let path = format!("tenants/{}/component-limits", encode(&of.tenant));
        let before: TenantLimits = link.call(Method::GET, &path, &()).await?;
        let mut limits = TenantLimits {
            time_ms: Change::apply(time_ms, before.time_ms),
            memory_bytes: Change::apply(memory_bytes, before.memory_bytes),
            output_bytes: Change::apply(output_bytes, before.output_bytes),
            calls: Change::apply(calls, before.calls),
            cpu_percent: Change::apply(cpu_percent, before.cpu_percent),
        };
        if limits != before {
            limits = link.call(Method::PUT, &path, &limits).await?;
        }
        let TenantLimits { time_ms, memory_bytes, output_bytes, calls, cpu_percent } = limits;
        let shown = |value: Option<u64>| value.map_or("as [stages] says".to_owned(), |value| value.to_string());
        let number = |value: Option<usize>| shown(value.map(|value| value as u64));
        let rows = [
            ["time_ms".to_owned(), shown(time_ms)],
            ["memory_bytes".to_owned(), number(memory_bytes)],
            ["output_bytes".to_owned(), number(output_bytes)],
            ["calls".to_owned(), number(calls)],
            ["cpu_percent".to_owned(), number(cpu_percent)],
        ];
        table(["LIMIT", "VALUE"], rows.into_iter())
    }
}

fn short(digest: &str) -> &str {
    digest.get(..DIGITS).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::control::components::CanaryView;
    use crate::edge::Source;

    fn stage(always: &[(&str, &str)], own: &[(&str, &str)], source: Source) -> StageAnswer {
        let named = |all: &[(&str, &str)]| {
            let name = |(stage, name): &(&str, &str)| NameView {
                stage: (*stage).to_owned(),
                name: (*name).to_owned(),
                digest: "0".to_owned(),
            };
            all.iter().map(name).collect()
        };
        StageAnswer {
            stage: "validator".to_owned(),
            source: source.name().to_owned(),
            always: named(always),
            components: named(own),
            canary: None,
            shadow: None,
        }
    }

    fn pushed(stage: &str, version: u32, state: &str) -> VersionView {
        VersionView {
            stage: stage.to_owned(),
            version,
            digest: "d".repeat(64),
            size_bytes: 1,
            source: "acme.wasm".to_owned(),
            pushed_at: jiff::Timestamp::UNIX_EPOCH,
            state: state.to_owned(),
            percent: None,
            note: None,
            activated_ms: None,
        }
    }

    #[test]
    fn a_push_tells_what_its_version_is_now() {
        let check = |state: &str, percent, expect: &str| {
            let made = VersionView { percent, activated_ms: Some(3), ..pushed("validator-2", 4, state) };
            assert_eq!(
                became(&made),
                format!("validator-2 version 4 (dddddddddddd) is {expect}, 3 ms after its checks")
            );
        };
        check("active", None, "active");
        check("canary", Some(5), "a canary for 5 % of the requests");
        check("shadow", None, "a shadow");
    }

    #[test]
    fn versions_are_listed_by_place_and_the_newest_first() {
        let versions = [("validator", 1), ("renderer", 1), ("validator-2", 1), ("validator", 2)]
            .map(|(stage, version)| pushed(stage, version, "retired"));
        let listed: Vec<(&str, u32)> =
            by_place(&versions).into_iter().map(|version| (&*version.stage, version.version)).collect();
        assert_eq!(listed, [("renderer", 1), ("validator", 2), ("validator", 1), ("validator-2", 1)]);
    }

    #[test]
    fn a_limit_is_set_kept_or_taken_away() {
        let check = |text: Option<&str>, expect: Option<u64>| {
            let change = text.map(|text| text.parse::<Change<u64>>().expect("a change"));
            assert_eq!(Change::apply(change, Some(7)), expect, "{text:?}");
        };
        check(None, Some(7));
        check(Some("9"), Some(9));
        check(Some("none"), None);
        let refused = "many".parse::<Change<u64>>();
        assert_eq!(refused, Err("write a whole number, or `none`".to_owned()));
    }

    #[test]
    fn each_component_that_is_called_has_a_row_with_its_source() {
        let check = |always: &[(&str, &str)], own: &[(&str, &str)], source: Source, expect: &[(&str, &str, &str)]| {
            let rows = answering(&stage(always, own, source));
            let rows: Vec<(&str, &str, &str)> = rows.iter().map(|[a, b, c, _]| (&**a, &**b, &**c)).collect();
            assert_eq!(rows, expect);
        };
        let x = ("validator", "x");
        let (first, second) = (("validator", "[components.always]", "x (0)"), ("validator-2", "pushed", "y (0)"));
        let own = [("validator-2", "y"), ("validator-3", "z")];
        check(&[x], &own, Source::Pushed, &[first, second, ("validator-3", "pushed", "z (0)")]);
        check(&[x], &[("validator", "y")], Source::Shared, &[first, ("validator", "[components]", "y (0)")]);
        check(&[x], &[], Source::BuiltIn, &[first]);
        check(&[], &[], Source::BuiltIn, &[("validator", "built-in", "none: messages pass unchanged")]);
    }

    #[test]
    fn each_trial_stands_at_its_own_position() {
        let check = |always: &[(&str, &str)], own: &[(&str, &str)], trials: (&str, &str), expect: &[(&str, &str)]| {
            let calls = || CallsView { calls: 7, failed: 0, p95_us: 1000 };
            let (canary, shadow) = (trials.0.to_owned(), trials.1.to_owned());
            let stage = StageAnswer {
                canary: Some(CanaryView { stage: canary, version: 4, canary: calls(), active: calls() }),
                shadow: Some(ShadowView { stage: shadow, version: 5, same: 1, different: 0, failed: 0, skipped: 0 }),
                ..stage(always, own, Source::Pushed)
            };
            let rows = answering(&stage);
            let short = |on_trial: &str| {
                let words = on_trial.split("; ").map(|one| one.split(':').next().unwrap_or_default().to_owned());
                words.collect::<Vec<_>>().join(" ")
            };
            let rows: Vec<(&str, String)> = rows.iter().map(|[place, .., trial]| (&**place, short(trial))).collect();
            let rows: Vec<(&str, &str)> = rows.iter().map(|(place, trial)| (*place, &**trial)).collect();
            assert_eq!(rows, expect, "{trials:?}");
        };
        let (x, one, two) = (("validator", "x"), ("validator", "y"), ("validator-2", "z"));
        let (first, second) = ("validator", "validator-2");
        check(&[x], &[one, two], (first, second), &[(first, ""), (first, "canary 4"), (second, "shadow 5")]);
        check(&[], &[one, two], (first, first), &[(first, "canary 4 shadow 5"), (second, "")]);
        check(&[x], &[two], (first, second), &[(first, ""), (first, "canary 4"), (second, "shadow 5")]);
        check(&[], &[one], ("validator-3", second), &[(first, ""), (second, "shadow 5"), ("validator-3", "canary 4")]);
        check(&[x], &[], (first, first), &[(first, ""), (first, "canary 4 shadow 5")]);
    }
}
