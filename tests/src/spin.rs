//! What Spin makes of `spin.toml`: reads the manifest and composes its components.
//!
//! The rules are Spin's: a dependency's name must match an import of the component, no import may be filled twice, and
//! each dependency is registered under its own WIT package. One thing is left out: a dependency that inherits no
//! configuration is not given an adapter that refuses everything; `dependencies` lets a test ask whether it would need it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use toml::Value;
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions};

use crate::product::root;

/// A manifest for Spin.
pub struct Manifest {
    text: Value,
    /// What the files are named from.
    folder: PathBuf,
}

/// A line of `[component.ID.dependencies]`.
pub struct Dependency {
    /// The import that it fills, such as `posthaste:signer/signer@0.1.0`.
    pub name: String,
    /// The component that fills it.
    pub component: String,
    /// What it inherits of the component's configuration.
    pub inherits: Vec<String>,
}

impl Manifest {
    /// The repository's own.
    pub fn read() -> Result<Manifest> {
        Manifest::at(&root().join("spin.toml"))
    }

    /// Another one.
    pub fn at(path: &Path) -> Result<Manifest> {
        let what = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(what)?;
        let folder = path.parent().unwrap_or(path).to_owned();
        Ok(Manifest { text: Value::Table(text.parse().with_context(what)?), folder })
    }

    /// Routes and the components that answer them.
    pub fn routes(&self) -> Result<BTreeMap<String, String>> {
        let triggers = self.text["trigger"]["http"].as_array().context("no [[trigger.http]]")?;
        triggers.iter().map(|trigger| Ok((text(trigger, "route")?, text(trigger, "component")?))).collect()
    }

    /// A component's table.
    pub fn component(&self, id: &str) -> Result<&Value> {
        self.text["component"].get(id).with_context(|| format!("no component {id}"))
    }

    /// The application's variables: whether they must be given, and their default.
    pub fn variables(&self) -> Result<BTreeMap<String, (bool, Option<String>)>> {
        let table = self.text["variables"].as_table().context("no [variables]")?;
        let entry = |value: &Value| {
            let default = value.get("default").and_then(Value::as_str).map(str::to_owned);
            (value.get("required").and_then(Value::as_bool).unwrap_or(false), default)
        };
        Ok(table.iter().map(|(name, value)| (name.clone(), entry(value))).collect())
    }

    /// A component's file.
    pub fn source(&self, id: &str) -> Result<PathBuf> {
        Ok(self.folder.join(text(self.component(id)?, "source")?))
    }

    /// The bytes of a component's file.
    pub fn bytes(&self, id: &str) -> Result<Vec<u8>> {
        let path = self.source(id)?;
        std::fs::read(&path).with_context(|| format!("{}: build it with `cargo xtask build`", path.display()))
    }

    /// A component's dependencies.
    pub fn dependencies(&self, id: &str) -> Result<Vec<Dependency>> {
        let Some(table) = self.component(id)?.get("dependencies").and_then(Value::as_table) else {
            return Ok(Vec::new());
        };
        let inherits = |value: &Value| -> Vec<String> {
            let list = value.get("inherit_configuration").and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let lines = table.iter().map(|(name, value)| {
            Ok(Dependency { name: name.clone(), component: text(value, "component")?, inherits: inherits(value) })
        });
        lines.collect()
    }

    /// A component with its dependencies, in one file.
    pub fn compose(&self, id: &str) -> Result<Vec<u8>> {
        let mut graph = CompositionGraph::new();
        let mut add = |name: &str, bytes: Vec<u8>| {
            let package = Package::from_bytes(name, None, bytes, graph.types_mut())?;
            let world = package.ty();
            let package = graph.register_package(package)?;
            let names = |items: &mut dyn Iterator<Item = &String>| items.cloned().collect::<Vec<_>>();
            let imports = names(&mut graph.types()[world].imports.keys());
            let exports = names(&mut graph.types()[world].exports.keys());
            Ok::<_, anyhow::Error>((graph.instantiate(package), imports, exports))
        };
        let (socket, imports, exports) = add(id, self.bytes(id)?)?;
        let mut filled = Vec::new();
        for Dependency { name, component, .. } in self.dependencies(id)? {
            if !imports.contains(&name) {
                bail!("dependency '{name}' doesn't match any imports of component '{id}'");
            }
            // `posthaste:signer` of `posthaste:signer/signer@0.1.0`.
            let package = name.split('/').next().unwrap_or(&name);
            let (plug, _, offered) = add(package, self.bytes(&component)?)?;
            if !offered.contains(&name) {
                bail!("dependency '{name}' doesn't export it: {component} exports {offered:?}");
            }
            filled.push((name, plug));
        }
        for (name, plug) in filled {
            let export = graph.alias_instance_export(plug, &name)?;
            graph.set_instantiation_argument(socket, &name, export)?;
        }
        for name in exports {
            let export = graph.alias_instance_export(socket, &name)?;
            graph.export(export, &name)?;
        }
        Ok(graph.encode(EncodeOptions::default())?)
    }
}

fn text(value: &Value, name: &str) -> Result<String> {
    Ok(value.get(name).and_then(Value::as_str).with_context(|| format!("no `{name}` in {value}"))?.to_owned())
}
