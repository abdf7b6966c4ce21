# Sourced. Feeding, the checker's verdict, and what the demo says at its end.
DOCUMENTS_FED=0 DOCUMENTS_COUNTED=0

# feed HALF   POSTs each document to the flow's own HTTP-in node, whose counter after minus before must equal the documents
feed() {
  local urls url host total out=$STATE/feeder.out counts why
  urls=()
  for host in $(host_names); do
    url=$(flows_address "$host") || fail "$host has no Node-RED container" "docker ps -a --filter label=redforge.host=$(host_id "$host")"
    urls+=("$url")
  done
  total=$(find "$STATE/docs/$1" -type f | wc -l)
  say "  feeding $total documents to ${urls[*]}"
  ticking taken_so_far feeder "$1" "$out" "${urls[@]}" || {
    tail -5 "$out" >&2
    if why=$(grep -oE "the model '[^']+' [^\"]*" "$out" | tail -1) && [ -n "$why" ]; then
      fail "the flows did not take the documents: $why" "the manifests in $MANIFESTS need an ollama instance with that model"
    fi
    fail "the flows did not take the documents" "docker ps -a; $BIN/redforgectl logs"
  }
  sed 's/^/        /' "$out"
  counts=$(sed -nE 's/^fed ([0-9]+) documents.* the flows counted ([0-9]+)$/\1 \2/p' "$out")
  [ -n "$counts" ] || fail "the feeder gave no figures" "read $out"
  [ "${counts% *}" = "${counts#* }" ] || fail "the feeder fed ${counts% *} documents, the flow's own counter grew by ${counts#* }" "run the demo again"
  DOCUMENTS_FED=$((DOCUMENTS_FED + ${counts% *})) DOCUMENTS_COUNTED=$((DOCUMENTS_COUNTED + ${counts#* }))
}

taken_so_far() { echo "$(grep -c "\"id\":\"r$round-" "$STATE/journal") documents taken in this run"; }
feeder() { # HALF OUT URL...
  local half=$1 out=$2
  shift 2
  RUST_BACKTRACE=0 "$BIN/redforge-feeder" --docs "$STATE/docs/$half" --journal "$STATE/journal" --prefix "r$round-" --patience-s 45 "$@" >"$out" 2>&1
}

verdict() {
  "$BIN/redforge-checker" --database "$(database)" --documents "$STATE/journal" --json "$STATE/checker.json" >"$STATE/checker.out" 2>&1 && return
  left_over=$(grep -m 2 '^DIFFERENCE' "$STATE/checker.out" | cut -c1-100 || true)
  return 1
}

# The hub embeds the first sentence of a document with its own Ollama and searches for it.
search_once() {
  local document sentence found
  [ -n "${IMAGE[ollama]:-}" ] || return 0
  document=$(find "$STATE/docs/during" -type f | sort | head -1)
  sentence=$(tr '\n' ' ' <"$document" | cut -c1-120)
  found=$(ctl search "$sentence" -o json 2>"$STATE/search.err") || { cat "$STATE/search.err" >&2; fail "the search failed" "read $STATE/hub.out"; }
  SEARCH_FOUND=$(jq -r '[.. | objects | .source? // empty][0] // empty' <<<"$found")
  [ -n "$SEARCH_FOUND" ] || fail "the search found nothing" "read $STATE/hub.out"
  say "  search \"${sentence:0:50}...\" finds $SEARCH_FOUND first$(uses_standin && echo " (Ollama stand-in)")"
}

figures() {
  local standin=false hosts='{}' phases='{}' host part
  if uses_standin; then standin=true; fi
  for host in $(host_names); do
    hosts=$(jq --arg host "$host" --arg id "$(host_id "$host")" --argjson enrolled "${ENROLLED_S[$host]:-0}" --argjson running "${RUNNING_S[$host]:-0}" \
      '. + {($host): {id: $id, enrolled_s: $enrolled, running_s: $running}}' <<<"$hosts")
  done
  for part in "${PHASES[@]}"; do phases=$(jq --arg part "${part% *}" --argjson s "${part#* }" '. + {($part): $s}' <<<"$phases"); done
  mkdir -p "$REPO/target"
  jq --argjson enrolled "$enrolled_s" --argjson running "$running_s" --argjson caught "$caught_up_s" --argjson total "$SECONDS" \
    --argjson hosts "$hosts" --argjson phases "$phases" --argjson standin $standin --arg demo "$DEMO" --arg found "${SEARCH_FOUND:-}" \
    --argjson fed "$DOCUMENTS_FED" --argjson counted "$DOCUMENTS_COUNTED" --argjson left "$DOCUMENTS_LEFT_OUT" '
    . as $checker | .numbers as $n
    | {demo: $demo, ollama: (if $standin then "Ollama stand-in (llama.cpp with a tiny made model), not Ollama" else "Ollama" end), ollama_standin: $standin, good: .good, enrolled_s: $enrolled, running_s: $running, caught_up_s: $caught, total_s: $total,
       phases_s: $phases, documents: $n.documents, documents_fed: $fed, documents_counted_by_flow: $counted, documents_left_out: $left,
       vectors: ($n.vectors_expected - ($n.missing_chunks // 0)), stored_duplicates: ($n.stored_twice + $n.number_stored_twice),
       resent: $n.resent, gaps: $n.gap_numbers, lost: $n.lost, records: $n.stored, search_found: $found,
       hosts: ($hosts | with_entries(.key as $h | .value += {records: ([$checker.streams[] | select(.host == $h)] | group_by(.class)
         | map({key: .[0].class, value: {stored: (map(.stored) | add), resent: (map(.resent) | add), gaps: (map(.gaps) | add)}}) | from_entries)})),
       checker: $checker}' "$STATE/checker.json" >"$REPO/target/demo.json.new"
  mv "$REPO/target/demo.json.new" "$REPO/target/demo.json"
  echo
  jq -r '"enrolled in \(.enrolled_s) s, running in \(.running_s) s, caught up in \(.caught_up_s) s, \(.total_s) s in all",
    "\(.documents) documents, \(.vectors) vectors, \(.records) records; stored duplicates \(.stored_duplicates), resent \(.resent), gaps \(.gaps), lost \(.lost)",
    "the flow counted \(.documents_counted_by_flow) of \(.documents_fed) documents fed in this run",
    (.hosts | to_entries[] | "\(.key): enrolled in \(.value.enrolled_s) s, running in \(.value.running_s) s, stored \(.value.records | to_entries | map("\(.value.stored) \(.key)") | join(", "))"),
    "seconds per part: \(.phases_s | to_entries | map("\(.key) \(.value)") | join(", "))",
    "all figures: target/demo.json"' "$REPO/target/demo.json"
}

farewell() {
  local link
  link=$(grep -oE 'https://[^ ]+/login[^ ]*' "$STATE/hub.out" | tail -1 || true)
  cat <<END

It goes on running. To look further:
  the hub's page      ${link:-https://127.0.0.1:$((BASE + 1))/ (token: $STATE/hub/operator.token)}
  export REDFORGE_HUB=https://127.0.0.1:$((BASE + 1)) REDFORGE_TOKEN_FILE=$STATE/hub/operator.token REDFORGE_CA_FILE=$STATE/hub/root.pem
  $BIN/redforgectl get instances
  $BIN/redforgectl streams
  $BIN/redforgectl search "oil under the press"
  $BIN/redforge-edge status --config $STATE/hosts/$victim/edge.toml
Take it away again with: make demo-down$at_name
END
  if uses_standin; then echo "The vectors came from the Ollama stand-in, not from Ollama."; fi
}
