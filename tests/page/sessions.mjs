// Cookies, storage, links that work once, forms of other sites, signing out.

import { createServer } from "node:http";
import { open, report, signIn, startBrowser, startServer } from "./stage.mjs";

const problems = [];
let checks = 0;
const check = (holds, text) => {
  checks += 1;
  if (!holds) problems.push(text);
};

const server = await startServer();
const browser = await startBrowser(problems);
try {
  const link = await server.link();
  const context = await open(browser, server.base, problems);
  const page = await signIn(context, link);
  const cookies = await context.cookies();
  check(cookies.length === 1, `${cookies.length} cookies`);
  const [{ name, httpOnly, sameSite, path }] = cookies;
  check(name === "pillarbox" && httpOnly && sameSite === "Strict" && path === "/", `the cookie: ${name} ${httpOnly} ${sameSite} ${path}`);
  check((await page.evaluate(() => document.cookie)) === "", "the script sees the cookie");
  check(!page.url().includes("#"), `the token stays in ${page.url()}`);
  const stored = await page.evaluate(() => localStorage.length);
  check(stored === 0, `${stored} values are stored`);
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]));
  for (const secret of [link.split("#")[1], cookies[0].value]) check(!kept.includes(secret), `a secret is in ${kept}`);

  const second = await browser.newContext();
  const late = await second.newPage();
  const refused = late.waitForResponse((answer) => answer.request().method() === "POST");
  await late.goto(link);
  await late.waitForSelector("[role=alert]");
  check((await refused).status() === 403 && (await second.cookies()).length === 0, "a link works twice");
  await second.close();

  // A person who is signed in confirms a link to a tenant; then it replaces the session.
  const third = await open(browser, server.base, problems);
  const operator = await signIn(third, await server.link());
  const [replaced] = await third.cookies();
  const tenant = (await server.call("GET", "/v1/tenants?slug=demo")).body.data[0].id;
  await operator.goto(await server.link({ tenant_id: tenant }));
  const confirm = operator.locator("button[name=confirm]");
  await confirm.waitFor();
  check((await third.cookies())[0].value === replaced.value, "a link replaces a session without a question");
  await confirm.click();
  await operator.waitForURL((url) => !url.pathname.includes("sign-in"));
  check((await third.cookies())[0].value !== replaced.value, "the link does not sign in");
  check((await operator.locator("#nav .who").innerText()).includes("demo"), "the pages are not those of the tenant");
  await third.close();

  // A page of another origin posts a form. The other port is the same site, so the cookie comes, here even with its token:
  // the server refuses the origin.
  await page.goto(`${server.base}/ui/settings`);
  const token = await page.locator("input[name=token]").first().getAttribute("value");
  const foreign = createServer((_, answer) => {
    answer.setHeader("Content-Type", "text/html");
    answer.end(`<form method="post" action="${server.base}/ui/keys"><input name="token" value="${token}"><input name="name" value="stolen"><input name="tenant_id" value="platform"></form><script>document.forms[0].submit()</script>`);
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => foreign.on("listening", resolve));
  const other = await context.browser().newContext();
  await other.addCookies(cookies);
  const attacker = await other.newPage();
  const answer = attacker.waitForResponse((answer) => answer.request().method() === "POST");
  await attacker.goto(`http://127.0.0.1:${foreign.address().port}/`);
  await attacker.waitForURL(`${server.base}/**`);
  const isRefused = (await answer).status() === 403 && (await attacker.content()).includes("foreign_origin");
  check(isRefused, "a form of another origin is not refused for its origin");
  const keys = JSON.stringify((await server.call("GET", "/v1/keys?limit=100")).body);
  check(!keys.includes("stolen"), "a form of another site made a key");
  await other.close();
  foreign.close();

  await page.goto(`${server.base}/ui/settings`);
  await page.locator("button[value=sign_out], form button:has-text('Sign out')").first().click();
  await page.waitForURL("**/ui/sign-in**");
  const again = await open(browser, server.base, problems);
  await again.addCookies(cookies);
  const after = await again.newPage();
  await after.goto(`${server.base}/ui/messages`);
  check(after.url().includes("sign-in"), "the cookie works after signing out");
} finally {
  await browser.close();
  await server.stop();
}
report("sessions", checks, problems);
