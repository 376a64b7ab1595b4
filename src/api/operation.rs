//! Registration of operations. A resource registers each operation beside its handler: who may call it, what it takes and
//! returns, its limits and its description. The router, the layers and the OpenAPI document are made from this.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::handler;
use axum::routing::{self, MethodFilter, MethodRouter};
use hyper::Method;
use schemars::JsonSchema;

use crate::mail::Timestamp;
use crate::model::TenantId;

use super::error::Result;
use super::page::{self, List};
use super::request_context::RequestContext;
use super::response::ApiResponse;
use super::schema::{SchemaOf, Schemas};
use super::{Api, content};

pub use super::layers::auth::Access;

/// The operations of one kind of object.
#[derive(Clone)]
pub struct Resource {
    /// Its tag in the document.
    pub name: &'static str,
    /// What it is about.
    pub text: &'static str,
    access: Access,
    id: Parameter,
    /// Its paths.
    pub routes: Vec<Route>,
}

/// One path with its operations.
#[derive(Clone)]
pub struct Route {
    /// Like `/v1/domains/{id}`; the id of a tenant is `{tenant_id}`.
    pub path: &'static str,
    /// The path that this one is an alias of, or its own.
    pub main_path: &'static str,
    /// At least one.
    pub operations: Vec<Operation>,
}

/// One method of a path.
#[derive(Clone)]
pub struct Operation {
    /// HEAD stands for GET too.
    pub method: Method,
    /// Like `create_domain`; the same under an alias.
    pub name: &'static str,
    /// Whether it sends messages: its body may hold whole ones, and its response shows the send limit.
    pub is_sending: bool,
    /// Whether it changes nothing although it is a POST, so that it needs no `Idempotency-Key`.
    pub(super) is_safe: bool,
    /// The fields of the object that change by use; `If-Match` ignores them.
    pub(super) changed_by_use: &'static [&'static str],
    /// Its main path.
    pub(super) path: &'static str,
    pub(super) handler: Handler,
    pub(super) summary: &'static str,
    pub(super) text: &'static str,
    pub(super) parameters: Vec<Parameter>,
    pub(super) headers: Vec<Parameter>,
    /// What `{id}` is.
    pub(super) id: Option<Parameter>,
    /// The schema of the body, and whether it is required.
    pub(super) body: Option<(SchemaOf, bool)>,
    pub(super) status: u16,
    pub(super) response_text: &'static str,
    /// By media type.
    pub(super) responses: Vec<(&'static str, SchemaOf)>,
    access: Option<Access>,
    /// How often the response to a change may contain the body, and the octets besides.
    response_octets: (u64, u64),
}

/// A parameter of the path or the query, or a request header.
#[derive(Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
    pub(super) schema: SchemaOf,
}

/// The function of an operation.
#[derive(Clone)]
pub(super) enum Handler {
    /// Needs no key. Takes what axum extracts.
    Public(Box<MethodRouter<Arc<Api>>>),
    /// Takes the request of an authenticated caller.
    Private(Arc<dyn Handle>),
}

/// A function that handles the request of an authenticated caller.
pub(super) trait Handle: Send + Sync {
    fn handle(&self, call: RequestContext) -> Pin<Box<dyn Future<Output = Result<ApiResponse>> + Send>>;
}

impl<F, Fut> Handle for F
where
    F: Fn(RequestContext) -> Fut + Send + Sync,
    Fut: Future<Output = Result<ApiResponse>> + Send + 'static,
{
    fn handle(&self, call: RequestContext) -> Pin<Box<dyn Future<Output = Result<ApiResponse>> + Send>> {
        Box::pin(self(call))
    }
}

/// The operation that a request is about.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) route: &'static Route,
    pub(super) operation: &'static Operation,
}

impl Resource {
    /// A resource without paths. `access` is for operations that have no other one.
    pub(super) fn new(name: &'static str, text: &'static str, access: Access) -> Self {
        let id = Parameter { name: "id", text: "The id.", schema: Schemas::request::<String> };
        Self { name, text, access, id, routes: Vec::new() }
    }

    /// What `{id}` is, where an operation has no other one.
    pub(super) fn id<Id: JsonSchema>(self, text: &'static str) -> Self {
        Self { id: Parameter { name: "id", text, schema: Schemas::request::<Id> }, ..self }
    }

