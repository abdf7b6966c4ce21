# Sourced. `engine_up` makes sure that a Docker engine answers: `docker info` decides, not the presence of a client. A demo's
# own engine is used where there is no other: two engines in one network namespace tear up each other's rules. What is started
# here has its own pid file, and `engine_down` stops just that.
ENGINE_RUN=${ENGINE_RUN:-/run/redforge-test}
ENGINE_PID=$ENGINE_RUN/dockerd.pid
ENGINE_SOCKET=/var/run/docker.sock

engine_up() {
  local socket
  # A link that a run left that was killed.
  if [ -L $ENGINE_SOCKET ] && ! docker info >/dev/null 2>&1; then rm -f $ENGINE_SOCKET; fi
  if docker info >/dev/null 2>&1; then
    # An engine that a killed run started is taken over, and ends with this one.
    if engine_is_orphan; then ENGINE_STARTED=1; echo "$$" >"$ENGINE_RUN/owner"; fi
    return 0
  fi
  if [ "$(id -u)" != 0 ]; then
    echo "no Docker engine answers, and only root can start one: start it, or add yourself to group docker" >&2
    return 1
  fi
  for socket in /run/redforge-demo/*/docker.sock; do
    if [ -S "$socket" ] && DOCKER_HOST=unix://$socket docker info >/dev/null 2>&1; then
      echo "using the engine of a demo: $socket"
      ln -sfn "$socket" $ENGINE_SOCKET
      ENGINE_LINKED=1
      return 0
    fi
  done
  mkdir -p "$ENGINE_RUN"
  # A run that was killed leaves its pid file behind; dockerd refuses to start beside a live one only.
  if [ -s "$ENGINE_PID" ] && ! kill -0 "$(cat "$ENGINE_PID")" 2>/dev/null; then rm -f "$ENGINE_PID"; fi
  echo "starting a Docker engine (log: $ENGINE_RUN/dockerd.log)"
  setsid dockerd --pidfile "$ENGINE_PID" >"$ENGINE_RUN/dockerd.log" 2>&1 </dev/null &
  ENGINE_STARTED=1
  echo "$$" >"$ENGINE_RUN/owner"
  local deadline=$((SECONDS + 60))
  until docker info >/dev/null 2>&1; do
    if [ $SECONDS -ge $deadline ]; then
      echo "the Docker engine did not answer within 60 s; the end of its log:" >&2
      tail -n 20 "$ENGINE_RUN/dockerd.log" >&2
      return 1
    fi
    read -rt 0.5 <> <(:) || true
  done
}
engine_is_orphan() {
  [ "$(id -u)" = 0 ] && [ -s "$ENGINE_PID" ] && kill -0 "$(cat "$ENGINE_PID")" 2>/dev/null && ! kill -0 "$(cat "$ENGINE_RUN/owner")" 2>/dev/null
}

engine_down() {
  [ -z "${ENGINE_LINKED:-}" ] || rm -f $ENGINE_SOCKET
  [ -n "${ENGINE_STARTED:-}" ] || return 0
  local pid
  pid=$(cat "$ENGINE_PID" 2>/dev/null) || return 0
  # A demo may have come to run on it meanwhile.
  if [ -n "$(docker ps -q 2>/dev/null)" ]; then
    echo "the engine that the tests started goes on, because containers run on it; to end it: kill $pid"
    return 0
  fi
  kill -TERM "$pid" 2>/dev/null || return 0
  local deadline=$((SECONDS + 30))
  while kill -0 "$pid" 2>/dev/null && [ $SECONDS -lt $deadline ]; do read -rt 0.2 <> <(:) || true; done
}
