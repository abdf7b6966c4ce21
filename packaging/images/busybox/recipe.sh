# A shell and its applets, for `container` instances that print or count. 2 MB.
REF=redforge.local/busybox:1.35.0
describe() { echo "busybox-static from Debian"; }
fill() {
  base
  user nobody 65534 nogroup 65534 /
}
pack() { pack_root; }
CHANGES=(-c 'ENV PATH=/usr/local/bin:/usr/bin:/bin' -c 'USER 65534:65534' -c 'CMD ["/bin/sh"]')
