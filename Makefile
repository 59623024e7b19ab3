# Everything runs inside .venv, which the first target that needs it makes from requirements.lock.
# Needs Python 3.11, git and a C compiler; no system package, no model download, no prompt.
PYTHON ?= python3.11
BIN := .venv/bin
# What setting up says goes to stderr: stdout is for the JSON lines.
BENCH := @$(MAKE) --no-print-directory setup >&2 && $(BIN)/python -m tests.bench

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-slow test-gpu check smoke lock clean
.PHONY: bench bench-crawl bench-media bench-cuts bench-lake bench-dedup bench-pack bench-reader bench-memory bench-line

help: ## this text
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

setup: .venv/.ready ## make .venv with the pinned packages (the other targets do it when needed)

.venv/.ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "avgen needs Python 3.11 as '$(PYTHON)'; set PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(sed -n 's/ *;.*//; /^uv==/p' requirements.lock)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --requirements requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: setup ## the whole line on a site it serves itself: crawl, filter, pack, train (minutes, no network)
	$(BIN)/avgen demo

test: setup ## lint, types and the default tests
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest

test-all: setup ## the default tests and the long ones
	$(BIN)/python -m pytest -m "not gpu and not network"

test-slow: setup ## the long tests alone
	$(BIN)/python -m pytest -m "slow and not gpu and not network"

test-gpu: setup ## tests that need a GPU
	$(BIN)/python -m pytest -m gpu

check: setup ## format, lint and types
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy

smoke: demo ## the same as demo

bench: bench-crawl bench-media bench-cuts bench-lake bench-dedup bench-pack bench-reader bench-memory bench-line ## every benchmark, one after the other: JSON lines on stdout

bench-crawl: ## crawling: files over slow answers against the ideal, pages against bare yt-dlp, memory
	$(BENCH).bench_crawl
	$(BENCH).bench_crawl_plan

bench-media: ## curating sources: CPU against bare ffmpeg, Ray against plain processes, memory (needs the corpus)
	$(BENCH).bench_media
	$(BENCH).bench_media_ray
	$(BENCH).bench_media_memory

bench-cuts: ## precision and recall of the cut detector over real shots (needs the corpus)
	$(BENCH).bench_cuts

bench-lake: ## questions to a lake of ten million spans; a thousand small commits
	$(BENCH).bench_lake

bench-dedup: ## duplicates: precision and recall on copies of the corpus, time by the number of clips
	$(BENCH).bench_dedup_quality
	$(BENCH).bench_dedup

bench-pack: ## packing against tar and sha256sum; planning ten million samples
	$(BENCH).bench_pack
	$(BENCH).bench_pack_plan

bench-reader: ## reading shards against webdataset and bare bytes; resuming in ten million samples
	$(BENCH).bench_reader

bench-memory: ## peak memory of the Ray actors (needs the corpus)
	$(BENCH).bench_pipeline_memory

bench-line: ## wall time of the demo in a fresh folder
	$(BENCH).bench_pipeline_line

lock: setup ## compile requirements.lock from pyproject.toml, with the overrides named there
	$(BIN)/uv pip compile pyproject.toml --all-extras --python-version 3.11 --no-emit-index-url --no-header \
		--quiet --upgrade --output-file requirements.lock

clean: ## remove the environment and the demo's data
	rm -rf .venv demo
