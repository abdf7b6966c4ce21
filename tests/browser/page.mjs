// What check.sh shows a browser, and what it asserts. Every failure is named; any of them ends with 1.
import { chromium } from "playwright-core";
import { readFileSync } from "node:fs";
import { spawn } from "node:child_process";

const link = process.argv[2];
const origin = new URL(link).origin;
const out = process.env.OUT;
const axe = readFileSync("node_modules/axe-core/axe.min.js", "utf8");
let failed = 0;
const check = (what, holds, seen = "") => {
  console.log(`${holds ? "ok  " : "FAIL"} ${what}${holds ? "" : `: ${JSON.stringify(seen)}`}`);
  if (!holds) failed += 1;
};
const until = async (what, look, ms = 90_000) => {
  const end = Date.now() + ms;
  let seen;
  while (Date.now() < end) {
    seen = await look();
    if (seen === true) return check(what, true);
    await new Promise((r) => setTimeout(r, 250));
  }
  check(what, false, seen);
};
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
const open = async (options) => {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, ...options });
  const page = await context.newPage();
  const requests = [];
  page.on("request", (r) => requests.push(r.url()));
  const console_ = [];
  page.on("console", (m) => m.type() === "error" && console_.push(m.text()));
  page.on("dialog", (d) => { console_.push(`dialog: ${d.message()}`); d.dismiss(); });
  return { context, page, requests, errors: console_ };
};
const serious = async (page) => {
  await page.evaluate(axe);
  const found = await page.evaluate(() => axe.run(document));
  return found.violations.map((v) => `${v.impact} ${v.id}: ${v.nodes[0].html.slice(0, 100)}`);
};

// Logging in by a form with a viewer's token, without a mouse.
{
  const { context, page } = await open({});
  await page.goto(`${origin}/`);
  check("the login page has no axe violation", (await serious(page)).length === 0, await serious(page));
  await page.keyboard.type("not-a-token");
  await page.keyboard.press("Enter");
  await page.waitForLoadState();
  check("a wrong token is refused in words", (await page.textContent("body")).includes("not known"));
  await page.keyboard.type(process.env.VIEWER);
  await page.keyboard.press("Enter");
  await page.waitForSelector("#hosts");
  const cookies = await context.cookies();
  const session = cookies.find((c) => c.name === "redforge_session");
  check("a viewer's token opens the page", true);
  check("the cookie is HttpOnly, Secure, Lax and ends", session?.httpOnly && session.secure && session.sameSite === "Lax" &&
    session.expires > 0 && session.expires < Date.now() / 1000 + 13 * 3600, session);
  check("the cookie is no token", !session?.value.startsWith("rfo_") && session?.value !== process.env.VIEWER, session?.value);
  await context.close();
}

