#!/bin/bash
# Installs what the tests need and a fresh Debian 12 machine lacks. Starts no service by the way; says what it does.
# As an ordinary user it installs nothing and names what is missing, with the command.
set -euo pipefail
cd "$(dirname "$0")/../.."

need=()
want() { # want COMMAND-OR-PATH PACKAGE
  command -v "$1" >/dev/null 2>&1 || compgen -G "$1" >/dev/null || need+=("$2")
}
PATH=$PATH:/usr/sbin:/sbin
want dockerd docker.io
want docker docker.io
want '/usr/lib/postgresql/*/bin/postgres' postgresql
want mosquitto mosquitto
want gcc build-essential
want make make
want npm npm
want pip3 python3-pip
want python3 python3
want iptables iptables
want ip iproute2
want setpriv util-linux
want ps procps
want curl curl
want jq jq
want docker-registry docker-registry

if [ ${#need[@]} -gt 0 ]; then
  readarray -t need < <(printf '%s\n' "${need[@]}" | sort -u)
  if [ "$(id -u)" != 0 ]; then
    echo "missing on this machine: ${need[*]}" >&2
    echo "install them as root: apt-get install --no-install-recommends ${need[*]}" >&2
    exit 1
  fi
  echo "installing ${need[*]}"
  . packaging/apt.sh
  apt_install "${TMPDIR:-/tmp}/redforge-apt.log" "${need[@]}" || { tail -5 "${TMPDIR:-/tmp}/redforge-apt.log" >&2; exit 1; }
fi

if ! command -v cargo-nextest >/dev/null 2>&1; then
  echo "installing cargo-nextest (a few minutes, once)"
  cargo install --locked --quiet --version 0.9.143 cargo-nextest
fi

# PostgreSQL with pgvector, which Debian 12 has no package of: the tests of the vector index run on it.
echo "PostgreSQL with pgvector: $(bash "$(dirname "$0")/../postgres/fetch.sh")"
