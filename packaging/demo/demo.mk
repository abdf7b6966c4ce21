.PHONY: demo demo-down demo-purge

demo: ## The whole story on this machine (HOSTS=n, DEMO=name, DOCS=folder, MANIFESTS=folder)
	@bash packaging/demo/run.sh

demo-down: ## Remove everything that the demo made, but not the images
	@bash packaging/demo/down.sh

demo-purge: ## Remove the images that the demo built, too
	@bash packaging/demo/down.sh --images
