#!/bin/bash
# Checks the units in an installed tree: every warning of `systemd-analyze verify` fails (it exits 0 on unknown keys), the
# exposure stays low, and sysusers and tmpfiles can be applied. Needs no running systemd.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v systemd-analyze >/dev/null || { echo "systemd-analyze is missing: apt-get install systemd" >&2; exit 1; }
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/{usr/bin,etc/systemd/system,etc/redforge,usr/lib/{systemd,sysusers.d,tmpfiles.d}}
for name in hub edge; do
  printf '#!/bin/sh\n' >"$tree/usr/bin/redforge-$name"
  chmod 755 "$tree/usr/bin/redforge-$name"
  touch "$tree/etc/redforge/$name.toml"
done
cp systemd/*.service "$tree/etc/systemd/system/"
cp -a /lib/systemd/system "$tree/usr/lib/systemd/"
ln -s usr/lib "$tree/lib"
cp systemd/redforge.sysusers "$tree/usr/lib/sysusers.d/redforge.conf"
cp systemd/redforge.tmpfiles "$tree/usr/lib/tmpfiles.d/redforge.conf"
touch "$tree"/etc/{passwd,group,shadow,gshadow}
systemd-sysusers --root "$tree" "$tree/usr/lib/sysusers.d/redforge.conf"
for name in redforge-hub redforge-edge; do
  grep -q "^$name:" "$tree/etc/passwd" || { echo "sysusers did not make $name" >&2; exit 1; }
done
systemd-tmpfiles --root "$tree" --create redforge.conf
said_of() { systemd-analyze verify --root "$tree" --man=no "$1" 2>&1 | grep -F "redforge" || true; }
# A check that finds nothing is proven by one that does.
sed 's/^Restart=always/Restrat=always/' systemd/redforge-edge.service >"$tree/etc/systemd/system/redforge-planted.service"
[ -n "$(said_of redforge-planted.service)" ] || { echo "a misspelt key in a unit goes unnoticed" >&2; exit 1; }
rm "$tree/etc/systemd/system/redforge-planted.service"
failed=0
for unit in redforge-hub.service redforge-edge.service; do
  said=$(said_of "$unit")
  [ -z "$said" ] || { echo "$unit: $said" >&2; failed=1; }
  systemd-analyze security --offline=true --root "$tree" --threshold=35 --no-pager "$unit" | tail -1 || { echo "$unit is too exposed" >&2; failed=1; }
done
exit $failed
