//! Registration of operations. A resource registers each operation beside its handler: access, parameters, body, response,
//! limits and description. The router, the layers and the OpenAPI document use the registered operations.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::handler;
use axum::routing::{self, MethodFilter, MethodRouter};
use hyper::Method;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::mail::Timestamp;
use crate::model::{Environment, TenantId};

use super::error::Result;
use super::page::{self, List};
use super::request_context::RequestContext;
use super::response::ApiResponse;
use super::schema::{RequestBody, SchemaOf, Schemas};
use super::{Api, content};

pub use super::layers::auth::Access;

/// The operations on one type of object.
#[derive(Clone)]
pub struct Resource {
    /// Its tag in the OpenAPI document.
    pub name: &'static str,
    /// Its description.
    pub text: &'static str,
    access: Access,
    test_keys: TestKeyAccess,
    id: Parameter,
    /// Its paths.
    pub routes: Vec<Route>,
}

/// One path with its operations.
#[derive(Clone)]
pub struct Route {
    /// Like `/v1/domains/{id}`; the id of a tenant is `{tenant_id}`.
    pub path: &'static str,
    /// The main path if this path is an alias; otherwise this path.
    pub main_path: &'static str,
    /// At least one.
    pub operations: Vec<Operation>,
}

/// One method of a path.
#[derive(Clone)]
pub struct Operation {
    /// The HTTP method. GET includes HEAD.
    pub method: Method,
    /// Like `create_domain`. An alias has the same name.
    pub name: &'static str,
    /// Whether it sends messages. `api.send_body_max` then limits its body, and its response has the `X-SendLimit` headers.
    pub is_sending: bool,
    /// Whether `api.send_body_max` limits its body, although it sends nothing.
    pub(super) is_large: bool,
    /// Whether a POST changes nothing. It then ignores `Idempotency-Key`.
    pub(super) is_safe: bool,
    /// Whether its change is a line of the log and no entry of the audit log.
    pub(super) logs_only: bool,
    /// Whether a POST has the same effect if it runs again. Other POSTs store their response in the transaction of their
    /// change ([`RequestContext::change`]).
    pub(super) may_run_again: bool,
    /// Fields of the object that change by use. `If-Match` ignores them.
    pub(super) changed_by_use: &'static [&'static str],
    /// Fields of its response that are secret.
    pub(super) concealed: &'static [&'static str],
    /// Whether the audit log has neither the object nor its id, because they name a person.
    pub(super) hides_object: bool,
    /// Its main path.
    pub(super) path: &'static str,
    pub(super) handler: Handler,
    pub(super) summary: &'static str,
    pub(super) text: &'static str,
    pub(super) parameters: Vec<Parameter>,
    /// Query parameters like `name[key]=value`.
    pub(super) maps: Vec<Parameter>,
    pub(super) headers: Vec<Parameter>,
    /// The parameter `{id}`.
    pub(super) id: Option<Parameter>,
    pub(super) body: Option<RequestBody>,
    pub(super) status: u16,
    pub(super) response_text: &'static str,
    /// Response schemas by media type.
    pub(super) responses: Vec<(&'static str, SchemaOf)>,
    access: Option<Access>,
    test_keys: TestKeyAccess,
    /// Upper limit of the response to a change: a multiple of the request body, plus a number of octets.
    response_octets: (u64, u64),
    /// Whether a GET waits for servers elsewhere, or reads every row. It takes none of the permits to build a response, which
    /// others wait for.
    pub(super) takes_long: bool,
}

/// What test keys may do with the objects of a resource.
#[derive(Clone, Copy)]
enum TestKeyAccess {
    /// Read, because both environments share the objects.
    Read,
    /// Read and change those of the test environment.
    Change,
    /// Nothing.
    Nothing,
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
    /// Needs no key. A handler with axum extractors.
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

/// The path and operation that match a request.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) route: &'static Route,
    pub(super) operation: &'static Operation,
}

impl Resource {
    /// A resource without paths. `access` applies to operations that do not call [`Operation::needs`]; for operations that
    /// change nothing, its read-only form.
    pub(super) fn new(name: &'static str, text: &'static str, access: Access) -> Self {
        let id = Parameter { name: "id", text: "The id.", schema: Schemas::request::<String> };
        Self { name, text, access, test_keys: TestKeyAccess::Read, id, routes: Vec::new() }
    }

    /// Each object belongs to an environment, and the handlers show a test key those of the test environment only. Without
    /// this, a test key can only read.
    pub(super) fn separates_environments(self) -> Self {
        Self { test_keys: TestKeyAccess::Change, ..self }
    }

    /// A test key may not even read: the objects contain what is live.
    pub(super) fn live_only(self) -> Self {
        Self { test_keys: TestKeyAccess::Nothing, ..self }
    }

