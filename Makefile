# Every target works from a clean clone. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help test test-demo test-podman test-docker test-cold units install lint bench reference page

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

test: ## Run every test on real PostgreSQL, Docker, Node-RED and Mosquitto (ARGS="..." goes to nextest)
	@bash packaging/test/run.sh $(ARGS)

test-demo: ## The demo's own tests, on a machine of their own (namespaces; root; CASES="..." picks some)
	@bash packaging/test/demo.sh

test-podman: ## The reconciler's stories on podman's Docker-compatible socket, in namespaces of its own (root; STORIES="..." picks some)
	@bash packaging/test/other_engine.sh podman

test-docker: ## The same on the dockerd in the folder PROGRAMS=..., such as that of another release (root; STORIES="..." picks some)
	@bash packaging/test/other_engine.sh "$(abspath $(PROGRAMS))"

test-cold: ## The demo on a fresh Debian 12 root with empty caches (root; debootstrap, slirp4netns; 20 minutes)
	@bash packaging/test/cold.sh

units: ## Check what packaging/install.sh installs: systemd units, nothing started, manual pages
	cargo build --workspace --locked
	@bash packaging/test/units.sh

install: ## Install the release programs, units and manual pages (root, or DESTDIR=...); starts and enables nothing
	cargo build --release --locked -p redforge-hub -p redforgectl && cargo build --profile release-small --locked -p redforge-edge
	@packaging/install.sh hub ctl && packaging/install.sh --programs target/release-small edge

bench: ## Measure RedForge beside the machine's limits (ARGS="--quick" for a trial); figures in target/bench.json
	@bash packaging/bench/run.sh $(ARGS)

lint: ## Format check, clippy without warnings, docs without warnings
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --document-private-items

reference: ## Write docs/reference anew from the programs and their sources
	cargo build --workspace --locked
	target/debug/redforge-reference

page: ## Look at the page in a real browser (chromium, node, npm): axe-core, keyboard, dark, narrow, a cut
	tests/browser/check.sh

-include packaging/demo/demo.mk
