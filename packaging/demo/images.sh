# Sourced. Decides once per kind which image runs: the manifests' own if it is local, else pulled, else built. What was
# decided is written into the copies of the manifests that are applied: hub and agent know no fallback.
KINDS=(mosquitto node-red ollama container)
declare -A IMAGE=()

decide_images() {
  local kind reference
  for kind in "${KINDS[@]}"; do
    reference=$(reference_of "$kind")
    [ -n "$reference" ] || continue
    decide "$kind" "$reference"
    say "  $kind: ${IMAGE[$kind]}"
  done
}
reference_of() { # KIND   as the manifests write it
  awk -v kind="$1" '/^  kind:/ {k = $2} /^  image:/ && k == kind {print $2; exit}' "$MANIFESTS"/*.yaml
}
recipe_of() { # KIND   the recipe in packaging/images that stands for it
  case $1 in ollama) echo ollama-standin ;; container) echo busybox ;; *) echo "$1" ;; esac
}
images_to_build() { # is there one that is neither here nor a registry's?
  local kind reference
  for kind in "${KINDS[@]}"; do
    reference=$(reference_of "$kind")
    [[ $reference == redforge.local/* ]] || continue
    "$REPO/packaging/images/build.sh" --is-there "$(recipe_of "$kind")" 2>/dev/null || return 0
  done
  return 1
}
decide() { # KIND REFERENCE
  local build=("$REPO/packaging/images/build.sh" "$(recipe_of "$1")")
  if [[ $2 == redforge.local/* ]]; then
    IMAGE[$1]=$("${build[@]}") || fail "the image for $1 could not be built" "run ${build[*]}"
  elif docker image inspect "$2" >/dev/null 2>&1; then
    IMAGE[$1]=$2
  else
    say "  $1: asking for $2"
    if timeout 900 docker pull -q "$2" >/dev/null 2>&1; then
      IMAGE[$1]=$2
    elif [ "$1" = ollama ]; then
      fail "$2 cannot be pulled, and the Ollama stand-in has none of its models" "MANIFESTS=examples/rag make demo   uses the stand-in"
    else
      say "  $2 is neither here nor to be pulled: building one"
      IMAGE[$1]=$("${build[@]}") || fail "the image for $1 could not be built" "run ${build[*]}"
    fi
  fi
}

# write_manifests HOST   the set for one host, with the images that were decided and the model's digest
write_manifests() {
  local out=$STATE/manifests/$1 file
  rm -rf "$out"; mkdir -p "$out"
  cp "$MANIFESTS"/*.json "$out/" 2>/dev/null || true
  for file in "$MANIFESTS"/*.yaml; do
    awk -v host="$1" -v mosquitto="${IMAGE[mosquitto]:-}" -v nodered="${IMAGE[node-red]:-}" -v ollama="${IMAGE[ollama]:-}" \
      -v container="${IMAGE[container]:-}" -v digest="${MODEL_DIGEST:-}" '
      BEGIN {image["mosquitto"] = mosquitto; image["node-red"] = nodered; image["ollama"] = ollama; image["container"] = container}
      /^  kind:/ {k = $2}
      /^  host:/ {print "  host: " host; next}
      /^  image:/ && (k in image) && image[k] != "" {print "  image: " image[k]; next}
      digest != "" && /^ *(digest|EMBED_MODEL_DIGEST): *sha256:/ {sub(/sha256:[0-9a-f]*/, digest)}
      {print}' "$file" >"$out/$(basename "$file")"
  done
}