    /// Describes `{id}` of operations that do not call [`Operation::id`].
    pub(super) fn id<Id: JsonSchema>(self, text: &'static str) -> Self {
        Self { id: Parameter { name: "id", text, schema: Schemas::request::<Id> }, ..self }
    }

    /// Adds operations. A PATCH is also added as a PUT.
    pub(super) fn operations<const N: usize>(mut self, operations: [Operation; N]) -> Self {
        for mut operation in operations {
            let reads = operation.reads();
            operation.access.get_or_insert(if reads { self.access.read_only() } else { self.access });
            operation.id.get_or_insert(self.id);
            operation.test_keys = self.test_keys;
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

    /// Adds an alias: another path with the operations of the main path.
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

    /// The GET of this path if the path is that of a single object.
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

    /// A PATCH. [`Resource::operations`] adds the same PUT.
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
            is_large: false,
            is_safe: false,
            logs_only: false,
            may_run_again: false,
            changed_by_use: &[],
            concealed: &[],
            hides_object: false,
            text: "",
            parameters: Vec::new(),
            maps: Vec::new(),
            headers: Vec::new(),
            id: None,
            body: None,
            status: 200,
            response_text: "",
            responses: Vec::new(),
            access: None,
            test_keys: TestKeyAccess::Read,
            response_octets: (0, 0),
            takes_long: false,
        }
    }

    /// Who may call it.
    pub fn access(&self) -> Access {
        self.access.unwrap_or(Access::Platform)
    }

    /// Whether it changes nothing.
    pub fn reads(&self) -> bool {
        self.method == Method::GET || self.is_safe
    }

    /// Whether a test key may call it.
    pub fn admits_test_keys(&self) -> bool {
        match self.test_keys {
            TestKeyAccess::Read => self.reads(),
            TestKeyAccess::Change => true,
            TestKeyAccess::Nothing => false,
        }
    }

    /// Whether it returns pages of a list.
    pub fn is_list(&self) -> bool {
        self.takes_parameter("before")
    }

    /// Whether it passes through [`super::audit`]: it changes something and sends no mail.
    pub fn is_audited(&self) -> bool {
        !self.reads() && !self.is_sending
    }

    /// Whether it takes an `Idempotency-Key`.
    pub(super) fn is_repeatable(&self) -> bool {
        self.method == Method::POST && !self.is_safe
    }

    /// Whether its response is stored in the transaction of its change.
    pub fn stores_response_with_change(&self) -> bool {
        self.is_repeatable() && !self.may_run_again
    }

    /// Whether it has a query parameter of this name.
    pub fn takes_parameter(&self, name: &str) -> bool {
        self.parameters.iter().any(|parameter| parameter.name == name)
            || self.maps.iter().any(|map| page::map_key(map.name, name).is_some())
    }

    /// Octets to reserve for the response to a change. Small responses need no reservation, see [`super::response`].
    pub(super) fn response_octets_max(&self, body_octets: u64) -> u64 {
        self.response_octets.0 * body_octets + self.response_octets.1
    }

    /// Its method as a filter of axum.
    pub(super) fn filter(&self) -> MethodFilter {
        match self.method {
            Method::POST => MethodFilter::POST,
            Method::PATCH => MethodFilter::PATCH,
            Method::PUT => MethodFilter::PUT,
            Method::DELETE => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        }
    }

