#!/bin/bash
# Checks the units in an installed tree: every warning of `systemd-analyze verify` fails (it exits 0 on unknown keys), the
# exposure stays low, and sysusers and tmpfiles can be applied. What is installed starts nothing, and what apt_install brings
# does not start at the next boot. Every manual page is one. Needs no running systemd.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v systemd-analyze >/dev/null || { echo "systemd-analyze is missing: apt-get install systemd" >&2; exit 1; }
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/{etc/systemd/system,etc/redforge,usr/lib/systemd}
cp -a /lib/systemd/system "$tree/usr/lib/systemd/"
ln -s usr/lib "$tree/lib"
DESTDIR=$tree packaging/install.sh --programs "${PROGRAMS:-target/debug}" 2>"$tree/said"
touch "$tree"/etc/redforge/{hub,edge}.toml
. packaging/apt.sh
[ -z "$(boot_links "$tree")" ] || { echo "what is installed starts by the way: $(boot_links "$tree")" >&2; exit 1; }
for name in hub edge; do
  grep -q "systemctl enable --now redforge-$name" "$tree/said" || { echo "install.sh does not say how redforge-$name is started" >&2; exit 1; }
done
# As a package does it: two units and an init script come, one unit was there before.
plant="$tree/planted"
mkdir -p "$plant"/etc/{rc2.d,systemd/system/{multi-user,sockets}.target.wants}
ln -s /lib/systemd/system/kept.service "$plant/etc/systemd/system/multi-user.target.wants/"
boot_links "$plant" >"$tree/before"
ln -s /lib/systemd/system/new.service "$plant/etc/systemd/system/multi-user.target.wants/"
ln -s /lib/systemd/system/new.socket "$plant/etc/systemd/system/sockets.target.wants/"
ln -s ../init.d/new "$plant/etc/rc2.d/S01new"
[ "$(boot_links "$plant" | wc -l)" = 4 ] || { echo "not every boot link is seen" >&2; exit 1; }
boot_links_undo "$plant" "$tree/before"
[ "$(boot_links "$plant")" = etc/systemd/system/multi-user.target.wants/kept.service ] && [ -L "$plant/etc/rc2.d/K01new" ] ||
  { echo "what a package enabled is enabled still, or more than that was taken: $(boot_links "$plant")" >&2; exit 1; }
rm -r "$plant"
# Manual pages: each is known to man by its name, and groff has nothing to say.
if command -v groff >/dev/null && command -v lexgrog >/dev/null; then
  pages_bad() {
    local page bad=0
    for page in "$1"/man?/*; do
      lexgrog "$page" >/dev/null || { echo "no manual page: $page"; bad=1; }
      [ -z "$(groff -man -ww -z -Tutf8 -Kutf8 "$page" 2>&1)" ] || { groff -man -ww -z -Tutf8 -Kutf8 "$page" 2>&1 | head -3; bad=1; }
    done
    return $bad
  }
  pages_bad "$tree/usr/share/man" >&2 || exit 1
  mkdir -p "$tree/wrong/man1"
  printf '.TH x 1\n.SH NAME\nx \\- y\n.nosuchmacro\n' >"$tree/wrong/man1/x.1"
  if pages_bad "$tree/wrong" >/dev/null; then echo "a wrong manual page goes unnoticed" >&2; exit 1; fi
  echo "$(find "$tree/usr/share/man" -type f | wc -l) manual pages"
fi
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
