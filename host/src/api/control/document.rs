//! The OpenAPI 3.1 document, made from the table of routes.

use std::any::type_name;
use std::collections::BTreeMap;

use http::Method;
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Paths, Ref, RefOr, Required, ResponseBuilder,
    Schema,
};

use super::PREFIX;
use super::problem::Problem;
use super::route::{Content, Route, place_name};

const OPERATOR: &str = "operator_key";
const MANAGER: &str = "manage_key";

/// Schemas with a name, which others refer to.
#[derive(Default)]
pub struct Schemas(BTreeMap<String, RefOr<Schema>>);

impl Schemas {
    /// What stands for a type: a reference to it, or for a generic one, whose name says too little, itself.
    pub fn of<T: ToSchema>(&mut self) -> RefOr<Schema> {
        let mut parts = Vec::new();
        T::schemas(&mut parts);
        self.0.extend(parts);
        if type_name::<T>().contains('<') {
            return T::schema();
        }
        self.0.insert(T::name().into_owned(), T::schema());
        Ref::from_schema_name(T::name()).into()
    }
}

/// The document of these routes.
pub(super) fn document(routes: &[Route]) -> OpenApi {
    let mut schemas = Schemas::default();
    let mut paths = Paths::new();
    for route in routes {
        let operation = operation(route, &mut schemas);
        paths.add_path_operation(format!("{PREFIX}{}", route.template), vec![method(&route.method)], operation);
    }
    let bearer = |meaning: &str| {
        SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(meaning)).build())
    };
    let mut components = Components::new();
    components.schemas = schemas.0;
    components.add_security_scheme(OPERATOR, bearer("An operator key, `pho_…`: `posthaste key create --operator`."));
    components.add_security_scheme(MANAGER, bearer("An API key of scope `manage`, for its own tenant alone."));
    let description = "What operators, and tenants for themselves, set up and look at. Through the socket in the data \
                       folder no key is needed.";
    let info = InfoBuilder::new()
        .title("Posthaste control API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(description))
        .build();
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components)).build()
}

fn operation(route: &Route, schemas: &mut Schemas) -> Operation {
    let text = || ObjectBuilder::new().schema_type(Type::String).build();
    let parameter = |name: &str, meaning: Option<&str>, place: ParameterIn, required: Required| -> Parameter {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(place)
            .required(required)
            .description(meaning)
            .schema(Some(text()))
            .build()
    };
    let fill =
        |Content { media_type, schema }: Content| (media_type, ContentBuilder::new().schema(Some(schema)).build());
    let mut operation = OperationBuilder::new()
        .summary(Some(route.summary))
        .operation_id(Some(operation_id(route)))
        .tag(route.template.split('/').next().unwrap_or_default());
    for name in route.template.split('/').filter_map(place_name) {
        operation = operation.parameter(parameter(name, None, ParameterIn::Path, Required::True));
    }
    for (name, meaning) in &route.parameters {
        operation = operation.parameter(parameter(name, Some(meaning), ParameterIn::Query, Required::False));
    }
    if let Some(content) = (route.takes)(schemas) {
        let (media_type, content) = fill(content);
        operation = operation.request_body(Some(RequestBodyBuilder::new().content(media_type, content).build()));
    }
    let (media_type, content) = fill((route.answers)(schemas));
    let done = ResponseBuilder::new().description("Done").content(media_type, content).build();
    let (media_type, content) = fill(Content { media_type: "application/json", schema: schemas.of::<Problem>() });
    let problem = ResponseBuilder::new().description("Why it was not done").content(media_type, content).build();
    operation = operation.response(route.status.as_str(), done).response("default", problem);
    operation = operation.security(SecurityRequirement::new(OPERATOR, [] as [&str; 0]));
    if route.is_for_managers {
        operation = operation.security(SecurityRequirement::new(MANAGER, [] as [&str; 0]));
    }
    operation.build()
}

/// `delete_domains_edge_keys`: the method, and the template without its places; `_one` for an end that is one.
fn operation_id(route: &Route) -> String {
    let mut id = route.method.as_str().to_ascii_lowercase();
    for part in route.template.split('/').filter(|part| place_name(part).is_none()) {
        id.push('_');
        id.extend(part.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }));
    }
    if route.template.split('/').next_back().is_some_and(|part| place_name(part).is_some()) {
        id.push_str("_one");
    }
    id
}

fn method(method: &Method) -> HttpMethod {
    match *method {
        Method::POST => HttpMethod::Post,
        Method::PUT => HttpMethod::Put,
        Method::PATCH => HttpMethod::Patch,
        Method::DELETE => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}
