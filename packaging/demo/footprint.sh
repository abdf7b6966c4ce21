#!/usr/bin/env bash
# Prints what a demo could leave on a machine, sorted and without what changes by itself, so that two of them can be
# compared:  footprint.sh >before; make demo demo-down; footprint.sh | diff before -
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
section() { sed "s/^/$1 /" | sort; }
for dir in /proc/[0-9]*; do
  tr '\0' ' ' 2>/dev/null <"$dir/cmdline" | grep -E 'redforge|dockerd|containerd|postgres|node-red|mosquitto' | grep -v footprint || true
done | section process
if docker info >/dev/null 2>&1; then
  docker ps -a --format '{{.Names}} {{.Image}}' | section container
  docker network ls --format '{{.Name}} {{.Driver}}' | section network
  docker volume ls -q | section volume
fi
for table in nat filter raw mangle; do iptables -w -t $table -S 2>/dev/null | section "iptables-$table" || true; done
ip -o link show | awk -F': ' '{print $2}' | grep -v '^veth' | section link
ss -Hltn | awk '{print $4}' | section port
ls -d /var/lib/redforge-demo/* /run/redforge-demo/* /usr/sbin/policy-rc.d 2>/dev/null | section path || true
