#!/bin/bash
# `make test-cold`: the demo on a fresh Debian 12 machine, from nothing: a new root from Debian's packages with Rust, git and
# make in it, a clean clone, empty caches, no engine, no PostgreSQL; in namespaces, so that nothing here is touched. Prints
# the time of the first run, of a second one, and what demo-down left (REDFORGE_BIN = programs that are built: without the
# compiling). Wants debootstrap and slirp4netns, 15 GB and 20 minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
REPO=$PWD
export PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || { echo "make test-cold needs root: it makes namespaces and a root folder" >&2; exit 1; }
for tool in debootstrap slirp4netns; do
  command -v $tool >/dev/null || { echo "$tool is missing: apt-get install --no-install-recommends $tool" >&2; exit 1; }
done
base=${COLD_BASE:-/var/cache/redforge/debian-12}
if [ ! -e "$base/made" ]; then
  echo "== a Debian 12 root in $base"
  rm -rf "$base"; mkdir -p "$base"
  debootstrap --variant=minbase --include=ca-certificates,git,make bookworm "$base/root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$base/log" ||
    { tail -5 "$base/log" >&2; exit 1; }
  touch "$base/made"
fi
PLACE=$(mktemp -d /var/tmp/redforge-cold.XXXXXX)
root=$PLACE/root
net='' machine=''
for old in /var/tmp/redforge-cold.*; do
  if [ -d "$old" ] && [ "$old" != "$PLACE" ] && ! kill -0 "$(cat "$old/owner" 2>/dev/null || echo 999999999)" 2>/dev/null; then rm -rf "$old"; fi
done
echo $$ >"$PLACE/owner"
finish() {
  local code=$?
  [ -z "$machine" ] || kill -KILL "$machine" 2>/dev/null || true
  [ -z "$net" ] || kill "$net" 2>/dev/null || true
  rm -rf "$PLACE"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cp -a "$base/root" "$root"
# Rust as rustup installs it, and this machine's trust in certificates and its way of resolving names.
toolchain=$(readlink -f "$(rustc --print sysroot)")
mkdir -p "$root/opt"
cp -a "$toolchain" "$root/opt/rust"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
echo cold >"$root/etc/hostname"
git clone -q "$REPO" "$root/root/redforge"

programs=
if [ -n "${REDFORGE_BIN:-}" ]; then
  programs=/opt/redforge
  mkdir -p "$root$programs"
  for program in redforge-hub redforge-edge redforgectl redforge-feeder redforge-checker; do cp "$REDFORGE_BIN/$program" "$root$programs/"; done
fi

mkfifo "$PLACE/go"
unshare --net --mount --pid --fork --kill-child=KILL --mount-proc bash -c '
  set -e
  read -r _ <"$1/go"
  mount --make-rprivate /
  mount --bind "$1/root" "$1/root"
  cd "$1/root"
  mount --rbind /dev dev; mount --rbind /sys sys; mount -t proc proc proc
  mount -t tmpfs -o mode=755 tmpfs run; mount -t tmpfs tmpfs tmp
  mkdir -p run/lock
  pivot_root . mnt
  umount -l /mnt
  exec env -i HOME=/root PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0} ${2:+REDFORGE_BIN=$2} \
    /bin/bash /root/redforge/packaging/test/cold_inside.sh
' cold "$PLACE" "$programs" &
machine=$!
until inside=$(pgrep -P "$machine") && [ -n "$inside" ]; do read -rt 0.1 <> <(:) || true; done
slirp4netns --configure --mtu=65520 --disable-host-loopback --ready-fd=3 "$inside" tap0 >"$PLACE/net.log" 2>&1 3>"$PLACE/net.ready" &
net=$!
until [ -s "$PLACE/net.ready" ]; do kill -0 $net || { cat "$PLACE/net.log" >&2; exit 1; }; read -rt 0.1 <> <(:) || true; done
echo go >"$PLACE/go"
code=0
wait $machine || code=$?
machine=
exit $code
