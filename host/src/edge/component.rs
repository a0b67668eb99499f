//! Component files: what they must be, and how they become something that can be instantiated.
//!
//! A file is looked at twice. At start its outline is read (does it export the stage, does it import only what exists),
//! in milliseconds; then it is compiled, which checks the types too.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;
use wasmparser::{Encoding, Parser, Payload};
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::p3::bindings::http::{client, types};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView as _};

use super::answers;
use super::confine::Guest;
use super::{imports, unwaiting, wit};
use crate::config::ComponentFiles;

/// Files larger than this are not read: the largest language runtimes stay under 40 MB.
pub const FILE_BYTES: u64 = 128 << 20;

/// A swappable stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    Renderer,
    Validator,
    Transformer,
    Signer,
    Shaper,
}

impl Stage {
    pub const ALL: [Stage; 5] = [Stage::Renderer, Stage::Validator, Stage::Transformer, Stage::Signer, Stage::Shaper];

    /// As in `[components]`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Renderer => "renderer",
            Stage::Validator => "validator",
            Stage::Transformer => "transformer",
            Stage::Signer => "signer",
            Stage::Shaper => "shaper",
        }
    }

    /// The interface that its component exports, without the version.
    pub(super) fn interface(self) -> &'static str {
        match self {
            Stage::Renderer => "posthaste:renderer/renderer",
            Stage::Validator => "posthaste:validator/validator",
            Stage::Transformer => "posthaste:transformer/transformer",
            Stage::Signer => "posthaste:signer/signer",
            Stage::Shaper => "posthaste:shaper/shaper",
        }
    }
}

impl std::str::FromStr for Stage {
    type Err = String;

    fn from_str(name: &str) -> Result<Stage, String> {
        let names = || Stage::ALL.map(Stage::name).join(", ");
        let found = Stage::ALL.into_iter().find(|stage| stage.name() == name);
        found.ok_or_else(|| format!("`{}` is no stage: there are {}", name.escape_debug(), names()))
    }
}

impl ComponentFiles {
    /// The files of a stage.
    pub fn of(&self, stage: Stage) -> &[PathBuf] {
        match stage {
            Stage::Renderer => &self.renderer,
            Stage::Validator => &self.validator,
            Stage::Transformer => &self.transformer,
            Stage::Signer => &self.signer,
            Stage::Shaper => &self.shaper,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is wrong with a component file.
#[derive(Debug, Error)]
pub enum InspectError {
    #[error("{path}: cannot be read: {source}", path = .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: is larger than {limit} bytes", path = .path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("{path}: is not a WASM component: {what}", path = .path.display())]
    NotComponent { path: PathBuf, what: String },
    #[error("{path}: does not export `{wanted}`, which a {stage} must; it exports {found}", path = .path.display())]
    WrongExport { path: PathBuf, stage: Stage, wanted: String, found: String },
    #[error(
        "{path}: exports `{found}`, and this host serves version 0.1 of that interface: build the component for 0.1, \
         or give it to a host that serves its version",
        path = .path.display()
    )]
    WrongVersion { path: PathBuf, found: String },
    #[error("{path}: imports `{import}`, which a {stage} does not get here: {advice}", path = .path.display())]
    WrongImport { path: PathBuf, stage: Stage, import: String, advice: String },
    #[error("{path}: does not fit the {stage} interface: {what}", path = .path.display())]
    Compile { path: PathBuf, stage: Stage, what: String },
}

/// What a good component file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Lower-case hexadecimal SHA-256 of the file.
    pub digest: String,
    pub size_bytes: usize,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
}

/// Checks a file as a stage to the last: reads its outline, compiles it and compares the types. Takes seconds for
/// large ones.
///
/// Errors name the file and what is wrong with it.
pub fn inspect(path: &Path, stage: Stage) -> Result<Inspection, InspectError> {
    let bytes = read(path, stage)?;
    compile_alone(&bytes, stage).map_err(|error| InspectError::Compile {
        path: path.to_owned(),
        stage,
        what: format!("{error:#}"),
    })?;
    let outline = Outline::read(&bytes).map_err(|what| InspectError::NotComponent { path: path.to_owned(), what })?;
    Ok(Inspection {
        digest: digest(&bytes),
        size_bytes: bytes.len(),
        imports: outline.imports.into_iter().collect(),
        exports: outline.exports.into_iter().collect(),
    })
}

