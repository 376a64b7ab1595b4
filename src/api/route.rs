//! The map of the API: every path with its methods, who may call them and which parameters they take.

use hyper::Method;
use matchit::Router;

use crate::model::{RefusalCode, Scope};

use super::auth::Access;
use super::error::{ApiError, Result};
use super::page;

/// What an operation does; `super::Api` knows the function of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Endpoint {
    Alive,
    Ready,
    Document,
    Docs,
    DocsPage,
    CreateTenant,
    ListTenants,
    GetTenant,
    UpdateTenant,
    DeleteTenant,
    GetUsage,
    GetUsageSeries,
    CreateDomain,
    ListDomains,
    GetDomain,
    UpdateDomain,
    DeleteDomain,
    VerifyDomain,
    AddDkimKey,
    RotateDkimKeys,
    ListDkimKeys,
    CreateKey,
    ListKeys,
    GetKey,
    UpdateKey,
    RevokeKey,
    Suppress,
    SuppressMany,
    ListSuppressions,
    GetSuppression,
    LiftSuppression,
    SendEmail,
    SendEmails,
    ListEmails,
    GetEmail,
    GetTimeline,
    GetRaw,
    RetryEmail,
    CancelEmail,
    ShowQueue,
    PauseQueue,
    ResumeQueue,
    FlushQueue,
    ListSites,
    ListRejections,
    CreateTemplate,
    ListTemplates,
    GetTemplate,
    UpdateTemplate,
    DeleteTemplate,
    RenderTemplate,
    ListEvents,
    CreateWebhook,
    ListWebhooks,
    GetWebhook,
    UpdateWebhook,
    DeleteWebhook,
    TestWebhook,
    RotateWebhookSecret,
    ListWebhookDeliveries,
    GetWebhookDelivery,
    ReplayWebhookDelivery,
    ListBans,
    LiftBan,
}

impl Endpoint {
    /// Whether messages are sent, which has a limit of its own.
    pub fn sends(self) -> bool {
        matches!(self, Self::SendEmail | Self::SendEmails)
    }

    /// Whether it can be repeated without being known again, although it is a POST.
    pub fn changes_nothing(self) -> bool {
        self == Self::RenderTemplate
    }
}

/// One method of a path.
#[derive(Debug)]
pub struct Operation {
    /// HEAD stands for GET too.
    pub method: Method,
    /// What it does.
    pub endpoint: Endpoint,
    /// Who may call it.
    pub access: Access,
    /// Whether it takes the parameters of lists.
    pub is_list: bool,
    /// The other parameters that it takes.
    pub parameters: &'static [&'static str],
    /// Whether its body may hold whole messages.
    pub has_large_body: bool,
}

impl Operation {
    /// Whether there is a query parameter of this name.
    pub fn takes(&self, parameter: &str) -> bool {
        self.parameters.contains(&parameter) || (self.is_list && page::PARAMETERS.contains(&parameter))
    }
}

/// One path with its operations.
#[derive(Debug)]
pub struct Route {
    /// Like `/v1/domains/{id}`; the id of a tenant in front of others is `{tenant_id}`.
    pub path: &'static str,
    /// At least one.
    pub operations: &'static [Operation],
}

impl Route {
    /// The operation that shows the object at this path, if it is one.
    pub fn object(&self) -> Option<&'static Operation> {
        let is_object = self.path.ends_with('}');
        self.operations.iter().find(|operation| is_object && operation.method == Method::GET)
    }
}

const fn operation(method: Method, endpoint: Endpoint, access: Access) -> Operation {
    Operation { method, endpoint, access, is_list: false, parameters: &[], has_large_body: false }
}

const fn list(endpoint: Endpoint, access: Access, parameters: &'static [&'static str]) -> Operation {
    Operation { method: Method::GET, endpoint, access, is_list: true, parameters, has_large_body: false }
}

const fn sending(endpoint: Endpoint) -> Operation {
    let access = Access::Scope(Scope::EmailsSend);
    Operation {
        method: Method::POST,
        endpoint,
        access,
        is_list: false,
        parameters: &[],
        has_large_body: true,
    }
}

