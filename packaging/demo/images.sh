# Sourced. Decides once per kind which image runs: the manifests' own if it is local, else pulled, else built. What was
# decided is written into the copies of the manifests that are applied: hub and agent know no fallback.
decide_images() {
  local kind reference
  for kind in mosquitto node-red ollama container; do
    reference=$(reference_of "$kind")
    [ -n "$reference" ] || continue
    decide "$kind" "$reference"
    say "image for $kind: ${IMAGE[$kind]}"
  done
}
declare -A IMAGE=()

reference_of() { # KIND   as the manifests write it
  awk -v kind="$1" '/^  kind:/ {k = $2} /^  image:/ && k == kind {print $2; exit}' "$MANIFESTS"/*.yaml
}
decide() { # KIND REFERENCE
  local recipe=$1
  case $1 in ollama) recipe=ollama-standin ;; container) recipe=busybox ;; esac
  if [[ $2 == redforge.local/* ]]; then
    IMAGE[$1]=$("$REPO/packaging/images/build.sh" "$recipe")
  elif docker image inspect "$2" >/dev/null 2>&1 || timeout 900 docker pull -q "$2" >/dev/null 2>&1; then
    IMAGE[$1]=$2
  elif [ "$1" = ollama ]; then
    fail "$2 cannot be pulled, and the stand-in has none of its models: use MANIFESTS=examples/rag"
  else
    say "$2 is neither here nor to be pulled"
    IMAGE[$1]=$("$REPO/packaging/images/build.sh" "$recipe")
  fi
}

# write_manifests HOST   the set for one host, with the images that were decided
write_manifests() {
  local out=$STATE/manifests/$1 file
  rm -rf "$out"; mkdir -p "$out"
  cp "$MANIFESTS"/*.json "$out/" 2>/dev/null || true
  for file in "$MANIFESTS"/*.yaml; do
    awk -v host="$1" -v mosquitto="${IMAGE[mosquitto]:-}" -v nodered="${IMAGE[node-red]:-}" -v ollama="${IMAGE[ollama]:-}" \
      -v container="${IMAGE[container]:-}" '
      BEGIN {image["mosquitto"] = mosquitto; image["node-red"] = nodered; image["ollama"] = ollama; image["container"] = container}
      /^  kind:/ {k = $2}
      /^  host:/ {print "  host: " host; next}
      /^  image:/ && (k in image) && image[k] != "" {print "  image: " image[k]; next}
      {print}' "$file" >"$out/$(basename "$file")"
  done
}
