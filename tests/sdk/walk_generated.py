"""The walk with openapi-generator for Python."""

import os
import time

from pillarbox_sdk import (
    ApiClient,
    ApiException,
    Configuration,
    DeliveryState,
    DomainCreate,
    DomainsApi,
    EmailRequest,
    EmailsApi,
    Environment,
    Error,
    EventKind,
    KeyCreate,
    KeysApi,
    Mailboxes,
    RefusalCode,
    ScopeName,
    TenantCreate,
    TenantsApi,
    TimelineAttempt,
    TimelineEvent,
    Verification,
    WebhookCreate,
    WebhookDeliveryState,
    WebhooksApi,
)


def connect(secret):
    return ApiClient(Configuration(os.environ["PILLARBOX_URL"], access_token=secret))


def until(probe):
    deadline = time.monotonic() + 30
    while not probe():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


platform = connect(os.environ["PILLARBOX_KEY"])
tenants, webhooks = TenantsApi(platform), WebhooksApi(platform)
tenant = tenants.create_tenant(TenantCreate(name="Walk"))
domain = DomainCreate(name="walk.example", tenant_id=tenant.id, verification=Verification.MANUAL)
DomainsApi(platform).create_domain(domain)
scopes = [ScopeName.EMAILS_COLON_SEND, ScopeName.EMAILS_COLON_READ]
wanted = KeyCreate(name="web shop", tenant_id=tenant.id, environment=Environment.TEST, scopes=scopes)
key = KeysApi(platform).create_key(wanted)

emails = EmailsApi(connect(key.secret))
to = Mailboxes(["ann@example.org", "bob@example.org"])
sent = emails.send_email(EmailRequest(var_from="shop@walk.example", to=to, subject="Hello", text="Hello"))
until(lambda: emails.get_email(sent.id).status == DeliveryState.DELIVERED)
timeline = [entry.actual_instance for entry in emails.get_timeline(sent.id).data]
events = {entry.type for entry in timeline if isinstance(entry, TimelineEvent)}
assert {EventKind.MESSAGE_DOT_ACCEPTED, EventKind.MESSAGE_DOT_DELIVERED} <= events, events
assert any(isinstance(entry, TimelineAttempt) for entry in timeline), timeline
foreign = EmailRequest(var_from="shop@else.example", to=to, subject="Hello", text="Hello")
try:
    raise AssertionError(emails.send_email(foreign))
except ApiException as refused:
    assert Error.from_json(refused.body).error.code == RefusalCode.DOMAIN_NOT_ALLOWED_FOR_KEY, refused

hook = webhooks.create_webhook(WebhookCreate(url=os.environ["HOOK_URL"], tenant_id=tenant.id))
test = webhooks.test_webhook(hook.id)
until(lambda: webhooks.get_webhook_delivery(test.id).status == WebhookDeliveryState.DELIVERED)

assert tenants.delete_tenant(tenant.id).deleted
