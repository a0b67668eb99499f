//! `posthaste component inspect`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{Failure, say};
use crate::edge::{self, Survey};

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The component file (.wasm).
    file: PathBuf,
}

impl Inspect {
    pub fn run(&self) -> Result<(), Failure> {
        let refused = |error: edge::InspectError| Failure::Refused(error.to_string());
        let Survey { digest, size_bytes, imports, exports, stages, foreign, notes } =
            edge::survey(&self.file).map_err(refused)?;
        say(format_args!("file     {}", self.file.display()))?;
        say(format_args!("sha256   {digest}"))?;
        say(format_args!("size     {size_bytes} bytes"))?;
        list("exports", &exports)?;
        list("imports", &imports)?;
        list("gets", &notes)?;
        if stages.is_empty() {
            return say("stage    none: it exports no stage's interface of version 0.1");
        }
        if !foreign.is_empty() {
            list("lacks", &foreign)?;
            return Err(Failure::Refused(format!(
                "it imports what no {} gets here: {}",
                stages.iter().map(|stage| stage.name()).collect::<Vec<_>>().join(" or "),
                foreign.join(", ")
            )));
        }
        // The outside names fit; whether the types do is known when it is compiled.
        for stage in stages {
            edge::inspect(&self.file, stage).map_err(refused)?;
            say(format_args!("stage    {stage}, contract 0.1.0: its types fit"))?;
        }
        Ok(())
    }
}

fn list(name: &str, lines: &[String]) -> Result<(), Failure> {
    for (number, line) in lines.iter().enumerate() {
        let name = if number == 0 { name } else { "" };
        say(format_args!("{name:<8} {line}"))?;
    }
    Ok(())
}
