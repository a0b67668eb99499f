//! What this machine gives: data folder, disk, clock, listeners, component files.

use std::fs::Metadata;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::Finding;
use crate::config::{Config, StageLimits};
use crate::edge::{Bounds, Stage, conformance};
use crate::store::private;

/// Below this the host accepts nothing; below the other it is time to look.
const LEAST_FREE_BYTES: u64 = 64 << 20;
const LITTLE_FREE_BYTES: u64 = 2 << 30;

/// Any clock before this is wrong: 2026-01-01, when this program did not exist yet.
const EARLIEST_S: u64 = 1_767_225_600;

/// How far the file system's clock may be from ours.
const SKEW: Duration = Duration::from_secs(10);

/// Failed cases of a component that are told.
const FAULTS_SHOWN: usize = 3;

/// Can be written, has space.
pub(super) fn data_folder(config: &Config) -> Vec<Finding> {
    let data = &config.data;
    let shown = data.display();
    if !data.exists() {
        let parent = data.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        return match probe(parent) {
            Ok(_) => vec![Finding::ok("data", format!("{shown} is not there yet and can be created"))]
                .into_iter()
                .chain([space(parent)])
                .collect(),
            Err(error) => vec![Finding::fail(
                "data",
                format!("{shown} cannot be created: {error}"),
                format!("make it and give it to the user that runs posthaste: install -d -m 700 -o posthaste {shown}"),
            )],
        };
    }
    match probe(data) {
        Ok(file) => vec![Finding::ok("data", format!("{shown} can be written")), space(data)]
            .into_iter()
            .chain(seen_by_others(data, &file))
            .collect(),
        Err(error) => vec![Finding::fail(
            "data",
            format!("{shown} cannot be written: {error}"),
            format!("give it to the user that runs posthaste: chown -R posthaste {shown}"),
        )],
    }
}

/// What the host does about a folder that other users can look into when it starts: `store::private`.
fn seen_by_others(data: &Path, ours: &Metadata) -> Option<Finding> {
    let shown = data.display();
    let open = match private::openness(&std::fs::metadata(data).ok()?) {
        private::Openness::Closed => return None,
        open => open,
    };
    let text = format!("{shown} holds mail and keys, and other users can look into it");
    let advice = format!("chmod 700 {shown}");
    Some(match open {
        private::Openness::Of(owner) if owner == ours.uid() || ours.uid() == 0 => Finding::warn("data", text, advice),
        _ => Finding::fail("data", text, format!("choose another folder, or: chown posthaste {shown}; {advice}")),
    })
}

/// Writes a file into a folder, removes it and tells what the file system said of it.
fn probe(folder: &Path) -> std::io::Result<Metadata> {
    let path = folder.join(format!(".posthaste-check-{}", std::process::id()));
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    let written = std::io::Write::write_all(&mut &file, b"check").and_then(|()| file.sync_all());
    let found = written.and_then(|()| file.metadata());
    std::fs::remove_file(&path)?;
    found
}

fn space(folder: &Path) -> Finding {
    let free = match rustix::fs::statvfs(folder) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(error) => return Finding::warn("disk", format!("free space is not known: {error}"), ""),
    };
    let text = format!("{} MiB are free", free >> 20);
    match free {
        ..LEAST_FREE_BYTES => Finding::fail("disk", text, "make space: with less than 64 MiB no mail is accepted"),
        LEAST_FREE_BYTES..LITTLE_FREE_BYTES => {
            Finding::warn("disk", text, "make space: a queue that cannot be delivered for a day takes more")
        }
        _ => Finding::ok("disk", text),
    }
}

