// Keeps the page fresh: one event stream, parts replaced only where they changed. Without a connection all is marked old.
"use strict";
const cut = document.getElementById("cut");
const pause = document.getElementById("pause");
const seen = {};
let source = null;
let heard = Date.now();
let since = null;

function old(is) {
  if (is === (since !== null)) return;
  since = is ? new Date(heard) : null;
  cut.hidden = !is;
  cut.textContent = is ? "No word from the hub since " + since.toISOString().slice(11, 19) + " UTC. What you see is old; dialling again." : "";
  mark();
}

function mark() {
  const trouble = !document.getElementById("trouble").hidden;
  if (since || trouble || paused()) document.body.dataset.old = "yes";
  else delete document.body.dataset.old;
}

const paused = () => pause.getAttribute("aria-pressed") === "true";

// What somebody opened stays open, and the keyboard stays where it was.
function replace(place, html) {
  const open = new Set(Array.from(place.querySelectorAll("details[open]"), (d) => d.dataset.keep));
  const focused = place.contains(document.activeElement) ? document.activeElement.closest("details")?.dataset.keep : undefined;
  // The hub escaped every text in it.
  place.innerHTML = html;
  for (const d of place.querySelectorAll("details")) {
    d.open = open.has(d.dataset.keep);
    if (focused === d.dataset.keep) d.firstElementChild.focus({ preventScroll: true });
  }
}

function show(parts) {
  const trouble = document.getElementById("trouble");
  trouble.textContent = parts.trouble;
  trouble.hidden = parts.trouble === "";
  for (const [id, html] of Object.entries(parts)) {
    // While the hub cannot look, what was last seen stays, marked old.
    if (id === "trouble" || (parts.trouble !== "" && id !== "at") || seen[id] === html) continue;
    seen[id] = html;
    replace(document.getElementById(id), html);
  }
  mark();
}

function dial() {
  source = new EventSource("/live");
  source.addEventListener("parts", (event) => {
    heard = Date.now();
    old(false);
    show(JSON.parse(event.data));
  });
  source.onerror = () => {
    old(true);
    // The browser gives up on a refusal; a hub that starts again refuses for a moment.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => { if (!paused()) dial(); }, 2000);
  };
}

// A connection that hangs says nothing at all.
setInterval(() => { if (!paused() && Date.now() - heard > 5000) old(true); }, 1000);

pause.hidden = false;
pause.addEventListener("click", () => {
  const now = !paused();
  pause.setAttribute("aria-pressed", String(now));
  pause.textContent = now ? "Resume updates" : "Pause updates";
  source.close();
  if (!now) { heard = Date.now(); dial(); }
  mark();
});

dial();
