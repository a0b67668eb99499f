//! A host's components over a store of their own, with nothing else of a host around them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use contract::{Header, ValidatorInput};
use posthaste::config::Config;
use posthaste::edge::{BuiltIn, Edge, Pushed, Registry, Settings, Stage, Ways};
use posthaste::sizes::Sizes;
use posthaste::store::{Embedded, VersionState};
use tempfile::TempDir;
use tests::product::root;

use crate::pipeline::{NativeKeys, NoBackend};

/// What differs between the measurements.
#[derive(Clone, Copy)]
pub struct Options {
    pub idle_instances: usize,
    pub loaded: usize,
    pub cpu_percent: usize,
}

impl Default for Options {
    fn default() -> Options {
        // A share that nobody reaches: what is measured is the call.
        Options { idle_instances: 256, loaded: 10_000, cpu_percent: 100_000 }
    }
}

pub struct Field {
    pub edge: Arc<Edge>,
    registry: Registry,
    store: Arc<Embedded>,
    folder: Arc<TempDir>,
    options: Options,
}

impl Field {
    pub async fn new(options: Options) -> Result<Field> {
        let folder = Arc::new(tempfile::tempdir()?);
        let store = Embedded::open(folder.path(), posthaste::store::Options::default())?;
        Field::over(store, folder, options).await
    }

    /// The same tenants in an engine of its own, as after a restart.
    pub async fn reopened(field: &Field) -> Result<Field> {
        Field::over(field.store.clone(), field.folder.clone(), field.options).await
    }

    async fn over(store: Arc<Embedded>, folder: Arc<TempDir>, options: Options) -> Result<Field> {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config::development(folder.path().to_owned(), loopback, loopback)?;
        config.stages.idle_instances = options.idle_instances;
        config.stages.loaded = options.loaded;
        config.stages.loaded_bytes = usize::MAX;
        config.stages.cpu_percent = options.cpu_percent;
        let settings = Settings {
            cache: &folder.path().join("cache"),
            components: &config.components,
            always: &config.always,
            tenants: &BTreeMap::new(),
            limits: &config.limits,
            stages: &config.stages,
            sizes: &Sizes::new(config.limits.message_bytes, config.limits.recipients),
            ways: &Ways::default(),
        };
        // The test component stands for the built-in one too, so that the same work is compared.
        let built_in = BuiltIn { validator: Some(misbehave()?.leak()), ..BuiltIn::embedded() };
        if built_in.signer.is_none() {
            bail!("the components are not embedded: run `cargo xtask bench components`");
        }
        let edge = Arc::new(Edge::new(&settings, built_in, Arc::new(NoBackend), Arc::new(NativeKeys::new()?))?);
        let registry = Registry::open(store.clone(), edge.clone()).await?;
        Ok(Field { edge, registry, store, folder, options })
    }

    /// Gives a tenant a component that differs from every other number's.
    pub async fn push(&self, tenant: &str, number: usize) -> Result<()> {
        self.push_file(tenant, Stage::Validator, misbehave()?, number).await
    }

    /// The same with any component.
    pub async fn push_file(&self, tenant: &str, stage: Stage, mut file: Vec<u8>, number: usize) -> Result<()> {
        // A custom section: nothing but another digest.
        let name = format!("n{number:08}");
        file.extend([0, u8::try_from(name.len() + 1)?, u8::try_from(name.len())?]);
        file.extend(name.as_bytes());
        let pushed = Pushed {
            tenant: tenant.to_owned(),
            place: stage.into(),
            source: name,
            file: file.into(),
            state: VersionState::Active,
        };
        self.registry.push(pushed).await?;
        Ok(())
    }
}

/// A component that does what the subject says.
fn misbehave() -> Result<Vec<u8>> {
    let path = root().join("target/guests/misbehave.wasm");
    std::fs::read(&path).with_context(|| format!("{}: run `cargo xtask bench components`", path.display()))
}

pub fn subject(what: &str) -> ValidatorInput {
    let subject = Header { name: "Subject".to_owned(), value: what.to_owned() };
    ValidatorInput { headers: vec![subject], ..ValidatorInput::default() }
}
