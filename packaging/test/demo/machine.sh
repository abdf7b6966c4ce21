#!/bin/bash
# Inside the namespaces: makes the machine, runs the cases, prints how long each took. It is process 1: when it ends, all ends.
set -euo pipefail
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
cd "$REPO"
mount --make-rprivate /
ip link set lo up
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/user
# Users, settings and guards that are made here stay here.
for dir in /etc /usr/sbin /home; do
  layer=$PLACE/layers$dir
  mkdir -p "$layer"/{upper,work}
  mount -t overlay -o "lowerdir=$dir,upperdir=$layer/upper,workdir=$layer/work" overlay "$dir"
done
mkdir -p "$PLACE/state" "$PLACE/logs" /var/lib/redforge-demo
mount --bind "$PLACE/state" /var/lib/redforge-demo
unset DEMO HOSTS DOCS MANIFESTS PORT_BASE
export REDFORGE_BIN=$PLACE/bin

. packaging/test/demo/steps.sh
. packaging/test/demo/cases.sh
. packaging/test/demo/cases_input.sh
# What a case that failed left must not fail the next one.
clean() {
  local state
  for state in /var/lib/redforge-demo/*/; do
    [ ! -d "$state" ] || make -s demo-down DEMO="$(basename "$state")" >/dev/null 2>&1 || true
  done
}
summary=() failed=0
for name in ${CASES:-$ALL_CASES}; do
  began=$SECONDS
  echo "== $name"
  # Each case in a shell of its own, ended by the first thing that is not as it must be. Not inside an `if`: there the shell
  # would go on after a failure.
  set +e
  (set -euo pipefail -m; "case_$name")
  code=$?
  set -e
  if [ $code = 0 ]; then verdict=ok; else verdict=FAILED failed=1; clean; fi
  summary+=("$(printf '%-28s %-7s %4d s' "$name" $verdict $((SECONDS - began)))")
  echo "   $verdict after $((SECONDS - began)) s"
done
printf '%s\n' "== the demo's tests" "${summary[@]}"
exit $failed
