# Everything runs in .venv, which is created on first use and updated when pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
PHOTO := examples/coffee.jpg
GROCERY ?= ../shared/data/grocery
IMAGENET ?= ../shared/data/imagenet_samples
# The fine-tuned model whose accuracy on every engine `make bench` measures.
RUN ?= runs/grocery-head
# What `make quick` installs and runs; `.ci/pythons` takes less of both.
EXTRAS ?= dev,docs
TESTS ?= tests
WEIGHTS ?= ../shared/weights/google_mobilenet_v2_1.0_224/model.safetensors

.PHONY: help demo test quick attack browser-test docs docs-serve generate check lint words types release scan fuzz lock audit bench bench-accuracy ecosystem elsewhere clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@grep -hE '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z -]+):.*## /\1\t/' | expand -t 24

# The stamps come last in each recipe, so that an interrupted step runs again.
$(VENV)/.made:
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.package: pyproject.toml | $(VENV)/.made
	@echo "Installing mnv2zoo into $(VENV). The first time, this takes a few minutes."
	$(PIP) --editable .
	@touch $@

# LOCKED=1 installs the very files that requirements/ci.txt lists; scripts/lock.py says why PyTorch is not among them.
$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	@echo "Installing mnv2zoo and what its tests and documentation need into $(VENV)."
ifdef LOCKED
	$(PIP) torch torchvision
	$(PIP) --no-deps --require-hashes --requirement requirements/ci.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	$(BIN)/pip check
else
	$(PIP) --editable ".[$(EXTRAS)]"
endif
	@touch $(VENV)/.package $@

demo: $(VENV)/.package  ## classify the photo in examples/ with the weights that come with the package
	$(BIN)/mnv2zoo predict $(PHOTO) --model mnv2zoo_100_c20 --topk 5

# Ours comes last, so that its summary is at the end of the output. Both use a process per core. AS="..." is put before
# the command that runs ours; .ci/test runs it as another user.
test: export OMP_NUM_THREADS ?= 1
test: $(VENV)/.dev  ## run timm's own model tests on our models, then our tests
	$(BIN)/python scripts/timm_suite.py
	$(AS) $(BIN)/python -m pytest -n 2

quick: export OMP_NUM_THREADS ?= 1
quick: $(VENV)/.dev  ## run the tests that are not slow, in under three minutes on two cores
	$(BIN)/python -m pytest -n 2 -m "not slow" $(TESTS)

browser-test: $(VENV)/.dev  ## test the documentation in Chromium, as `make test` does if Chromium is installed
	$(BIN)/python -m pytest tests/docs/test_browser.py

attack: export OMP_NUM_THREADS ?= 1
attack: $(VENV)/.dev  ## attack the guarantees of docs/security.md for half an hour, and count the results
	$(BIN)/python -m attacks

# The demo page needs onnxruntime-web from npm. Without a network, the documentation has no demo.
docs: $(VENV)/.dev  ## build the documentation into site/
	$(BIN)/mkdocs build --strict
	-$(BIN)/mnv2zoo export mnv2zoo_100_c20 --format web --out site/demo

docs-serve: $(VENV)/.dev  ## serve the documentation while you write it
	$(BIN)/mkdocs serve

generate: $(VENV)/.dev  ## write the generated parts of README.md and docs/
	$(BIN)/python scripts/generate.py

check: $(VENV)/.dev  ## fail if a generated part is out of date
	$(BIN)/python scripts/generate.py --check

lint: $(VENV)/.dev words  ## check style, format, who imports whom, and words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --cache-dir .import_linter_cache

# FILES="README.md docs/cli.md" checks these alone.
words: $(VENV)/.dev  ## check spelling and phrases in the documentation, docstrings, comments and messages
	$(BIN)/codespell $(FILES)
	$(BIN)/python scripts/words.py $(FILES)

types: $(VENV)/.dev  ## check types, as Linux, macOS and Windows have them
	for platform in linux darwin win32; do \
	    $(BIN)/mypy --platform $$platform --cache-dir .mypy_cache/$$platform || exit 1; \
	done

