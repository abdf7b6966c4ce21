# Every target works from a clean clone. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help test lint bench

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

test: ## Run every test on real PostgreSQL, Docker, Node-RED and Mosquitto (ARGS="..." goes to nextest)
	@bash packaging/test/run.sh $(ARGS)

bench: ## Measure RedForge beside the machine's limits (ARGS="--quick" for a trial); figures in target/bench.json
	@bash packaging/bench/run.sh $(ARGS)

lint: ## Format check, clippy without warnings, docs without warnings
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --document-private-items

-include packaging/demo/demo.mk
