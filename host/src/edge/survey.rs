//! What a component file is, for one who looks at it before it is used: no stage is assumed.

use std::path::Path;

use super::component::{self, InspectError, Outline, Stage};
use super::imports;

/// What is known of a component from its outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Lower-case hexadecimal SHA-256 of the file.
    pub digest: String,
    pub size_bytes: usize,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// The stages whose interface it exports in a version that this host serves.
    pub stages: Vec<Stage>,
    /// Imports that none of its stages gets here; of a file without a stage, all that are not WASI as there is here.
    pub foreign: Vec<String>,
    /// What the imports are good for here, in words.
    pub notes: Vec<String>,
}

/// Imports by the beginning of their names, and what a component gets for them.
const NOTES: &[(&str, &str)] = &[
    ("wasi:http/", "HTTP: refused unless the tenant is granted the hosts it may reach"),
    (
        "wasi:http/client@0.3",
        "HTTP by WASI 0.3: an error, always: a stage waits by WASI 0.2 (wasi:http/outgoing-handler)",
    ),
    ("wasi:sockets/", "sockets: every address is refused"),
    ("wasi:filesystem/", "files: there are none"),
    ("wasi:cli/environment", "environment: empty"),
    ("posthaste:keys/", "the tenant's DKIM keys: it signs with them and never sees them"),
];

/// Reads the outside of a component file, in milliseconds: nothing is compiled.
///
/// Errors: a file that cannot be read or is no component.
pub fn survey(path: &Path) -> Result<Survey, InspectError> {
    let bytes = component::load(path)?;
    let Outline { imports, exports } =
        Outline::read(&bytes).map_err(|what| InspectError::NotComponent { path: path.to_owned(), what })?;
    let is_exported = |stage: &Stage| exports.iter().any(|export| component::is_of(export, stage.interface()));
    let stages: Vec<Stage> = Stage::ALL.into_iter().filter(is_exported).collect();
    let is_foreign = |import: &&String| match stages.as_slice() {
        [] => !imports::is_wasi(import),
        stages => !stages.iter().any(|stage| imports::is_offered(*stage, import)),
    };
    let foreign = imports.iter().filter(is_foreign).cloned().collect();
    let has = |start: &str| imports.iter().any(|import| import.starts_with(start));
    let notes = NOTES.iter().filter(|(start, _)| has(start)).map(|(_, note)| (*note).to_owned()).collect();
    Ok(Survey {
        digest: component::digest(&bytes),
        size_bytes: bytes.len(),
        stages,
        foreign,
        notes,
        imports: imports.into_iter().collect(),
        exports: exports.into_iter().collect(),
    })
}
