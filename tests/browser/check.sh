#!/usr/bin/env bash
# Looks at the hub's page and at the agent's in a real browser: a hub of its own, an agent that is stopped and comes back, a
# host that is in every state at once, axe-core, keyboard, dark and light, a narrow screen, and the browser's own list of
# requests. Needs chromium (apt install chromium), node and npm, and the built programs; takes about two minutes. Screenshots
# go to target/page/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) repo=$(cd "$here/../.." && pwd) bin=$repo/target/debug out=$repo/target/page
for need in chromium node npm; do command -v "$need" >/dev/null || { echo "check.sh: $need is missing" >&2; exit 69; }; done
mkdir -p "$out/browser"; cp "$here/package.json" "$here/page.mjs" "$out/browser/"
# From here on in a network namespace with nothing in it but loopback: the page needs no internet, and the browser does not
# break off its requests because the machine's networks change.
if [ "${1:-}" != inside ]; then
  (cd "$out/browser" && npm install --silent --no-fund --no-audit)
  own=(unshare --net); [ "$(id -u)" = 0 ] || own=(unshare --map-current-user --keep-caps --net)
  exec "${own[@]}" bash "$0" inside
fi
ip link set lo up
work=$(mktemp -d /tmp/rf-page.XXXX); chmod 711 "$work"
hub= agent= narrator=
cleared() { # every step, whatever the one before said
  [ -z "$narrator" ] || kill "$narrator" 2>/dev/null || true
  [ -z "$agent" ] || kill "$agent" 2>/dev/null || true
  [ -z "$hub" ] || { kill "$hub" && wait "$hub"; } 2>/dev/null || true
  rm -rf "$work"
}
trap cleared EXIT
port=${PAGE_PORT:-17800}
"$bin/redforge-hub" dev --state "$work/hub" --port-base "$port" >"$work/hub.out" 2>"$work/hub.err" & hub=$!
for _ in $(seq 240); do grep -q '^ready' "$work/hub.out" && break; kill -0 "$hub"; sleep 0.25; done
grep -q '^ready' "$work/hub.out" || { cat "$work/hub.err" >&2; exit 1; }
export REDFORGE_HUB=https://127.0.0.1:$((port + 1)) REDFORGE_TOKEN_FILE=$work/hub/operator.token REDFORGE_CA_FILE=$work/hub/root.pem
# The agent of this check has no Docker: the page needs a host, not its containers.
export REDFORGE_EDGE__STATE__DIR=$work/edge REDFORGE_EDGE__STATE__RUN_DIR=$work/er REDFORGE_EDGE__PAGE__LISTEN=127.0.0.1:$((port + 3))
export REDFORGE_EDGE__RUNTIME__DOCKER_SOCKET=$work/no.sock PATH=$bin:$PATH
"$bin/redforgectl" apply -f "$repo/examples/first/site.yaml"
sh -c "$(redforgectl token create --site plant --host-name edge-1)"
"$bin/redforge-edge" run >"$work/edge.out" 2>&1 & agent=$!
# Text that a page must not take for markup.
viewer=$(redforge-hub admin token create --state "$work/hub" --name '<img src=x onerror=alert(1)>' --role viewer)
redforgectl --token "$viewer" get hosts >/dev/null
"$bin/redforgectl" apply -f "$repo/examples/first/instances.yaml"
# Only what the host was told of can be held.
for _ in $(seq 240); do
  "$bin/redforge-edge" hold broker --for 2h --reason 'belt is <i>open</i>' >"$work/hold.out" 2>&1 && break; sleep 0.25
done
grep -q 'is held by' "$work/hold.out" || { cat "$work/hold.out" >&2; exit 1; }
# A host that is in every state at once: what it reports comes over the real door.
mkfifo "$work/go"; exec 9<>"$work/go"; : >"$work/narrator.out"
flows=$repo/examples/first/flows.json
"$bin/redforge-narrator" --port "$port" --root "$work/hub/root.pem" --name every-state --flows "$flows" \
  --token "$(redforgectl token create --site plant --host-name every-state -o json | sed -n 's/.*"token": *"\([^"]*\)".*/\1/p')" \
  <"$work/go" >"$work/narrator.out" 2>&1 & narrator=$!
said() { for _ in $(seq 240); do grep -q "$1" "$work/narrator.out" && return; kill -0 "$narrator" || break; sleep 0.25; done; cat "$work/narrator.out" >&2; exit 1; }
said enrolled
redforgectl flowset push edited "$flows" >/dev/null
sed "s/UNTIL/$(date -u -d '2 hours' +%Y-%m-%dT%H:%M:%SZ)/" "$repo/tests/browser/every-state.yaml" >"$work/every-state.yaml"
redforgectl apply -f "$work/every-state.yaml" >/dev/null
echo >&9; said told
cd "$out/browser"
HOME=$work/home AGENT_PID=$agent AGENT="$bin/redforge-edge" VIEWER=$viewer OUT=$out EDGE_PAGE=http://127.0.0.1:$((port + 3))/ \
  node page.mjs "$(sed -n 's/^login //p' "$work/hub.out")"
