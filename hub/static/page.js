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

function show(parts) {
  const trouble = document.getElementById("trouble");
  trouble.textContent = parts.trouble;
  trouble.hidden = parts.trouble === "";
  for (const [id, html] of Object.entries(parts)) {
    // While the hub cannot look, what was last seen stays, marked old.
    if (id === "trouble" || (parts.trouble !== "" && id !== "at") || seen[id] === html) continue;
    seen[id] = html;
    // The hub escaped every text in it.
    document.getElementById(id).innerHTML = html;
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