release: $(VENV)/.dev  ## build sdist, wheel and bill of materials into dist/, and the wheel's own environment, build/wheel
	rm -rf dist
	$(BIN)/python scripts/release.py --out dist --venv build/wheel

build/scan/.made: requirements/scan.txt
	$(PYTHON) -m venv --clear build/scan
	build/scan/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

scan: build/scan/.made  ## scan the bundled weights for harmful content
	build/scan/bin/python scripts/scan.py

build/fuzz/.made: pyproject.toml
	$(PYTHON) -m venv --clear build/fuzz
	build/fuzz/bin/pip install --quiet --disable-pip-version-check --editable . atheris hypothesis pytest
	@touch $@

fuzz: build/fuzz/.made  ## fuzz the parsers of untrusted files for about eight minutes, guided by coverage
	build/fuzz/bin/python -m attacks.fuzz

lock: $(VENV)/.dev  ## rewrite the lock files in requirements/ with the newest versions
	$(BIN)/python scripts/lock.py

build/audit/.made:
	$(PYTHON) -m venv --clear build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	@touch $@

audit: build/audit/.made  ## check the locked packages for known vulnerabilities; needs a network
	build/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements/ci.txt
	build/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements/scan.txt

# Outside .venv, because these libraries pin versions of others.
.venv-ecosystem/.made: pyproject.toml
	$(PYTHON) -m venv --clear .venv-ecosystem
	@echo "Installing other libraries into .venv-ecosystem. This takes a few minutes and 8 GB."
	.venv-ecosystem/bin/pip install --quiet --disable-pip-version-check --editable ".[ecosystem]"
	@touch $@

ecosystem: export OMP_NUM_THREADS ?= 1
ecosystem: .venv-ecosystem/.made  ## use models and folders in other libraries, into docs/results/ecosystem.json; then `make generate`
	.venv-ecosystem/bin/python scripts/ecosystem.py

# ARGS="--weights FILE --mean 0.5 --std 0.5" uses a local file instead of weights from the Hub.
elsewhere: $(VENV)/.dev  ## measure what forgotten padding or normalization costs, with WEIGHTS on the photos in IMAGENET
	$(BIN)/python examples/elsewhere.py $(IMAGENET) --weights $(WEIGHTS) --out docs/results/elsewhere.json

$(RUN): | $(VENV)/.dev
	$(BIN)/mnv2zoo finetune $(GROCERY) --recipe examples/grocery/head.toml --init $(WEIGHTS) --out $@

# Benchmarks that need the photos next to the repository come last.
bench: $(VENV)/.dev $(RUN)  ## measure, for up to 90 minutes, into benchmarks/results/ and docs/performance.md
	$(BIN)/python benchmarks/create_model.py
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/training_step.py --rounds 3
	$(BIN)/python benchmarks/head_cache.py
	$(BIN)/python benchmarks/taps.py
	$(BIN)/python benchmarks/training.py --rounds 5
	$(BIN)/python benchmarks/finetune_step.py --rounds 2
	$(BIN)/python benchmarks/large_photos.py
	$(BIN)/python benchmarks/deploy.py --rounds 10
	$(BIN)/python benchmarks/engines.py --rounds 4
	$(BIN)/python benchmarks/engine_profile.py
	$(BIN)/python benchmarks/compilers.py
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/engine_cache.py --rounds 1
	$(BIN)/python benchmarks/first_prediction.py --rounds 5
	$(BIN)/python benchmarks/folder.py --rounds 1
	$(BIN)/python benchmarks/folder_large.py
	$(BIN)/python benchmarks/detection_folder.py --rounds 1 --many 2000
	$(BIN)/python benchmarks/head_training.py --rounds 1
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/preprocessing.py --most 100
	$(BIN)/python benchmarks/deploy_accuracy.py $(RUN) $(GROCERY)
	$(BIN)/python scripts/generate.py

bench-accuracy: $(VENV)/.dev  ## measure, for ten minutes, whether reading photos at a reduced size changes accuracy
	$(BIN)/python benchmarks/large_photos_accuracy.py --seeds 3
	$(BIN)/python scripts/generate.py

clean:  ## remove .venv and everything built
	rm -rf $(VENV) .venv-ecosystem dist build site *.egg-info .*_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
