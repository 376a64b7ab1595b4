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
            .about::<String>("The address or the id of the key; any address of a network names it.")
    };
    let server = |summary, text| Description::new("Server", summary, text);
    match endpoint {
        E::CreateTenant => tenant("Create a tenant", "").takes::<tenants::Create>().creates::<tenants::TenantView>("The tenant."),
        E::ListTenants => tenant("List tenants", "With a tenant key the list has that tenant, whatever else is asked for.").gives::<List<tenants::TenantView>>("Tenants."),
        E::GetTenant => tenant("Get a tenant", "").gives::<tenants::TenantView>("The tenant."),
        E::UpdateTenant => tenant("Change a tenant", "Suspending it refuses all its keys and its mail over SMTP, and holds what is queued; activating it resumes both. A tenant key may change `name` and `settings` only.").takes::<tenants::Update>().gives::<tenants::TenantView>("The tenant as it is now."),
        E::DeleteTenant => tenant("Delete a tenant with everything it has", "Domains, keys, messages, events: nothing stays. With `dry_run=true` it is only counted.").gives::<tenants::Removal>("What went with it, or would."),
        E::GetUsage => used("Get what a tenant used in a month", "").gives::<usage::UsageView>("What it used."),
        E::GetUsageSeries => used("Get what a tenant used, hour by hour or day by day", "").gives::<usage::SeriesView>("What it used."),
        E::CreateDomain => domain("Claim a sending domain", "The answer has the DNS records to publish. A claim that is not proved blocks nobody.").takes::<domains::Create>().creates::<domains::DomainView>("The domain with its records."),
        E::ListDomains => domain("List domains", "").gives::<List<domains::DomainView>>("Domains."),
        E::GetDomain => domain("Get a domain", "").gives::<domains::DomainView>("The domain with its records."),
        E::UpdateDomain => domain("Change a domain", "").takes::<domains::Update>().gives::<domains::DomainView>("The domain as it is now."),
        E::DeleteDomain => domain("Delete a domain", "Nothing can be sent from it any more.").gives::<Deleted>("It is gone."),
        E::VerifyDomain => domain("Look up the records of a domain now", "The server does so by itself every hour.").may_take::<domains::Empty>().gives::<domains::DomainView>("The domain with what was found."),
        E::AddDkimKey => domain("Bring your own DKIM key", "It signs once its record is seen.").takes::<domains::AddDkimKey>().creates::<domains::DkimKeyView>("The key, without its private half."),
        E::RotateDkimKeys => domain("Replace the DKIM keys of a domain", "New keys sign once their records are seen; the old ones then retire, and their records have to stay while queued mail carries their signatures. While new keys wait for their records, the same ones are answered again.").may_take::<domains::RotateDkimKeys>().creates::<List<domains::DkimKeyView>>("The keys that wait, with their records."),
        E::ListDkimKeys => domain("List the DKIM keys of a domain", "").gives::<List<domains::DkimKeyView>>("All its keys."),
        E::CreateKey => key("Create a key", "The secret is in this answer and never again. What is left out is as narrow as the key of the request.").takes::<keys::Create>().creates::<keys::NewKeyView<'static>>("The key with its secret."),
        E::ListKeys => key("List keys", "Revoked ones included.").gives::<List<keys::KeyView>>("Keys."),
        E::GetKey => key("Get a key", "").gives::<keys::KeyView>("The key."),
        E::UpdateKey => key("Change a key", "").takes::<keys::Update>().gives::<keys::KeyView>("The key as it is now."),
        E::RevokeKey => key("Revoke a key", "From now on it is refused; it stays to be seen. A key does not revoke itself.").gives::<keys::KeyView>("The key, revoked."),
        E::Suppress => suppression("Suppress an address", "An address that is suppressed already gets the new reason.").takes::<suppressions::Create>().creates::<suppressions::SuppressionView>("The suppression."),
        E::SuppressMany => suppression("Suppress up to 1000 addresses", "All of them or, if any is wrong, none.").takes::<suppressions::Batch>().creates::<List<suppressions::SuppressionView>>("The suppressions, in the order of the request."),
        E::ListSuppressions => suppression("List suppressions", "").gives::<List<suppressions::SuppressionView>>("Suppressions."),
        E::GetSuppression => suppression("Get a suppression", "").gives::<suppressions::SuppressionView>("The suppression."),
        E::LiftSuppression => suppression("Lift a suppression", "The address may be sent to again.").gives::<Deleted>("It is gone."),
        E::SendEmail => email("Send a message", "It passes the same checks as over SMTP. When it is answered, the message is on disk. It takes a key of the tenant: what may be sent, and in which environment, is read off that key, so a platform key does not send.").takes::<emails::EmailRequest>().accepts::<emails::Accepted>("It will be delivered."),
        E::SendEmails => email("Send up to 100 messages", "All of them or, if any is wrong, none.").takes::<emails::BatchRequest>().accepts::<List<emails::Accepted>>("They will be delivered; in the order of the request."),
        E::ListEmails => email("List messages", "What test keys sent is kept like any other message, though it went nowhere: `environment=test` finds it, and `/v1/emails/{id}/raw` has its octets.").gives::<List<emails::EmailView>>("Messages, without their `deliveries`."),
        E::GetEmail => email("Get a message with its deliveries", "").gives::<emails::EmailView>("The message."),
        E::GetTimeline => email("Get the life of a message", "Events and attempts in the order of time, oldest first; at most 1000 of them and 2 MiB of dialogues; `has_more` says whether there are others, which a single `delivery_id` shows more of.").gives::<List<emails::Entry>>("Events and attempts."),
        E::GetRaw => email("Get a message as it was sent", "While its content is kept.").gives_octets("message/rfc822", "The octets of the message."),
        E::RetryEmail => email("Try a message again now", "What waits for its next try is due now. What is scheduled stays so.").gives::<emails::RetryView>("What is due now."),
        E::CancelEmail => email("Cancel a message", "What another server does not have yet is not delivered.").gives::<emails::CancellationView>("What was cancelled, and for what it was too late."),
        E::ShowQueue => queue("Show the queue", "How deep it is for whom and where, why it waits and until when; groups of one tenant and one destination, the deepest first.").gives::<queue::QueueView>("The queue."),
        E::PauseQueue => queue("Pause a part of the queue", "Mail is taken as ever and waits.").takes::<queue::PauseRequest>().gives::<queue::PauseView>("The pause."),
        E::ResumeQueue => queue("Resume a part of the queue", "Exactly one that was paused.").may_take::<queue::Part>().gives::<queue::ResumeView>("It is over."),
        E::FlushQueue => queue("Make a part of the queue due now", "Everything, if nothing is named.").may_take::<queue::Part>().gives::<queue::FlushView>("How much is due now."),
        E::ListSites => queue("List the sites that mail goes to", "The same mail hosts under whatever domains, and smart hosts: in use, waited for, or on hold.").gives::<List<queue::SiteView>>("All sites."),
        E::ListRejections => Description::new("Rejections", "List refused submissions", "").about::<RequestId>("The rejection.").gives::<List<rejections::RejectionView>>("Rejections."),
        E::CreateTemplate => template("Create a template", "").takes::<templates::CreateTemplate>().creates::<templates::TemplateView>("The template."),
        E::ListTemplates => template("List templates", "A list leaves the bodies out: a single template has them.").gives::<List<templates::TemplateSummary>>("Templates."),
        E::GetTemplate => template("Get a template", "").gives::<templates::TemplateView>("The template."),
        E::UpdateTemplate => template("Change a template", "").takes::<templates::UpdateTemplate>().gives::<templates::TemplateView>("The template as it is now."),
        E::DeleteTemplate => template("Delete a template", "").gives::<Deleted>("It is gone."),
        E::RenderTemplate => template("See a template with data", "Nothing is sent.").takes::<templates::RenderTemplate>().gives::<templates::Rendered>("Subject and bodies."),
        E::ListEvents => Description::new("Events", "List events, or follow them", "With `Accept: text/event-stream` the answer goes on with each event as it happens: `id` is its place in the journal, `event` its type and `data` the event in JSON. Who comes back with `Last-Event-ID` misses nothing.").about::<EventId>("The event.").gives::<List<EventView<'static>>>("Events.").gives_octets("text/event-stream", "Events."),
        E::CreateWebhook => webhook("Create a webhook", "The secret is in this answer and never again.").takes::<webhooks::Create>().creates::<webhooks::WebhookView>("The webhook with its secret."),
        E::ListWebhooks => webhook("List webhooks", "").gives::<List<webhooks::WebhookView>>("Webhooks."),
        E::GetWebhook => webhook("Get a webhook", "").gives::<webhooks::WebhookView>("The webhook."),
        E::UpdateWebhook => webhook("Change a webhook", "").takes::<webhooks::Update>().gives::<webhooks::WebhookView>("The webhook as it is now."),
        E::DeleteWebhook => webhook("Delete a webhook", "What waits for it is not posted any more.").gives::<Deleted>("It is gone."),
        E::TestWebhook => webhook("Post a test event", "An event `webhook.test`, whatever the webhook asked for.").accepts::<webhooks::DeliveryView>("It will be posted."),
        E::RotateWebhookSecret => webhook("Give a webhook a new secret", "For 24 hours the old one signs too.").gives::<webhooks::WebhookView>("The webhook with its new secret."),
        E::ListWebhookDeliveries => webhook("List what a webhook was told", "").listed_by::<WebhookDeliveryId>().gives::<List<webhooks::DeliveryView>>("Deliveries."),
        E::GetWebhookDelivery => webhook_delivery("Get what a webhook was told", "").gives::<webhooks::DeliveryView>("The delivery."),
        E::ReplayWebhookDelivery => webhook_delivery("Tell a webhook again", "With the same id, so that who has it already can tell.").accepts::<webhooks::DeliveryView>("It will be posted again."),
        E::ListBans => ban("List bans", "").gives::<List<bans::BanView>>("All bans."),
        E::LiftBan => ban("Lift a ban", "").gives::<Deleted>("It is gone."),
        E::Alive => server("Whether the server runs", "").gives::<health::Health>("It does."),
        E::Ready => server("Whether the server can work", "Mail can be stored: a test is written as a message would be, once a second at most. Nothing is stopping the server.").gives::<health::Health>("It can."),
        E::Document => server("This document", "").gives::<serde_json::Map<String, serde_json::Value>>("The API in OpenAPI 3.1."),
        E::Docs => server("This document as a page", "").gives_octets("text/html", "The API for people."),
    }
}