    /// Sets the summary, one line.
    pub(super) fn summary(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    /// Sets the summary, one line, and the description.
    pub(super) fn describe(self, summary: &'static str, text: &'static str) -> Self {
        Self { summary, text, ..self }
    }

    /// Overrides the access of the resource.
    pub(super) fn needs(self, access: Access) -> Self {
        Self { access: Some(access), ..self }
    }

    /// Overrides the description of `{id}` of the resource.
    pub(super) fn id<Id: JsonSchema>(self, text: &'static str) -> Self {
        Self { id: Some(Parameter { name: "id", text, schema: Schemas::request::<Id> }), ..self }
    }

    /// Returns pages of a list with ids as cursors. Adds the parameters that [`super::page::Query::page`] reads.
    pub(super) fn pages<Id: JsonSchema, T: JsonSchema>(self, text: &'static str) -> Self {
        self.query_as("limit", "Objects per page.", page::limit_schema)
            .query::<Id>("after", "Only objects after this one in the list: older objects.")
            .query::<Id>("before", "Only objects before this one in the list: newer objects.")
            .query::<Timestamp>("created_after", "Only objects created after this time.")
            .query::<Timestamp>("created_before", "Only objects created before this time.")
            .returns::<List<T>>(text)
    }

    /// Takes `tenant_id` as a query parameter, unless the path contains it.
    pub(super) fn tenant_filter(self) -> Self {
        self.query::<TenantId>("tenant_id", "Only objects of this tenant.")
    }

    /// Takes `environment` as a query parameter. [`RequestContext::listed_environment`] reads it.
    pub(super) fn environment_filter(self) -> Self {
        self.query::<Environment>(
            "environment",
            "Only objects of this environment. Default: that of the key; with a platform key, both.",
        )
    }

    /// Like [`Operation::tenant_filter`], for objects that may belong to no tenant.
    pub(super) fn owner_filter(self) -> Self {
        let text = "Only objects of this tenant; `null` for those of the platform.";
        self.query_as("tenant_id", text, |_| {
            schemars::json_schema!({ "type": "string", "pattern": "^(null|tnt_[0-7][0-9A-HJKMNP-TV-Z]{25})$" })
        })
    }

    /// Takes a query parameter.
    pub(super) fn query<T: JsonSchema>(self, name: &'static str, text: &'static str) -> Self {
        self.query_as(name, text, Schemas::request::<T>)
    }

    /// Takes a query parameter with a schema of its own.
    pub(super) fn query_as(mut self, name: &'static str, text: &'static str, schema: SchemaOf) -> Self {
        self.parameters.push(Parameter { name, text, schema });
        self
    }

    /// Takes query parameters like `name[key]=value`.
    pub(super) fn query_map(mut self, name: &'static str, text: &'static str) -> Self {
        self.maps.push(Parameter { name, text, schema: Schemas::request::<HashMap<String, String>> });
        self
    }

    /// Takes a request header.
    pub(super) fn header(mut self, name: &'static str, text: &'static str, schema: SchemaOf) -> Self {
        self.headers.push(Parameter { name, text, schema });
        self
    }

    /// Requires a body, such as the example: JSON without apostrophes, which stands between two in commands.
    pub(super) fn takes<T: JsonSchema + DeserializeOwned>(self, example: &'static str) -> Self {
        Self { body: Some(RequestBody::new::<T>(true, example)), ..self }
    }

    /// Requires a body that may be large.
    pub(super) fn takes_large<T: JsonSchema + DeserializeOwned>(self, example: &'static str) -> Self {
        Self { is_large: true, ..self.takes::<T>(example) }
    }

    /// Takes an optional body, such as the example.
    pub(super) fn may_take<T: JsonSchema + DeserializeOwned>(self, example: &'static str) -> Self {
        Self { body: Some(RequestBody::new::<T>(false, example)), ..self }
    }

    /// Sends messages.
    pub(super) fn sends(self) -> Self {
        Self { is_sending: true, ..self }
    }

    /// Marks a GET that waits for servers elsewhere, or reads every row of the store.
    pub(super) fn takes_long(self) -> Self {
        Self { takes_long: true, ..self }
    }

    /// Marks a POST that changes nothing.
    pub(super) fn changes_nothing(self) -> Self {
        Self { is_safe: true, ..self }
    }

    /// Marks a change that is only logged: a key can make any number of them, and their entries would push out those of others.
    pub(super) fn logs_only(self) -> Self {
        Self { logs_only: true, ..self }
    }

    /// Marks a POST that has the same effect if it runs again.
    pub(super) fn may_run_again(self) -> Self {
        Self { may_run_again: true, ..self }
    }

    /// Lists the fields of the object that change by use.
    pub(super) fn changed_by_use(self, fields: &'static [&'static str]) -> Self {
        Self { changed_by_use: fields, ..self }
    }

    /// Names the fields of the response that the audit log conceals, besides those that are secret everywhere.
    pub(super) fn conceals(self, fields: &'static [&'static str]) -> Self {
        Self { concealed: fields, ..self }
    }

    /// Keeps the object and its id out of the audit log.
    pub(super) fn hides_object(self) -> Self {
        Self { hides_object: true, ..self }
    }

    /// Sets the upper limit of the response to a change: `times_body` times the request body, plus `octets`.
    pub(super) fn response_octets(self, times_body: u64, octets: u64) -> Self {
        Self { response_octets: (times_body, octets), ..self }
    }

    /// Returns 200 with an object.
    pub(super) fn returns<T: JsonSchema>(self, text: &'static str) -> Self {
        self.returns_as(content::JSON, text, Schemas::response::<T>)
    }

    /// Returns 201 with the new object.
    pub(super) fn creates<T: JsonSchema>(self, text: &'static str) -> Self {
        Self { status: 201, ..self.returns::<T>(text) }
    }

    /// Returns 202 with an object that describes the queued work.
    pub(super) fn accepts<T: JsonSchema>(self, text: &'static str) -> Self {
        Self { status: 202, ..self.returns::<T>(text) }
    }

    /// Returns content that is not JSON.
    pub(super) fn returns_octets(self, media_type: &'static str, text: &'static str) -> Self {
        self.returns_as(media_type, text, Schemas::response::<String>)
    }

    fn returns_as(mut self, media_type: &'static str, text: &'static str, schema: SchemaOf) -> Self {
        self.responses.push((media_type, schema));
        Self { response_text: text, ..self }
    }
}
