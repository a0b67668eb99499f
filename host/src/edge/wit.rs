//! The contract as the host sees it: bindings made from `wit/`, the shared records being `contract`'s.
//!
//! Two sides: `imports` is what an HTTP trigger may call (answered in `answers`), the `*_stage` modules are what a
//! stage component exports (called in `call`).

/// `posthaste:types`, written once in `contract`, with the stubs that bindings want of an interface without functions.
pub mod types {
    pub use contract::*;

    /// The interface has no functions.
    pub trait Host {}
    impl<T: ?Sized> Host for T {}

    /// Nor any that want the store.
    pub trait HostWithStore<T>: wasmtime::component::HasData {}
    impl<D: wasmtime::component::HasData, T> HostWithStore<T> for D {}

    /// Nothing to link: the interface has types only, and an import of types alone may stay unsatisfied.
    pub fn add_to_linker<T, D>(
        _linker: &mut wasmtime::component::Linker<T>,
        _getter: fn(&mut T) -> D::Data<'_>,
    ) -> wasmtime::Result<()>
    where
        D: HostWithStore<T>,
        T: 'static,
    {
        Ok(())
    }
}

#[expect(missing_docs, reason = "generated from wit/, which holds the promises")]
mod generated {
    pub mod imports {
        wasmtime::component::bindgen!({
            path: "../wit",
            world: "posthaste:worlds/host-imports",
            imports: {
                "posthaste:renderer": async | store,
                "posthaste:validator": async | store,
                "posthaste:transformer": async | store,
                "posthaste:signer": async | store,
                "posthaste:shaper": async | store,
            },
            with: { "posthaste:types/types": crate::edge::wit::types },
        });
    }

    pub mod validator {
        wasmtime::component::bindgen!({
            path: "../wit",
            world: "posthaste:worlds/validate-stage",
            exports: { default: async },
            with: { "posthaste:types/types": crate::edge::wit::types },
        });
    }

    pub mod renderer {
        wasmtime::component::bindgen!({
            path: "../wit",
            world: "posthaste:worlds/render-stage",
            exports: { default: async },
            with: { "posthaste:types/types": crate::edge::wit::types },
        });
    }

    pub mod transformer {
        wasmtime::component::bindgen!({
            path: "../wit",
            world: "posthaste:worlds/transform-stage",
            exports: { default: async },
            with: { "posthaste:types/types": crate::edge::wit::types },
        });
    }

    pub mod signer {
        wasmtime::component::bindgen!({
            path: "../wit",
            world: "posthaste:worlds/sign-stage",
            imports: { "posthaste:keys": async | store },
            exports: { default: async },
            with: { "posthaste:types/types": crate::edge::wit::types },
        });
    }

    pub mod shaper {
        wasmtime::component::bindgen!({
            path: "../wit",
            world: "posthaste:worlds/shape-stage",
            exports: { default: async },
            with: { "posthaste:types/types": crate::edge::wit::types },
        });
    }
}

pub use generated::*;
