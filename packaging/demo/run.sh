#!/usr/bin/env bash
# `make demo`: hub, agents, Node-RED, documents turned into vectors, the cut, the kill, both back, the checker's verdict.
# Every step can be repeated: interrupted and started again it goes on; on top of a finished run it feeds the documents anew.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for part in settings processes documents engine preflight images parts verdict; do
  # shellcheck disable=SC1090
  . "$here/$part.sh"
done
compgen -G "$MANIFESTS/*.yaml" >/dev/null || { echo "MANIFESTS=$MANIFESTS holds no manifests; examples/rag and examples/rag-ollama do" >&2; exit 64; }
MANIFESTS=$(cd "$MANIFESTS" && pwd)
phases_in_all=9
take_lock "wait for it, or end it with ^C"
mkdir -p "$STATE"
chmod 755 "$STATE" "$RUN"
trap 'code=$?; rm -f "$RUN/run.pid"; [ $code = 0 ] || echo "the demo ended with $code in part $phase_number ($phase_name); run it again to go on, or take it away: make demo-down${at_name}" >&2' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
at_name=$([ "$DEMO" = demo ] || echo " DEMO=$DEMO")

phase checks "documents, room, tools, ports"
sort_documents
preflight
phase engine "Docker engine and PostgreSQL's binaries"
engine_up
search_port
date >"$STATE/made"
postgres_binaries
say "  engine at $SOCKET; PostgreSQL from ${POSTGRES:-Debian}"

phase build "programs"
if [ -n "${REDFORGE_BIN:-}" ]; then
  say "  taken from $REDFORGE_BIN"
else
  (cd "$REPO" && cargo build --workspace --locked) || fail "the workspace does not build" "the compiler's words are above; then run the demo again"
fi

phase images "container images"
decide_images
MODEL_DIGEST=
if [[ ${IMAGE[ollama]:-} == redforge.local/ollama-standin:* ]]; then say "  Ollama stand-in: llama.cpp with a tiny made model, not Ollama"; fi

phase hub "hub"
search_up
for host in $(host_names); do write_manifests "$host"; done
hub_up
ctl apply -f "$MANIFESTS/site.yaml" >/dev/null

phase enroll "$HOSTS host(s) enroll"
number=0
for host in $(host_names); do
  number=$((number + 1)) began=$SECONDS
  agent_up "$host" $number
  ENROLLED_S[$host]=$((SECONDS - began))
  say "  $host enrolled"
done
enrolled_s=$((SECONDS - phase_began))

phase deploy "instances"
for host in $(host_names); do ctl apply -f "$STATE/manifests/$host" | sed 's/^/        /'; done
until_true 240 "the instances" all_running || fail "not running after 240 s: ${left_over//$'\n'/, }" "$BIN/redforgectl get instances; docker ps -a"
running_s=$((SECONDS - phase_began))
say "  all instances run"

# Half of the documents before the cut, half while the hub is away. Each finished run feeds under a new prefix.
round=$(cat "$STATE/round" 2>/dev/null || echo 1)
phase cut "documents become vectors; the hub is stopped, more come; an agent is killed -9"
feed before
say "  the cut: the hub is stopped"
halt hub
feed during
victim=$(host_names | head -1)
say "  agent $victim is killed -9"
halt "$victim" KILL

phase catch-up "both come back"
hub_up
agent_up "$victim" 1
until_true 120 "the backlog" verdict || { cat "$STATE/checker.out" >&2; fail "the checker found differences" "read $STATE/hub.out and $STATE/hosts/$victim/agent.out"; }
caught_up_s=$((SECONDS - phase_began))
search_once
echo $((round + 1)) >"$STATE/round"
end_phase
cat "$STATE/checker.out"
figures
farewell
