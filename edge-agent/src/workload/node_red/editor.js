// Who may use the editor is the agent's to say, at each login and as long as somebody is in. Nothing of a person is here.
const desk = new URL("/v1/editor/", process.env.REDFORGE_INGEST_URL || "http://redforge-gateway");
const known = new Map();
const sockets = new Set();

async function ask(what, body) {
  const answer = await fetch(new URL(what, desk), {
    method: "POST",
    headers: { authorization: `Bearer ${process.env.REDFORGE_INGEST_TOKEN}`, "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(3000),
  });
  if (answer.status === 200) return (await answer.json()).until_ms;
  if (answer.status === 403) return 0;
  throw new Error(`the agent answered ${answer.status}`);
}

function user(name) {
  return { username: name, permissions: "*" };
}

// While the agent is away for a moment its last word counts, for a minute and never beyond the end.
async function stays(name) {
  const last = known.get(name) || { until: 0, asked: 0 };
  const age = Date.now() - last.asked;
  if (age >= 1000) {
    try {
      known.set(name, { until: await ask("stay", { user: name }), asked: Date.now() });
    } catch {
      if (age > 60000) known.delete(name);
    }
  }
  const now = known.get(name);
  return now !== undefined && now.until > Date.now();
}

async function login(name, password) {
  try {
    const until = await ask("login", { user: name, password });
    if (until > Date.now()) {
      known.set(name, { until, asked: Date.now() });
      return user(name);
    }
  } catch (e) {
    console.error(`nobody can log in: ${e.message}`);
  }
  return null;
}

// An open event socket would outlive its user: at the end all of them are cut, and who may come back does.
const http = require("http");
const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, request, socket, ...rest) {
  if (event === "upgrade" && String(request.url).startsWith(settings.httpAdminRoot)) {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  }
  return emit.call(this, event, request, socket, ...rest);
};
setInterval(async () => {
  for (const name of [...known.keys()]) {
    if (!(await stays(name))) {
      known.delete(name);
      sockets.forEach((socket) => socket.destroy());
    }
  }
}, 2000).unref();

settings.adminAuth = {
  type: "credentials",
  users: async (name) => (name === agent.user || (await stays(name)) ? user(name) : null),
  authenticate: login,
  tokens: [{ token: agent.token, user: agent.user, scope: ["*"] }],
  // No session outlives the longest developer mode.
  sessionExpiryTime: 604800,
};
module.exports = settings;
