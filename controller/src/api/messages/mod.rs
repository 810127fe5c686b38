//! Messages: accept one, many or a stream of them; preview, list, look at and cancel them.

pub mod bulk;
pub mod pins;
pub mod query;
pub mod request;
pub mod send;
pub mod validate;
pub mod view;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(send::send, query::list))
        .routes(routes!(send::preview))
        .routes(routes!(bulk::upload))
        .routes(routes!(query::get, query::cancel))
}
