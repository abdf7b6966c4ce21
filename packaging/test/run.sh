#!/bin/bash
# Every test, on real parts: installs what is missing, makes sure of an engine and the images, builds, runs nextest, and
# prints the minutes of each phase. Arguments go to nextest.
set -euo pipefail
cd "$(dirname "$0")/../.."
. packaging/test/engine.sh
. packaging/test/place.sh
export PATH=$PATH:/usr/sbin:/sbin
summary=()
phase() { # phase NAME COMMAND...
  local name=$1 begin=$SECONDS
  shift
  echo "== $name"
  "$@"
  summary+=("$(printf '%-8s %d min %02d s' "$name" $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60)))")
}
finish() {
  local code=$?
  if [ -n "${TEST_PLACE:-}" ]; then clear_place "$TEST_PLACE"; fi
  engine_down
  [ ${#summary[@]} -eq 0 ] || printf '%s\n' "== minutes per phase" "${summary[@]}"
  exit $code
}
trap finish EXIT

phase install bash packaging/test/prepare.sh
phase engine engine_up
clear_leftovers
phase images bash packaging/images/build.sh all
phase build cargo build --workspace --all-targets --locked
phase faults cargo build --workspace --locked --features redforge-edge/failpoints,redforge-hub/failpoints \
  --bin redforge-edge-faults --bin redforge-hub-faults
test_place
phase tests env TMPDIR="$TEST_PLACE" cargo nextest run --workspace --locked "$@"
