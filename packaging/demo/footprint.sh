#!/usr/bin/env bash
# Prints what a demo could leave on a machine, sorted and without what changes by itself, so that two of them can be
# compared:  footprint.sh >before; make demo demo-down; footprint.sh | diff before -
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
section() { sed "s|^|$1 |" | sort; }
for dir in /proc/[0-9]*; do
  { tr '\0' ' ' <"$dir/cmdline"; } 2>/dev/null | cut -c1-200 | tr -d '\n' | grep -aE 'redforge|docker|containerd|runc|postgres|node-red|mosquitto|/opt/standin|busybox' |
    grep -avE 'footprint|packaging/test' || true
done | section process
if timeout 20 docker info >/dev/null 2>&1; then
  docker ps -a --format '{{.Names}} {{.Image}}' | section container
  docker network ls --format '{{.Name}} {{.Driver}}' | section network
  docker volume ls -q | section volume
fi
for table in nat filter raw mangle; do { iptables -w -t $table -S 2>/dev/null || true; } | section "iptables-$table"; done
ip -o link show | awk -F': ' '{print $2}' | sed 's/@.*//' | grep -v '^veth' | section link
ss -Hltn | awk '{print $4}' | section port
ss -Hlx | awk '{print $5}' | grep -E 'docker|containerd|redforge|PGSQL' | section socket || true
awk '{print $2}' /proc/self/mounts | grep -E 'redforge|docker|containerd' | grep -v '^/var/lib/docker/\|^/run/docker/netns/' | section mount || true
for switch in net/ipv4/ip_forward net/bridge/bridge-nf-call-iptables; do
  if [ -e /proc/sys/$switch ]; then echo "$switch $(cat /proc/sys/$switch)"; fi
done | section switch
ls -d /var/lib/redforge-demo /run/redforge-demo /tmp/redforge-* /usr/sbin/policy-rc.d* /etc/docker /run/docker /run/containerd \
  /var/lib/docker /opt/containerd 2>/dev/null | section path || true
