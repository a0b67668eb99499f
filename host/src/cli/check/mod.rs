//! `posthaste check`: says what is wrong with the set-up, a line for each thing looked at. It sends no mail, changes
//! nothing and always ends: every wait has a deadline.

mod domains;
mod machine;
mod network;
mod tls;

use std::fmt;
use std::path::PathBuf;

use clap::Args;

use super::link::Link;
use super::{Failure, Target, say};
use crate::config::{self, Config, NextHop, RouteDomain};
use crate::route::lookup::Lookup;

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The configuration file to check.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A domain whose mail host is connected to, to see whether port 25 is open on the way out. Nothing is sent.
    #[arg(long, value_name = "DOMAIN")]
    probe_domain: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    /// Works, but not as well as it could; or was not looked at.
    Warn,
    /// Mail will not flow as configured.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    level: Level,
    /// What was looked at: one word.
    subject: &'static str,
    /// What is so.
    text: String,
    /// What to do about it; empty where nothing is to be done.
    advice: String,
}

impl Finding {
    fn ok(subject: &'static str, text: impl Into<String>) -> Finding {
        Finding { level: Level::Ok, subject, text: text.into(), advice: String::new() }
    }

    fn warn(subject: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { level: Level::Warn, subject, text: text.into(), advice: advice.into() }
    }

    fn fail(subject: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { level: Level::Fail, subject, text: text.into(), advice: advice.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        write!(f, "{level:4}  {:10}  {}", self.subject, self.text)?;
        for line in self.advice.lines() {
            write!(f, "\n                  -> {line}")?;
        }
        Ok(())
    }
}

/// Prints findings as they come and remembers the worst.
#[derive(Default)]
struct Report {
    failed: usize,
    warned: usize,
}

impl Report {
    fn add(&mut self, findings: impl IntoIterator<Item = Finding>) -> Result<(), Failure> {
        for finding in findings {
            match finding.level {
                Level::Ok => {}
                Level::Warn => self.warned += 1,
                Level::Fail => self.failed += 1,
            }
            say(finding)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        match (self.failed, self.warned) {
            (0, 0) => say("\nEverything is in order.")?,
            (0, warned) => say(format_args!("\nIt works; {warned} to look at."))?,
            (failed, warned) => say(format_args!("\n{failed} failed, {warned} more to look at."))?,
        }
        if self.failed == 0 { Ok(()) } else { Err(Failure::Told) }
    }
}

impl Check {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut report = Report::default();
        let config = match config::load(&self.config) {
            Ok(config) => config,
            Err(faults) => {
                let tell = |line: &str| Finding::fail("config", line, "");
                report.add(faults.to_string().lines().map(tell))?;
                return report.finish();
            }
        };
        report.add([Finding::ok("config", format!("{} is well-formed", self.config.display()))])?;
        report.add(machine::data_folder(&config))?;
        report.add(machine::clock(&config))?;
        let target = Target { config: Some(self.config.clone()), data: None };
        // The store is opened only where there is one already: a check makes nothing.
        let link = if config.data.join("store.db").exists() { Some(Link::open(&target).await) } else { None };
        let live = matches!(&link, Some(Ok(link)) if link.is_live());
        report.add(machine::listeners(&config, live))?;
        report.add(tls::pair(&config))?;
        report.add(machine::components(&config).await)?;
        match Lookup::new(&config.dns) {
            Err(error) => report.add([Finding::fail("dns", error, "name servers can be given in [dns] servers")])?,
            Ok(lookup) => {
                report.add(network::name(&config, &lookup).await)?;
                report.add(network::way_out(&config, &lookup, self.probe_domain.as_deref()).await)?;
                report.add(domains::published(link, config.dns.clone()).await)?;
            }
        }
        report.finish()
    }
}

/// Whether all mail leaves through a relay, so that our own name and port 25 matter less.
fn is_relayed(config: &Config) -> bool {
    let all = config.routes.iter().find(|route| route.domain == RouteDomain::Any);
    matches!(all.map(|route| &route.next_hop), Some(NextHop::Relay { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(Finding::ok("clock", "is right").to_string(), "ok    clock       is right");
        let fail = Finding::fail("port 25", "closed", "ask your provider\nor use a relay").to_string();
        assert_eq!(
            fail,
            "FAIL  port 25     closed\n                  -> ask your provider\n                  -> or use a relay"
        );
    }
}
