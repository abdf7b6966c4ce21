# Sourced. A Docker engine: the one that answers, else (as root) one of the demo's own with its own pid file, data, socket.
engine_up() {
  if [ -s "$RUN/dockerd.pid" ] && pid_of dockerd >/dev/null; then export DOCKER_HOST=unix://$RUN/docker.sock; fi
  if docker info >/dev/null 2>&1; then SOCKET=${DOCKER_HOST:-unix:///var/run/docker.sock}; SOCKET=${SOCKET#unix://}; return; fi
  [ "$(id -u)" = 0 ] || fail "no Docker engine answers: start one, or join the group docker (as root: usermod -aG docker $USER)"
  say "no Docker engine answers: starting one of the demo's own (log: $STATE/dockerd.log)"
  # What demo-down puts back: the chains and policies as they were before the engine came.
  [ -e "$STATE/iptables.before" ] || { iptables-save >"$STATE/iptables.new" 2>/dev/null || true; mv "$STATE/iptables.new" "$STATE/iptables.before"; }
  [ -e "$STATE/forward.before" ] || cat /proc/sys/net/ipv4/ip_forward >"$STATE/forward.before"
  rm -f "$RUN/docker-engine.pid" "$RUN/docker.sock"
  launch dockerd "$STATE/dockerd.log" dockerd --pidfile "$RUN/docker-engine.pid" --data-root "$STATE/docker" \
    --exec-root "$RUN/docker-exec" --host "unix://$RUN/docker.sock"
  SOCKET=$RUN/docker.sock
  export DOCKER_HOST=unix://$SOCKET
  until_true 60 "the Docker engine" docker_answers || { tail -n 20 "$STATE/dockerd.log" >&2; fail "the Docker engine did not answer within 60 s"; }
}
docker_answers() { docker info >/dev/null 2>&1; }

engine_down() {
  [ -s "$RUN/dockerd.pid" ] || return 0
  local nets
  nets=$(ip -o link show type bridge 2>/dev/null | awk -F': ' '{print $2}' | grep -E '^(docker0|br-[0-9a-f]{12})$' || true)
  halt dockerd
  # dockerd leaves its bridges, chains and the FORWARD policy behind.
  local link table chain policy
  for link in $nets; do ip link del "$link" 2>/dev/null || true; done
  for table in nat filter raw mangle; do
    { iptables -w -t "$table" -S 2>/dev/null || true; } | sed -nE '/^-A .*(DOCKER|docker0|br-[0-9a-f]{12})/s/^-A /-D /p' |
      while read -r rule; do eval "iptables -w -t $table $rule" 2>/dev/null || true; done
    for chain in $({ iptables -w -t "$table" -S 2>/dev/null || true; } | awk '/^-N DOCKER/{print $2}'); do
      grep -q "^:$chain " "$STATE/iptables.before" 2>/dev/null && continue
      iptables -w -t "$table" -F "$chain" 2>/dev/null || true
    done
    for chain in $({ iptables -w -t "$table" -S 2>/dev/null || true; } | awk '/^-N DOCKER/{print $2}'); do iptables -w -t "$table" -X "$chain" 2>/dev/null || true; done
  done
  policy=$(sed -n '/^\*filter/,/^COMMIT/s/^:FORWARD \([A-Z]*\).*/\1/p' "$STATE/iptables.before" 2>/dev/null || true)
  iptables -w -P FORWARD "${policy:-ACCEPT}" 2>/dev/null || true
  [ -s "$STATE/forward.before" ] && cat "$STATE/forward.before" >/proc/sys/net/ipv4/ip_forward || true
  # What the engine mounted below its folders.
  awk -v a="$STATE/docker" -v b="$RUN/" 'index($2, a) == 1 || index($2, b) == 1 {print $2}' /proc/mounts | sort -r |
    while read -r mount; do umount -l "$mount" 2>/dev/null || true; done
}
