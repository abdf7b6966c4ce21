# Valkey from Debian's backports behind the official image's contract: uid 999, data in /data, port 6379.
# Unlike the official image it starts as uid 999 already, so it runs with every capability dropped.
REF=redforge.local/valkey:8.0.1
describe() { echo "valkey 8.0.1 from Debian 12's backports"; }
fill() {
  base
  debs libc6 libgcc-s1 libatomic1 libstdc++6 libjemalloc2 liblzf1 libssl3 libsystemd0 libcap2 liblzma5 libzstd1 liblz4-1 \
    libgcrypt20 libgpg-error0
  backports valkey-tools valkey-server
  case $(deb_version valkey-server) in 8.0.1+*) ;; *) give_up "the backports have valkey $(deb_version valkey-server), the recipe is for 8.0.1" ;; esac
  slim
  rm -rf "$ROOT"/etc/valkey "$ROOT"/var/lib/valkey "$ROOT"/var/log/valkey
  mkdir -p "$ROOT/data"
  user valkey 999 valkey 999 /data
}
pack() { pack_root 999:999 data; }
CHANGES=(-c 'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin' -c 'EXPOSE 6379' -c 'USER 999:999' -c 'WORKDIR /data'
  -c 'VOLUME /data' -c 'CMD ["valkey-server"]')