/// Compiles a file and compares its types, in an engine of its own: for commands that run without a host.
pub fn compile_alone(bytes: &[u8], stage: Stage) -> wasmtime::Result<()> {
    let size = super::engine::PoolSize { instances: 1, memory_bytes: 64 << 20 };
    let engine = super::engine::start(size, None)?;
    let linkers = Linkers::new(&engine)?;
    Compiled::stage(&engine, &linkers, stage, bytes).map(drop)
}

/// Reads a file, whatever it holds.
pub(super) fn load(path: &Path) -> Result<Vec<u8>, InspectError> {
    let failed = |source| InspectError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES {
        return Err(InspectError::TooLarge { path: path.to_owned(), limit: FILE_BYTES });
    }
    std::fs::read(path).map_err(failed)
}

/// Reads a file and checks its outline.
pub fn read(path: &Path, stage: Stage) -> Result<Vec<u8>, InspectError> {
    let bytes = load(path)?;
    check_outline(path, &bytes, stage)?;
    Ok(bytes)
}

/// Whether the names on the outside of a component are those of the stage: what it exports, what it imports. `path` is
/// what errors call it.
pub fn check_outline(path: &Path, bytes: &[u8], stage: Stage) -> Result<(), InspectError> {
    if bytes.len() as u64 > FILE_BYTES {
        return Err(InspectError::TooLarge { path: path.to_owned(), limit: FILE_BYTES });
    }
    let outline = Outline::read(bytes).map_err(|what| InspectError::NotComponent { path: path.to_owned(), what })?;
    if !outline.exports.iter().any(|export| is_of(export, stage.interface())) {
        let is_other = |export: &&String| export.split('@').next() == Some(stage.interface());
        if let Some(found) = outline.exports.iter().find(is_other) {
            return Err(InspectError::WrongVersion { path: path.to_owned(), found: found.clone() });
        }
        return Err(InspectError::WrongExport {
            path: path.to_owned(),
            stage,
            wanted: format!("{}@0.1.0", stage.interface()),
            found: if outline.exports.is_empty() {
                "nothing".to_owned()
            } else {
                outline.exports.iter().map(|export| format!("`{export}`")).collect::<Vec<_>>().join(", ")
            },
        });
    }
    if let Some(import) = outline.imports.iter().find(|import| !imports::is_offered(stage, import)) {
        let (import, advice) = (imports::shown(import), imports::advice(stage, import));
        return Err(InspectError::WrongImport { path: path.to_owned(), stage, import, advice });
    }
    Ok(())
}

/// Lower-case hexadecimal SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a name with a version is this interface in a version that we serve.
pub(super) fn is_of(name: &str, interface: &str) -> bool {
    name.strip_prefix(interface).is_some_and(|version| version.starts_with("@0.1."))
}

/// The names on the outside of a component.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outline {
    pub imports: BTreeSet<String>,
    pub exports: BTreeSet<String>,
}

impl Outline {
    pub fn read(bytes: &[u8]) -> Result<Outline, String> {
        let mut outline = Outline::default();
        // Components nest; only the outermost one's names count.
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(first_line)? {
                Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                    return Err("it is a core module: build it for wasm32-wasip2, or wrap it with `wasm-tools \
                                component new`"
                        .to_owned());
                }
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        outline.imports.insert(import.map_err(first_line)?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        outline.exports.insert(export.map_err(first_line)?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(outline)
    }
}

/// The parser prints what it expected over several lines; the first says what is wrong.
fn first_line(error: wasmparser::BinaryReaderError) -> String {
    error
        .message()
        .lines()
        .next()
        .unwrap_or("it cannot be read")
        .split(" - expected")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// What guests may call, by kind of guest.
pub struct Linkers {
    trigger: Linker<Guest>,
    stage: Linker<Guest>,
    signer: Linker<Guest>,
}

impl Linkers {
    pub fn new(engine: &Engine) -> wasmtime::Result<Linkers> {
        let mut stage = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut stage)?;
        wasmtime_wasi::p3::add_to_linker(&mut stage)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut stage)?;
        types::add_to_linker::<_, WasiHttp>(&mut stage, Guest::http)?;
        let mut trigger = stage.clone();
        client::add_to_linker::<_, WasiHttp>(&mut trigger, Guest::http)?;
        answers::add_stages(&mut trigger)?;
        unwaiting::add_client(&mut stage)?;
        let mut signer = stage.clone();
        answers::add_keys(&mut signer)?;
        Ok(Linkers { trigger, stage, signer })
    }
}

/// A component ready to be instantiated.
pub struct Compiled {
    pub pre: Pre,
    image_bytes: usize,
}

/// By what it exports.
pub enum Pre {
    Trigger(ServicePre<Guest>),
    Renderer(wit::renderer::RenderStagePre<Guest>),
    Validator(wit::validator::ValidateStagePre<Guest>),
    Transformer(wit::transformer::TransformStagePre<Guest>),
    Signer(wit::signer::SignStagePre<Guest>),
    Shaper(wit::shaper::ShapeStagePre<Guest>),
}

impl Compiled {
    /// Compiles an HTTP trigger.
    pub fn trigger(engine: &Engine, linkers: &Linkers, bytes: &[u8]) -> wasmtime::Result<Compiled> {
        let component = Component::new(engine, bytes)?;
        let pre = Pre::Trigger(ServicePre::new(linkers.trigger.instantiate_pre(&component)?)?);
        Ok(Compiled { pre, image_bytes: image_bytes(&component) })
    }

