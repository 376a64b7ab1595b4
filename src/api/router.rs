//! The router. axum matches a request to its operation; layers wrap the handler.

use std::convert::Infallible;
use std::sync::Arc;

use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, on};
use axum::{Extension, Router};
use hyper::{Method, Uri};

use crate::model::RefusalCode;

use super::error::ApiError;
use super::layers::{auth, compression, cors, trace};
use super::operation::{Handler, Operation, Route, Target};
use super::{Api, ROUTES, request_handler};

/// Builds the router of all operations.
pub fn build(api: &Arc<Api>) -> Router {
    build_with(api, None)
}

/// The same with the pages, to which compression and CORS do not apply.
pub fn build_with(api: &Arc<Api>, pages: Option<Router>) -> Router {
    let mut router = Router::new();
    for route in ROUTES.iter() {
        let serve = |methods: MethodRouter<Arc<Api>>, operation| methods.merge(serve(api, route, operation));
        let methods = route.operations.iter().fold(MethodRouter::new(), serve);
        router = router.route(route.path, methods.fallback(async move || refuse_method(route)));
    }
    router =
        router.fallback(async || refuse_path()).layer(from_fn_with_state(api.clone(), compression::layer));
    if !api.settings.cors_origins.is_empty() {
        router = router.layer(from_fn_with_state(api.clone(), cors::layer));
    }
    let mut router = router.with_state(api.clone());
    if let Some(pages) = pages {
        router = router.merge(pages);
    }
    router.layer(from_fn_with_state(api.clone(), trace::layer))
}

/// The URI without `/api` in front of `/v1/`, which means the same; `None` if it has none.
pub fn without_prefix(uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix("/api")?;
    if !rest.starts_with("/v1/") {
        return None;
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(rest.parse().ok()?);
    Uri::from_parts(parts).ok()
}

fn serve(api: &Arc<Api>, route: &'static Route, operation: &'static Operation) -> MethodRouter<Arc<Api>> {
    match &operation.handler {
        Handler::Public(handler) => (**handler).clone(),
        Handler::Private(_) => on(operation.filter(), request_handler::handle)
            .layer::<_, Infallible>(from_fn_with_state(api.clone(), auth::layer))
            .layer(Extension(Target { route, operation })),
    }
}

/// The response to a path that does not exist. A layer writes it.
pub fn no_such_path() -> Response {
    refuse_path().into_response()
}

fn refuse_path() -> ApiError {
    ApiError::new(
        RefusalCode::NotFound,
        "there is no such path",
        "check the path: API paths begin with /v1/ or /api/v1/ and have no trailing slash",
    )
}

fn refuse_method(route: &Route) -> ApiError {
    let mut methods: Vec<&str> = Vec::new();
    for operation in &route.operations {
        methods.push(operation.method.as_str());
        if operation.method == Method::GET {
            methods.push("HEAD");
        }
    }
    let allow = methods.join(", ");
    let error = ApiError::new(
        RefusalCode::MethodNotAllowed,
        "this path does not support this method",
        format!("use one of {allow}"),
    );
    ApiError { allow: Some(allow.into()), ..error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Access;

    #[test]
    fn only_health_checks_and_documents_need_no_key() {
        let public = ROUTES.iter().filter(|r| r.operations.iter().any(|o| o.access() == Access::Public));
        assert_eq!(
            public.map(|route| route.path).collect::<Vec<_>>(),
            ["/healthz", "/readyz", "/openapi.json", "/docs", "/docs/{id}", "/docs/page.css"]
        );
    }

    #[test]
    fn only_the_prefix_of_a_versioned_path_is_removed() {
        for (uri, expected) in [
            ("/api/v1/tenants?limit=1", Some("/v1/tenants?limit=1")),
            ("http://host.example/api/v1/tenants", Some("http://host.example/v1/tenants")),
            ("/v1/tenants", None),
            ("/api/healthz", None),
            ("/api/v10", None),
            ("/api/api/v1/tenants", None),
            ("/apiv1/v1/tenants", None),
            ("*", None),
        ] {
            let without = without_prefix(&uri.parse().unwrap()).map(|uri| uri.to_string());
            assert_eq!(without.as_deref(), expected, "{uri}");
        }
    }

    #[test]
    fn a_refused_method_lists_the_methods_of_the_path() {
        let allow = |path| {
            let route = ROUTES.iter().find(|route| route.path == path).unwrap();
            refuse_method(route).allow.unwrap().to_string()
        };
        assert_eq!(allow("/v1/tenants"), "GET, HEAD, POST");
        assert_eq!(allow("/v1/domains/{id}"), "GET, HEAD, PATCH, PUT, DELETE");
        assert_eq!(allow("/v1/suppressions/batch"), "POST");
    }
}
