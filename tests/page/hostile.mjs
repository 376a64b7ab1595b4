// Texts of attackers in every place that somebody else fills. They are text: no dialog, no request, no navigation. A page that
// shows one of them raw proves that the test would see it.

import { readFileSync } from "node:fs";
import { open, report, signIn, startBrowser, startServer } from "./stage.mjs";

const short = process.argv.includes("--short");
const all = JSON.parse(readFileSync(new URL("payloads.json", import.meta.url)));
const payloads = all.map((text) => (text === "A*1048576" ? "A".repeat(1_048_576) : text));
const problems = [];
let checks = 0;
let shown = 0;

async function plant(server, tenant, text) {
  const make = async (path, body, key) => {
    const { status, body: made } = await server.call("POST", path, body, key);
    if (status >= 500) problems.push(`${path} answers ${status} to ${text.slice(0, 60)}`);
    return status < 300 ? made.id : undefined;
  };
  const content = Buffer.from("x").toString("base64");
  const mail = {
    from: "hello@sandbox.localhost", to: ["someone@example.com"], subject: text.slice(0, 900), text, html: text,
    metadata: { note: text.slice(0, 400) }, attachments: [{ filename: text.slice(0, 200), content }],
  };
  const message = (await make("/v1/emails", mail, server.demo)) ?? (await make("/v1/emails", { ...mail, metadata: {}, attachments: [] }, server.demo));
  const key = await make("/v1/keys", { tenant_id: tenant, name: text, scopes: ["smtp:send"] });
  return {
    message,
    key,
    tenant: await make("/v1/tenants", { name: text }),
    template: await make("/v1/templates", { tenant_id: tenant, name: text, subject: text, text, html: text }),
    suppression: await make("/v1/suppressions", { tenant_id: tenant, address: `a${checks}@x.example`, evidence: text }),
  };
}

async function visit(page, base, path) {
  await page.goto(base + path);
  checks += 1;
  const where = new URL(page.url());
  if (where.origin !== base) problems.push(`${path} leads to ${where}`);
}

// One text on the pages of its objects.
async function show(page, base, text, made) {
  const pages = {
    message: ["", "/preview", "?tab=preview", "?tab=text", "?tab=headers", "?tab=attachments"].map((end) => `/ui/messages/${made.message}${end}`),
    key: [`/ui/keys/${made.key}`],
    tenant: [`/ui/tenants/${made.tenant}`],
    template: [`/ui/templates/${made.template}`, `/ui/templates/${made.template}/preview`],
    suppression: [`/ui/suppressions/${made.suppression}`],
  };
  for (const [kind, paths] of Object.entries(pages)) {
    if (made[kind] === undefined) continue;
    shown += 1;
    for (const path of short ? paths.slice(0, 2) : paths) await visit(page, base, path);
    if (kind === "key") {
      const read = await page.locator("main").innerText();
      const plain = (one) => one.replace(/\s+/g, " ").trim();
      const isPlain = !/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069]/.test(text);
      if (isPlain && !plain(read).includes(plain(text).slice(0, 60))) problems.push(`${page.url()} does not show ${text.slice(0, 60)}`);
    }
  }
}

async function prove(browser, base) {
  const found = [];
  const context = await open(browser, base, found);
  const page = await context.newPage();
  await page.route(`${base}/raw`, (route) => route.fulfill({ contentType: "text/html", body: `<p>${payloads[1].slice(2)}` }));
  const dialog = page.waitForEvent("dialog").catch(() => {});
  await page.goto(`${base}/raw`);
  await dialog;
  if (!found.some((one) => one.includes("dialog"))) problems.push("the test does not see a text that is shown raw");
  await context.close();
}

const server = await startServer();
const browser = await startBrowser(problems);
try {
  await prove(browser, server.base);
  const tenant = (await server.call("GET", "/v1/tenants?slug=demo")).body.data[0].id;
  const context = await open(browser, server.base, problems);
  let page = await signIn(context, await server.link());
  let visits = checks;
  for (const text of payloads) {
    await show(page, server.base, text, await plant(server, tenant, text));
    // A session may see so many pages a minute.
    if (checks - visits > 150) {
      await page.close();
      page = await signIn(context, await server.link());
      visits = checks;
    }
  }
  for (const list of ["", "messages", "keys", "tenants", "templates", "suppressions", "events", "audit", "sandbox", "rejections"]) {
    await visit(page, server.base, `/ui/${list}`);
  }
  if (shown < 100) problems.push(`only ${shown} objects took a text`);
} finally {
  await browser.close();
  await server.stop();
}
report(`hostile (${payloads.length} texts)`, checks, problems);
