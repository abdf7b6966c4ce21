# Sourced. The cases about what a person gives the demo: documents, a busy port, a full disk, a machine that lacks something,
# an account that may not install.

case_documents_refused() {
  machine_engine
  mkdir -p "$PLACE/none" "$PLACE/binary"
  must_fail none "holds no text document" DOCS="$PLACE/none"
  head -c 20000 /dev/urandom >"$PLACE/binary/photo.jpg"
  head -c 50000000 /dev/zero | tr '\0' 'x' >"$PLACE/binary/big.txt"
  must_fail binary "holds no text document, and 2 file(s) that were left out" DOCS="$PLACE/binary"
  says binary "left out: 'photo.jpg' is no UTF-8 text"
  says binary "left out: 'big.txt' has 48829 KB, more than 256 KB"
  must_fail nowhere "is no folder" DOCS="$PLACE/nowhere"
  # Nothing was made for it.
  [ ! -e /var/lib/redforge-demo/demo/hub ] || { echo "   a hub was made before the documents were read"; return 1; }
  down
}
case_documents_odd() {
  machine_engine
  local folder=$PLACE/odd
  mkdir -p "$folder/sub folder"
  cp examples/documents/note-oven-2-thermocouple.txt "$folder/Öfen \"Halle 3\" & Söhne's.txt"
  cp examples/documents/note-coolant-pump-3.txt "$folder/two words.txt"
  cp examples/documents/note-forklift-battery.txt "$folder/-rf.txt"
  cp examples/documents/note-hospital-bed-lift.txt "$folder/same.txt"
  cp examples/documents/note-conveyor-belt-splice.txt "$folder/same.md"
  cp examples/documents/note-chiller-refrigerant.txt "$folder/\$(touch pwned)"
  : >"$folder/empty.txt"
  printf 'a\0b' >"$folder/zero.txt"
  must odd DOCS="$folder"
  says odd "left out: 'empty.txt' is empty"
  says odd "left out: 'zero.txt' is no UTF-8 text"
  equal "documents" 6 "$(jq .documents target/demo.json)"
  equal "left out" 2 "$(jq .documents_left_out target/demo.json)"
  [ ! -e pwned ] && [ ! -e "$folder/pwned" ] || { echo "   a file's name was run"; return 1; }
  down
}

# Without the wheel, and without a way to get it: Debian's PostgreSQL, and all goes well.
case_without_wheel() {
  machine_engine
  mount -t tmpfs tmpfs /var/cache/redforge
  must wheel
  says wheel "using Debian's PostgreSQL"
  pgrep -f '/usr/lib/postgresql/.*/bin/postgres -D' >/dev/null || { echo "   it does not run on Debian's"; return 1; }
  down
  umount /var/cache/redforge
}

case_busy_port() {
  machine_engine
  python3 -m http.server --bind 127.0.0.1 17401 >/dev/null 2>&1 &
  local server=$! deadline=$((SECONDS + 20))
  until [ -n "$(ss -Hltn 'sport = :17401')" ] || [ $SECONDS -ge $deadline ]; do read -rt 0.1 <> <(:) || true; done
  must_fail busy "port 17401, for the hub, is busy: python3 (process $(ss -Hltnp 'sport = :17401' | sed -E 's/.*pid=([0-9]+).*/\1/')) listens there" || { kill $server; return 1; }
  kill $server
  says busy "PORT_BASE="
  down
}
case_little_room() {
  machine_engine
  mkdir -p /var/lib/redforge-demo/small
  mount -t tmpfs -o size=3000m tmpfs /var/lib/redforge-demo/small
  must_fail small "has 3000 MB free, the demo wants 8192 MB" DEMO=small REDFORGE_BIN=
  umount /var/lib/redforge-demo/small
  down DEMO=small
}

