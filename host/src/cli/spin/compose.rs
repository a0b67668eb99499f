//! A signer and the keeper of its keys in one file.

use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, plug};

/// A signer whose import of `posthaste:keys` is filled by `keys`. The error is in words for people.
pub(super) fn signer_with_keys(signer: Vec<u8>, keys: Vec<u8>) -> Result<Vec<u8>, String> {
    let mut graph = CompositionGraph::new();
    let mut register = |name: &str, bytes: Vec<u8>| {
        let package =
            Package::from_bytes(name, None, bytes, graph.types_mut()).map_err(|error| format!("{error:#}"))?;
        graph.register_package(package).map_err(|error| error.to_string())
    };
    let socket = register("posthaste:signer", signer)?;
    let keeper = register("posthaste:keys", keys)?;
    plug(&mut graph, vec![keeper], socket).map_err(|error| error.to_string())?;
    graph.encode(EncodeOptions::default()).map_err(|error| format!("{error:#}"))
}