    /// Compiles a stage and compares its types with the contract's.
    pub fn stage(engine: &Engine, linkers: &Linkers, stage: Stage, bytes: &[u8]) -> wasmtime::Result<Compiled> {
        let component = Component::new(engine, bytes)?;
        let linker = match stage {
            Stage::Signer => &linkers.signer,
            Stage::Renderer | Stage::Validator | Stage::Transformer | Stage::Shaper => &linkers.stage,
        };
        let pre = linker.instantiate_pre(&component)?;
        let pre = match stage {
            Stage::Renderer => Pre::Renderer(wit::renderer::RenderStagePre::new(pre)?),
            Stage::Validator => Pre::Validator(wit::validator::ValidateStagePre::new(pre)?),
            Stage::Transformer => Pre::Transformer(wit::transformer::TransformStagePre::new(pre)?),
            Stage::Signer => Pre::Signer(wit::signer::SignStagePre::new(pre)?),
            Stage::Shaper => Pre::Shaper(wit::shaper::ShapeStagePre::new(pre)?),
        };
        Ok(Compiled { pre, image_bytes: image_bytes(&component) })
    }

    /// Bytes of machine code and what belongs to it.
    pub fn image_bytes(&self) -> usize {
        self.image_bytes
    }
}

fn image_bytes(component: &Component) -> usize {
    let image = component.image_range();
    image.end.addr() - image.start.addr()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_with_versions() {
        let check = |name: &str, expect: bool| assert_eq!(is_of(name, "posthaste:keys/keys"), expect, "{name}");
        check("posthaste:keys/keys@0.1.0", true);
        check("posthaste:keys/keys@0.1.7", true);
        check("posthaste:keys/keys@0.2.0", false);
        check("posthaste:keys/keys", false);
        check("posthaste:keys/keys-more@0.1.0", false);
    }

    #[test]
    fn what_is_not_a_component_is_told() {
        let check = |bytes: &[u8], expect: &str| {
            let path = std::env::temp_dir().join(format!("posthaste-inspect-{}.wasm", uuid::Uuid::new_v4()));
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path, Stage::Validator).unwrap_err().to_string();
            std::fs::remove_file(&path).unwrap();
            assert!(error.contains(expect), "{error} does not say {expect}");
            assert!(error.starts_with(&path.display().to_string()), "{error} does not name the file");
        };
        check(b"hello, this is text", "is not a WASM component");
        check(b"", "is not a WASM component");
        check(b"\0asm\x01\0\0\0", "it is a core module: build it for wasm32-wasip2");
        check(b"\0asm\x0d\0\x01\0", "does not export `posthaste:validator/validator@0.1.0`");
        // A file of a contract to come: its interface is known, its version is not.
        let mut newer = include_bytes!("../../../tests/vectors/components/validator-0.1.0.wasm").to_vec();
        let name = b"posthaste:validator/validator@0.1.0";
        for at in 0..newer.len() - name.len() {
            if newer[at..].starts_with(name) {
                newer[at + name.len() - 3] = b'2';
            }
        }
        check(&newer, "exports `posthaste:validator/validator@0.2.0`, and this host serves version 0.1 of that");
        let missing = Path::new("/nonexistent/validator.wasm");
        assert!(read(missing, Stage::Signer).unwrap_err().to_string().contains("cannot be read"));
    }
}