    /// Adds operations. PUT is PATCH everywhere.
    pub(super) fn operations<const N: usize>(mut self, operations: [Operation; N]) -> Self {
        for mut operation in operations {
            operation.access.get_or_insert(self.access);
            operation.id.get_or_insert(self.id);
            let path = operation.path;
            let put = Operation { method: Method::PUT, ..operation.clone() };
            let with_put =
                if operation.method == Method::PATCH { vec![operation, put] } else { vec![operation] };
            match self.routes.iter_mut().find(|route| route.path == path) {
                Some(route) => route.operations.extend(with_put),
                None => self.routes.push(Route { path, main_path: path, operations: with_put }),
            }
        }
        self
    }

    /// Adds another path with the operations of one.
    pub(super) fn alias(mut self, main_path: &str, path: &'static str) -> Self {
        let main = self.routes.iter().find(|route| route.path == main_path);
        self.routes.extend(main.map(|main| Route { path, ..main.clone() }));
        self
    }
}

impl Route {
    /// Whether another path is the main one.
    pub fn is_alias(&self) -> bool {
        self.path != self.main_path
    }

    /// The operation that returns the object at this path, if it is one.
    pub(super) fn object(&self) -> Option<&Operation> {
        let is_object = self.path.ends_with('}');
        self.operations.iter().find(|operation| is_object && operation.method == Method::GET)
    }
}

