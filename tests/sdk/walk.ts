// The walk with openapi-typescript and openapi-fetch.
import createClient from "openapi-fetch";
import type { components, paths } from "./pillarbox.js";

type Failure = components["schemas"]["Error"];

function connect(key: string) {
  return createClient<paths>({
    baseUrl: process.env.PILLARBOX_URL ?? "",
    headers: { Authorization: `Bearer ${key}` },
  });
}

function must<T>({ data, error }: { data?: T; error?: Failure }): T {
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

async function until<T>(probe: () => Promise<T | false>): Promise<T> {
  const deadline = Date.now() + 30_000;
  for (;;) {
    const found = await probe();
    if (found !== false) return found;
    if (Date.now() > deadline) throw new Error("waited in vain");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const platform = connect(process.env.PILLARBOX_KEY ?? "");
const tenant = must(await platform.POST("/v1/tenants", { body: { name: "Walk" } }));
const owned = { tenant_id: tenant.id };
must(await platform.POST("/v1/domains", { body: { ...owned, name: "walk.example", verification: "manual" } }));
const key = must(
  await platform.POST("/v1/keys", {
    body: { ...owned, name: "web shop", environment: "test", scopes: ["emails:send", "emails:read"] },
  }),
);

const own = connect(key.secret);
const sent = must(
  await own.POST("/v1/emails", {
    body: { from: "shop@walk.example", to: ["ann@example.org", "bob@example.org"], subject: "Hello", text: "Hello" },
  }),
);
const params = { path: { id: sent.id } };
await until(async () => must(await own.GET("/v1/emails/{id}", { params })).status === "delivered");
const timeline = must(await own.GET("/v1/emails/{id}/timeline", { params }));
const seen: string[] = timeline.data.map((entry) => (entry.object === "event" ? entry.type : entry.object));
for (const wanted of ["message.accepted", "attempt", "message.delivered"]) {
  if (!seen.includes(wanted)) throw new Error(`no ${wanted} in ${seen}`);
}
const foreign = { from: "shop@else.example", to: "ann@example.org", subject: "Hello", text: "Hello" };
const { error } = await own.POST("/v1/emails", { body: foreign });
if (error?.error.code !== "domain_not_allowed_for_key") throw new Error(JSON.stringify(error));

const hook = must(await platform.POST("/v1/webhooks", { body: { ...owned, url: process.env.HOOK_URL ?? "" } }));
const test = must(await platform.POST("/v1/webhooks/{id}/test", { params: { path: { id: hook.id } } }));
await until(async () => {
  const delivery = await platform.GET("/v1/webhooks/deliveries/{id}", { params: { path: { id: test.id } } });
  return must(delivery).status === "delivered";
});

const removal = must(await platform.DELETE("/v1/tenants/{tenant_id}", { params: { path: owned } }));
if (!removal.deleted) throw new Error(JSON.stringify(removal));
