#!/usr/bin/env bash
# `make demo`: hub, agents, Node-RED, documents turned into vectors, the cut, the kill, both back, the checker's verdict.
# Every step can be repeated: interrupted and started again it goes on; on top of a finished run it feeds the documents anew.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for part in settings engine preflight images parts; do
  # shellcheck disable=SC1090
  . "$here/$part.sh"
done
[ -d "$DOCS" ] || fail "DOCS=$DOCS is no folder"
compgen -G "$MANIFESTS/*.yaml" >/dev/null || fail "MANIFESTS=$MANIFESTS holds no manifests"
MANIFESTS=$(cd "$MANIFESTS" && pwd)
mkdir -p "$STATE" "$RUN"
chmod 755 "$STATE" "$RUN"
exec 9>"$RUN/lock"
flock -n 9 || fail "another run of the demo '$DEMO' is at work"
trap 'code=$?; [ $code = 0 ] || echo "the demo ended with $code; run it again to go on, or: make demo-down" >&2' EXIT

preflight
engine_up
date >"$STATE/made"
postgres_binaries
if [ -z "${REDFORGE_BIN:-}" ]; then
  say "building the workspace"
  (cd "$REPO" && cargo build --workspace --locked) 9>&- || fail "the workspace does not build"
fi
decide_images
for host in $(host_names); do write_manifests "$host"; done
uses_standin && say "this demo uses the Ollama stand-in (llama.cpp with a tiny made model), not Ollama"

say "starting the hub"
search_up
hub_up
ctl apply -f "$MANIFESTS/site.yaml" >/dev/null
number=0 began=$SECONDS
for host in $(host_names); do number=$((number + 1)); agent_up "$host" $number; done
enrolled_s=$((SECONDS - began))
say "$HOSTS host(s) enrolled"

began=$SECONDS
for host in $(host_names); do ctl apply -f "$STATE/manifests/$host"; done
not_running() { # prints host/instance and why, for each that does not run yet
  ctl get instances -o json | jq -r --arg hosts "$(host_names | tr '\n' ' ')" '
    .[] | (.name | capture("^hosts/(?<h>[^/]+)/instances/(?<i>.+)$")) as $n | select($hosts | split(" ") | index($n.h))
    | select(.status.phase != "Running" or .status.health != "Healthy")
    | "\($n.h)/\($n.i): \(.status.phase // "no report") \(.status.reason // "") \(.status.names // [] | join(","))"'
}
all_running() { local left; left=$(not_running 2>&1) && [ -z "$left" ] || { left_over=$left; return 1; }; }
until_true 240 "the instances" all_running || fail "not running after 240 s: $left_over"
running_s=$((SECONDS - began))
say "all instances run"

# Two halves of the documents: before the cut, and while the hub is away. Each finished run feeds under a new prefix.
round=$(cat "$STATE/round" 2>/dev/null || echo 1)
rm -rf "$STATE/docs"; mkdir -p "$STATE/docs/before" "$STATE/docs/during"
half=0
for file in "$DOCS"/*; do
  [ -f "$file" ] || continue
  if [ $((half++ % 2)) = 0 ]; then cp "$file" "$STATE/docs/before/"; else cp "$file" "$STATE/docs/during/"; fi
done
[ "$half" -ge 2 ] || fail "DOCS=$DOCS holds fewer than two text files"
addresses() { for host in $(host_names); do flows_address "$host"; done; }
feed() { # HALF
  local urls
  readarray -t urls < <(addresses)
  [ ${#urls[@]} = "$HOSTS" ] || fail "not every host has a Node-RED container: ${urls[*]}"
  "$BIN/redforge-feeder" --docs "$STATE/docs/$1" --journal "$STATE/journal" --prefix "r$round-" "${urls[@]}" 9>&- ||
    fail "the flows did not take the documents; if a model is missing, the answer above names it"
}
say "feeding documents to the flows"
feed before

say "the cut: the hub is stopped, more documents come"
halt hub
feed during
victim=$(host_names | head -1)
say "agent $victim is killed -9"
halt "$victim" KILL
say "both come back"
hub_up
agent_up "$victim" 1
began=$SECONDS
verdict() {
  "$BIN/redforge-checker" --database "$(database)" --documents "$STATE/journal" --json "$STATE/checker.json" >"$STATE/checker.out" 2>&1 9>&-
}
until_true 120 "the backlog" verdict || { cat "$STATE/checker.out" >&2; fail "the checker found differences"; }
caught_up_s=$((SECONDS - began))
cat "$STATE/checker.out"
echo $((round + 1)) >"$STATE/round"

mkdir -p "$REPO/target"
standin=false; if uses_standin; then standin=true; fi
jq --argjson enrolled "$enrolled_s" --argjson running "$running_s" --argjson caught "$caught_up_s" --argjson total "$SECONDS" \
  --argjson hosts "$HOSTS" --argjson standin $standin --arg demo "$DEMO" \
  '{demo: $demo, hosts: $hosts, ollama_standin: $standin, enrolled_s: $enrolled, running_s: $running, caught_up_s: $caught, total_s: $total, checker: .}' \
  "$STATE/checker.json" >"$REPO/target/demo.json"
say "enrolled in $enrolled_s s, running in $running_s s, caught up in $caught_up_s s; figures: target/demo.json"
link=$(grep -oE 'https://[^ ]+/login[^ ]*' "$STATE/hub.out" | tail -1 || true)
cat <<END

It goes on running. To look further:
  the hub's page      ${link:-https://127.0.0.1:$((BASE + 1))/ (token: $STATE/hub/operator.token)}
  export REDFORGE_HUB=https://127.0.0.1:$((BASE + 1)) REDFORGE_TOKEN_FILE=$STATE/hub/operator.token REDFORGE_CA_FILE=$STATE/hub/root.pem
  $BIN/redforgectl get instances
  $BIN/redforgectl streams
  $BIN/redforgectl search "oil under the press"
  $BIN/redforge-edge status --config $STATE/hosts/$victim/edge.toml
Take it away again with: make demo-down
END
if [ "$standin" = true ]; then echo "Vectors here came from the Ollama stand-in, not from Ollama."; fi
