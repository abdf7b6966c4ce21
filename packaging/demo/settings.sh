# Sourced by the demo's scripts: where this demo lives, and how it speaks and waits.
# Every demo has a name; state, run folder, labels and ports follow from it, so that several can run side by side.
set -euo pipefail
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C.UTF-8
DEMO=${DEMO:-demo}
HOSTS=${HOSTS:-1}
DOCS=${DOCS:-$REPO/examples/documents}
MANIFESTS=${MANIFESTS:-$REPO/examples/rag}
[[ $DEMO =~ ^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$ ]] || { echo "DEMO=$DEMO: use 1 to 20 of a-z, 0-9 and '-'" >&2; exit 64; }
[[ $HOSTS =~ ^[1-9]$ ]] || { echo "HOSTS=$HOSTS: 1 to 9" >&2; exit 64; }
CACHE=${REDFORGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/redforge}
if [ "$(id -u)" = 0 ]; then
  # Below /var/lib because PostgreSQL runs as a user of its own, who cannot enter /root.
  STATES=/var/lib/redforge-demo RUNS=/run/redforge-demo
else
  STATES=${XDG_STATE_HOME:-$HOME/.local/state}/redforge-demo
  RUNS=${XDG_RUNTIME_DIR:-/tmp/redforge-$(id -u)}/redforge-demo
fi
STATE=$STATES/$DEMO RUN=$RUNS/$DEMO
# Ten ports for the hub, then ten for each host. Another name means another block.
if [ "$DEMO" = demo ]; then BASE=17400; else BASE=$((18000 + 100 * (0x$(echo -n "$DEMO" | sha256sum | cut -c1-4) % 120))); fi
BASE=${PORT_BASE:-$BASE}
[[ $BASE =~ ^[0-9]+$ && $BASE -ge 1024 && $BASE -le 65400 ]] || { echo "PORT_BASE=$BASE: 1024 to 65400" >&2; exit 64; }
SEARCH_PORT=$((BASE + 5))
SEARCH_NAME=redforge-demo-$DEMO-search
# REDFORGE_BIN = a folder with programs that are built already.
target=${CARGO_TARGET_DIR:-target}
[[ $target == /* ]] || target=$REPO/$target
BIN=${REDFORGE_BIN:-$target/debug}

if [ -t 1 ]; then strong=$'\033[1m' plain=$'\033[0m'; else strong='' plain=''; fi
say() { printf '%s%4d s%s  %s\n' "$strong" "$SECONDS" "$plain" "$*"; }
fail() { # WHAT [NEXT]   what went wrong and why; what to do about it
  printf '%4d s  demo: %s\n' "$SECONDS" "$1" >&2
  [ -z "${2:-}" ] || printf '        next: %s\n' "$2" >&2
  exit 1
}
pause() { read -rt "${1:-0.3}" <> <(:) || true; }

# phase NAME WORDS   a part of the demo begins; end_phase notes how long it took
PHASES=() phase_name='' phase_number=0
phase() {
  end_phase
  phase_name=$1 phase_began=$SECONDS phase_number=$((phase_number + 1))
  printf '%s%4d s  [%d/%d] %s%s\n' "$strong" "$SECONDS" "$phase_number" "${phases_in_all:-9}" "$2" "$plain"
}
end_phase() {
  [ -z "$phase_name" ] || PHASES+=("$phase_name $((SECONDS - phase_began))")
  phase_name=''
}

# ticking HOW-FAR COMMAND...   runs the command; the words of HOW-FAR, another command, are said every ten seconds
ticking() {
  local how=$1 ticker code=0
  shift
  while pause 10 && kill -0 $$ 2>/dev/null; do say "  ... $($how 2>/dev/null | tail -1 | tr -d '[:cntrl:]' | cut -c1-100)"; done 9>&- &
  ticker=$!
  "$@" || code=$?
  kill "$ticker" 2>/dev/null || true
  wait "$ticker" 2>/dev/null || true
  return $code
}

# until_true SECONDS WHAT COMMAND...   waits for a condition; every ten seconds it says what is not true yet
left_over=''
until_true() {
  local limit=$((SECONDS + $1)) what=$2 said=$SECONDS
  shift 2
  left_over=''
  until "$@"; do
    [ $SECONDS -lt $limit ] || return 1
    if [ $((SECONDS - said)) -ge 10 ]; then say "  still waiting for $what${left_over:+ (${left_over//$'\n'/, })}"; said=$SECONDS; fi
    pause 0.3
  done
}

ctl() {
  REDFORGE_HUB=https://127.0.0.1:$((BASE + 1)) REDFORGE_TOKEN_FILE=$STATE/hub/operator.token REDFORGE_CA_FILE=$STATE/hub/root.pem \
    "$BIN/redforgectl" "$@"
}
database() { echo "postgres://redforge@localhost/redforge?host=$RUN/hub/pg"; }
host_names() { for ((i = 1; i <= HOSTS; i++)); do echo "$DEMO-edge-$i"; done; }
host_id() { # HOST   by what the agent said when it was ready
  cat "$STATE/hosts/$1/id" 2>/dev/null || sed -n 's/^ready host=\([^ ]*\).*/\1/p' "$STATE/hosts/$1/agent.out" 2>/dev/null | tail -1 || true
}
uses_standin() { grep -rqs 'image: redforge.local/ollama-standin' "$STATE/manifests"; }
# The demo's own pages use curl without asking a proxy.
export no_proxy="127.0.0.1,localhost${no_proxy:+,$no_proxy}"
