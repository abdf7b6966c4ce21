#!/usr/bin/env bash
# `make demo-down`: ends and removes by pid file and label what the demo of this name made; with --images its images too.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for part in settings engine; do
  # shellcheck disable=SC1090
  . "$here/$part.sh"
done
mkdir -p "$RUN"
exec 9>"$RUN/lock"
flock -w 5 9 || fail "a run of the demo '$DEMO' is at work: end it first"
if pid_of dockerd >/dev/null; then export DOCKER_HOST=unix://$RUN/docker.sock; fi

for dir in "$STATE"/hosts/*/; do [ -d "$dir" ] && halt "$(basename "$dir")"; done
halt hub
# A hub that was killed leaves its PostgreSQL behind; its pid file names it.
postmaster=$(head -1 "$STATE/hub/postgres/data/postmaster.pid" 2>/dev/null || true)
if [ -n "$postmaster" ] && grep -qs "$STATE/hub" "/proc/$postmaster/cmdline"; then
  kill -INT "$postmaster" 2>/dev/null || true
  until_true 30 "PostgreSQL to end" eval "! kill -0 $postmaster 2>/dev/null" || kill -KILL "$postmaster" 2>/dev/null || true
fi

if docker info >/dev/null 2>&1; then
  ids=$(cat "$STATE"/hosts/*/id 2>/dev/null || true)
  labels=("redforge.demo=$DEMO")
  for id in $ids; do labels+=("redforge.host=$id"); done
  for label in "${labels[@]}"; do
    docker ps -aq --filter "label=$label" | xargs -r docker rm -fv >/dev/null
    docker network ls -q --filter "label=$label" | xargs -r docker network rm >/dev/null
    docker volume ls -q --filter "label=$label" | xargs -r docker volume rm -f >/dev/null
  done
  docker volume rm -f "$SEARCH_NAME" >/dev/null 2>&1 || true
  if [ "${1:-}" = --images ]; then
    docker images -q --filter label=io.redforge.recipe | sort -u | xargs -r docker rmi -f >/dev/null || true
  fi
elif [ -d "$STATE/hosts" ]; then
  say "no Docker engine answers: containers of this demo, if there are any, stay"
fi
engine_down
rm -rf "$STATE" "$RUN"
rmdir "$(dirname "$STATE")" "$(dirname "$RUN")" 2>/dev/null || true
[ "${1:-}" != --images ] || rm -rf "$CACHE"
say "the demo '$DEMO' is gone"
