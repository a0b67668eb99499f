//! What the host answers when a guest calls: stages and variables for triggers, keys for signers.

use wasmtime::component::{Access, Accessor, HasData, Linker};

use contract::{
    Acceptance, HttpRequest, Identity, KeyError, Rendered, RendererInput, ShaperInput, Signatures, SignerInput,
    StageError, Transformed, TransformerInput, ValidatorInput, Wants,
};
use pipeline::Stages;

use super::confine::{Guest, Role};
use super::outbound::ORIGIN;
use super::wit::imports::posthaste::{renderer, shaper, signer, transformer, validator};
use super::wit::imports::spin::variables::variables;
use super::wit::signer::posthaste::keys::keys;
use super::{Keys, TenantStages};

/// Answers from a store's data.
struct Answers;

impl HasData for Answers {
    type Data<'a> = &'a mut Guest;
}

/// What triggers import besides WASI: the stages and Spin's variables.
pub fn add_stages(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    renderer::renderer::add_to_linker::<Guest, Answers>(linker, |guest| guest)?;
    validator::validator::add_to_linker::<Guest, Answers>(linker, |guest| guest)?;
    transformer::transformer::add_to_linker::<Guest, Answers>(linker, |guest| guest)?;
    signer::signer::add_to_linker::<Guest, Answers>(linker, |guest| guest)?;
    shaper::shaper::add_to_linker::<Guest, Answers>(linker, |guest| guest)?;
    variables::add_to_linker::<Guest, Answers>(linker, |guest| guest)
}

/// What signers import besides WASI.
pub fn add_keys(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    keys::add_to_linker::<Guest, Answers>(linker, |guest| guest)
}

/// The stages of the tenant that a trigger serves, once its caller's key is checked: the same ones for all its calls.
fn stages(guest: &Guest) -> Result<TenantStages, StageError> {
    let (Role::Trigger(edge) | Role::Notifier(edge)) = &guest.role else {
        return Err(StageError::Unavailable("stages are for triggers".to_owned()));
    };
    match guest.tenant.get() {
        Some(tenant) => {
            let stages = guest.stages.get_or_init(|| TenantStages::new(edge.clone(), tenant.clone()));
            Ok(stages.clone())
        }
        None => Err(StageError::Unavailable("a stage was called before the caller's key was checked".to_owned())),
    }
}

impl renderer::renderer::Host for &mut Guest {}
impl validator::validator::Host for &mut Guest {}
impl transformer::transformer::Host for &mut Guest {}
impl signer::signer::Host for &mut Guest {}
impl shaper::shaper::Host for &mut Guest {}
impl variables::Host for &mut Guest {}
impl keys::Host for &mut Guest {}

impl renderer::renderer::HostWithStore<Guest> for Answers {
    async fn render(mut host: Access<'_, Guest, Self>, input: RendererInput) -> Result<Rendered, StageError> {
        stages(host.get())?.render(input).await
    }
}

impl validator::validator::HostWithStore<Guest> for Answers {
    async fn describe(mut host: Access<'_, Guest, Self>) -> Result<Wants, StageError> {
        stages(host.get())?.describe_validator().await
    }

    async fn validate(mut host: Access<'_, Guest, Self>, input: ValidatorInput) -> Result<Acceptance, StageError> {
        stages(host.get())?.validate(input).await
    }
}

impl transformer::transformer::HostWithStore<Guest> for Answers {
    async fn transform(mut host: Access<'_, Guest, Self>, input: TransformerInput) -> Result<Transformed, StageError> {
        stages(host.get())?.transform(input).await
    }
}

impl signer::signer::HostWithStore<Guest> for Answers {
    async fn sign(mut host: Access<'_, Guest, Self>, input: SignerInput) -> Result<Signatures, StageError> {
        stages(host.get())?.sign(input).await
    }
}

impl shaper::shaper::HostWithStore<Guest> for Answers {
    async fn shape(mut host: Access<'_, Guest, Self>, input: ShaperInput) -> Result<HttpRequest, StageError> {
        stages(host.get())?.shape(input).await
    }
}

impl variables::HostWithStore<Guest> for Answers {
    async fn get(host: &Accessor<Guest, Self>, name: String) -> Result<String, variables::Error> {
        match name.as_str() {
            "delivery_url" => Ok(ORIGIN.to_owned()),
            // The seam is a function call here: there is nobody to prove anything to, but to the one that we call.
            "delivery_token" => Ok(host.with(|mut host| match &host.get().role {
                Role::Notifier(edge) => edge.notify_token.clone(),
                Role::Trigger(_) | Role::Stage(_) => String::new(),
            })),
            _ => Err(variables::Error::Undefined(name)),
        }
    }
}

/// The keys, and the tenant that the signer works for.
fn keeper(guest: &Guest) -> Result<(std::sync::Arc<dyn Keys>, std::sync::Arc<str>), KeyError> {
    match (&guest.role, guest.tenant.get()) {
        (Role::Stage(keys), Some(tenant)) => Ok((keys.clone(), tenant.clone())),
        (Role::Stage(_) | Role::Trigger(_) | Role::Notifier(_), _) => {
            Err(KeyError::Unavailable("keys are for signers".to_owned()))
        }
    }
}

impl keys::HostWithStore<Guest> for Answers {
    async fn identities(mut host: Access<'_, Guest, Self>, domain: String) -> Result<Vec<Identity>, KeyError> {
        let (keys, tenant) = keeper(host.get())?;
        keys.identities(&tenant, &domain).await
    }

    async fn sign_digest(
        mut host: Access<'_, Guest, Self>,
        key_id: String,
        digest: Vec<u8>,
    ) -> Result<Vec<u8>, KeyError> {
        let (keys, tenant) = keeper(host.get())?;
        keys.sign_digest(&tenant, &key_id, &digest).await
    }
}