# a_path_without PROGRAM...   prints a PATH on which everything is but these
a_path_without() {
  local bin=$PLACE/path.$1 dir
  rm -rf "$bin"; mkdir -p "$bin"
  for dir in /usr/local/bin /usr/sbin /usr/bin; do ln -sf "$dir"/* "$bin/"; done
  for program in "$@"; do rm -f "$bin/$program"; done
  echo "$(dirname "$(command -v cargo)"):$bin"
}
case_guard() {
  machine_engine
  local path
  # Some machines have one of their own: this is one without, at first.
  rm -f /usr/sbin/policy-rc.d
  path=$(a_path_without jq apt-get)
  # An apt-get that asks, as a package would, whether it may start a service, and then "installs" jq.
  cat >"${path#*:}/apt-get" <<END
#!/bin/sh
[ "\$1" = install ] || exit 0
/usr/sbin/policy-rc.d docker start; echo "policy \$?" >>$LOGS/asked
[ -z "\${BREAK:-}" ] || exit 7
ln -sf /usr/bin/jq ${path#*:}/jq
END
  chmod 755 "${path#*:}/apt-get"
  must_fail guard_broken "apt-get could not install jq" PATH="$path" BREAK=1
  [ ! -e /usr/sbin/policy-rc.d ] || { echo "   the guard stayed after a failure"; return 1; }
  # What was there before comes back.
  printf '#!/bin/sh\nexit 104\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d
  must guard PATH="$path"
  equal "what packages were told" "policy 101" "$(sort -u "$LOGS/asked")"
  grep -q 'exit 104' /usr/sbin/policy-rc.d || { echo "   the guard that was there before is gone"; return 1; }
  rm /usr/sbin/policy-rc.d
  # A guard that a killed installation left is taken away by the next command that looks.
  (. packaging/apt.sh; printf '#!/bin/sh\n%s\nexit 101\n' "$GUARD_TEXT" >/usr/sbin/policy-rc.d)
  down
  [ ! -e /usr/sbin/policy-rc.d ] || { echo "   a guard of a killed installation stayed"; return 1; }
}

# What a run of `make test` left that died is cleared by the next one: processes, mounts, Docker objects, the folder. What
# belongs to a living run, or bears another host's label, stays.
case_died_test_run() {
  machine_engine
  # shellcheck source=../place.sh
  . packaging/test/place.sh
  local dead=/tmp/rft-run.999999991 alive=/tmp/rft-run.999999992 place host=() i=0 pid
  host=(01920000-0000-7000-8000-00000000dead 01920000-0000-7000-8000-0000000a11fe)
  for place in $dead $alive; do
    mkdir -p "$place/rftstory/disk"
    echo "${host[i]}" >"$place/rftstory/host-id"
    mount -t tmpfs tmpfs "$place/rftstory/disk"
    docker network create --label "redforge.host=${host[i]}" "net$i" >/dev/null
    docker volume create --label "redforge.host=${host[i]}" "vol$i" >/dev/null
    docker run -d --name "box$i" --network "net$i" -v "vol$i:/data" --label "redforge.host=${host[i]}" redforge.local/busybox:1.35.0 sleep 1000 >/dev/null
    docker run -d --name "redforge-$(printf %s "${host[i]}" | sha256sum | cut -c1-8)-worker-0" redforge.local/busybox:1.35.0 sleep 1000 >/dev/null
    TMPDIR=$place sleep 1000 &
    pid[i]=$!
    i=$((i + 1))
  done
  echo "${pid[0]} 1" >$dead/owner                       # that process exists, but began at another time
  echo "$$ $(starttime $$)" >$alive/owner
  clear_leftovers >"$LOGS/cleared"
  says cleared "clearing what a run that died left in $dead"
  [ ! -e $dead ] || { echo "   the dead run's folder stayed"; return 1; }
  if kill -0 "${pid[0]}" 2>/dev/null; then echo "   the dead run's process stayed"; return 1; fi
  equal "containers" 2 "$(docker ps -q | wc -l)"
  equal "the living run's container" running "$(docker inspect -f '{{.State.Status}}' box1)"
  equal "networks" net1 "$(docker network ls --filter label=redforge.host --format '{{.Name}}')"
  equal "volumes" vol1 "$(docker volume ls -q --filter label=redforge.host)"
  [ -e $alive/owner ] && kill -0 "${pid[1]}" && mountpoint -q $alive/rftstory/disk || { echo "   a living run's things were taken"; return 1; }
  clear_place $alive >/dev/null
  equal "containers" 0 "$(docker ps -q | wc -l)"
}

# An ordinary user in group docker: nothing is installed, everything lies in the XDG folders.
as_user() { # COMMAND...   in the user's clone
  runuser -u rf-visitor -- env -i HOME=/home/rf-visitor PATH="${USER_PATH:-/usr/local/bin:/usr/bin:/bin}" XDG_RUNTIME_DIR=/run/user/rf \
    REDFORGE_BIN="${USER_BIN-/home/rf-visitor/bin}" make -s -C /home/rf-visitor/clone "$@"
}
POSTGRES_HERE=$(compgen -G "/var/cache/redforge/postgres-*" || compgen -G "$HOME/.cache/redforge/postgres-*" || true)
case_ordinary_user() {
  machine_engine
  useradd -m -s /bin/bash rf-visitor
  mkdir -p /run/user/rf /home/rf-visitor/{bin,clone,.cache/redforge}
  chown rf-visitor: /run/user/rf
  mount --bind "$PLACE/bin" /home/rf-visitor/bin
  git -c safe.directory="$REPO" ls-files -z Makefile packaging examples | xargs -0 cp --parents -t /home/rf-visitor/clone
  cp rust-toolchain.toml /home/rf-visitor/clone/
  [ ! -d "$POSTGRES_HERE" ] || cp -r "$POSTGRES_HERE" /home/rf-visitor/.cache/redforge/
  chown -R rf-visitor: /home/rf-visitor/clone /home/rf-visitor/.cache
  # Not in the group: the engine is there, and what to do is said.
  if as_user demo >"$LOGS/user.out" 2>&1; then echo "   it ran without access to an engine"; return 1; fi
  says user.out "usermod -aG docker rf-visitor"
  usermod -aG docker rf-visitor
  # Something is missing: just that is named, with the command.
  if USER_PATH=$(a_path_without jq | cut -d: -f2) as_user demo >"$LOGS/user.jq" 2>&1; then echo "   it ran without jq"; return 1; fi
  says user.jq "missing on this machine: jq"
  grep -qx ' *next: as root: apt-get install --no-install-recommends jq' "$LOGS/user.jq" || { tail -5 "$LOGS/user.jq"; return 1; }
  if USER_BIN='' as_user demo >"$LOGS/user.cargo" 2>&1; then echo "   it built without cargo"; return 1; fi
  says user.cargo "cargo is missing: install Rust"
  footprint user.before
  as_user demo >"$LOGS/user" 2>&1 || { tail -25 "$LOGS/user"; return 1; }
  says user "no difference"
  [ -d /home/rf-visitor/.local/state/redforge-demo/demo/hub ] || { echo "   the state is not in the XDG folder"; return 1; }
  [ -d /run/user/rf/redforge-demo/demo ] || { echo "   the run folder is not in the XDG folder"; return 1; }
  equal "files of the user elsewhere" "" "$(find /var/lib /run /etc /tmp -xdev -user rf-visitor -not -path '/run/user/rf*' -not -path '*/docker/*' 2>/dev/null | head -5)"
  as_user demo-down >"$LOGS/user.down" 2>&1 || { cat "$LOGS/user.down"; return 1; }
  footprint user.after
  same_footprint user.before user.after
  equal "what is left in the XDG folders" "" "$(find /home/rf-visitor/.local/state /run/user/rf -path '*redforge*' | head -5)"
}
