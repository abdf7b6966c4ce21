#!/usr/bin/env bash
# `make demo-down`: ends and removes by pid file and label what the demo of this name made; with --images its images too.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for part in settings processes engine; do
  # shellcheck disable=SC1090
  . "$here/$part.sh"
done
# shellcheck source=../apt.sh
. "$REPO/packaging/apt.sh"
take_lock "end it first"
guard_clear

for dir in "$STATE"/hosts/*/; do [ -d "$dir" ] && halt "$(basename "$dir")"; done
halt hub
# A hub that was killed leaves its PostgreSQL behind; its pid file names it.
postmaster=$(head -1 "$STATE/hub/postgres/data/postmaster.pid" 2>/dev/null || true)
if [ -n "$postmaster" ] && grep -qs "$STATE/hub" "/proc/$postmaster/cmdline"; then
  kill -INT "$postmaster" 2>/dev/null || true
  has_left() { [ -z "$(started_at "$postmaster")" ]; }
  until_true 30 "PostgreSQL to end" has_left || kill -KILL "$postmaster" 2>/dev/null || true
fi

# What bears the label of this demo or of one of its hosts.
labels=("redforge.demo=$DEMO")
for dir in "$STATE"/hosts/*/; do
  id=$([ ! -d "$dir" ] || host_id "$(basename "$dir")")
  [ -z "$id" ] || labels+=("redforge.host=$id")
done
engine_back
if SOCKET=$(engine_socket); then
  export DOCKER_HOST=unix://$SOCKET
  for label in "${labels[@]}"; do
    docker ps -aq --filter "label=$label" | xargs -r docker rm -fv >/dev/null
    docker network ls -q --filter "label=$label" | xargs -r docker network rm >/dev/null
    docker volume ls -q --filter "label=$label" | xargs -r docker volume rm -f >/dev/null
  done
  if [ "${1:-}" = --images ]; then
    # Not by force: what another demo or a test still runs stays, and is named.
    for image in $(docker images --format '{{.Repository}}:{{.Tag}}' --filter label=io.redforge.recipe); do
      said=$(docker rmi "$image" 2>&1) || say "stays: $image (${said##*: })"
    done
  fi
elif [ -d "$STATE/hosts" ]; then
  say "no Docker engine answers: containers of this demo, if there are any, stay"
fi

users=$(engine_users)
if [ -n "$users" ]; then
  # The engine stays while others need it, and so does what is needed to take it away later.
  say "the engine stays, because other demos run on it: $users; then run make demo-down DEMO=$DEMO again"
  find "$STATE" -mindepth 1 -maxdepth 1 ! -name docker ! -name before ! -name dockerd.log -exec rm -rf {} +
  find "$RUN" -mindepth 1 -maxdepth 1 ! -name 'docker*' ! -name lock -exec rm -rf {} +
  exit 0
fi
engine_down
rm -rf "$STATE" "$RUN"
rmdir "$STATES" "$RUNS" "/tmp/redforge-$(id -u)" 2>/dev/null || true
if [ "${1:-}" = --images ]; then
  if compgen -G "$STATES/*/made" >/dev/null; then say "stays: $CACHE (other demos use it)"; else rm -rf "$CACHE"; fi
fi
say "the demo '$DEMO' is gone"
