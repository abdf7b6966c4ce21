#!/bin/bash
# Inside the fresh machine: the first run, a second one, and what demo-down leaves.
set -uo pipefail
cd /root/redforge
ip link set lo up 2>/dev/null || true
echo "== a fresh machine: $(. /etc/os-release; echo "$PRETTY_NAME"), $(nproc) processors, load $(cut -d' ' -f1-3 /proc/loadavg); docker: $(command -v dockerd || echo none), postgres: $(ls -d /usr/lib/postgresql/* 2>/dev/null || echo none)"
timed() { # NAME COMMAND...
  local name=$1 began=$SECONDS code=0
  shift
  echo "== $name: $*"
  "$@" || code=$?
  times+=("$(printf '%-12s exit %d  %d min %02d s' "$name" $code $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)))")
  return $code
}
times=() failed=0
timed cold make demo || failed=1
[ $failed = 1 ] || timed warm make demo || failed=1
bash packaging/demo/footprint.sh >/tmp/running
timed down make demo-down || failed=1
[ ! -e /usr/sbin/policy-rc.d ] || { echo "policy-rc.d stayed"; failed=1; }
bash packaging/demo/footprint.sh >/tmp/left
echo "== what is left (a machine's own links and switches)"
cat /tmp/left
if grep -qE '^(process|container|network|volume|socket|port|mount|path /(var/lib/redforge|run/redforge))|DOCKER|docker0| br-|policy-rc' /tmp/left; then echo "demo-down left something"; failed=1; fi
printf '%s\n' "== times, load $(cut -d' ' -f1-3 /proc/loadavg)" "${times[@]}"
exit $failed
