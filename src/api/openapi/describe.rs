//! What each endpoint does, takes and answers. An endpoint without an entry here does not compile.

use schemars::{JsonSchema, Schema};

use super::Schemas;
use crate::api::page::List;
use crate::api::response::Deleted;
use crate::api::route::Endpoint;
use crate::api::{
    bans, domains, emails, health, keys, queue, rejections, suppressions, templates, tenants, usage, webhooks,
};
use crate::model::{
    DomainId, EventId, KeyId, MessageId, RequestId, SuppressionId, TemplateId, TenantId, WebhookDeliveryId,
    WebhookId,
};
use crate::store::EventView;

/// Makes the schema of a type.
pub type SchemaOf = fn(&mut Schemas) -> Schema;

const JSON: &str = "application/json";

/// The parts of the API, in the order in which they are read.
pub const TAGS: &[(&str, &str)] = &[
    ("Tenants", "The customers of the platform: each has domains, keys and mail of its own."),
    ("Domains", "Sending domains, the DNS records that prove them, and their DKIM keys."),
    ("Keys", "Credentials for this API and for SMTP. Nobody makes a key that may do more than their own."),
    ("Emails", "Sending, and what became of each message."),
    ("Templates", "Subjects and bodies that data is put into, in the language of Jinja."),
    ("Suppressions", "Addresses that must not be sent to."),
    ("Usage", "How much a tenant used, of a month and as a series."),
    ("Rejections", "Submissions that were refused, over SMTP and over HTTP."),
    ("Events", "What happened, as a list and as a live tail."),
    ("Webhooks", "Where events are posted as they happen, signed after Standard Webhooks."),
    ("Queue", "What waits for delivery and why; pausing, resuming and hurrying it."),
    ("Bans", "Who may not log in over SMTP for a while, because too many logins failed."),
    ("Server", "Whether the server works, and what its API is."),
];

/// One endpoint in words and types.
pub struct Description {
    /// One of [`TAGS`].
    pub tag: &'static str,
    /// One line.
    pub summary: &'static str,
    /// What else there is to know.
    pub text: &'static str,
    /// What `{id}` in its path is.
    pub id: SchemaOf,
    /// The same in words.
    pub id_text: &'static str,
    /// What the cursors of its list are.
    pub cursor: SchemaOf,
    /// Its body.
    pub takes: Option<SchemaOf>,
    /// Whether it cannot do without the body.
    pub is_body_required: bool,
    /// The status when it is done.
    pub status: u16,
    /// What the answer then is, in words.
    pub gives_text: &'static str,
    /// The same by media type.
    pub gives: Vec<(&'static str, SchemaOf)>,
}

impl Description {
    fn new(tag: &'static str, summary: &'static str, text: &'static str) -> Self {
        Self {
            tag,
            summary,
            text,
            id: Schemas::request::<String>,
            id_text: "The id.",
            cursor: Schemas::request::<String>,
            takes: None,
            is_body_required: false,
            status: 200,
            gives_text: "It is done.",
            gives: Vec::new(),
        }
    }

    fn about<Id: JsonSchema>(self, text: &'static str) -> Self {
        Self { id: Schemas::request::<Id>, id_text: text, cursor: Schemas::request::<Id>, ..self }
    }

    fn listed_by<Id: JsonSchema>(self) -> Self {
        Self { cursor: Schemas::request::<Id>, ..self }
    }

    fn takes<T: JsonSchema>(self) -> Self {
        Self { takes: Some(Schemas::request::<T>), is_body_required: true, ..self }
    }

    fn may_take<T: JsonSchema>(self) -> Self {
        Self { takes: Some(Schemas::request::<T>), ..self }
    }

    fn gives<T: JsonSchema>(mut self, text: &'static str) -> Self {
        self.gives.push((JSON, Schemas::answer::<T>));
        Self { gives_text: text, ..self }
    }

    fn creates<T: JsonSchema>(self, text: &'static str) -> Self {
        Self { status: 201, ..self.gives::<T>(text) }
    }

    fn accepts<T: JsonSchema>(self, text: &'static str) -> Self {
        Self { status: 202, ..self.gives::<T>(text) }
    }

