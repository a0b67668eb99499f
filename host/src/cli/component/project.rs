//! The files of a new component project, for every language and stage. Templates are embedded; the contract is the one
//! that this host serves.

use super::new::Language;
use crate::edge::Stage;

/// A project before it is written.
pub(crate) struct Project {
    /// Paths below its folder, and what stands in them.
    pub files: Vec<(String, String)>,
    /// The command that builds it.
    pub build: &'static str,
    /// What that leaves, below its folder.
    pub artifact: String,
}

/// A file of `templates/`.
macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("templates/", $path))
    };
}

/// A package of the contract.
macro_rules! package {
    ($name:literal) => {
        include_str!(concat!("../../../../wit/deps/", $name, "/", $name, ".wit"))
    };
}

/// The project of a component called `name`.
pub(crate) fn of(language: Language, stage: Stage, name: &str) -> Project {
    let (build, artifact, files) = match language {
        Language::Rust => (
            "cargo build --release --target wasm32-wasip2",
            format!("target/wasm32-wasip2/release/{}.wasm", name.replace('-', "_")),
            vec![
                ("Cargo.toml", template!("rust/Cargo.toml.txt")),
                (".gitignore", template!("rust/gitignore.txt")),
                ("README.md", template!("rust/README.md.txt")),
                ("src/lib.rs", rust(stage)),
            ],
        ),
        Language::JavaScript => (
            "npm install && npm run build",
            format!("{name}.wasm"),
            vec![
                ("package.json", template!("javascript/package.json.txt")),
                ("build.mjs", template!("javascript/build.mjs")),
                (".gitignore", template!("javascript/gitignore.txt")),
                ("README.md", template!("javascript/README.md.txt")),
                ("src/@STAGE@.js", javascript(stage)),
            ],
        ),
        Language::Python => (
            "python3 -m venv .venv && . .venv/bin/activate && pip install --requirement requirements.txt && make",
            format!("{name}.wasm"),
            vec![
                ("requirements.txt", template!("python/requirements.txt")),
                ("Makefile", template!("python/Makefile.txt")),
                (".gitignore", template!("python/gitignore.txt")),
                ("README.md", template!("python/README.md.txt")),
                ("app.py", python(stage)),
            ],
        ),
    };
    let fill = |text: &str| {
        text.replace("@NAME@", name)
            .replace("@STAGE@", stage.name())
            .replace("@WORLD@", world(stage))
            .replace("@ARTIFACT@", &artifact)
            .replace("@DEPENDENCIES@", dependencies(stage))
    };
    let mut files: Vec<_> = files.into_iter().map(|(path, text)| (fill(path), fill(text))).collect();
    files.push((format!("wit/{stage}.wit"), contract(stage)));
    Project { files, build, artifact }
}

/// The contract of one stage in one file: its world, and every package that it names.
pub(crate) fn contract(stage: Stage) -> String {
    let (own, keys) = match stage {
        Stage::Validator => (package!("validator"), None),
        Stage::Renderer => (package!("renderer"), None),
        Stage::Transformer => (package!("transformer"), None),
        Stage::Signer => (package!("signer"), Some(package!("keys"))),
        Stage::Shaper => (package!("shaper"), None),
    };
    let mut text =
        format!("package posthaste:worlds@0.1.0;\n\n/// A component that is a {stage}.\nworld {} {{\n", world(stage));
    if keys.is_some() {
        text.push_str("    /// To use keys without holding them.\n    import posthaste:keys/keys@0.1.0;\n");
    }
    text.push_str(&format!("    export posthaste:{stage}/{stage}@0.1.0;\n}}\n"));
    for package in [Some(package!("types")), Some(own), keys].into_iter().flatten() {
        text.push('\n');
        text.push_str(&nested(package));
    }
    text
}

/// A package as a block, so that several stand in one file: `package a:b;` and what follows becomes `package a:b { … }`.
fn nested(package: &str) -> String {
    let (head, body) = package.split_once(";\n").unwrap_or((package, ""));
    let mut text = format!("{head} {{\n");
    for line in body.trim().lines() {
        if !line.is_empty() {
            text.push_str("    ");
        }
        text.push_str(line);
        text.push('\n');
    }
    text.push_str("}\n");
    text
}

fn world(stage: Stage) -> &'static str {
    match stage {
        Stage::Validator => "validate-stage",
        Stage::Renderer => "render-stage",
        Stage::Transformer => "transform-stage",
        Stage::Signer => "sign-stage",
        Stage::Shaper => "shape-stage",
    }
}

/// Crates that a Rust project uses.
fn dependencies(stage: Stage) -> &'static str {
    match stage {
        Stage::Validator | Stage::Transformer => "wit-bindgen = \"0.61\"",
        Stage::Renderer | Stage::Shaper => "serde_json = \"1\"\nwit-bindgen = \"0.61\"",
        Stage::Signer => "base64 = \"0.23\"\nsha2 = \"0.11\"\nwit-bindgen = \"0.61\"",
    }
}

fn rust(stage: Stage) -> &'static str {
    match stage {
        Stage::Validator => template!("rust/validator.rs"),
        Stage::Renderer => template!("rust/renderer.rs"),
        Stage::Transformer => template!("rust/transformer.rs"),
        Stage::Signer => template!("rust/signer.rs"),
        Stage::Shaper => template!("rust/shaper.rs"),
    }
}

fn javascript(stage: Stage) -> &'static str {
    match stage {
        Stage::Validator => template!("javascript/validator.js"),
        Stage::Renderer => template!("javascript/renderer.js"),
        Stage::Transformer => template!("javascript/transformer.js"),
        Stage::Signer => template!("javascript/signer.js"),
        Stage::Shaper => template!("javascript/shaper.js"),
    }
}

fn python(stage: Stage) -> &'static str {
    match stage {
        Stage::Validator => template!("python/validator.py"),
        Stage::Renderer => template!("python/renderer.py"),
        Stage::Transformer => template!("python/transformer.py"),
        Stage::Signer => template!("python/signer.py"),
        Stage::Shaper => template!("python/shaper.py"),
    }
}
