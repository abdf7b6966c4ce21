# Sourced. Debian packages, installed as root so that none of them starts a service by the way, now or at the next boot:
# whoever asks for a broker's or an engine's files has not asked for a broker or an engine on this machine.
GUARD=/usr/sbin/policy-rc.d
GUARD_KEPT=$GUARD.before-redforge
GUARD_TEXT='# Put here by RedForge while it installs packages: no service starts by the way.'

# apt_install LOG PACKAGE...   returns apt's status; one at a time on this machine
apt_install() {
  local log=$1 code=0
  shift
  mkdir -p /run/lock
  (
    flock -w 900 8 || { echo "another installation does not end" >"$log"; exit 1; }
    guard_down
    trap guard_down EXIT
    trap 'exit 130' INT TERM
    if [ -e $GUARD ]; then mv $GUARD $GUARD_KEPT; fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$GUARD_TEXT" >$GUARD
    chmod 755 $GUARD
    mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    export DEBIAN_FRONTEND=noninteractive
    boot_links / >"$log.boot"
    # Also after a failure or an interruption: what was unpacked may be enabled already.
    trap 'boot_links_undo / "$log.boot"; rm -f "$log.boot"; guard_down' EXIT
    apt-get update -qq -o DPkg::Lock::Timeout=300 && apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
  ) 8>>/run/lock/redforge-apt.lock >"$log" 2>&1 || code=$?
  return $code
}
# boot_links ROOT   what starts at the next boot: units that a target wants, and start links of init scripts, one path a line
boot_links() {
  (cd "$1" && find etc/systemd/system etc/rc[2-5S].d \( -path '*.wants/*' -o -path '*.requires/*' -o -path 'etc/rc*/S*' \) -type l 2>/dev/null | sort) || true
}
# boot_links_undo ROOT BEFORE   takes back what came since: a unit is disabled, as `systemctl disable` does it, so that its
# package leaves it disabled later on too; an init script keeps its stop link. What was enabled before stays as it was.
boot_links_undo() {
  local link
  while read -r link; do
    case $link in
      etc/rc*) mv "$1/$link" "$1/${link%/*}/K01${link##*/S[0-9][0-9]}" ;;
      *) rm -f "$1/$link" ;;
    esac
  done < <(boot_links "$1" | comm -13 "$2" -)
}
# guard_down   takes the guard away, also one that a killed installation left, and puts back what was there before it
guard_down() {
  if grep -qsF "$GUARD_TEXT" $GUARD; then rm -f $GUARD; fi
  if [ -e $GUARD_KEPT ] && [ ! -e $GUARD ]; then mv $GUARD_KEPT $GUARD; fi
}
# guard_clear   the same, unless an installation is at work that needs it
guard_clear() {
  [ "$(id -u)" = 0 ] && { [ -e $GUARD_KEPT ] || grep -qsF "$GUARD_TEXT" $GUARD; } || return 0
  (if flock -n 8; then guard_down; fi) 8>>/run/lock/redforge-apt.lock
}
