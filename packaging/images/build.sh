#!/usr/bin/env bash
# Builds container images for machines that reach package registries but no container registry.
#   build.sh node-red | node-red-5 | mosquitto | redis | valkey | ollama-standin | busybox | all      builds what is missing and prints each reference
#   build.sh --ref KIND                                                 prints the reference only
#   build.sh --is-there KIND                                            exit 0 if the engine has what the recipe makes
# An image whose recipe label equals the hash of its recipe is left alone (FORCE=1 builds it again). A build that was
# killed leaves a work folder that the next one removes, and never a tag: the tag is set by the one import at the end.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

build_one() { # KIND
  local kind=$1
  # shellcheck disable=SC1090
  . "$here/$kind/recipe.sh"          # sets REF and describe(), fill(), pack()
  local hash; hash=$(recipe_hash "$here" "$kind")
  if [ -z "${FORCE:-}" ] && [ "$(image_recipe "$REF")" = "$hash" ]; then
    progress "$kind: $REF is there"; echo "$REF"; return
  fi
  exec {lock}>"$CACHE/$kind.lock"
  flock -n "$lock" || { progress "$kind: another build is at work, waiting"; flock "$lock"; }
  if [ -z "${FORCE:-}" ] && [ "$(image_recipe "$REF")" = "$hash" ]; then echo "$REF"; return; fi
  WORK=$CACHE/work-$kind ROOT=$CACHE/work-$kind/root
  rm -rf "$WORK"; mkdir -p "$ROOT"
  local begun=$SECONDS
  progress "$kind: building $REF ($(describe))"
  fill
  pack
  progress "$kind: importing $(du -m "$WORK/rootfs.tar" | cut -f1) MB"
  DOCKER_BUILDKIT=0 docker import -c "LABEL io.redforge.recipe=$hash io.redforge.kind=$kind" "${CHANGES[@]}" \
    "$WORK/rootfs.tar" "$REF" >/dev/null
  rm -rf "$WORK"
  touch "$CACHE/fetched-$kind"   # from now on it can be built without a network
  progress "$kind: $REF after $((SECONDS - begun)) s"
  echo "$REF"
}

[ $# -gt 0 ] || { sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 64; }
if [ "$1" = --ref ]; then . "$here/$2/recipe.sh"; echo "$REF"; exit; fi
if [ "$1" = --is-there ]; then
  . "$here/$2/recipe.sh"
  [ "$(image_recipe "$REF")" = "$(recipe_hash "$here" "$2")" ]
  exit
fi
[ "$1" != all ] || set -- busybox mosquitto redis valkey node-red node-red-5 ollama-standin
for kind in "$@"; do
  [ -f "$here/$kind/recipe.sh" ] || { echo "build.sh: no recipe for '$kind'" >&2; exit 64; }
done
docker info >/dev/null 2>&1 || { echo "build.sh: no Docker engine answers; start one (as root: dockerd)" >&2; exit 69; }
mkdir -p "$CACHE"
# Each kind in a shell of its own: recipes define functions of the same names, and set -e must hold inside.
for kind in "$@"; do (build_one "$kind"); done
