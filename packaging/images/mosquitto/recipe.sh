# Debian's mosquitto behind the official image's contract: uid 1883, /mosquitto/{config,data,log}, port 1883.
# Unlike the official image it starts as uid 1883 already, so it runs with every capability dropped.
REF=redforge.local/mosquitto:2.0.11
describe() { echo "mosquitto 2.0.11 from Debian 12"; }
fill() {
  base
  debs libc6 libgcc-s1 libssl3 libcjson1 libmosquitto1 libcap2 zlib1g libsystemd0 liblzma5 \
    libzstd1 liblz4-1 libgcrypt20 libgpg-error0 libwrap0 libnsl2 libtirpc3 libgssapi-krb5-2 libkrb5-3 libk5crypto3 \
    libkrb5support0 libcom-err2 libkeyutils1 libdlt2 mosquitto mosquitto-clients
  case $(deb_version mosquitto) in 2.0.11-*) ;; *) give_up "this Debian has mosquitto $(deb_version mosquitto), the recipe is for 2.0.11" ;; esac
  slim
  rm -rf "$ROOT/etc/mosquitto" "$ROOT/var/lib/mosquitto"
  mkdir -p "$ROOT"/mosquitto/{config,data,log}
  # As in the official image: without a listener of its own mosquitto answers on loopback only.
  echo '# no listener: loopback only' >"$ROOT/mosquitto/config/mosquitto.conf"
  user mosquitto 1883 mosquitto 1883 /mosquitto
}
pack() { pack_root 1883:1883 mosquitto; }
CHANGES=(-c 'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin' -c 'EXPOSE 1883' -c 'USER 1883:1883' -c 'WORKDIR /mosquitto'
  -c 'VOLUME /mosquitto/data /mosquitto/log' -c 'CMD ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]')