    fn gives_octets(mut self, media: &'static str, text: &'static str) -> Self {
        self.gives.push((media, Schemas::answer::<String>));
        Self { gives_text: text, ..self }
    }
}

/// The description of an endpoint.
pub fn describe(endpoint: Endpoint) -> Description {
    use Endpoint as E;
    let tenant = |summary, text| Description::new("Tenants", summary, text).about::<TenantId>("The tenant.");
    let used = |summary, text| Description::new("Usage", summary, text);
    let domain = |summary, text| Description::new("Domains", summary, text).about::<DomainId>("The domain.");
    let key = |summary, text| Description::new("Keys", summary, text).about::<KeyId>("The key.");
    let suppression = |summary, text| {
        Description::new("Suppressions", summary, text).about::<SuppressionId>("The suppression.")
    };
    let email = |summary, text| Description::new("Emails", summary, text).about::<MessageId>("The message.");
    let queue = |summary, text| Description::new("Queue", summary, text);
    let template =
        |summary, text| Description::new("Templates", summary, text).about::<TemplateId>("The template.");
    let webhook =
        |summary, text| Description::new("Webhooks", summary, text).about::<WebhookId>("The webhook.");
    let webhook_delivery = |summary, text| {
        Description::new("Webhooks", summary, text).about::<WebhookDeliveryId>("The delivery.")
    };
    let ban = |summary, text| {
        Description::new("Bans", summary, text)
            .about::<String>("An IP address, or the id of a key. Any address of a banned network selects it.")
    };
    let server = |summary, text| Description::new("Server", summary, text);
    match endpoint {
        E::CreateTenant => tenant("Create a tenant", "").takes::<tenants::Create>().creates::<tenants::TenantView>("The tenant."),
        E::ListTenants => tenant("List tenants", "With a tenant key the list contains only that tenant, whatever the filters.").gives::<List<tenants::TenantView>>("Tenants."),
        E::GetTenant => tenant("Get a tenant", "").gives::<tenants::TenantView>("The tenant."),
        E::UpdateTenant => tenant("Change a tenant", "Suspending it refuses all its keys and its mail over SMTP, and stops delivery of its queued mail; activating it resumes both. A tenant key may change `name` and `settings` only.").takes::<tenants::Update>().gives::<tenants::TenantView>("The updated tenant."),
        E::DeleteTenant => tenant("Delete a tenant with all its data", "Deletes its domains, keys, messages and events. With `dry_run=true` they are only counted.").gives::<tenants::Removal>("Counts of what was deleted, or would be."),
        E::GetUsage => used("Get the usage of a tenant in a month", "").gives::<usage::UsageView>("The usage."),
        E::GetUsageSeries => used("Get the usage of a tenant by hour or day", "").gives::<usage::SeriesView>("The usage."),
        E::CreateDomain => domain("Create a sending domain", "The response has the DNS records to publish. An unverified claim does not block other tenants.").takes::<domains::Create>().creates::<domains::DomainView>("The domain with its records."),
        E::ListDomains => domain("List domains", "").gives::<List<domains::DomainView>>("Domains."),
        E::GetDomain => domain("Get a domain", "").gives::<domains::DomainView>("The domain with its records."),
        E::UpdateDomain => domain("Change a domain", "").takes::<domains::Update>().gives::<domains::DomainView>("The updated domain."),
        E::DeleteDomain => domain("Delete a domain", "Mail from this domain is refused from now on.").gives::<Deleted>("Deleted."),
        E::VerifyDomain => domain("Check the DNS records of a domain now", "The server also checks them every hour.").may_take::<domains::Empty>().gives::<domains::DomainView>("The domain with the result."),
        E::AddDkimKey => domain("Bring your own DKIM key", "The key signs once its DNS record is found.").takes::<domains::AddDkimKey>().creates::<domains::DkimKeyView>("The key without its private key."),
        E::RotateDkimKeys => domain("Replace the DKIM keys of a domain", "New keys sign once their DNS records are found. The old keys then retire; keep their records while queued mail carries their signatures. While new keys wait for their records, another request returns the same keys.").may_take::<domains::RotateDkimKeys>().creates::<List<domains::DkimKeyView>>("The pending keys with their DNS records."),
        E::ListDkimKeys => domain("List the DKIM keys of a domain", "").gives::<List<domains::DkimKeyView>>("The keys of the domain."),
        E::CreateKey => key("Create a key", "Only this response contains the secret. Omitted restrictions are those of the calling key.").takes::<keys::Create>().creates::<keys::NewKeyView<'static>>("The key with its secret."),
        E::ListKeys => key("List keys", "Includes revoked keys.").gives::<List<keys::KeyView>>("Keys."),
        E::GetKey => key("Get a key", "").gives::<keys::KeyView>("The key."),
        E::UpdateKey => key("Change a key", "").takes::<keys::Update>().gives::<keys::KeyView>("The updated key."),
        E::RevokeKey => key("Revoke a key", "The key is refused from now on and stays in the list. A key cannot revoke itself.").gives::<keys::KeyView>("The revoked key."),
        E::Suppress => suppression("Suppress an address", "If the address is suppressed already, its reason is replaced.").takes::<suppressions::Create>().creates::<suppressions::SuppressionView>("The suppression."),
        E::SuppressMany => suppression("Suppress up to 1000 addresses", "If any item is invalid, none is accepted.").takes::<suppressions::Batch>().creates::<List<suppressions::SuppressionView>>("The suppressions, in the order of the request."),
        E::ListSuppressions => suppression("List suppressions", "").gives::<List<suppressions::SuppressionView>>("Suppressions."),
        E::GetSuppression => suppression("Get a suppression", "").gives::<suppressions::SuppressionView>("The suppression."),
        E::LiftSuppression => suppression("Delete a suppression", "Mail to the address is accepted again.").gives::<Deleted>("Deleted."),
        E::SendEmail => email("Send a message", "The checks are those of SMTP. The message is on disk before the response is sent. Use a key of the tenant: the key determines the allowed senders and the environment. A platform key cannot send.").takes::<emails::EmailRequest>().accepts::<emails::Accepted>("The message is queued."),
        E::SendEmails => email("Send up to 100 messages", "If any item is invalid, none is accepted.").takes::<emails::BatchRequest>().accepts::<List<emails::Accepted>>("The messages are queued; in the order of the request."),
        E::ListEmails => email("List messages", "Messages from test keys are stored but not delivered. `environment=test` lists them; `/v1/emails/{id}/raw` returns their content.").gives::<List<emails::EmailView>>("Messages, without their `deliveries`."),
        E::GetEmail => email("Get a message with its deliveries", "").gives::<emails::EmailView>("The message."),
        E::GetTimeline => email("Get the timeline of a message", "Events and attempts, oldest first: at most 1000 entries and 2 MiB of transcripts. If `has_more` is true, filter by `delivery_id` to see more.").gives::<List<emails::Entry>>("Events and attempts."),
        E::GetRaw => email("Get the raw message", "Available while the content is retained.").gives_octets("message/rfc822", "The message in RFC 5322 format."),
        E::RetryEmail => email("Retry a message now", "Makes deferred deliveries due now. Scheduled deliveries stay scheduled.").gives::<emails::RetryView>("The deliveries that are due now."),
        E::CancelEmail => email("Cancel a message", "Cancels deliveries that no other server has accepted yet.").gives::<emails::CancellationView>("Which deliveries were cancelled, and for which it was too late."),
        E::ShowQueue => queue("Show the queue", "Counts of deliveries by tenant and destination, largest group first, with the reasons why they wait and until when.").gives::<queue::QueueView>("The queue."),
        E::PauseQueue => queue("Pause delivery for a tenant or destination", "Mail is still accepted; it waits in the queue.").takes::<queue::PauseRequest>().gives::<queue::PauseView>("The pause."),
        E::ResumeQueue => queue("Resume delivery for a tenant or destination", "Ends the pause with exactly this tenant and destination.").may_take::<queue::QueuePart>().gives::<queue::ResumeView>("The pause that ended."),
        E::FlushQueue => queue("Flush the queue", "Makes deferred deliveries due now: those of the given tenant and destination, or all.").may_take::<queue::QueuePart>().gives::<queue::FlushView>("How many deliveries are due now."),
        E::ListSites => queue("List the destination sites", "A site is a set of mail hosts that serves one or more domains, or a smart host. Lists sites that are in use, have waiting deliveries or are in back-off.").gives::<List<queue::SiteView>>("All sites."),
        E::ListRejections => Description::new("Rejections", "List refused submissions", "").about::<RequestId>("The rejection.").gives::<List<rejections::RejectionView>>("Rejections."),
        E::CreateTemplate => template("Create a template", "").takes::<templates::CreateTemplate>().creates::<templates::TemplateView>("The template."),
        E::ListTemplates => template("List templates", "The list omits the bodies; get a single template to see them.").gives::<List<templates::TemplateSummary>>("Templates."),
        E::GetTemplate => template("Get a template", "").gives::<templates::TemplateView>("The template."),
        E::UpdateTemplate => template("Change a template", "").takes::<templates::UpdateTemplate>().gives::<templates::TemplateView>("The updated template."),
        E::DeleteTemplate => template("Delete a template", "").gives::<Deleted>("Deleted."),
        E::RenderTemplate => template("Render a template", "Renders with the given data. Sends nothing.").takes::<templates::RenderTemplate>().gives::<templates::Rendered>("Subject and bodies."),
        E::ListEvents => Description::new("Events", "List or stream events", "With `Accept: text/event-stream` the response is a stream of events as they happen: `id` is the position after the event in the journal, `event` its type and `data` the event in JSON. Reconnect with `Last-Event-ID` to continue without a gap.").about::<EventId>("The event.").gives::<List<EventView<'static>>>("Events.").gives_octets("text/event-stream", "Events."),
        E::CreateWebhook => webhook("Create a webhook", "Only this response contains the secret.").takes::<webhooks::Create>().creates::<webhooks::WebhookView>("The webhook with its secret."),
        E::ListWebhooks => webhook("List webhooks", "").gives::<List<webhooks::WebhookView>>("Webhooks."),
        E::GetWebhook => webhook("Get a webhook", "").gives::<webhooks::WebhookView>("The webhook."),
        E::UpdateWebhook => webhook("Change a webhook", "").takes::<webhooks::Update>().gives::<webhooks::WebhookView>("The updated webhook."),
        E::DeleteWebhook => webhook("Delete a webhook", "Pending deliveries are dropped.").gives::<Deleted>("Deleted."),
        E::TestWebhook => webhook("Send a test event", "Sends `webhook.test`, whatever events the webhook subscribes to.").accepts::<webhooks::DeliveryView>("The delivery is queued."),
        E::RotateWebhookSecret => webhook("Rotate the secret of a webhook", "The old secret also signs for 24 hours.").gives::<webhooks::WebhookView>("The webhook with its new secret."),
        E::ListWebhookDeliveries => webhook("List the deliveries of a webhook", "").listed_by::<WebhookDeliveryId>().gives::<List<webhooks::DeliveryView>>("Deliveries."),
        E::GetWebhookDelivery => webhook_delivery("Get a delivery of a webhook", "").gives::<webhooks::DeliveryView>("The delivery."),
        E::ReplayWebhookDelivery => webhook_delivery("Replay a delivery", "Sends it with the same id, so that the receiver can detect the duplicate.").accepts::<webhooks::DeliveryView>("The delivery is queued again."),
        E::ListBans => ban("List bans", "").gives::<List<bans::BanView>>("All bans."),
        E::LiftBan => ban("Lift a ban", "").gives::<Deleted>("Deleted."),
        E::Alive => server("Liveness", "").gives::<health::Health>("The server runs."),
        E::Ready => server("Readiness", "Ready if the server can store mail and is not shutting down. A test write checks the store, at most once a second.").gives::<health::Health>("The server is ready."),
        E::Document => server("This document", "").gives::<serde_json::Map<String, serde_json::Value>>("The API in OpenAPI 3.1."),
        E::Docs => server("This document as an HTML page", "").gives_octets("text/html", "The API reference."),
        E::DocsPage => Description { id_text: "The name of the page, such as `errors`.", ..server("Page of the guide", "`GET /docs` lists the pages.") }.gives_octets("text/html", "The page."),
    }
}
