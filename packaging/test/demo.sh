#!/bin/bash
# `make test-demo`: the demo's own tests, on a machine of their own: network, mounts, processes and /run are private, so
# nothing here touches the engine, the demos or the rules of this machine, and nothing of theirs disturbs a comparison.
# It has no network: what the demo needs is built before (REDFORGE_BIN = programs that are). CASES="..." runs only those; see packaging/test/demo/cases.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "make test-demo needs root: it makes namespaces, a Docker engine and a user" >&2; exit 1; }
. packaging/test/engine.sh
export PATH=$PATH:/usr/sbin:/sbin
begin=$SECONDS

# A run that was killed leaves its folder; its processes and mounts went with its namespaces.
for old in /var/tmp/redforge-demo-test.*; do
  if [ -d "$old" ] && ! { read -r pid began <"$old/owner" && [ "$(awk '{print $22}' "/proc/$pid/stat")" = "$began" ]; } 2>/dev/null; then rm -rf "$old"; fi
done
PLACE=$(mktemp -d /var/tmp/redforge-demo-test.XXXXXX)
echo "$$ $(awk '{print $22}' /proc/$$/stat)" >"$PLACE/owner"
chmod 711 "$PLACE"
finish() {
  local code=$?
  # Its child, the machine, goes with it, and everything on the machine with that.
  [ -z "$machine" ] || kill -KILL "$machine" 2>/dev/null || true
  engine_down
  rm -rf "$PLACE"
  exit $code
}
machine=
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

bash packaging/test/prepare.sh
programs=${REDFORGE_BIN:-}
if [ -z "$programs" ]; then
  cargo build --workspace --locked
  programs=${CARGO_TARGET_DIR:-target}/debug
fi
# The programs as they are now, whatever is built meanwhile.
mkdir "$PLACE/bin"
for program in redforge-hub redforge-edge redforgectl redforge-feeder redforge-checker; do
  ln "$programs/$program" "$PLACE/bin/" 2>/dev/null || cp "$programs/$program" "$PLACE/bin/"
done
engine_up
# Images are built again inside, without a network: what they are made of must lie in the cache.
cache=${REDFORGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/redforge}/images
for kind in busybox mosquitto node-red ollama-standin; do
  [ -n "$(find "$cache/fetched-$kind" -mtime -20 2>/dev/null)" ] || FORCE=1 packaging/images/build.sh "$kind" >/dev/null
done
readarray -t images < <(packaging/images/build.sh all)
docker save "${images[@]}" >"$PLACE/images.tar"
engine_down; ENGINE_STARTED=
echo "== prepared: $(((SECONDS - begin) / 60)) min $(((SECONDS - begin) % 60)) s"
env -u DOCKER_HOST PLACE="$PLACE" CASES="${CASES:-}" \
  unshare --net --mount --pid --fork --kill-child=KILL --mount-proc bash packaging/test/demo/machine.sh &
machine=$!
code=0
wait $machine || code=$?
machine=
exit $code
