# Sourced. The demo's parts: hub, agents, and the Ollama that embeds search texts for the hub.
hub_up() {
  pid_of hub >/dev/null && return
  mkdir -p "$STATE/hub" "$RUN/hub"
  local standin=false
  uses_standin && standin=true
  {
    echo "port_base = $BASE"
    echo "[state]"; echo "dir = \"$STATE/hub\""; echo "run_dir = \"$RUN/hub\""
    echo "[search]"; echo "embed_url = \"http://127.0.0.1:$SEARCH_PORT\""; echo "standin = $standin"
    [ -z "${POSTGRES:-}" ] || { echo "[postgres]"; echo "bin = \"$POSTGRES\""; }
  } >"$STATE/hub.toml.new"
  mv "$STATE/hub.toml.new" "$STATE/hub.toml"
  : >"$STATE/hub.out"
  launch hub "$STATE/hub.out" "$BIN/redforge-hub" dev --config "$STATE/hub.toml"
  until_true 90 "the hub" hub_ready || { tail -n 15 "$STATE/hub.out" >&2; fail "the hub did not get ready within 90 s" "read $STATE/hub.out"; }
}
hub_ready() {
  grep -q '^ready agents=' "$STATE/hub.out" && [ -s "$STATE/hub/operator.token" ] && return
  has_ended hub && { tail -n 15 "$STATE/hub.out" >&2; fail "the hub ended" "read $STATE/hub.out"; }
  return 1
}

agent_up() { # HOST NUMBER
  local dir=$STATE/hosts/$1 run=$RUN/$1 token
  mkdir -p "$dir/state" "$run"
  {
    echo "port_base = $((BASE + 10 * $2))"
    echo "[state]"; echo "dir = \"$dir/state\""; echo "run_dir = \"$run\""
    echo "[runtime]"; echo "docker_socket = \"$SOCKET\""
  } >"$dir/edge.toml"
  if [ ! -s "$dir/enrolled" ]; then
    token=$(ctl token create --site demo --host-name "$1" -o json) || fail "the hub gave no token for $1" "read $STATE/hub.out"
    "$BIN/redforge-edge" enroll --hub "https://127.0.0.1:$BASE" --token "$(jq -r .token <<<"$token")" \
      --ca-pin "$(jq -r .caPin <<<"$token")" --name "$1" --config "$dir/edge.toml" >"$dir/enroll.log" 2>&1 ||
      { tail -5 "$dir/enroll.log" >&2; fail "$1 could not enroll" "read $dir/enroll.log"; }
    date >"$dir/enrolled"
  fi
  pid_of "$1" >/dev/null && [ -s "$dir/id" ] && return
  halt "$1"
  : >"$dir/agent.out"
  launch "$1" "$dir/agent.out" "$BIN/redforge-edge" run --config "$dir/edge.toml"
  until_true 60 "agent $1" agent_ready "$1" || { tail -n 15 "$dir/agent.out" >&2; fail "agent $1 did not get ready within 60 s" "read $dir/agent.out"; }
}
agent_ready() {
  local id
  id=$(sed -n 's/^ready host=\([^ ]*\).*/\1/p' "$STATE/hosts/$1/agent.out" | tail -1)
  [ -n "$id" ] && { echo "$id" >"$STATE/hosts/$1/id"; return; }
  has_ended "$1" && { tail -n 15 "$STATE/hosts/$1/agent.out" >&2; fail "agent $1 ended" "read $STATE/hosts/$1/agent.out"; }
  return 1
}

