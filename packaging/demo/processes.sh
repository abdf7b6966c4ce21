# Sourced. The demo's processes by pid file, and the lock that lets one run at a time work on one demo.

# A process is ours when its pid file names it and it was started at the time noted beside the pid.
started_at() { # PID   nothing when it has ended, also when nobody has waited for it yet
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  stat=${stat##*) }
  [[ $stat == [ZX]* ]] || awk '{print $20}' <<<"$stat"
}
pid_of() { # NAME   prints the pid if that process still runs
  local pid began
  read -r pid began 2>/dev/null <"$RUN/$1.pid" || return 1
  [ -n "$began" ] && [ "$(started_at "$pid")" = "$began" ] && echo "$pid"
}
# launch NAME LOG COMMAND...   starts a process in a session of its own; it survives ^C and this script. It writes its own
# pid file before it becomes the command: there is no moment in which it runs and nobody could find it.
launch() {
  local name=$1 log=$2
  shift 2
  rm -f "$RUN/$name.pid"
  # shellcheck disable=SC2016
  setsid bash -c 'stat=$(cat /proc/$$/stat); set -- "$1" "$(awk "{print \$20}" <<<"${stat##*) }")" "${@:2}"
    echo "$$ $2" >"$1.new" && mv "$1.new" "$1" && exec "${@:3}"' launch "$RUN/$name.pid" "$@" >>"$log" 2>&1 </dev/null 9>&- &
  disown $!
  until_true 10 "$name to start" test -s "$RUN/$name.pid" || fail "$name could not be started (log: $log)"
}
halt() { # NAME [SIGNAL]   ends a process that we started, waits, and kills it after 40 s
  local pid
  pid=$(pid_of "$1") || { rm -f "$RUN/$1.pid"; return 0; }
  kill "-${2:-TERM}" "$pid" 2>/dev/null || true
  if ! until_true 40 "$1 to end" has_ended "$1"; then
    say "$1 (process $pid) does not end: killing it"
    kill -KILL "$pid" 2>/dev/null || true
    until_true 10 "$1 to die" has_ended "$1" || true
  fi
  rm -f "$RUN/$1.pid"
}
has_ended() { ! pid_of "$1" >/dev/null; }

# Whoever works on this demo holds this lock on descriptor 9, and every command that it calls inherits it; only what is
# launched to stay closes it. So when a run was killed, its orphans are those that still hold the lock.
take_lock() { # WHAT-TO-DO-IF-TAKEN
  local owner attempt
  for attempt in 1 2 3; do
    # The fallback lies in /tmp, where anybody may have made it first.
    [[ $RUNS != /tmp/* ]] || { mkdir -p -m 700 "${RUNS%/*}"; [ -O "${RUNS%/*}" ] && [ ! -L "${RUNS%/*}" ]; } || fail "${RUNS%/*} belongs to somebody else" "set XDG_RUNTIME_DIR to a folder of yours"
    mkdir -p "$RUN"
    exec 9>>"$RUN/lock"
    if ! flock -n 9; then
      if owner=$(pid_of run); then fail "another run of the demo '$DEMO' is at work (process $owner)" "$1"; fi
      say "ending what an interrupted run left at work"
      end_orphans TERM
      flock -w 10 9 || { end_orphans KILL; flock -w 10 9; } || fail "$RUN/lock is held, and not by this demo" "see: fuser -v $RUN/lock"
    fi
    # demo-down may have removed the folder while we waited.
    [ "$RUN/lock" -ef /proc/self/fd/9 ] && break
  done
  echo "$$ $(started_at $$)" >"$RUN/run.pid"
}
end_orphans() { # SIGNAL
  local held pid
  for held in /proc/[0-9]*/fd/9; do
    pid=${held#/proc/} pid=${pid%%/*}
    if [ "$pid" != $$ ] && [ "$held" -ef "$RUN/lock" ]; then kill "-$1" "$pid" 2>/dev/null || true; fi
  done
}
