# Sourced. The cases about running, interrupting and taking away. Each is a function case_NAME.
ALL_CASES="own_engine from_nothing second_run down_leaves_nothing stopped_ollama without_model
  interrupted_images_INT interrupted_images_KILL interrupted_deploy_INT interrupted_deploy_KILL interrupted_cut_INT interrupted_cut_KILL
  three_hosts side_by_side documents_refused documents_odd without_wheel busy_port little_room guard ordinary_user died_test_run purge"

# First, on a machine without any engine: the demo starts its own, another demo uses it, and all of it goes again.
case_own_engine() {
  machine_engine_off
  footprint own.before
  must own DEMO=own
  says own "starting one of the demo's own"
  must guest DEMO=guest
  [ ! -e /run/redforge-demo/guest/dockerd.pid ] || { echo "   a second engine beside the first"; return 1; }
  down DEMO=own
  says down "other demos run on it: guest"
  # The tests of the workspace use the demo's engine too, through a link that goes with them.
  (
    . packaging/test/engine.sh
    engine_up >"$LOGS/linked"
    says linked "using the engine of a demo"
    [ -n "$(docker ps -q --filter label=redforge.instance=flows)" ] || { echo "   it is another engine"; exit 1; }
    engine_down
    [ ! -e /run/docker.sock ] && [ ! -L /run/docker.sock ] || { echo "   the link to the engine stayed"; exit 1; }
  )
  must guest_again DEMO=guest
  down DEMO=guest
  # An engine that died: its containers and rules go all the same.
  must own_again DEMO=own
  kill -KILL "$(cut -d' ' -f1 /run/redforge-demo/own/dockerd.pid)"
  down DEMO=own
  footprint own.after
  same_footprint own.before own.after
}

case_from_nothing() {
  machine_engine
  footprint before
  rm -f target/demo.json
  must first
  says first "Ollama stand-in"
  jq -e '[.documents, .documents_fed, .documents_counted_by_flow, .vectors, .stored_duplicates, .resent, .gaps, .lost, .records,
      .enrolled_s, .running_s, .caught_up_s, .total_s] | all(type == "number")' target/demo.json >/dev/null ||
    { echo "   a figure is missing"; jq 'del(.checker)' target/demo.json; return 1; }
  jq -e '.documents == 12 and .vectors >= 12 and .records > .vectors and (.phases_s | length == 9) and .hosts["demo-edge-1"].records.vector.stored == .vectors' \
    target/demo.json >/dev/null || { echo "   the figures are wrong"; jq 'del(.checker)' target/demo.json; return 1; }
}
case_second_run() {
  machine_engine
  [ -s /var/lib/redforge-demo/demo/made ] || must first
  must second
  equal "documents after the second run" 24 "$(jq .documents target/demo.json)"
}
case_down_leaves_nothing() {
  machine_engine
  down
  [ -s "$LOGS/footprint.before" ] || footprint before
  [ -s "$LOGS/second" ] || { must first; down; }
  footprint after
  same_footprint before after
}

case_stopped_ollama() {
  machine_engine
  local container stopped
  begin stopped
  until_said stopped "all instances run"
  container=$(container_of demo ollama)
  stopped=$(date -u +%Y-%m-%dT%H:%M:%S.%N)
  docker stop -t 1 "$container" >/dev/null
  wait "$run" || { echo "   the demo did not end well"; tail -20 "$LOGS/stopped"; return 1; }
  container=$(container_of demo ollama)
  equal "the Ollama container" running "$(docker inspect -f '{{.State.Status}}' "$container")"
  [[ $(docker inspect -f '{{.State.StartedAt}}' "$container") > $stopped ]] || { echo "   nobody started it again"; return 1; }
  jq -e '.good' target/demo.json >/dev/null
  down
}
case_without_model() {
  machine_engine
  rm -rf "$PLACE/lacking"
  cp -r examples/rag "$PLACE/lacking"
  rm "$PLACE/lacking/ollama.yaml"
  must_fail lacking "the model 'redforge-standin-embed' is missing" MANIFESTS="$PLACE/lacking"
  down
}

# interrupted NAME WORDS SIGNAL   killed when it says these words, started again: succeeds, and leaves nothing after demo-down
interrupted() {
  footprint interrupted.before
  begin "$1" FROM=test
  until_said "$1" "$2"
  interrupt "$3"
  must "$1.again"
  down
  footprint interrupted.after
  same_footprint interrupted.before interrupted.after
}
case_interrupted_images_INT() { machine_engine; docker rmi redforge.local/mosquitto:2.0.11 >/dev/null; interrupted images_int "mosquitto: building" INT; }
case_interrupted_images_KILL() { machine_engine; docker rmi redforge.local/node-red:4.1.15 >/dev/null; interrupted images_kill "node-red: npm packages" KILL; }
case_interrupted_deploy_INT() { machine_engine; interrupted deploy_int "] instances" INT; }
case_interrupted_deploy_KILL() { machine_engine; interrupted deploy_kill "/instances/flows" KILL; }
case_interrupted_cut_INT() { machine_engine; interrupted cut_int "the cut: the hub is stopped" INT; }
case_interrupted_cut_KILL() { machine_engine; interrupted cut_kill "is killed -9" KILL; }

case_three_hosts() {
  machine_engine
  must three HOSTS=3
  jq -e '.hosts | length == 3 and all(.records.vector.stored > 0 and .records.event.stored > 0 and .running_s >= 0)' target/demo.json >/dev/null ||
    { echo "   not every host has its figures"; jq .hosts target/demo.json; return 1; }
  local number agents=()
  for number in 1 2 3; do
    [ -s "/var/lib/redforge-demo/demo/hosts/demo-edge-$number/state/outbox.db" ] || { echo "   host $number has no state of its own"; return 1; }
    [ -S "/run/redforge-demo/demo/demo-edge-$number/status.sock" ] || { echo "   host $number has no run folder of its own"; return 1; }
    [ -n "$(ss -Hltn "sport = :$((17400 + 10 * number))")" ] || { echo "   nothing listens at the port base of host $number"; return 1; }
    agents+=("$(host_of demo "$number")")
  done
  equal "different hosts" 3 "$(printf '%s\n' "${agents[@]}" | sort -u | wc -l)"
  down
}
case_side_by_side() {
  machine_engine
  footprint both.before
  local left right
  begin left DEMO=left; left=$run
  begin right DEMO=right; right=$run
  wait "$left" || { tail -20 "$LOGS/left"; return 1; }
  wait "$right" || { tail -20 "$LOGS/right"; return 1; }
  says left "no difference"; says right "no difference"
  [ "$(host_of left)" != "$(host_of right)" ]
  down DEMO=left
  equal "the other demo's flows" running "$(docker inspect -f '{{.State.Status}}' "$(container_of right flows)")"
  must right_again DEMO=right
  down DEMO=right
  footprint both.after
  same_footprint both.before both.after
}

case_purge() {
  machine_engine
  must purged
  REDFORGE_CACHE=$PLACE/cache make -s demo-purge >"$LOGS/purge" 2>&1 || { cat "$LOGS/purge"; return 1; }
  equal "images that are left" "" "$(docker images -q --filter label=io.redforge.recipe)"
}
