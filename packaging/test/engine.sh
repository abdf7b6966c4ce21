# Sourced. `engine_up` makes sure that a Docker engine answers: `docker info` decides, not the presence of a client. What it
# starts has its own pid file, and `engine_down` stops just that.
ENGINE_RUN=${ENGINE_RUN:-/run/redforge-test}
ENGINE_PID=$ENGINE_RUN/dockerd.pid

engine_up() {
  docker info >/dev/null 2>&1 && return 0
  if [ "$(id -u)" != 0 ]; then
    echo "no Docker engine answers, and only root can start one: start it, or add yourself to group docker" >&2
    return 1
  fi
  mkdir -p "$ENGINE_RUN"
  # A run that was killed leaves its pid file behind; dockerd refuses to start beside a live one only.
  if [ -s "$ENGINE_PID" ] && ! kill -0 "$(cat "$ENGINE_PID")" 2>/dev/null; then rm -f "$ENGINE_PID"; fi
  echo "starting a Docker engine (log: $ENGINE_RUN/dockerd.log)"
  setsid dockerd --pidfile "$ENGINE_PID" >"$ENGINE_RUN/dockerd.log" 2>&1 </dev/null &
  local deadline=$((SECONDS + 60))
  until docker info >/dev/null 2>&1; do
    if [ $SECONDS -ge $deadline ]; then
      echo "the Docker engine did not answer within 60 s; the end of its log:" >&2
      tail -n 20 "$ENGINE_RUN/dockerd.log" >&2
      return 1
    fi
    read -rt 0.5 <> <(:) || true
  done
  ENGINE_STARTED=1
}

engine_down() {
  [ -n "${ENGINE_STARTED:-}" ] || return 0
  local pid
  pid=$(cat "$ENGINE_PID" 2>/dev/null) || return 0
  kill -TERM "$pid" 2>/dev/null || return 0
  local deadline=$((SECONDS + 30))
  while kill -0 "$pid" 2>/dev/null && [ $SECONDS -lt $deadline ]; do read -rt 0.2 <> <(:) || true; done
}
