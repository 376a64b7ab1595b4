"""The walk with openapi-python-client."""

import os
import time

from pillarbox_client import AuthenticatedClient
from pillarbox_client.api.domains import create_domain
from pillarbox_client.api.emails import get_email, get_timeline, send_email
from pillarbox_client.api.keys import create_key
from pillarbox_client.api.tenants import create_tenant, delete_tenant
from pillarbox_client.api.webhooks import create_webhook, get_webhook_delivery, test_webhook
from pillarbox_client.models import (
    DeliveryState,
    DomainCreate,
    EmailRequest,
    Environment,
    Error,
    EventKind,
    KeyCreate,
    RefusalCode,
    ScopeName,
    TenantCreate,
    TimelineAttempt,
    TimelineEvent,
    Verification,
    WebhookCreate,
    WebhookDeliveryState,
)


def connect(secret):
    return AuthenticatedClient(os.environ["PILLARBOX_URL"], secret)


def must(answer):
    assert not isinstance(answer, Error), answer
    return answer


def until(probe):
    deadline = time.monotonic() + 30
    while not probe():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


platform = connect(os.environ["PILLARBOX_KEY"])
tenant = must(create_tenant.sync(client=platform, body=TenantCreate(name="Walk")))
domain = DomainCreate(name="walk.example", tenant_id=tenant.id, verification=Verification.MANUAL)
must(create_domain.sync(client=platform, body=domain))
scopes = [ScopeName.EMAILSSEND, ScopeName.EMAILSREAD]
wanted = KeyCreate(name="web shop", tenant_id=tenant.id, environment=Environment.TEST, scopes=scopes)
key = must(create_key.sync(client=platform, body=wanted))

own = connect(key.secret)
to = ["ann@example.org", "bob@example.org"]
email = EmailRequest(from_="shop@walk.example", to=to, subject="Hello", text="Hello")
sent = must(send_email.sync(client=own, body=email))
until(lambda: must(get_email.sync(sent.id, client=own)).status == DeliveryState.DELIVERED)
timeline = must(get_timeline.sync(sent.id, client=own)).data
events = {entry.type_ for entry in timeline if isinstance(entry, TimelineEvent)}
assert {EventKind.MESSAGE_ACCEPTED, EventKind.MESSAGE_DELIVERED} <= events, events
assert any(isinstance(entry, TimelineAttempt) for entry in timeline), timeline
foreign = EmailRequest(from_="shop@else.example", to="ann@example.org", subject="Hello", text="Hello")
refused = send_email.sync(client=own, body=foreign)
assert isinstance(refused, Error) and refused.error.code == RefusalCode.DOMAIN_NOT_ALLOWED_FOR_KEY, refused

hook = must(create_webhook.sync(client=platform, body=WebhookCreate(url=os.environ["HOOK_URL"], tenant_id=tenant.id)))
test = must(test_webhook.sync(hook.id, client=platform))
until(lambda: must(get_webhook_delivery.sync(test.id, client=platform)).status == WebhookDeliveryState.DELIVERED)

assert must(delete_tenant.sync(tenant.id, client=platform)).deleted
