//! Composing components into one file, where a host would not do it: Spin composes one level only, so the signer brings
//! its keys along; other WASI hosts compose nothing.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, plug};

/// A file to be made, out of files of the same folder.
pub struct Composition {
    pub name: &'static str,
    socket: &'static str,
    /// What fills imports of `socket`. Nothing fills theirs: who needs that is composed before.
    plugs: &'static [&'static str],
}

/// In this order: later ones use earlier ones.
pub const COMPOSITIONS: [Composition; 3] = [
    // The signer of an edge, for Spin.
    Composition { name: "sign-with-keys", socket: "sign", plugs: &["keys"] },
    // The whole sending API for hosts without Spin's interfaces. Each part that reads variables has its own reader.
    Composition { name: "sign-with-keys-wasi", socket: "sign-with-keys", plugs: &["vars"] },
    Composition {
        name: "submit-wasi",
        socket: "submit",
        plugs: &["validate", "render", "track", "sign-with-keys-wasi", "vars"],
    },
];

/// Composes all, in a folder that holds the components and gets the results.
pub fn compose_all(folder: &Path) -> Result<()> {
    for composition in &COMPOSITIONS {
        let bytes =
            compose(folder, composition).with_context(|| format!("cannot compose {}.wasm", composition.name))?;
        let path = file(folder, composition.name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn compose(folder: &Path, composition: &Composition) -> Result<Vec<u8>> {
    let mut graph = CompositionGraph::new();
    let mut register = |name: &str| {
        let bytes = std::fs::read(file(folder, name)).with_context(|| format!("cannot read {name}.wasm"))?;
        let package = Package::from_bytes(&format!("posthaste:{name}"), None, bytes, graph.types_mut())?;
        Ok::<_, anyhow::Error>(graph.register_package(package)?)
    };
    let socket = register(composition.socket)?;
    let plugs = composition.plugs.iter().map(|name| register(name)).collect::<Result<Vec<_>>>()?;
    for (name, plug) in composition.plugs.iter().zip(&plugs) {
        let (exports, imports) =
            (&graph.types()[graph[*plug].ty()].exports, &graph.types()[graph[socket].ty()].imports);
        // The linker drops an import that is never called, and `plug` says nothing of it.
        ensure!(exports.keys().any(|export| imports.contains_key(export)), "{name} fills no import");
    }
    plug(&mut graph, plugs, socket).map_err(|error| anyhow!("{error:?}"))?;
    Ok(graph.encode(EncodeOptions::default())?)
}

fn file(folder: &Path, name: &str) -> std::path::PathBuf {
    folder.join(format!("{name}.wasm"))
}