// Every state of an instance, as a real hub heard it over the agents' door.
const row = (page, instance, host = "every-state") => page.evaluate(([instance, host]) => {
  const of = (r) => [r.querySelector("th")?.textContent, r.querySelector("td")?.textContent].join() === [instance, host].join();
  const found = Array.from(document.querySelectorAll("#instances tr")).find(of);
  return found?.textContent.replace(/\s+/g, " ") ?? "no such row";
}, [instance, host]);
const EVERY_STATE = {
  adopting: [/Drifted/, /▲ Edited at the host flows/, /▲ Draft edited\/1 waits to be adopted: redforgectl flowset adopt edited\/1/],
  edited: [/Drifted/, /▲ Editor open until \d{4}-.* UTC: flows may be edited at the host/, /Edited at the host flows, credentials, settings/],
  fetching: [/Pulling 42%/, /Fetching redforge\.local\/web:2: 42% \(117\.0 MiB of 274\.0 MiB\)/],
  "fetching-unsized": [/Pulling/, /Fetching redforge\.local\/web:2: 117\.0 MiB/],
  fits: [/Running/, /Preflight Fits/, /disk: 60\.0 MiB needed, 12\.0 GiB available/, /port 8080\/tcp is free/],
  held: [/Paused/, /▲ Held by anna until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: <b>belt<\/b> is open/],
  looping: [/Crashed/, /✖ OutOfMemory/, /✖ Crashed exit code 137, next start \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC/],
  refused: [/Failed/, /PreflightRefused memory: 8\.0 GiB needed, 2\.0 GiB available; port 1883\/tcp is held by broker/,
    /Preflight Refused/, /disk: 6\.0 GiB needed, 4\.0 GiB available \(FitsAfterCleanUp\)/],
  "rolled-back": [/RolledBack/, /✖ Rolled back DeadlineExceeded; redforge\.local\/web:2; out of time: Healthy; what worked last serves/],
  safe: [/▲ Safe/, /FlowsStopped/],
  scaled: [/2 of 3 ready/, /Replicas scaled to 3: CPU 900 %, 70 % per replica, not above the maximum/],
  stopped: [/Stopped/, /Suspended/],
};
const states = async (page, mode) => {
  for (const [instance, words] of Object.entries(EVERY_STATE)) {
    const seen = await row(page, instance);
    check(`${mode}: ${instance} is shown`, words.every((w) => w.test(seen)), seen);
  }
  const bars = await page.evaluate(() => Array.from(document.querySelectorAll("#instances progress"), (p) =>
    [p.getAttribute("aria-label"), p.getAttribute("max"), p.getAttribute("value")].join()));
  check(`${mode}: a pull is a bar with a name, and with a value where there is one`,
    bars.join(" ") === "fetching on every-state, fetched,100,42 fetching-unsized on every-state, fetched,,", bars);
  const draft = await page.evaluate(() => document.querySelector("#drafts")?.textContent.replace(/\s+/g, " "));
  check(`${mode}: the draft is listed`, /edited\/1.*adopting on every-state.*redforgectl flowset adopt edited\/1/.test(draft), draft);
  const held = await row(page, "broker", "edge-1");
  check(`${mode}: what a technician holds at a real agent is shown`, /Held by \w+ until .* UTC: belt is <i>open<\/i>/.test(held), held);
  await overlaps(page, mode);
  // Where there is room for a table, it is seen whole.
  const hidden = await page.evaluate(() => Array.from(document.querySelectorAll(".scroll")).filter((r) => r.scrollWidth > r.clientWidth)
    .map((r) => r.getAttribute("aria-labelledby")));
  const wide = await page.evaluate(() => innerWidth >= 1280);
  check(`${mode}: no table scrolls sideways where there is room`, !wide || hidden.length === 0, hidden);
};
// A word that runs out of its cell is read by nobody.
const overlaps = async (page, mode) => {
  const out = await page.evaluate(() => Array.from(document.querySelectorAll("td, th")).filter((c) => c.scrollWidth > c.clientWidth + 1)
    .map((c) => c.textContent.trim().slice(0, 60)));
  check(`${mode}: no word runs out of its cell`, out.length === 0, out);
};

// The agent's own page at the site: looks only, and asks for nothing.
const edge = async (mode, options) => {
  const { context, page, requests, errors } = await open(options);
  await page.goto(process.env.EDGE_PAGE);
  const violations = await serious(page);
  check(`${mode}: the agent's page has no axe violation`, violations.length === 0, violations);
  const text = await page.textContent("body");
  check(`${mode}: the agent's page shows who holds what`, /Held at the site/.test(text) && text.includes("belt is <i>open</i>"), text);
  check(`${mode}: the agent's page asks for nothing else`, requests.every((r) => r.startsWith(process.env.EDGE_PAGE)), requests);
  check(`${mode}: the browser has nothing to complain of there`, errors.length === 0, errors);
  const width = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  check(`${mode}: the agent's page does not scroll sideways`, width <= 0, width);
  const reached = [];
  for (let i = 0; i < 5; i += 1) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => {
      const e = document.activeElement;
      return `${e.getAttribute("aria-labelledby") ?? e.textContent.trim()}${getComputedStyle(e).outlineStyle === "none" ? " no ring" : ""}`;
    }));
  }
  check(`${mode}: Tab walks through the agent's page, each with a focus ring`,
    reached.join() === "Skip to the state,Look again,host,instances,held-at-the-site", reached);
  await page.screenshot({ path: `${out}/${mode}-agent.png`, fullPage: true });
  await context.close();
};

