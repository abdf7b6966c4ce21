# Sourced. Debian packages, installed as root so that none of them starts a service by the way: whoever asks for a broker's
# or an engine's files has not asked for a broker or an engine on this machine.
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
    apt-get update -qq -o DPkg::Lock::Timeout=300 && apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
  ) 8>>/run/lock/redforge-apt.lock >"$log" 2>&1 || code=$?
  return $code
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
