//! The one engine: what it allows, how its pool is sized, its clock, its cache on disk.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use wasmtime::{Cache, CacheConfig, Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::confine::{TABLE_ELEMENTS, TICK};

/// Kept resident in a slot between two guests: zeroing it is cheaper than giving the pages back, and without it two
/// threads are slower than one.
const MEMORY_KEPT: usize = 2 << 20;
const TABLE_KEPT: usize = 64 << 10;

/// Slots whose pages may stay resident while unused.
const WARM_SLOTS: u32 = 32;

/// What one component may be made of. A Rust component has 3 core instances, a Python one some dozens.
const CORE_INSTANCES: u32 = 64;
const MEMORIES: u32 = 4;
const TABLES: u32 = 64;

/// Core instances, memories and tables that the pool holds for each live component, on average.
const CORE_INSTANCES_SHARE: u32 = 6;
const MEMORIES_SHARE: u32 = 2;
const TABLES_SHARE: u32 = 4;

/// Fibers for each live component: its own and those of calls inside it.
const STACKS_SHARE: u32 = 4;

/// How large the pool is.
#[derive(Clone, Copy, Debug)]
pub struct PoolSize {
    /// Instances alive at once, triggers and stages together.
    pub instances: u32,
    /// The largest memory any of them may have.
    pub memory_bytes: usize,
}

impl PoolSize {
    /// Room for two instances of the largest component there may be: one that carries an interpreter is made of many
    /// parts.
    pub fn of_one(memory_bytes: usize) -> PoolSize {
        let each = CORE_INSTANCES.div_ceil(CORE_INSTANCES_SHARE).max(TABLES.div_ceil(TABLES_SHARE));
        PoolSize { instances: 2 * each, memory_bytes }
    }
}

/// Makes the engine and starts its clock. `cache` is the folder for compiled components.
///
/// The clock's thread ends with the engine.
pub fn start(size: PoolSize, cache: Option<&Path>) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.wasm_component_model_async(true);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(size)));
    if let Some(folder) = cache {
        match open_cache(folder) {
            Ok(cache) => {
                config.cache(Some(cache));
            }
            // Slower starts, nothing else: never a reason not to start.
            Err(error) => tracing::warn!(folder = %folder.display(), %error, "compiled components are not cached"),
        }
    }
    let engine = Engine::new(&config)?;
    let clock = engine.weak();
    std::thread::Builder::new().name("epoch".to_owned()).spawn(move || {
        while let Some(engine) = clock.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    })?;
    Ok(engine)
}

fn pool(size: PoolSize) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(size.instances)
        .total_core_instances(size.instances.saturating_mul(CORE_INSTANCES_SHARE))
        .total_memories(size.instances.saturating_mul(MEMORIES_SHARE))
        .total_tables(size.instances.saturating_mul(TABLES_SHARE))
        .total_stacks(size.instances.saturating_mul(STACKS_SHARE))
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_memory_size(size.memory_bytes)
        .table_elements(TABLE_ELEMENTS)
        .max_unused_warm_slots(WARM_SLOTS)
        .linear_memory_keep_resident(MEMORY_KEPT)
        .table_keep_resident(TABLE_KEPT)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// The engine's own cache: entries are named after the component's digest, the engine's version and settings and the
/// CPU, and written under another name before they are moved into place. What lies there is run as machine code, so
/// nobody but us may write to the folder.
fn open_cache(folder: &Path) -> wasmtime::Result<Cache> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    let folder = folder.canonicalize()?;
    expect_ours(&folder)?;
    let mut config = CacheConfig::new();
    config.with_directory(folder);
    Cache::new(config)
}

/// Fails unless the folder belongs to the user we run as, which a file that we make tells.
fn expect_ours(folder: &Path) -> io::Result<()> {
    let probe = folder.join(format!(".owner-{}", std::process::id()));
    let ours = fs::File::create(&probe).and_then(|file| file.metadata()).map(|metadata| metadata.uid());
    fs::remove_file(&probe)?;
    let (ours, owner) = (ours?, fs::symlink_metadata(folder)?.uid());
    if ours == owner {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the folder belongs to user {owner}, not to user {ours} who runs this host: remove it"
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_cache_is_closed_to_others() {
        let folder = std::env::temp_dir().join(format!("posthaste-cache-{}", uuid::Uuid::new_v4()));
        fs::DirBuilder::new().mode(0o755).create(&folder).unwrap();
        open_cache(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        fs::remove_dir_all(&folder).unwrap();
    }
}
