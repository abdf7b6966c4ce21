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
  check(`${name}: no request to anywhere else`, requests.every((r) => r.startsWith(origin)), requests);
  check(`${name}: the browser has nothing to complain of`, errors.length === 0, errors);
  await page.screenshot({ path: `${out}/${name}.png`, fullPage: true });
  await context.close();
}

// The keyboard reaches everything, in the order of the page, and shows where it is.
const { page, errors } = await open({ viewport: { width: 1000, height: 700 } });
await page.goto(link);
await page.waitForSelector("#hosts th");
const reached = [];
for (let i = 0; i < 6; i += 1) {
  await page.keyboard.press("Tab");
  reached.push(await page.evaluate(() => {
    const e = document.activeElement;
    const style = getComputedStyle(e);
    return `${e.className || e.id} ${e.getAttribute("aria-labelledby") ?? ""}${style.outlineStyle === "none" ? " no ring" : ""}`.trim();
  }));
}
check("Tab goes: skip link, pause, four tables, each with a focus ring",
  reached.join() === "skip,pause,scroll c-hosts,scroll c-instances,scroll c-records,scroll c-events", reached);

// The agent stops: Online, Stale, Offline, and nothing of it stays green. Then it comes back. Nobody reloads the page.
const cell = (n) => page.evaluate((n) => document.querySelector(`#hosts tr td:nth-of-type(${n})`)?.textContent.trim(), n);
const green = () => page.evaluate(() => document.querySelectorAll("#hosts .good, #instances .good").length);
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