const fn usage(endpoint: Endpoint, parameters: &'static [&'static str]) -> Operation {
    let access = Access::Scope(Scope::UsageRead);
    Operation { method: Method::GET, endpoint, access, is_list: false, has_large_body: false, parameters }
}

const TENANTS: Access = Access::Scope(Scope::TenantManage);
const DOMAINS: Access = Access::Scope(Scope::DomainsManage);
const KEYS: Access = Access::Scope(Scope::KeysManage);
const SUPPRESSIONS: Access = Access::Scope(Scope::SuppressionsManage);
const EMAILS: Access = Access::Scope(Scope::EmailsRead);
const TEMPLATES: Access = Access::Scope(Scope::TemplatesManage);
const SENDING: Access = Access::Scope(Scope::EmailsSend);

const WEBHOOKS: Access = Access::Scope(Scope::WebhooksManage);

const ALL_WEBHOOKS: &[Operation] = &[
    list(Endpoint::ListWebhooks, WEBHOOKS, &["tenant_id", "status", "url"]),
    operation(Method::POST, Endpoint::CreateWebhook, WEBHOOKS),
];
const ONE_WEBHOOK: &[Operation] = &[
    operation(Method::GET, Endpoint::GetWebhook, WEBHOOKS),
    operation(Method::PATCH, Endpoint::UpdateWebhook, WEBHOOKS),
    operation(Method::PUT, Endpoint::UpdateWebhook, WEBHOOKS),
    operation(Method::DELETE, Endpoint::DeleteWebhook, WEBHOOKS),
];
const TEST_WEBHOOK: &[Operation] = &[operation(Method::POST, Endpoint::TestWebhook, WEBHOOKS)];
const ROTATE_SECRET: &[Operation] = &[operation(Method::POST, Endpoint::RotateWebhookSecret, WEBHOOKS)];
const WEBHOOK_DELIVERIES: &[Operation] = &[list(Endpoint::ListWebhookDeliveries, WEBHOOKS, &["status"])];
const ONE_WEBHOOK_DELIVERY: &[Operation] = &[operation(Method::GET, Endpoint::GetWebhookDelivery, WEBHOOKS)];
const REPLAY_WEBHOOK_DELIVERY: &[Operation] =
    &[operation(Method::POST, Endpoint::ReplayWebhookDelivery, WEBHOOKS)];

const ALL_DOMAINS: &[Operation] = &[
    list(Endpoint::ListDomains, DOMAINS, &["tenant_id", "name", "status", "verification"]),
    operation(Method::POST, Endpoint::CreateDomain, DOMAINS),
];
const ALL_KEYS: &[Operation] = &[
    list(Endpoint::ListKeys, KEYS, &["tenant_id", "environment"]),
    operation(Method::POST, Endpoint::CreateKey, KEYS),
];
const ONE_KEY: &[Operation] = &[
    operation(Method::GET, Endpoint::GetKey, KEYS),
    operation(Method::PATCH, Endpoint::UpdateKey, KEYS),
    operation(Method::PUT, Endpoint::UpdateKey, KEYS),
    operation(Method::DELETE, Endpoint::RevokeKey, KEYS),
];
const ALL_EMAILS: &[Operation] = &[
    list(
        Endpoint::ListEmails,
        EMAILS,
        &["tenant_id", "status", "to", "from", "subject", "tag", "message_id", "environment"],
    ),
    sending(Endpoint::SendEmail),
];

