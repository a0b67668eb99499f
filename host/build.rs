//! Embeds the built-in components, `target/components/*.wasm`, so that the binary is one file that runs anywhere.
//!
//! A component that is not there only warns: the host builds without the WASM target, and says at start which command
//! makes them.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// What is embedded: constant and file.
const BUILT_IN: [(&str, &str); 6] = [
    ("SUBMIT", "submit.wasm"),
    ("RENDER", "render.wasm"),
    ("VALIDATE", "validate.wasm"),
    ("SIGN", "sign.wasm"),
    ("SHAPE", "shape.wasm"),
    ("NOTIFY", "notify.wasm"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let host = env::var("CARGO_MANIFEST_DIR")?;
    let folder = Path::new(&host).join("../target/components");
    // Cargo takes a path that is missing for changed and would build the host anew every time.
    fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut source = String::new();
    for (constant, name) in BUILT_IN {
        let file = folder.join(name);
        let value = if file.is_file() {
            format!("Some(include_bytes!({file:?}))")
        } else {
            println!("cargo::warning={name} is not built: run `cargo xtask build` to embed it");
            "None".to_owned()
        };
        writeln!(source, "/// `{name}`.\npub const {constant}: Option<&[u8]> = {value};")?;
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("built_in.rs"), source)?;
    Ok(())
}
