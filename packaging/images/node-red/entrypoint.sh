#!/bin/sh
# Node.js in the background so that the shell can pass signals on; a second wait lets Node-RED finish its own stop.
pass_on() { kill -TERM "$runtime" 2>/dev/null; wait "$runtime"; exit $?; }
trap pass_on TERM INT
# FLOWS and NODE_OPTIONS are lists of words on purpose: FLOWS="" leaves the choice to the settings file.
# shellcheck disable=SC2086
/usr/local/bin/node $NODE_OPTIONS node_modules/node-red/red.js --userDir /data $FLOWS "$@" &
runtime=$!
wait "$runtime"
