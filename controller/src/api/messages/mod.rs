//! Messages: accept one, many or a stream of them; preview, list, look at and cancel them.

pub mod bulk;
pub mod explain;
pub mod pins;
pub mod plans;
pub mod query;
pub mod request;
pub mod send;
pub mod validate;
pub mod view;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;

/// Those that the tenant's leader answers.
pub fn led_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(query::list))
        .routes(routes!(query::get, query::cancel))
        .routes(routes!(explain::explain))
}

/// Those that find the leader themselves, or need none.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(send::send)).routes(routes!(send::preview)).routes(routes!(bulk::upload))
}
