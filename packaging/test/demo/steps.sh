# Sourced. What the cases are written with: start the demo, wait for its words, look at what it left.
LOGS=$PLACE/logs

# demo NAME [VARIABLE=value...]   `make demo` to its end; the log is $LOGS/NAME
demo() { local log=$LOGS/$1; shift; env "$@" make -s demo >"$log" 2>&1; }
must() { # NAME [VARIABLE=value...]   it must end well, and the checker must find no difference
  demo "$@" || { echo "   make demo failed:"; tail -25 "$LOGS/$1"; return 1; }
  jq -e '.good and .stored_duplicates == 0 and .gaps == 0 and .lost == 0 and .documents_fed == .documents_counted_by_flow' target/demo.json >/dev/null ||
    { echo "   the figures are wrong:"; jq 'del(.checker)' target/demo.json; return 1; }
}
must_fail() { # NAME WORDS [VARIABLE=value...]   it must end with another code than 0 and say these words
  local name=$1 words=$2
  shift 2
  if demo "$name" "$@"; then echo "   make demo succeeded, it should have said: $words"; return 1; fi
  grep -qF -- "$words" "$LOGS/$name" || { echo "   it did not say: $words"; tail -15 "$LOGS/$name"; return 1; }
}
down() { env "$@" make -s demo-down >"$LOGS/down" 2>&1 || { tail -15 "$LOGS/down"; return 1; }; }

# begin NAME [VARIABLE=value...]   `make demo` in the background, in a process group of its own that heeds ^C; sets $run
begin() { local log=$LOGS/$1; shift; : >"$log"; env --default-signal=INT "$@" make -s demo >"$log" 2>&1 & run=$!; }
until_said() { # NAME WORDS
  local deadline=$((SECONDS + 300))
  until grep -qF -- "$2" "$LOGS/$1"; do
    kill -0 "$run" 2>/dev/null && [ $SECONDS -lt $deadline ] || { echo "   it never said: $2"; tail -15 "$LOGS/$1"; return 1; }
    read -rt 0.05 <> <(:) || true
  done
}
# interrupt INT | KILL   as ^C does: the whole process group; or the demo's own process alone, so that orphans stay
interrupt() {
  if [ "$1" = INT ]; then kill -INT -- "-$run"; else kill -KILL "$(cut -d' ' -f1 "/run/redforge-demo/${2:-demo}/run.pid")"; fi
  if wait "$run"; then echo "   an interrupted run ended with 0"; return 1; fi
}

footprint() { bash packaging/demo/footprint.sh >"$LOGS/footprint.$1"; }
same_footprint() { # BEFORE AFTER
  diff "$LOGS/footprint.$1" "$LOGS/footprint.$2" || { echo "   the demo left something behind"; return 1; }
}
equal() { [ "$2" = "$3" ] || { echo "   $1 is '$3', expected '$2'"; return 1; }; }
says() { # NAME WORDS
  grep -qF -- "$2" "$LOGS/$1" || { echo "   '$2' is not in:"; tail -25 "$LOGS/$1"; return 1; }
}
host_of() { cat "/var/lib/redforge-demo/$1/hosts/$1-edge-${2:-1}/id"; }
container_of() { docker ps -aq --no-trunc --filter "label=redforge.host=$(host_of "$1")" --filter "label=redforge.instance=$2"; }

# The engine of this machine, on the usual socket; the images are those that were built outside.
machine_engine() {
  docker info >/dev/null 2>&1 && return
  setsid dockerd --data-root "$PLACE/docker" >"$LOGS/dockerd" 2>&1 </dev/null &
  local deadline=$((SECONDS + 60))
  until docker info >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || { tail "$LOGS/dockerd"; return 1; }
    read -rt 0.3 <> <(:) || true
  done
  [ -n "$(docker images -q redforge.local/node-red)" ] || docker load -q -i "$PLACE/images.tar" >/dev/null
  # The folders that an engine makes with its first container are the engine's, not the demo's.
  docker run --rm redforge.local/busybox:1.35.0 true
}
machine_engine_off() {
  [ -s /run/docker.pid ] || return 0
  local pid deadline=$((SECONDS + 60))
  pid=$(cat /run/docker.pid)
  kill -TERM "$pid"
  while kill -0 "$pid" 2>/dev/null && [ $SECONDS -lt $deadline ]; do read -rt 0.2 <> <(:) || true; done
}
