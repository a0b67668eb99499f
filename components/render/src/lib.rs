//! The renderer stage: Handlebars templates to subject, HTML and text.
//!
//! `template` fills the sources, `cache` keeps them compiled, `guard` refuses sources that would cost too much before
//! they are read, `plain` makes the text part out of HTML. This file is only the component's shell; everything else runs
//! natively too.

mod cache;
mod guard;
mod plain;
mod template;

pub use template::{INPUT_BYTES, OUTPUT_BYTES, render};

#[cfg(target_family = "wasm")]
mod shell {
    use contract::{Rendered, RendererInput, StageError};

    use bindings::exports::posthaste::renderer::renderer::Guest;

    /// Bindings to the contract, as generated.
    #[allow(unsafe_code)]
    mod bindings {
        wit_bindgen::generate!({
            path: "../../wit",
            world: "posthaste:worlds/render-stage",
            generate_all,
            with: { "posthaste:types/types@0.1.0": contract },
        });

        use super::Render;
        export!(Render);
    }

    struct Render;

    impl Guest for Render {
        fn render(input: RendererInput) -> Result<Rendered, StageError> {
            super::render(input).map_err(StageError::Refused)
        }
    }
}
