#!/bin/bash
# Installs the built programs, their units, users, folders and manual pages below DESTDIR (default: this machine, as root).
# Starts no service and enables none: that is the administrator's word, and the last lines say it.
#   packaging/install.sh [--programs DIR] [hub] [edge] [ctl]        all three when none is named
set -euo pipefail
cd "$(dirname "$0")/.."
programs=target/release
[ "${1:-}" != --programs ] || { programs=${2:?a folder}; shift 2; }
[ $# -gt 0 ] || set -- hub edge ctl
root=${DESTDIR:-}
for part in "$@"; do
  case $part in
    hub | edge) name=redforge-$part section=8 ;;
    ctl) name=redforgectl section=1 ;;
    *) echo "install.sh: '$part' is none of hub, edge, ctl" >&2; exit 64 ;;
  esac
  [ -x "$programs/$name" ] || { echo "install.sh: $programs/$name is not built: cargo build --release" >&2; exit 66; }
  install -D -m755 "$programs/$name" "$root/usr/bin/$name"
  "$programs/$name" man --dir "$root/usr/share/man/man$section"
  [ "$part" != ctl ] || continue
  install -D -m644 "systemd/$name.service" "$root/usr/lib/systemd/system/$name.service"
  install -D -m644 systemd/redforge.sysusers "$root/usr/lib/sysusers.d/redforge.conf"
  install -D -m644 systemd/redforge.tmpfiles "$root/usr/lib/tmpfiles.d/redforge.conf"
done
cat >&2 <<'END'
Installed; nothing was started or enabled. Then, once the settings are in /etc/redforge:
  systemd-sysusers && systemd-tmpfiles --create redforge.conf && systemctl daemon-reload
  systemctl enable --now redforge-hub       # on the hub
  systemctl enable --now redforge-edge      # on a host
END
