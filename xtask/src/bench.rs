//! `cargo xtask bench NAME`: builds what is measured in release and runs `tests/bench/NAME.rs`.

use anyhow::{Result, bail};

use crate::components::{self, Profile};
use crate::{interop, run};

/// Runs one benchmark; what follows its name goes to it.
pub fn run(arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        bail!("usage: cargo xtask bench pipeline | cargo xtask bench relay [--vs postfix] [--messages N]");
    };
    components::build()?;
    match name.as_str() {
        "pipeline" => {}
        "relay" => {
            // smtp-source and smtp-sink come with Postfix.
            interop::ensure_postfix()?;
            components::build_host(Profile::Release)?;
        }
        _ => bail!("there is no benchmark `{name}`: pipeline and relay exist"),
    }
    let mut command = run::cargo(&["bench", "--quiet", "--bench", name, "--"]);
    run::show(command.args(rest))
}
