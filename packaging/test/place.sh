# Sourced. Where the tests of one run live: a folder of their own that names its owner. What a run left that died (processes,
# mounts, Docker objects, folders) is found by that folder and cleared by the next run; a living run's is never touched.
starttime() { # PID
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  stat=${stat##*) }
  [[ $stat != [ZX]* ]] && awk '{print $20}' <<<"$stat"
}
test_place() { # makes it, short because sockets end at 107 bytes, and lets PostgreSQL's own user pass
  TEST_PLACE=/tmp/rft-run.$$
  mkdir -m 711 "$TEST_PLACE"
  echo "$$ $(starttime $$)" >"$TEST_PLACE/owner"
}

clear_leftovers() {
  local place pid began
  for place in /tmp/rft-run.*; do
    [ -d "$place" ] && [ -O "$place" ] || continue
    if read -r pid began 2>/dev/null <"$place/owner" && [ "$(starttime "$pid")" = "$began" ]; then continue; fi
    echo "clearing what a run that died left in $place"
    clear_place "$place"
  done
}
clear_place() { # FOLDER
  local place=$1 pid mount id
  # Every process of that run has the folder in its environment.
  for pid in $({ grep -lsaF "TMPDIR=$place" /proc/[0-9]*/environ || true; } | cut -d/ -f3); do
    if tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -qxF "TMPDIR=$place"; then kill -KILL "$pid" 2>/dev/null || true; fi
  done
  awk -v place="$place/" 'index($2, place) == 1 {print $2}' /proc/mounts | sort -r | while read -r mount; do umount -l "$mount" || true; done
  if docker info >/dev/null 2>&1; then
    # A test notes the id of each host that it makes, before the host makes anything.
    find "$place" -name host-id -type f -exec cat {} + 2>/dev/null | sort -u | while read -r id; do clear_host "$id"; done
  fi
  # A process that was just killed may still hold a file open for a moment.
  rm -rf "$place" 2>/dev/null || { sleep 1; rm -rf "$place"; }
}
clear_host() { # HOST-ID   by label; and the foreign containers that a story made to resemble that host's
  [[ $1 =~ ^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$ ]] || return 0
  local h8
  h8=$(printf %s "$1" | sha256sum | cut -c1-8)
  echo "  Docker objects of the test host $1"
  { docker ps -aq --filter "label=redforge.host=$1"; docker ps -aq --filter "name=^(redforge|rft-other)-$h8(-|\$)"; } | sort -u | xargs -r docker rm -fv >/dev/null || true
  docker network ls -q --filter "label=redforge.host=$1" | xargs -r docker network rm >/dev/null || true
  docker volume ls -q --filter "label=redforge.host=$1" | xargs -r docker volume rm -f >/dev/null || true
}