impl Operation {
    /// A GET that needs no key.
    pub(super) fn public<T: 'static>(
        path: &'static str,
        name: &'static str,
        handler: impl handler::Handler<T, Arc<Api>>,
    ) -> Self {
        let handler = Handler::Public(Box::new(routing::get(handler)));
        Self { access: Some(Access::Public), ..Self::new(Method::GET, path, name, handler) }
    }

    /// A GET.
    pub(super) fn get(path: &'static str, name: &'static str, handler: impl Handle + 'static) -> Self {
        Self::new(Method::GET, path, name, Handler::Private(Arc::new(handler)))
    }

    /// A POST.
    pub(super) fn post(path: &'static str, name: &'static str, handler: impl Handle + 'static) -> Self {
        Self::new(Method::POST, path, name, Handler::Private(Arc::new(handler)))
    }

    /// A PATCH, and the same PUT.
    pub(super) fn patch(path: &'static str, name: &'static str, handler: impl Handle + 'static) -> Self {
        Self::new(Method::PATCH, path, name, Handler::Private(Arc::new(handler)))
    }

    /// A DELETE.
    pub(super) fn delete(path: &'static str, name: &'static str, handler: impl Handle + 'static) -> Self {
        Self::new(Method::DELETE, path, name, Handler::Private(Arc::new(handler)))
    }

    fn new(method: Method, path: &'static str, name: &'static str, handler: Handler) -> Self {
        Self {
            method,
            name,
            path,
            handler,
            summary: "",
            is_sending: false,
            is_safe: false,
            changed_by_use: &[],
            text: "",
            parameters: Vec::new(),
            headers: Vec::new(),
            id: None,
            body: None,
            status: 200,
            response_text: "",
            responses: Vec::new(),
            access: None,
            response_octets: (0, 0),
        }
    }

    /// Who may call it.
    pub fn access(&self) -> Access {
        self.access.unwrap_or(Access::Platform)
    }

    /// Whether it returns pages of a list.
    pub fn is_list(&self) -> bool {
        self.takes_parameter("before")
    }

    /// Whether it takes an `Idempotency-Key`.
    pub(super) fn is_repeatable(&self) -> bool {
        self.method == Method::POST && !self.is_safe
    }

    /// Whether there is a query parameter of this name.
    pub(super) fn takes_parameter(&self, name: &str) -> bool {
        self.parameters.iter().any(|parameter| parameter.name == name)
    }

    /// Maximum octets of the response to a change, beside those that need no reservation.
    pub(super) fn response_octets_max(&self, body_octets: u64) -> u64 {
        self.response_octets.0 * body_octets + self.response_octets.1
    }

    /// Its method as axum takes it.
    pub(super) fn filter(&self) -> MethodFilter {
        match self.method {
            Method::POST => MethodFilter::POST,
            Method::PATCH => MethodFilter::PATCH,
            Method::PUT => MethodFilter::PUT,
            Method::DELETE => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        }
    }

    /// One line about it.
    pub(super) fn summary(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    /// One line about it, and what else there is to know.
    pub(super) fn describe(self, summary: &'static str, text: &'static str) -> Self {
        Self { summary, text, ..self }
    }

    /// Needs another access than the other operations of the resource.
    pub(super) fn needs(self, access: Access) -> Self {
        Self { access: Some(access), ..self }
    }

    /// Its `{id}` is another one than that of the other operations of the resource.
    pub(super) fn id<Id: JsonSchema>(self, text: &'static str) -> Self {
        Self { id: Some(Parameter { name: "id", text, schema: Schemas::request::<Id> }), ..self }
    }

    /// Returns pages of a list, whose cursors are ids. Its parameters are those that [`super::page::Query::page`] reads.
    pub(super) fn pages<Id: JsonSchema, T: JsonSchema>(self, text: &'static str) -> Self {
        self.query_as("limit", "Objects per page.", page::limit_schema)
            .query::<Id>("after", "Only objects after this one in the list, which are older.")
            .query::<Id>("before", "Only objects before this one in the list, which are newer.")
            .query::<Timestamp>("created_after", "Only objects created after this time.")
            .query::<Timestamp>("created_before", "Only objects created before this time.")
            .returns::<List<T>>(text)
    }

    /// Takes a tenant, unless the path names it.
    pub(super) fn tenant_filter(self) -> Self {
        self.query::<TenantId>("tenant_id", "Only objects of this tenant.")
    }

    /// Takes a parameter of the query.
    pub(super) fn query<T: JsonSchema>(self, name: &'static str, text: &'static str) -> Self {
        self.query_as(name, text, Schemas::request::<T>)
    }

    /// Takes a parameter of the query that has a schema of its own.
    pub(super) fn query_as(mut self, name: &'static str, text: &'static str, schema: SchemaOf) -> Self {
        self.parameters.push(Parameter { name, text, schema });
        self
    }

    /// Takes a header.
    pub(super) fn header(mut self, name: &'static str, text: &'static str, schema: SchemaOf) -> Self {
        self.headers.push(Parameter { name, text, schema });
        self
    }

    /// Takes a body.
    pub(super) fn takes<T: JsonSchema>(self) -> Self {
        Self { body: Some((Schemas::request::<T>, true)), ..self }
    }

    /// Takes a body, or none.
    pub(super) fn may_take<T: JsonSchema>(self) -> Self {
        Self { body: Some((Schemas::request::<T>, false)), ..self }
    }

    /// Takes whole messages, and sends them.
    pub(super) fn sends(self) -> Self {
        Self { is_sending: true, ..self }
    }

    /// Changes nothing, although it is a POST.
    pub(super) fn changes_nothing(self) -> Self {
        Self { is_safe: true, ..self }
    }

    /// Returns an object with fields that change by use.
    pub(super) fn changed_by_use(self, fields: &'static [&'static str]) -> Self {
        Self { changed_by_use: fields, ..self }
    }

    /// The response to the change may contain the body so many times, and have so many octets besides.
    pub(super) fn response_octets(self, times_body: u64, octets: u64) -> Self {
        Self { response_octets: (times_body, octets), ..self }
    }

    /// Returns an object.
    pub(super) fn returns<T: JsonSchema>(self, text: &'static str) -> Self {
        self.returns_as(content::JSON, text, Schemas::response::<T>)
    }

    /// Returns a new object.
    pub(super) fn creates<T: JsonSchema>(self, text: &'static str) -> Self {
        Self { status: 201, ..self.returns::<T>(text) }
    }

    /// Returns an object about work that is queued.
    pub(super) fn accepts<T: JsonSchema>(self, text: &'static str) -> Self {
        Self { status: 202, ..self.returns::<T>(text) }
    }

    /// Returns octets.
    pub(super) fn returns_octets(self, media_type: &'static str, text: &'static str) -> Self {
        self.returns_as(media_type, text, Schemas::response::<String>)
    }

    fn returns_as(mut self, media_type: &'static str, text: &'static str, schema: SchemaOf) -> Self {
        self.responses.push((media_type, schema));
        Self { response_text: text, ..self }
    }
}
