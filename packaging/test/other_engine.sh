#!/bin/bash
# `make test-podman`, `make test-docker`: the core stories of the reconciler on another engine than this machine's, in
# network and mount namespaces of its own, so that its bridges and rules are nobody else's.
#   other_engine.sh podman      podman's Docker-compatible socket (installed through apt when it is missing)
#   other_engine.sh PROGRAMS    the dockerd in this folder, with containerd, its shim, docker-proxy and docker-init beside it, as
#                               Docker's archives have them; of Debian's packages docker.io, containerd and tini (dpkg -x) link
#                               every program into one folder
# STORIES="..." picks some (a nextest filter).
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "another engine needs root: it makes namespaces" >&2; exit 1; }
which=${1:?podman, or a folder of programs}
export PATH=$PATH:/usr/sbin:/sbin

if [ "${2:-}" != inside ]; then
  if [ "$which" = podman ] && ! command -v podman >/dev/null; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends podman runc netavark aardvark-dns
    # What is installed starts nothing, now or at the next boot.
    systemctl disable podman.socket podman.service podman-restart.service podman-auto-update.timer 2>/dev/null || true
  fi
  . packaging/test/engine.sh
  engine_up
  PLACE=$(mktemp -d /var/tmp/redforge-engine.XXXXXX)
  trap 'rm -rf --one-file-system "$PLACE"; engine_down' EXIT
  readarray -t images < <(packaging/images/build.sh busybox mosquitto redis valkey node-red node-red-5 ollama-standin)
  docker save "${images[@]}" >"$PLACE/images.tar"
  cargo nextest run --workspace --no-run --locked
  env -u DOCKER_HOST PLACE="$PLACE" unshare --net --mount --pid --fork --kill-child=KILL --mount-proc \
    bash "$0" "$which" inside
  exit
fi

ip link set lo up
mount -t tmpfs tmpfs /run
# Where every test looks; /run is this namespace's own.
socket=/run/docker.sock
if [ "$which" = podman ]; then
  # runc, because crun of Debian 12 refuses the hybrid layout of cgroups; limits in words, because a container may have fewer.
  cat >"$PLACE/containers.conf" <<C
[containers]
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=20000:20000"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
C
  export CONTAINERS_CONF=$PLACE/containers.conf
  # Its networks' files would lie in /etc otherwise, which is the machine's.
  mkdir "$PLACE/networks"
  podman --root "$PLACE/store" --runroot /run/podman --network-config-dir "$PLACE/networks" system service --time 0 "unix://$socket" >"$PLACE/log" 2>&1 &
else
  PATH=$which:$PATH dockerd --data-root "$PLACE/store" --exec-root /run/docker --pidfile /run/docker.pid \
    -H "unix://$socket" >"$PLACE/log" 2>&1 &
fi
for _ in $(seq 300); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
docker version --format '{{.Server.Version}} (API {{.Server.APIVersion}})' || { tail -30 "$PLACE/log" >&2; exit 1; }
docker load -q -i "$PLACE/images.tar" >/dev/null
mkdir "$PLACE/tmp"
code=0
TMPDIR=$PLACE/tmp REDFORGE_TEST_IMAGES=1 CARGO_NET_OFFLINE=true \
  cargo nextest run --workspace --locked --no-fail-fast --test-threads 1 -E "${STORIES:-binary(docker_reconcile)}" || code=$?
[ $code = 0 ] || tail -40 "$PLACE/log" >&2
exit $code
