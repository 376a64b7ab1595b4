// Every page of the navigation and the first object of each list: with pictures, axe, keyboard, and without the script.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { open, report, require, signIn, startBrowser, startServer } from "./stage.mjs";

const short = process.argv.includes("--short");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const views = [["light", 1280], ["dark", 390], ["light", 390], ["dark", 1280]].slice(0, short ? 2 : 4);
const problems = [];
let checks = 0;
const check = (holds, text) => {
  checks += 1;
  if (!holds) problems.push(text);
};

async function fill(server) {
  const tenant = (await server.call("GET", "/v1/tenants?slug=demo")).body.data[0].id;
  const call = async (path, body, key) => {
    const { status } = await server.call("POST", path, body, key);
    check(status < 300, `${path} answers ${status}`);
  };
  const make = (path, body) => call(path, { tenant_id: tenant, ...body });
  await make("/v1/domains", { name: "shop.example" });
  await make("/v1/webhooks", { url: "https://hooks.example/mail", events: ["message.bounced"] });
  await make("/v1/suppressions", { address: "gone@remote.example", evidence: "550 5.1.1 no such user" });
  await make("/v1/templates", { name: "welcome", subject: "Hello {{ name }}", text: "Dear {{ name }}", html: "<p>Dear {{ name }}</p>" });
  const send = (to, subject) => call("/v1/emails", {
    from: "hello@sandbox.localhost", to: [to], subject, text: "It works.", html: "<h1>It works.</h1><img src='https://remote.example/p.gif'>",
  }, server.demo);
  await send("someone@example.com", "An order");
  await send("bounce@example.com", "One that bounces");
  await send("defer+2@example.com", "One that waits");
  const refused = await server.call("POST", "/v1/emails", { from: "x@foreign.example", to: ["a@b.example"], subject: "x", text: "x" }, server.demo);
  check(refused.status === 403, `a foreign sender gets ${refused.status}: ${JSON.stringify(refused.body)}`);
}

// The pages of the navigation, the first object that each list links to, and two pages of the guide.
async function findPages(page, base) {
  const links = (selector) => page.$$eval(selector, (all) => all.map((one) => new URL(one.href).pathname));
  await page.goto(`${base}/ui/`);
  const lists = new Set(await links("nav a[href*='/ui/']"));
  const objects = new Map();
  for (const path of lists) {
    await page.goto(base + path);
    const named = (await links("main a[href*='/ui/']")).filter((one) => /\/[a-z]+_[0-9A-Za-z]{20,}$/.test(one));
    const kind = (one) => one.replace(/_[0-9A-Za-z]+$/, "");
    named.filter((one) => !objects.has(kind(one))).forEach((one) => objects.set(kind(one), one));
  }
  const kinds = [...objects.keys()].map((one) => one.split("/").at(-1));
  for (const kind of ["msg", "dom", "key", "tpl", "whk", "sup", "req", "tnt", "aud"]) {
    check(kinds.includes(kind), `no list links to an object ${kind}_…`);
  }
  return [...lists, ...objects.values(), "/docs", "/docs/errors"];
}

const name = (path) => path.replace(/^\/(ui\/?)?/, "").replace(/_[0-9A-Za-z]{20,}/, "").replaceAll("/", "-") || "overview";

async function firstMessage(browser, server) {
  const isLink = /^Open http:\S+\/ui\/sign-in#\S+$/.test(server.firstLine);
  check(isLink, `the first line of quickstart is no link: ${server.firstLine}`);
  const link = isLink ? server.firstLine.replace("Open ", "") : await server.link({ path: "/ui/messages" });
  const start = Date.now();
  const context = await open(browser, server.base, problems);
  const page = await signIn(context, link);
  await page.click("main a[href*='/ui/messages/msg_']");
  await page.waitForSelector("main ol li");
  const seconds = (Date.now() - start) / 1000;
  console.log(`the first message with its life was on the screen after ${seconds} s`);
  check(seconds <= 10, `the first message took ${seconds} s`);
  await context.close();
}