/// Every path of the API.
pub const ROUTES: &[Route] = &[
    Route { path: "/healthz", operations: &[operation(Method::GET, Endpoint::Alive, Access::Public)] },
    Route { path: "/readyz", operations: &[operation(Method::GET, Endpoint::Ready, Access::Public)] },
    Route {
        path: "/openapi.json",
        operations: &[operation(Method::GET, Endpoint::Document, Access::Public)],
    },
    Route { path: "/docs", operations: &[operation(Method::GET, Endpoint::Docs, Access::Public)] },
    Route { path: "/docs/{id}", operations: &[operation(Method::GET, Endpoint::DocsPage, Access::Public)] },
    Route {
        path: "/v1/tenants",
        operations: &[
            list(Endpoint::ListTenants, TENANTS, &["slug", "external_ref", "status"]),
            operation(Method::POST, Endpoint::CreateTenant, Access::Platform),
        ],
    },
    Route {
        path: "/v1/tenants/{tenant_id}",
        operations: &[
            operation(Method::GET, Endpoint::GetTenant, TENANTS),
            operation(Method::PATCH, Endpoint::UpdateTenant, TENANTS),
            operation(Method::PUT, Endpoint::UpdateTenant, TENANTS),
            Operation {
                method: Method::DELETE,
                endpoint: Endpoint::DeleteTenant,
                access: Access::Platform,
                is_list: false,
                parameters: &["dry_run"],
                has_large_body: false,
            },
        ],
    },
    Route {
        path: "/v1/tenants/{tenant_id}/usage",
        operations: &[usage(Endpoint::GetUsage, &["period", "environment"])],
    },
    Route {
        path: "/v1/tenants/{tenant_id}/usage/timeseries",
        operations: &[usage(Endpoint::GetUsageSeries, &["from", "to", "interval", "environment"])],
    },
    Route { path: "/v1/tenants/{tenant_id}/domains", operations: ALL_DOMAINS },
    Route { path: "/v1/tenants/{tenant_id}/api-keys", operations: ALL_KEYS },
    Route { path: "/v1/tenants/{tenant_id}/emails", operations: ALL_EMAILS },
    Route { path: "/v1/domains", operations: ALL_DOMAINS },
    Route {
        path: "/v1/domains/{id}",
        operations: &[
            operation(Method::GET, Endpoint::GetDomain, DOMAINS),
            operation(Method::PATCH, Endpoint::UpdateDomain, DOMAINS),
            operation(Method::PUT, Endpoint::UpdateDomain, DOMAINS),
            operation(Method::DELETE, Endpoint::DeleteDomain, DOMAINS),
        ],
    },
    Route {
        path: "/v1/domains/{id}/verify",
        operations: &[operation(Method::POST, Endpoint::VerifyDomain, DOMAINS)],
    },
    Route {
        path: "/v1/domains/{id}/dkim",
        operations: &[
            operation(Method::GET, Endpoint::ListDkimKeys, DOMAINS),
            operation(Method::POST, Endpoint::AddDkimKey, DOMAINS),
        ],
    },
    Route {
        path: "/v1/domains/{id}/dkim/rotate",
        operations: &[operation(Method::POST, Endpoint::RotateDkimKeys, DOMAINS)],
    },
    Route { path: "/v1/keys", operations: ALL_KEYS },
    Route { path: "/v1/keys/{id}", operations: ONE_KEY },
    Route { path: "/v1/api-keys", operations: ALL_KEYS },
    Route { path: "/v1/api-keys/{id}", operations: ONE_KEY },
    Route {
        path: "/v1/suppressions",
        operations: &[
            list(Endpoint::ListSuppressions, SUPPRESSIONS, &["tenant_id", "address", "reason"]),
            operation(Method::POST, Endpoint::Suppress, SUPPRESSIONS),
        ],
    },
    Route {
        path: "/v1/suppressions/batch",
        operations: &[operation(Method::POST, Endpoint::SuppressMany, SUPPRESSIONS)],
    },
    Route {
        path: "/v1/suppressions/{id}",
        operations: &[
            operation(Method::GET, Endpoint::GetSuppression, SUPPRESSIONS),
            operation(Method::DELETE, Endpoint::LiftSuppression, SUPPRESSIONS),
        ],
    },
    Route { path: "/v1/emails", operations: ALL_EMAILS },
    Route { path: "/v1/emails/batch", operations: &[sending(Endpoint::SendEmails)] },
    Route { path: "/v1/emails/{id}", operations: &[operation(Method::GET, Endpoint::GetEmail, EMAILS)] },
    Route {
        path: "/v1/emails/{id}/timeline",
        operations: &[Operation {
            method: Method::GET,
            endpoint: Endpoint::GetTimeline,
            access: EMAILS,
            is_list: false,
            parameters: &["delivery_id"],
            has_large_body: false,
        }],
    },
    Route { path: "/v1/emails/{id}/raw", operations: &[operation(Method::GET, Endpoint::GetRaw, EMAILS)] },
    Route {
        path: "/v1/templates",
        operations: &[
            list(Endpoint::ListTemplates, TEMPLATES, &["tenant_id", "name"]),
            operation(Method::POST, Endpoint::CreateTemplate, TEMPLATES),
        ],
    },
    Route {
        path: "/v1/templates/{id}",
        operations: &[
            operation(Method::GET, Endpoint::GetTemplate, TEMPLATES),
            operation(Method::PATCH, Endpoint::UpdateTemplate, TEMPLATES),
            operation(Method::PUT, Endpoint::UpdateTemplate, TEMPLATES),
            operation(Method::DELETE, Endpoint::DeleteTemplate, TEMPLATES),
        ],
    },
    Route {
        path: "/v1/templates/{id}/render",
        operations: &[operation(Method::POST, Endpoint::RenderTemplate, TEMPLATES)],
    },
    Route {
        path: "/v1/emails/{id}/retry",
        operations: &[operation(Method::POST, Endpoint::RetryEmail, SENDING)],
    },
    Route {
        path: "/v1/emails/{id}/cancel",
        operations: &[operation(Method::POST, Endpoint::CancelEmail, SENDING)],
    },
    Route {
        path: "/v1/queue",
        operations: &[Operation {
            method: Method::GET,
            endpoint: Endpoint::ShowQueue,
            access: Access::Platform,
            is_list: false,
            parameters: &["tenant_id", "destination", "limit", "after"],
            has_large_body: false,
        }],
    },
    Route {
        path: "/v1/queue/sites",
        operations: &[operation(Method::GET, Endpoint::ListSites, Access::Platform)],
    },
    Route {
        path: "/v1/queue/pause",
        operations: &[operation(Method::POST, Endpoint::PauseQueue, Access::Platform)],
    },
    Route {
        path: "/v1/queue/resume",
        operations: &[operation(Method::POST, Endpoint::ResumeQueue, Access::Platform)],
    },
    Route {
        path: "/v1/queue/flush",
        operations: &[operation(Method::POST, Endpoint::FlushQueue, Access::Platform)],
    },
    Route {
        path: "/v1/events",
        operations: &[list(Endpoint::ListEvents, EMAILS, &["tenant_id", "type", "message_id"])],
    },
    Route { path: "/v1/webhooks", operations: ALL_WEBHOOKS },
    Route { path: "/v1/webhooks/{id}", operations: ONE_WEBHOOK },
    Route { path: "/v1/webhooks/{id}/test", operations: TEST_WEBHOOK },
    Route { path: "/v1/webhooks/{id}/rotate-secret", operations: ROTATE_SECRET },
    Route { path: "/v1/webhooks/{id}/deliveries", operations: WEBHOOK_DELIVERIES },
    Route { path: "/v1/webhooks/endpoints", operations: ALL_WEBHOOKS },
    Route { path: "/v1/webhooks/endpoints/{id}", operations: ONE_WEBHOOK },
    Route { path: "/v1/webhooks/endpoints/{id}/test", operations: TEST_WEBHOOK },
    Route { path: "/v1/webhooks/endpoints/{id}/rotate-secret", operations: ROTATE_SECRET },
    Route { path: "/v1/webhooks/endpoints/{id}/deliveries", operations: WEBHOOK_DELIVERIES },
    Route { path: "/v1/webhooks/endpoints/deliveries/{id}", operations: ONE_WEBHOOK_DELIVERY },
    Route { path: "/v1/webhooks/endpoints/deliveries/{id}/replay", operations: REPLAY_WEBHOOK_DELIVERY },
    Route { path: "/v1/webhooks/deliveries/{id}", operations: ONE_WEBHOOK_DELIVERY },
    Route { path: "/v1/webhooks/deliveries/{id}/replay", operations: REPLAY_WEBHOOK_DELIVERY },
    Route { path: "/v1/bans", operations: &[operation(Method::GET, Endpoint::ListBans, Access::Platform)] },
    Route {
        path: "/v1/bans/{id}",
        operations: &[operation(Method::DELETE, Endpoint::LiftBan, Access::Platform)],
    },
    Route { path: "/v1/rejections", operations: &[list(Endpoint::ListRejections, EMAILS, &["tenant_id"])] },
];

