# What the image recipes share: the cache, Debian packages without installing them, and packing a root folder.
# Nothing here needs root: packages are unpacked, never installed, and owners are set inside the tar.
CACHE=${REDFORGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/redforge}/images
DOWNLOADS=$CACHE/downloads

progress() { printf '%(%H:%M:%S)T image %s\n' -1 "$*" >&2; }
give_up() { progress "$*"; exit 1; }

recipe_hash() { # HERE KIND   over every file that can change the image
  local also=(); case $2 in node-red) also=(../node-red) ;; node-red-*) also=(../node-red node-red) ;; esac
  (cd "$1" && find lib.sh "$2" "${also[@]}" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
}

# node_packages MODULES   puts the nodes of packaging/node-red where every Node-RED of the image finds them, offline
node_packages() {
  local package name
  for package in "$here"/../node-red/*/; do
    name=$(basename "$package")
    mkdir -p "$1/$name"
    cp "$package"/package.json "$package"/*.js "$package"/*.html "$1/$name/"
  done
}
image_recipe() { docker image inspect -f '{{index .Config.Labels "io.redforge.recipe"}}' "$1" 2>/dev/null || true; }

# debs PACKAGE...   fetches Debian packages through apt into the cache and unpacks them into ROOT
debs() {
  mkdir -p "$DOWNLOADS/debs"
  if ! apt-cache show libc6 >/dev/null 2>&1; then
    [ "$(id -u)" = 0 ] || give_up "the package lists are empty: run 'apt-get update' as root"
    apt-get update -qq
  fi
  local package found missing=()
  for package in "$@"; do
    found=$(deb_file "$package")
    if [ -n "$found" ] && dpkg-deb --info "$found" >/dev/null 2>&1; then continue; fi
    rm -f "$DOWNLOADS/debs/${package}_"*.deb
    missing+=("$package")
  done
  # All at once: a request for each costs minutes on a slow line.
  if [ ${#missing[@]} -gt 0 ]; then
    fetch_debs "${missing[@]}" || { [ "$(id -u)" = 0 ] && apt-get update -qq && fetch_debs "${missing[@]}"; } ||
      give_up "could not fetch the Debian packages ${missing[*]}"
  fi
  for package in "$@"; do
    found=$(deb_file "$package")
    [ -n "$found" ] || give_up "could not fetch the Debian package $package"
    dpkg-deb -x "$found" "$ROOT"
  done
}
deb_file() { find "$DOWNLOADS/debs" -name "$1_*.deb" -mtime -30 | sort | tail -1; }
fetch_debs() { (cd "$DOWNLOADS/debs" && apt-get -o APT::Sandbox::User= download -qq "$@" >&2); }

# backports PACKAGE...   the same from the backports of this Debian, found at the mirror that its own lists name
backports() {
  local lists=$WORK/backports codename uri package
  mkdir -p "$lists/lists/partial"
  # shellcheck disable=SC1091
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  for package in "$@"; do
    if [ -z "$(deb_file "$package")" ]; then
      if [ ! -f "$lists/sources.list" ]; then
        # shellcheck disable=SC2016
        uri=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' | awk -v c="$codename" '$2 == c { print $1; exit }')
        [ -n "$uri" ] || give_up "no mirror of Debian $codename is in apt's lists: run 'apt-get update' as root"
        echo "deb $uri $codename-backports main" >"$lists/sources.list"
        apt-get -o Dir::Etc::sourcelist="$lists/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$lists/lists" \
          -o APT::Sandbox::User= update -qq >&2 || give_up "the backports of $codename cannot be read"
      fi
      (cd "$DOWNLOADS/debs" && apt-get -o Dir::Etc::sourcelist="$lists/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$lists/lists" -o APT::Sandbox::User= download -qq "$package" >&2) ||
        give_up "could not fetch $package from the backports"
    fi
    dpkg-deb -x "$(deb_file "$package")" "$ROOT"
  done
}

# deb_version PACKAGE   the version that lies in the cache
deb_version() { dpkg-deb -f "$(find "$DOWNLOADS/debs" -name "$1_*.deb" | sort | tail -1)" Version; }

# base   what every image needs: a shell, users, name resolution
base() {
  mkdir -p "$ROOT"/{bin,etc,usr/bin,usr/local/bin,proc,sys,dev,root,run,var} "$ROOT/lib64"
  mkdir -m 1777 "$ROOT/tmp"
  debs busybox-static
  local applet
  for applet in sh ls cat cp mv rm mkdir chmod ps kill sleep env id grep sed awk tail head seq date test true false \
    printf echo wc stat find xargs tar nc wget ping hostname touch sync sort cut tr yes; do
    ln -sf busybox "$ROOT/bin/$applet"
  done
  ln -sf /bin/env "$ROOT/usr/bin/env"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$ROOT/etc/passwd"
  echo 'root:x:0:' >"$ROOT/etc/group"
  echo 'hosts: files dns' >"$ROOT/etc/nsswitch.conf"
}
user() { # NAME UID GROUP GID HOME
  echo "$1:x:$2:$4::$5:/bin/sh" >>"$ROOT/etc/passwd"
  [ "$4" = 0 ] || echo "$3:x:$4:" >>"$ROOT/etc/group"
}
slim() { rm -rf "$ROOT"/usr/share/{doc,man,locale,lintian,bash-completion,info,bug} "$ROOT"/{usr/,}lib/systemd "$ROOT"/etc/init.d; }

# pack_root [UID:GID PATH]...   packs ROOT as root's, the named paths as someone else's
pack_root() {
  local args=() owner path
  local -a pairs=("$@")
  for ((i = 1; i < ${#pairs[@]}; i += 2)); do args+=("--exclude=./${pairs[i]}"); done
  tar -C "$ROOT" --sort=name --mtime=@0 --numeric-owner --owner=0 --group=0 "${args[@]}" -cf "$WORK/rootfs.tar" .
  for ((i = 0; i + 1 < ${#pairs[@]}; i += 2)); do
    owner=${pairs[i]} path=${pairs[i + 1]}
    tar -C "$ROOT" --sort=name --mtime=@0 --numeric-owner --owner="${owner%:*}" --group="${owner#*:}" \
      -rf "$WORK/rootfs.tar" "./$path"
  done
}

# wheel NAME VERSION [pip options]   fetches one wheel into the cache; prints its path
wheel() {
  local name=$1 version=$2; shift 2
  local kept; kept=$(find "$DOWNLOADS/wheels" -name "${name//-/_}-$version-*.whl" 2>/dev/null | head -1)
  if [ -z "$kept" ]; then
    mkdir -p "$DOWNLOADS/wheels"
    python3 -m pip --version >/dev/null 2>&1 || give_up "python3 has no pip: apt-get install python3-pip"
    local part="$WORK/wheel"; rm -rf "$part"; mkdir -p "$part"
    python3 -m pip download -q --no-deps --only-binary :all: -d "$part" "$@" "$name==$version" >&2 || give_up "could not fetch $name $version"
    kept="$DOWNLOADS/wheels/$(basename "$part"/*.whl)"
    mv "$part"/*.whl "$kept"
  fi
  echo "$kept"
}