async function look(browser, server, paths, theme, width) {
  const options = { colorScheme: theme, viewport: { width, height: 900 } };
  const context = await open(browser, server.base, problems, options);
  const page = await signIn(context, await server.link());
  const examined = await browser.newContext({ ...options, bypassCSP: true });
  const examiner = await signIn(examined, await server.link());
  for (const path of paths) {
    const what = `${path} ${theme} ${width}`;
    await page.goto(server.base + path);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    check(overflow <= 0, `${what}: wider than the window by ${overflow}`);
    const cut = await page.evaluate(() => [...document.querySelectorAll(".seg")].filter((choice) => choice.scrollWidth > choice.clientWidth).length);
    check(cut === 0, `${what}: ${cut} choices are cut off`);
    const covered = await page.evaluate(() => [...document.querySelectorAll("[data-copy]")].filter((button) => {
      const [one, other] = [button, button.parentElement.querySelector("code, pre")].map((part) => part.getBoundingClientRect());
      return button.checkVisibility() && one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
    }).length);
    check(covered === 0, `${what}: ${covered} buttons cover what they copy`);
    // A picture of a whole page of the guide is too high for the browser.
    const fullPage = !path.startsWith("/docs");
    await page.screenshot({ path: join(process.env.PAGE_DIR, `${name(path)}-${theme}-${width}.png`), fullPage });
    const answer = await examiner.goto(server.base + path);
    check(answer.status() === 200, `${what}: axe sees a page with ${answer.status()}`);
    await examiner.evaluate(axe);
    const { violations } = await examiner.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    for (const one of violations.filter((one) => ["serious", "critical"].includes(one.impact))) {
      problems.push(`${what}: axe ${one.id}: ${one.nodes.slice(0, 2).map((node) => node.html.slice(0, 120)).join(" | ")}`);
    }
    checks += 1;
  }
  await context.close();
  await examined.close();
}

async function withKeyboard(browser, server) {
  const context = await open(browser, server.base, problems, { viewport: { width: 1280, height: 900 } });
  const page = await signIn(context, await server.link());
  await page.goto(`${server.base}/ui/`);
  let reached = false;
  for (let presses = 0; presses < 60 && !reached; presses += 1) {
    await page.keyboard.press("Tab");
    const focus = await page.evaluate(() => {
      const { activeElement } = document;
      const [style, box] = [getComputedStyle(activeElement), activeElement.getBoundingClientRect()];
      const isMarked = style.outlineStyle !== "none" || style.boxShadow !== "none";
      return { isMarked, isVisible: box.width > 0 && box.height > 0, href: activeElement.getAttribute("href"), tag: activeElement.tagName, html: activeElement.outerHTML.slice(0, 100) };
    });
    check(focus.tag === "BODY" || (focus.isVisible && focus.isMarked), `the focus is not visible: ${focus.html}`);
    reached = focus.href?.endsWith("/ui/messages") ?? false;
  }
  check(reached, "the keyboard does not reach the messages");
  await page.keyboard.press("Enter");
  await page.waitForURL("**/ui/messages");
  await context.close();
}

// Enter in a box of a row must not do what only a question may do.
async function enterOnABox(browser, server) {
  const address = "enter@remote.example";
  await server.call("POST", "/v1/suppressions", { address });
  const isSuppressed = async () => (await server.call("GET", `/v1/suppressions?address=${address}`)).body.data.length === 1;
  const context = await open(browser, server.base, problems);
  const page = await signIn(context, await server.link({ path: "/ui/suppressions" }));
  const sent = [];
  page.on("request", (request) => request.method() === "POST" && sent.push(request.postData()));
  const box = page.locator("tbody input[name=ticked]").first();
  await box.press("Space");
  await box.press("Enter");
  // What Enter sent is there before what is pressed after it.
  await page.locator("form.bulk summary").click({ timeout: 5_000 }).catch(() => {});
  check(sent.length === 0 && (await box.isChecked()) && (await isSuppressed()), `Enter in a box sends ${sent}`);
  await page.locator("form.bulk button[value=lift]").click({ timeout: 5_000 }).catch(() => {});
  await page.locator("main", { hasText: "Lifted: 1" }).waitFor().catch(() => {});
  check(sent.length === 1 && !(await isSuppressed()), `the button after Enter sends ${sent}`);
  await context.close();
}

async function withoutScript(browser, server, paths, session) {
  const context = await open(browser, server.base, problems, { javaScriptEnabled: false });
  await context.addCookies(session);
  const page = await context.newPage();
  for (const path of paths) {
    await page.goto(server.base + path);
    check((await page.locator("main h1").count()) === 1, `${path} without the script has no heading`);
  }
  await context.close();
}

const server = await startServer();
const browser = await startBrowser(problems);
try {
  await firstMessage(browser, server);
  await fill(server);
  const context = await open(browser, server.base, problems);
  const page = await signIn(context, await server.link());
  const paths = await findPages(page, server.base);
  console.log(`${paths.length} pages: ${paths.map(name).join(" ")}`);
  check(paths.length >= 20, `only ${paths.length} pages were found`);
  for (const [theme, width] of views) await look(browser, server, paths, theme, width);
  await withKeyboard(browser, server);
  await enterOnABox(browser, server);
  await withoutScript(browser, server, paths, await context.cookies());
} finally {
  await browser.close();
  await server.stop();
}
report("walk", checks, problems);
