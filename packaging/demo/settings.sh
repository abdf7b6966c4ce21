# Sourced by the demo's scripts: where this demo lives, and its way of speaking, waiting, starting and stopping.
# Every demo has a name; state, run folder, labels and ports follow from it, so that several can run side by side.
set -euo pipefail
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PATH=$PATH:/usr/sbin:/sbin
DEMO=${DEMO:-demo}
HOSTS=${HOSTS:-1}
DOCS=${DOCS:-$REPO/examples/documents}
MANIFESTS=${MANIFESTS:-$REPO/examples/rag}
[[ $DEMO =~ ^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$ ]] || { echo "DEMO=$DEMO: use 1 to 20 of a-z, 0-9 and '-'" >&2; exit 64; }
[[ $HOSTS =~ ^[1-9]$ ]] || { echo "HOSTS=$HOSTS: 1 to 9" >&2; exit 64; }
CACHE=${REDFORGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/redforge}
if [ "$(id -u)" = 0 ]; then
  # Below /var/lib because PostgreSQL runs as a user of its own, who cannot enter /root.
  STATE=/var/lib/redforge-demo/$DEMO RUN=/run/redforge-demo/$DEMO
else
  STATE=${XDG_STATE_HOME:-$HOME/.local/state}/redforge-demo/$DEMO
  RUN=${XDG_RUNTIME_DIR:-/tmp/redforge-$(id -u)}/redforge-demo/$DEMO
fi
# Ten ports for the hub, then ten for each host. Another name means another block.
if [ "$DEMO" = demo ]; then BASE=17400; else BASE=$((18000 + 100 * (0x$(echo -n "$DEMO" | sha256sum | cut -c1-4) % 120))); fi
BASE=${PORT_BASE:-$BASE}
SEARCH_PORT=$((BASE + 5))
SEARCH_NAME=redforge-demo-$DEMO-search
# REDFORGE_BIN = a folder with programs that are built already.
BIN=${REDFORGE_BIN:-${CARGO_TARGET_DIR:-$REPO/target}/debug}

say() { printf '\033[1m%4d s\033[0m  %s\n' "$SECONDS" "$*"; }
fail() { printf '%4d s  demo: %s\n' "$SECONDS" "$*" >&2; exit 1; }
pause() { read -rt "${1:-0.3}" <> <(:) || true; }

# until_true SECONDS WHAT COMMAND...   waits for a condition; the last words name what did not come true
until_true() {
  local limit=$((SECONDS + $1)) what=$2 said=$SECONDS
  shift 2
  until "$@"; do
    [ $SECONDS -lt $limit ] || return 1
    if [ $((SECONDS - said)) -ge 10 ]; then say "  still waiting: $what"; said=$SECONDS; fi
    pause 0.5
  done
}

# A process is ours when its pid file names it and it was started at the time noted beside the pid.
started_at() { awk '{print $22}' "/proc/$1/stat" 2>/dev/null || true; }
pid_of() { # NAME   prints the pid if that process still runs
  local pid began
  read -r pid began 2>/dev/null <"$RUN/$1.pid" || return 1
  [ -n "$began" ] && [ "$(started_at "$pid")" = "$began" ] && echo "$pid"
}
launch() { # NAME LOG COMMAND...   starts a process of its own session; it survives ^C and this script
  local name=$1 log=$2
  shift 2
  setsid "$@" >>"$log" 2>&1 </dev/null 9>&- &
  local pid=$!
  disown "$pid"
  echo "$pid $(started_at "$pid")" >"$RUN/$name.pid.new"
  mv "$RUN/$name.pid.new" "$RUN/$name.pid"
}
halt() { # NAME [SIGNAL]   ends a process that we started, waits, and kills it after 40 s
  local pid
  pid=$(pid_of "$1") || { rm -f "$RUN/$1.pid"; return 0; }
  kill "-${2:-TERM}" "$pid" 2>/dev/null || true
  until_true 40 "$1 to end" eval "! pid_of $1 >/dev/null" || kill -KILL "$pid" 2>/dev/null || true
  rm -f "$RUN/$1.pid"
}

ctl() {
  REDFORGE_HUB=https://127.0.0.1:$((BASE + 1)) REDFORGE_TOKEN_FILE=$STATE/hub/operator.token REDFORGE_CA_FILE=$STATE/hub/root.pem \
    "$BIN/redforgectl" "$@"
}
database() { echo "postgres://redforge@localhost/redforge?host=$RUN/hub/pg"; }
host_id() { cat "$STATE/hosts/$1/id" 2>/dev/null; }
host_names() { for ((i = 1; i <= HOSTS; i++)); do echo "$DEMO-edge-$i"; done; }
uses_standin() { grep -rqs 'image: redforge.local/ollama-standin' "$STATE/manifests"; }