for (const [name, options] of Object.entries({
  light: { colorScheme: "light", viewport: { width: 1280, height: 900 } },
  dark: { colorScheme: "dark", viewport: { width: 1280, height: 900 } },
  narrow: { colorScheme: "light", viewport: { width: 360, height: 740 }, reducedMotion: "reduce" },
  large: { colorScheme: "light", viewport: { width: 640, height: 450 }, deviceScaleFactor: 2 },
})) {
  const { context, page, requests, errors } = await open(options);
  await page.goto(link);
  await page.waitForSelector("#hosts th");
  await page.waitForTimeout(1500);
  const violations = await serious(page);
  check(`${name}: no axe violation`, violations.length === 0, violations);
  const width = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  check(`${name}: the page does not scroll sideways`, width <= 0, width);
  await states(page, name);
  check(`${name}: no request to anywhere else`, requests.every((r) => r.startsWith(origin)), requests);
  check(`${name}: the browser has nothing to complain of`, errors.length === 0, errors);
  await page.screenshot({ path: `${out}/${name}.png`, fullPage: true });
  // With what can be opened open, as somebody reads it.
  await page.evaluate(() => document.querySelectorAll("#instances summary").forEach((s) => s.click()));
  await page.waitForTimeout(2500);
  check(`${name}: what was opened stays open while the page changes`,
    (await page.evaluate(() => document.querySelectorAll("#instances details[open]").length)) === 2);
  const opened = await serious(page);
  check(`${name}: no axe violation with preflight open`, opened.length === 0, opened);
  await page.screenshot({ path: `${out}/${name}-open.png`, fullPage: true });
  await context.close();
  await edge(name, options);
}

// The keyboard reaches everything, in the order of the page, and shows where it is.
const { page, errors } = await open({ viewport: { width: 1000, height: 700 } });
await page.goto(link);
await page.waitForSelector("#hosts th");
const reached = [];
for (let i = 0; i < 9; i += 1) {
  await page.keyboard.press("Tab");
  reached.push(await page.evaluate(() => {
    const e = document.activeElement;
    const style = getComputedStyle(e);
    return `${e.className || e.id || e.parentElement.dataset.keep} ${e.getAttribute("aria-labelledby") ?? ""}${style.outlineStyle === "none" ? " no ring" : ""}`.trim();
  }));
}
check("Tab goes: skip link, pause, the tables and what can be opened in them, each with a focus ring",
  reached.join() === "skip,pause,scroll c-hosts,scroll c-instances,every-state/fits,every-state/refused,scroll c-drafts," +
    "scroll c-records,scroll c-events", reached);
// Opening by keyboard, while the rows are replaced every second.
for (let i = 0; i < 4; i += 1) await page.keyboard.press("Shift+Tab");
await page.keyboard.press("Enter");
await page.waitForTimeout(2500);
const kept = () => page.evaluate(() => {
  const e = document.activeElement;
  return [e.tagName, e.parentElement.dataset.keep, e.parentElement.open].join();
});
check("Enter opens preflight, and neither it nor the focus is lost as the page changes", (await kept()) === "SUMMARY,every-state/fits,true", await kept());
await page.keyboard.press("Enter");
await page.waitForTimeout(2500);
check("Enter closes it, and it stays closed", (await kept()) === "SUMMARY,every-state/fits,false", await kept());

// The agent stops: Online, Stale, Offline, and nothing of it stays green. Then it comes back. Nobody reloads the page.
const cell = (n) => page.evaluate((n) => document.querySelector(`#hosts tr td:nth-of-type(${n})`)?.textContent.trim(), n);
const green = () => page.evaluate(() => Array.from(document.querySelectorAll("#hosts tr, #instances tr"))
  .filter((r) => !r.textContent.includes("every-state")).reduce((n, r) => n + r.querySelectorAll(".good").length, 0));
await until("the host is Online", async () => (await cell(2)).includes("Online") || cell(2));
process.kill(Number(process.env.AGENT_PID), "SIGKILL");
await until("it turns Stale while the page is watched", async () => (await cell(2)).includes("Stale") || cell(2));
check("stale is not green", (await green()) === 0, await green());
await until("it turns Offline", async () => (await cell(2)).includes("Offline") || cell(2));
check("offline is not green", (await green()) === 0, await green());
check("its health is Unknown, with its age", (await cell(3)).includes("Unknown") && /ago/.test(await cell(2)), [await cell(2), await cell(3)]);
check("what waits there is not known", (await cell(7)).includes("unknown, was"), await cell(7));
await page.screenshot({ path: `${out}/offline.png`, fullPage: true });
const agent = spawn(process.env.AGENT, ["run"], { stdio: "ignore" });
await until("it comes back Online by itself", async () => (await cell(2)).includes("Online") || cell(2));
await until("waiting is a number again", async () => /^\d+$/.test(await cell(7)) || cell(7));
agent.kill();
check("no script of somebody else ran", errors.every((e) => !e.startsWith("dialog")), errors);
await browser.close();
console.log(failed === 0 ? "page: all checks hold" : `page: ${failed} checks failed`);
process.exit(failed === 0 ? 0 : 1);