# not_running   prints host/instance and why, for each that does not run yet; notes when a host is complete
not_running() {
  local all host left=''
  all=$(ctl get instances -o json 2>&1) || { echo "${all%%$'\n'*}"; return; }
  for host in $(host_names); do
    left=$(jq -r --arg host "$host" '.[] | (.name | capture("^hosts/(?<h>[^/]+)/instances/(?<i>.+)$")) as $n | select($n.h == $host)
      | select(.status.phase != "Running" or .status.health != "Healthy")
      | "\($n.h)/\($n.i): \(.status.phase // "no report") \(.status.reason // "") \(.status.names // [] | join(","))"' <<<"$all") || left="$host: no list"
    if [ -z "$left" ]; then [ -n "${RUNNING_S[$host]:-}" ] || RUNNING_S[$host]=$((SECONDS - phase_began)); else echo "$left"; fi
  done
}
declare -A ENROLLED_S=() RUNNING_S=()
all_running() {
  not_running >"$STATE/not-running"
  left_over=$(cat "$STATE/not-running")
  [ -z "$left_over" ]
}

# The hub's own Ollama for search texts: same image, same model, on loopback only. Notes the model's digest in MODEL_DIGEST.
search_up() {
  local model declared image=${IMAGE[ollama]:-} sum
  [ -n "$image" ] || { say "  the manifests have no ollama instance: search by words will not work"; return; }
  model=$(awk '/^      - name:/ {print $3; exit}' "$MANIFESTS/ollama.yaml")
  declared=$(awk '/^        digest:/ {print $2; exit}' "$MANIFESTS/ollama.yaml")
  if [ -z "$(docker ps -q --filter "name=^$SEARCH_NAME\$")" ]; then
    docker rm -fv "$SEARCH_NAME" >/dev/null 2>&1 || true
    docker volume create --label "redforge.demo=$DEMO" "$SEARCH_NAME" >/dev/null
    docker run -d --name "$SEARCH_NAME" --label "redforge.demo=$DEMO" --restart unless-stopped --cap-drop ALL \
      --security-opt no-new-privileges --memory 2g --pids-limit 200 -p "127.0.0.1:$SEARCH_PORT:11434" \
      -v "$SEARCH_NAME:/root/.ollama" "$image" >/dev/null || fail "the search's Ollama could not be started" "docker logs $SEARCH_NAME"
  fi
  until_true 60 "the search's Ollama" curl -sf -o /dev/null "http://127.0.0.1:$SEARCH_PORT/api/version" ||
    fail "the search's Ollama does not answer" "docker logs $SEARCH_NAME"
  sum=$(curl -sfN "http://127.0.0.1:$SEARCH_PORT/api/pull" -d "{\"model\": \"$model\"}" | tail -1) || true
  [[ $sum == *success* ]] || fail "the search's Ollama could not get the model $model: $sum" "docker logs $SEARCH_NAME"
  MODEL_DIGEST=sha256:$(curl -sf "http://127.0.0.1:$SEARCH_PORT/api/tags" |
    jq -r --arg model "$model" '.models[] | select(.name == $model or .name == $model + ":latest") | .digest' | head -1 | sed 's/^sha256://')
  [[ $MODEL_DIGEST =~ ^sha256:[0-9a-f]{64}$ ]] || fail "Ollama names no digest for the model $model" "docker logs $SEARCH_NAME"
  [ "$MODEL_DIGEST" != "$declared" ] || return 0
  [[ $image != redforge.local/ollama-standin:* ]] || fail "the stand-in's model $model has the digest $MODEL_DIGEST, the manifests declare $declared" "FORCE=1 packaging/images/build.sh ollama-standin"
  say "  $model has the digest $MODEL_DIGEST today; the manifests' copies for this demo declare that one"
}

flows_address() { # HOST   where the host's Node-RED answers
  local id
  id=$(docker ps -q --filter "label=redforge.host=$(host_id "$1")" --filter label=redforge.instance=flows | head -1)
  [ -n "$id" ] || return 1
  docker inspect -f '{{range $name, $net := .NetworkSettings.Networks}}{{$name}} {{$net.IPAddress}}{{"\n"}}{{end}}' "$id" |
    awk '$1 !~ /-out$/ && $2 != "" {print "http://" $2 ":1880"; exit}'
}
