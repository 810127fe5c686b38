//! The routes, and their description made from the same code.

use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Router, http::HeaderValue};
use bytes::Bytes;
use serde_json::json;
use utoipa::OpenApi;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;

use super::problem::{CONTENT_TYPE, Code, Problem, ProblemDocument};
use super::{Api, audit, ca, cluster, devices, enrollments, events, forward, health, inbound, keys};
use super::{callbacks, messages, ops, providers, routing, sims, stats, tenants, webhooks};

const DOCS: &str = include_str!("docs.html");

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Flotilla",
        description = "One reliable sender over a fleet of SMS gateways.\n\nKeys go into `Authorization: Bearer flk_...` \
            or `x-api-key`. A key belongs to a tenant and has the scopes `send`, `read` or `admin` (which includes both); \
            the installation's root key says with `x-tenant: ten_...` which tenant it means. Errors are \
            `application/problem+json` with a stable `code`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ProblemDocument)),
    tags(
        (name = "messages", description = "Send messages and follow them"),
        (name = "inbound", description = "Messages that gateways received"),
        (name = "events", description = "What happens, as it happens"),
        (name = "enrollments", description = "Invite gateways"),
        (name = "devices", description = "Gateways"),
        (name = "sims", description = "SIMs"),
        (name = "routing", description = "Which route a message takes: rules, plans, limits, money"),
        (name = "providers", description = "Accounts at online SMS services"),
        (name = "fleet", description = "The fleet's health"),
        (name = "stats", description = "Statistics"),
        (name = "keys", description = "API keys"),
        (name = "webhooks", description = "Addresses that are told of events"),
        (name = "tenants", description = "Tenants; for the root key"),
        (name = "ca", description = "The certificate authority"),
        (name = "audit", description = "Who changed what"),
        (name = "cluster", description = "Controllers and their shards; for the root key"),
        (name = "operations", description = "For whoever runs the node"),
    )
)]
struct Document;

/// What a tenant's shard has to do with, or the devices that are connected to its leader.
fn led() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(messages::led_routes())
        .merge(inbound::routes())
        .merge(events::routes())
        .merge(enrollments::routes())
        .merge(devices::routes())
        .merge(sims::routes())
        .merge(routing::routes())
        .merge(providers::routes())
        .merge(health::routes())
        .merge(stats::routes())
        .merge(keys::routes())
        .merge(webhooks::routes())
}

/// All routes with their description.
fn described(api: &Api) -> OpenApiRouter<Api> {
    let led = match api.cluster.links {
        Some(_) => led().route_layer(from_fn_with_state(api.clone(), forward::to_leader)),
        None => led(),
    };
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(led)
        .merge(messages::routes())
        .merge(tenants::routes())
        .merge(ca::routes())
        .merge(audit::routes())
        .merge(cluster::routes())
        .merge(ops::routes())
}

/// The whole API as one service. Metrics are not in it.
pub fn router(api: Api) -> Router {
    let (router, mut document) = described(&api).split_for_parts();
    complete(&mut document);
    let text = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
    router
        .route("/openapi.json", get(move || async move { document_answer(text) }))
        .route("/docs", get(async || Html(DOCS)))
        .route(callbacks::PATH, any(callbacks::take))
        .fallback(async || Problem::new(Code::NotFound, "there is no such endpoint; see /docs"))
        .method_not_allowed_fallback(async || {
            Problem::new(Code::MethodNotAllowed, "this endpoint has other methods; see /docs")
        })
        .with_state(api)
}

fn document_answer(text: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

/// What holds for every operation is said here once: keys and errors.
fn complete(document: &mut utoipa::openapi::OpenApi) {
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-api-key")));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", bearer);
    components.add_security_scheme("apiKey", header);
    let either = ["bearer", "apiKey"].map(|name| SecurityRequirement::new(name, Vec::<String>::new()));
    document.security = Some(either.to_vec());
    let codes: Vec<_> =
        Code::ALL.iter().map(|code| format!("`{}` ({})", code.as_str(), code.status().as_u16())).collect();
    let description = format!("An error. Its `code` is one of {}.", codes.join(", "));
    let example = json!({"title": "Unprocessable Entity", "status": 422, "code": "invalid_number", "field": "to",
        "detail": "the number has no leading +; give it in international form, such as +255712345678"});
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let content = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("ProblemDocument")))
                .example(Some(example.clone()));
            let error = ResponseBuilder::new().description(description.clone()).content(CONTENT_TYPE, content.build());
            operation.responses.responses.insert("default".to_owned(), RefOr::T(error.build()));
        }
    }
}
