# Sourced. A Docker engine: the one that answers, else another demo's, else (as root) one of this demo's own with its own
# pid file, data and socket. Never two in one network namespace: the second would tear up the first one's rules.
engine_socket() { # prints the socket of an engine that answers
  local socket=${DOCKER_HOST:-unix:///var/run/docker.sock} other
  if timeout 20 docker info >/dev/null 2>&1; then readlink -f "${socket#unix://}"; return; fi
  [ "$(id -u)" = 0 ] || return 1
  # Through their own path, not through a link that a run of the tests set and will take away.
  for other in "$RUN/docker.sock" /run/redforge-demo/*/docker.sock /run/redforge-test/docker.sock; do
    if [ -S "$other" ] && DOCKER_HOST=unix://$other timeout 20 docker info >/dev/null 2>&1; then echo "$other"; return; fi
  done
  return 1
}
engine_up() {
  rm -f "$STATE/uses-engine-of"
  if SOCKET=$(engine_socket); then
    export DOCKER_HOST=unix://$SOCKET
    [[ $SOCKET != /run/redforge-demo/*/docker.sock || $SOCKET == "$RUN"/* ]] || basename "$(dirname "$SOCKET")" >"$STATE/uses-engine-of"
    return
  fi
  [ "$(id -u)" = 0 ] || fail "no Docker engine answers" "$(engine_advice)"
  say "no Docker engine answers: starting one of the demo's own (log: $STATE/dockerd.log)"
  engine_start
}
engine_advice() {
  if [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
    echo "an engine is there, but $(id -un) may not use it; as root: usermod -aG docker $(id -un), then log in again"
  else
    echo "as root: apt-get install --no-install-recommends docker.io, then usermod -aG docker $(id -un)"
  fi
}
docker_answers() {
  timeout 20 docker info >/dev/null 2>&1 && return
  has_ended dockerd && { tail -n 12 "$STATE/dockerd.log" >&2; fail "the demo's Docker engine ended" "read $STATE/dockerd.log"; }
  return 1
}
engine_start() {
  # What demo-down puts back: links, chains, policies and switches as they were before the engine came.
  [ -d "$STATE/before" ] || { rm -rf "$STATE/before.new"; mkdir -p "$STATE/before.new"; remember "$STATE/before.new"; mv "$STATE/before.new" "$STATE/before"; }
  rm -f "$RUN/docker-engine.pid" "$RUN/docker.sock"
  launch dockerd "$STATE/dockerd.log" dockerd --pidfile "$RUN/docker-engine.pid" --data-root "$STATE/docker" \
    --exec-root "$RUN/docker-exec" --host "unix://$RUN/docker.sock"
  SOCKET=$RUN/docker.sock
  export DOCKER_HOST=unix://$SOCKET
  until_true 60 "the Docker engine" docker_answers || { tail -n 12 "$STATE/dockerd.log" >&2; fail "the demo's Docker engine did not answer within 60 s" "read $STATE/dockerd.log"; }
}

SWITCHES=(net/ipv4/ip_forward net/bridge/bridge-nf-call-iptables net/bridge/bridge-nf-call-ip6tables)
FOLDERS=(/etc/docker /run/docker /run/containerd /var/lib/docker /opt/containerd)
remember() { # INTO
  local table name
  ip -o link show | awk -F': ' '{print $2}' >"$1/links"
  for table in nat filter raw mangle; do iptables -w -t "$table" -S >"$1/$table" 2>/dev/null || true; done
  for name in "${SWITCHES[@]}"; do
    if [ -e "/proc/sys/$name" ]; then echo "$name $(cat "/proc/sys/$name")"; fi
  done >"$1/switches"
  for name in "${FOLDERS[@]}"; do if [ -e "$name" ]; then echo "$name"; fi; done >"$1/folders"
}

# An engine of our own that died is started once more: only it can end its containers and take away their rules.
engine_back() {
  if has_ended dockerd && [ -d "$STATE/docker" ] && [ -d "$STATE/before" ]; then
    say "the demo's own engine is not running: starting it once more, to clear up after it"
    end_below "$RUN/docker-exec"
    engine_start
  fi
}
end_below() { # FOLDER   processes that name it in their command: containerd, shims
  local pid
  for pid in $({ grep -lsF "$1" /proc/[0-9]*/cmdline || true; } | cut -d/ -f3); do
    if [ "$pid" != $$ ]; then kill -KILL "$pid" 2>/dev/null || true; fi
  done
}

engine_down() {
  [ -d "$STATE/before" ] || return 0
  local name table value
  halt dockerd
  end_below "$RUN/docker-exec"
  # dockerd leaves its bridges, chains and the FORWARD policy behind. What was there before it stays.
  for name in $(ip -o link show type bridge 2>/dev/null | awk -F': ' '{print $2}' | grep -E '^(docker0|br-[0-9a-f]{12})$' || true); do
    grep -qxF "$name" "$STATE/before/links" || ip link del "$name" 2>/dev/null || true
  done
  for table in nat filter raw mangle; do rules_down "$table"; done
  while read -r name value; do echo "$value" >"/proc/sys/$name" 2>/dev/null || true; done <"$STATE/before/switches"
  awk -v a="$STATE/docker" -v b="$RUN/" 'index($2, a) == 1 || index($2, b) == 1 {print $2}' /proc/mounts | sort -r |
    while read -r name; do umount -l "$name" 2>/dev/null || true; done
  for name in "${FOLDERS[@]}"; do
    grep -qxF "$name" "$STATE/before/folders" || rm -rf "$name"
  done
}
rules_down() { # TABLE
  local now rule chain policy
  now=$(iptables -w -t "$1" -S 2>/dev/null) || return 0
  # Rules that name a chain or a bridge of Docker, and the hairpin rule of a published port, unless they were there before.
  { grep -E '^-A .*(DOCKER|docker0|br-[0-9a-f]{12})|^-A POSTROUTING -s ([0-9.]+/32) -d \2 .*MASQUERADE' <<<"$now" || true; } |
    { grep -vxFf "$STATE/before/$1" || true; } | sed 's/^-A /-D /' |
    while read -r rule; do eval "iptables -w -t $1 $rule" 2>/dev/null || true; done
  for chain in $(awk '/^-N DOCKER/ {print $2}' <<<"$now"); do
    grep -qxF -- "-N $chain" "$STATE/before/$1" || { iptables -w -t "$1" -F "$chain" && iptables -w -t "$1" -X "$chain"; } 2>/dev/null || true
  done
  while read -r _ chain policy; do iptables -w -t "$1" -P "$chain" "$policy" 2>/dev/null || true; done < <(grep '^-P ' "$STATE/before/$1" || true)
}

# Other demos that run on this demo's engine.
engine_users() {
  local note
  for note in "$STATES"/*/uses-engine-of; do
    if [ -s "$note" ] && [ "$(cat "$note")" = "$DEMO" ]; then basename "$(dirname "$note")"; fi
  done
}
