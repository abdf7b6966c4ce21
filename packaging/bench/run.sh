#!/bin/bash
# Measures RedForge beside what the machine can do at most. The agent is built as it ships (release-small), hub, bench and
# limit program in release. Arguments go to the bench: --quick, --only outbox,ingest,...
set -euo pipefail
cd "$(dirname "$0")/../.."
. packaging/test/engine.sh
export PATH=$PATH:/usr/sbin:/sbin
# Symbol tables loaded for a logged error would be measured as memory.
unset RUST_BACKTRACE
trap 'code=$?; engine_down; exit $code' EXIT

bash packaging/test/prepare.sh
engine_up
for kind in busybox mosquitto node-red; do bash packaging/images/build.sh $kind; done
# For the whole workspace, so that features are those of every other build.
cargo build --workspace --locked --profile release-small --bin redforge-edge
cargo build --workspace --locked --release --bin redforge-hub --bin redforge-bench --bin bench-limits

bin=target/bench-bin
rm -rf $bin
mkdir -p $bin
ln -s "$PWD"/target/release/{redforge-hub,redforge-bench,bench-limits} "$PWD/target/release-small/redforge-edge" $bin/
REDFORGE_TEST_BIN=$PWD/$bin target/release/redforge-bench "$@"
