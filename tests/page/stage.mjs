// The real binary in a folder of its own, and a Chromium that notes everything that must not happen.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const require = createRequire(join(process.env.PAGE_DIR, "node_modules", "x.js"));
const { chromium } = require("playwright-core");
const PATIENCE_MS = 60_000;

async function freePorts(count) {
  const servers = await Promise.all(
    Array.from({ length: count }, () => new Promise((resolve) => {
      const server = createServer().listen(0, "127.0.0.1", () => resolve(server));
    })),
  );
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

// Starts `quickstart`.
export async function startServer() {
  const folder = mkdtempSync(join(tmpdir(), "pillarbox-page-"));
  const [submission, submissions, api] = await freePorts(3);
  writeFileSync(
    join(folder, "pillarbox.toml"),
    `hostname = "localhost"\ndata_dir = "${folder}/data"\n[log]\nlevel = "warn"\n` +
      `[smtp]\nsubmission = ["127.0.0.1:${submission}"]\nsubmissions = ["127.0.0.1:${submissions}"]\n` +
      `[api]\nlisten = ["127.0.0.1:${api}"]\n[store]\nfree_disk_min = "1MiB"\n`,
  );
  const child = spawn(process.env.PILLARBOX, ["quickstart", "--dir", folder]);
  let printed = "";
  child.stderr.on("data", (octets) => process.stderr.write(octets));
  await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`not ready:\n${printed}`)), PATIENCE_MS);
    child.on("exit", () => reject(new Error(`it ended:\n${printed}`)));
    child.stdout.on("data", (octets) => {
      printed += octets;
      if (printed.includes("Ctrl-C stops it")) {
        clearTimeout(timer);
        resolve();
      }
    });
  });
  const base = `http://127.0.0.1:${api}`;
  const platform = printed.match(/platform key +(\S+)/)[1];
  const demo = printed.match(/password (pb_test_\w+)/)[1];
  const call = async (method, path, body, key = platform) => {
    const answer = await fetch(base + path, {
      method,
      headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    return { status: answer.status, body: await answer.json().catch(() => null) };
  };
  return {
    base,
    demo,
    call,
    firstLine: printed.split("\n")[0],
    link: async (options = {}) => (await call("POST", "/v1/sessions", options)).body.url,
    stop: async () => {
      child.removeAllListeners("exit");
      const ended = new Promise((resolve) => child.on("exit", resolve));
      child.kill("SIGINT");
      await ended;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

// A browser for which all other hosts are one server: nothing may come there for a host of our texts. What the browser does for
// itself is not counted.
export async function startBrowser(problems) {
  const trap = createServer((connection) => {
    connection.on("error", () => {});
    connection.on("data", (octets) => {
      if (octets.includes(".example")) problems.push("a connection to another host");
      connection.destroy();
    });
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => trap.on("listening", resolve));
  trap.unref();
  const rules = `MAP * 127.0.0.1:${trap.address().port}, EXCLUDE 127.0.0.1`;
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", `--host-resolver-rules=${rules}`],
  });
}

// A context whose problems are collected: pages with an error, dialogs, requests that leave, and violations of the policy.
export async function open(browser, base, problems, options = {}) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(20_000);
  await context.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) =>
      console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  context.on("page", (page) => watch(page, base, problems));
  return context;
}

function watch(page, base, problems) {
  const note = (text) => problems.push(`${page.url()}: ${text}`);
  // HTML of mail is in a frame that may do nothing; the browser says what it refused there. Our own pages have no sandbox.
  const isOfMail = (message) => {
    const { url } = message.location();
    if (url === "about:srcdoc") return /^Blocked .* frame is sandboxed /.test(message.text());
    const isPreview = url.startsWith(`${base}/`) && new URL(url).pathname.endsWith("/preview");
    return isPreview && /^(Blocked|Refused) |Content Security Policy/.test(message.text());
  };
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !isOfMail(message)) note(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => note(`error: ${error.message}`));
  page.on("dialog", (dialog) => {
    note(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("response", (response) => {
    if (!response.url().startsWith(`${base}/`) && !/^(data|blob|about):/.test(response.url())) note(`response: ${response.url()}`);
    // A message may have no HTML to show.
    const isPage = response.request().isNavigationRequest() && !new URL(response.url()).pathname.endsWith("/preview");
    if (isPage && response.status() >= 400) note(`${response.url()} answers ${response.status()}`);
  });
  page.on("requestfailed", (request) => {
    const { errorText } = request.failure();
    if (!/ERR_ABORTED|ERR_BLOCKED_BY_CSP|^csp$/.test(errorText)) note(`failed: ${request.url()} ${errorText}`);
  });
}

// Opens a link and waits until the pages are there.
export async function signIn(context, link) {
  const page = await context.newPage();
  await page.goto(link);
  await page.waitForURL((url) => !url.pathname.includes("sign-in"));
  return page;
}

export function report(name, checks, problems) {
  for (const problem of problems) console.log(`FAILED  ${problem}`);
  console.log(`${name}: ${checks} checks, ${problems.length} problems`);
  if (problems.length > 0) process.exitCode = 1;
}