/// The time of day is in every signature and every Date.
pub(super) fn clock(config: &Config) -> Vec<Finding> {
    let advice = "set the clock and keep it set: systemctl enable --now systemd-timesyncd (or chrony)";
    let now = SystemTime::now();
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if seconds < EARLIEST_S {
        return vec![Finding::fail("clock", format!("it says {}", jiff::Timestamp::now()), advice)];
    }
    let folder = config.data.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let apart = probe(folder).and_then(|file| file.modified()).ok().and_then(|file| {
        let apart = file.duration_since(now).or_else(|_| now.duration_since(file));
        apart.ok().filter(|apart| *apart > SKEW)
    });
    vec![match apart {
        Some(apart) => {
            Finding::warn("clock", format!("the disk's clock is {} s apart from ours", apart.as_secs()), advice)
        }
        None => Finding::ok("clock", format!("it says {}", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC"))),
    }]
}

/// Whether the listeners can be had. While a host runs it has them itself.
pub(super) fn listeners(config: &Config, live: bool) -> Vec<Finding> {
    if live {
        return vec![Finding::ok("listen", "the host runs")];
    }
    let web = [&config.http, &config.https].into_iter().flatten().map(|listener| listener.listen).chain(config.admin);
    let all: Vec<SocketAddr> = web.chain(config.smtp.listen.iter().chain(&config.smtp.listen_tls).copied()).collect();
    let taken = all.iter().filter_map(|address| {
        let error = TcpListener::bind(address).err()?;
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "stop the program that has it (ss -ltnp shows which), or choose another port"
            }
            std::io::ErrorKind::PermissionDenied => "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE",
            std::io::ErrorKind::AddrNotAvailable => {
                "this machine does not have that address: `ip address` shows those it has"
            }
            _ => "",
        };
        Some(Finding::fail("listen", format!("cannot listen on {address}: {error}"), advice))
    });
    let taken: Vec<Finding> = taken.collect();
    if taken.is_empty() {
        vec![Finding::ok("listen", format!("{} addresses can be listened on", all.len()))]
    } else {
        taken
    }
}

/// Whether the configured files are components of their stage: each is compiled and given the cases of its stage, under the
/// limits of `[stages]`.
pub(super) async fn components(config: &Config) -> Vec<Finding> {
    let StageLimits { time, memory_bytes, output_bytes, .. } = config.stages;
    let bounds = Bounds { time, memory_bytes, output_bytes };
    let all = [("for all", &config.components), ("for all, always", &config.always)].into_iter();
    let all = all.chain(config.tenants.iter().map(|(name, tenant)| (name.as_str(), &tenant.components)));
    let files = all.flat_map(|(whose, files)| {
        let of = move |stage| files.of(stage).iter().map(move |file| (whose.to_owned(), stage, file));
        Stage::ALL.into_iter().flat_map(of)
    });
    let mut findings = Vec::new();
    for (whose, stage, file) in files {
        let name = format!("{stage} {whose}: {}", file.display());
        findings.push(match conformance::test(file, stage, &bounds).await {
            Ok((report, _)) if report.passed() => {
                let cases = report.cases.len();
                Finding::ok("components", format!("{name} stands all {cases} cases of its stage"))
            }
            Ok((report, _)) => {
                let (faults, cases) = (report.faults(), report.cases.len());
                let text = format!("{name} does not stand {} of {cases} cases of its stage", faults.len());
                let shown = faults.into_iter().take(FAULTS_SHOWN).collect::<Vec<_>>().join("\n");
                Finding::fail("components", text, format!("{shown}\n`posthaste component test` shows all"))
            }
            Err(error) => {
                Finding::fail("components", error.to_string(), "build it for this stage's WIT world, or take it out")
            }
        });
    }
    findings
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Level;
    use super::*;

    fn config(data: &Path) -> Config {
        let loopback = "127.0.0.1:0".parse().unwrap();
        Config::development(data.to_owned(), loopback, loopback).unwrap()
    }

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_folder_that_can_be_made_is_fine_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("a/b");
        assert_eq!(levels(&data_folder(&config(&data)))[0], Level::Ok);
        assert!(!data.exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the probe is gone");
    }

    #[test]
    fn a_file_in_the_way_fails() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::write(&data, "x").unwrap();
        assert_eq!(levels(&data_folder(&config(&data))), [Level::Fail]);
    }

    #[test]
    fn a_folder_that_others_can_look_into_is_told_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let check = |mode, expect: &[Level]| {
            std::fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            let findings = data_folder(&config(folder.path()));
            let found: Vec<_> = findings.iter().filter(|it| it.subject == "data").map(|it| it.level).collect();
            assert_eq!(found, expect, "{mode:o}: {findings:?}");
            assert_eq!(std::fs::metadata(folder.path()).unwrap().mode() & 0o7777, mode);
        };
        check(0o700, &[Level::Ok]);
        check(0o755, &[Level::Ok, Level::Warn]);
        check(0o1777, &[Level::Ok, Level::Fail]);
    }

    #[test]
    fn a_port_in_use_fails_and_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = config(Path::new("/tmp"));
        config.smtp.listen = vec![taken.local_addr().unwrap()];
        let findings = listeners(&config, false);
        assert_eq!(levels(&findings), [Level::Fail]);
        assert!(findings[0].text.contains(&taken.local_addr().unwrap().to_string()));
        assert_eq!(levels(&listeners(&config, true)), [Level::Ok]);
    }
}