/// Finds the operation of a request.
#[derive(Debug)]
pub struct Routes(Router<&'static Route>);

/// The operation of a request, and the ids in its path.
#[derive(Debug)]
pub struct Matched {
    /// Where it was found.
    pub route: &'static Route,
    /// What is to be done.
    pub operation: &'static Operation,
    /// `{tenant_id}`.
    pub tenant_id: Option<String>,
    /// `{id}`.
    pub id: Option<String>,
}

impl Routes {
    /// All of [`ROUTES`].
    pub fn new() -> Self {
        let mut router = Router::new();
        for route in ROUTES {
            let inserted = router.insert(route.path, route);
            debug_assert!(inserted.is_ok(), "{}", route.path);
        }
        Self(router)
    }

    /// Finds the operation for a method and a path: 404 if there is no such path, 405 if it lacks the method.
    pub fn find(&self, method: &Method, path: &str) -> Result<Matched> {
        let found = self.0.at(path).map_err(|_| {
            ApiError::new(
                RefusalCode::NotFound,
                "there is no such path",
                "check the path; those of the API begin with /v1/ and have no / at the end",
            )
        })?;
        let route = *found.value;
        let wanted = if method == Method::HEAD { &Method::GET } else { method };
        let Some(operation) = route.operations.iter().find(|operation| operation.method == *wanted) else {
            return Err(method_not_allowed(route));
        };
        let parameter = |name| found.params.get(name).map(str::to_owned);
        Ok(Matched { route, operation, tenant_id: parameter("tenant_id"), id: parameter("id") })
    }
}

fn method_not_allowed(route: &Route) -> ApiError {
    let mut methods: Vec<&str> = Vec::new();
    for operation in route.operations {
        methods.push(operation.method.as_str());
        if operation.method == Method::GET {
            methods.push("HEAD");
        }
    }
    let allow = methods.join(", ");
    let error = ApiError::new(
        RefusalCode::MethodNotAllowed,
        "this path does not have this method",
        format!("use one of {allow}"),
    );
    ApiError { allow: Some(allow.into()), ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_can_be_found_with_each_of_its_methods() {
        let routes = Routes::new();
        for route in ROUTES {
            let path = route.path.replace("{tenant_id}", "tnt_x").replace("{id}", "y");
            for operation in route.operations {
                let matched = routes.find(&operation.method, &path).unwrap();
                assert_eq!(matched.route.path, route.path);
                assert_eq!(matched.operation.endpoint, operation.endpoint);
                assert_eq!(matched.tenant_id.is_some(), route.path.contains("{tenant_id}"));
                assert_eq!(matched.id.is_some(), route.path.contains("{id}"));
            }
        }
    }

    #[test]
    fn only_the_health_checks_and_what_the_api_is_do_without_a_key() {
        let public = ROUTES.iter().filter(|r| r.operations.iter().any(|o| o.access == Access::Public));
        assert_eq!(
            public.map(|r| r.path).collect::<Vec<_>>(),
            ["/healthz", "/readyz", "/openapi.json", "/docs", "/docs/{id}"]
        );
    }

    #[test]
    fn a_wrong_method_names_the_right_ones_and_head_is_get() {
        let routes = Routes::new();
        let error = routes.find(&Method::DELETE, "/v1/tenants").unwrap_err();
        assert_eq!(error.status(), 405);
        assert_eq!(error.allow.as_deref(), Some("GET, HEAD, POST"));
        assert_eq!(routes.find(&Method::GET, "/v1/suppressions/batch").unwrap_err().status(), 405);
        assert!(routes.find(&Method::HEAD, "/v1/tenants").is_ok());
    }

    #[test]
    fn what_is_not_in_the_map_is_not_found() {
        for path in ["/", "/v1", "/v1/", "/v1/tenants/", "/v1/usage", "/V1/tenants", "/v1/keys/a/b", "*", ""]
        {
            assert_eq!(Routes::new().find(&Method::GET, path).unwrap_err().status(), 404, "{path}");
        }
    }
}
