# Debian's redis behind the official image's contract: uid 999, data in /data, port 6379.
# Unlike the official image it starts as uid 999 already, so it runs with every capability dropped.
REF=redforge.local/redis:7.0.15
describe() { echo "redis 7.0.15 from Debian 12"; }
fill() {
  base
  debs libc6 libgcc-s1 libatomic1 libstdc++6 libjemalloc2 liblzf1 libssl3 libsystemd0 libcap2 liblzma5 libzstd1 liblz4-1 \
    libgcrypt20 libgpg-error0 liblua5.1-0 redis-tools redis-server
  case $(deb_version redis-server) in 5:7.0.15-*) ;; *) give_up "this Debian has redis $(deb_version redis-server), the recipe is for 7.0.15" ;; esac
  slim
  rm -rf "$ROOT"/etc/redis "$ROOT"/var/lib/redis "$ROOT"/var/log/redis
  mkdir -p "$ROOT/data"
  user redis 999 redis 999 /data
}
pack() { pack_root 999:999 data; }
CHANGES=(-c 'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin' -c 'EXPOSE 6379' -c 'USER 999:999' -c 'WORKDIR /data'
  -c 'VOLUME /data' -c 'CMD ["redis-server"]')
