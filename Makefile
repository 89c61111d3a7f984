# Two commands do everything on a machine with Python >= 3.11, git and make:
#   make trace   set up .venv and run the main job
#   make test    set up .venv and pass the checks and the tests
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help trace test check figures noise ladder docs bench clean

# The first interpreter that is new enough; PYTHON=... overrides the search. `import venv, ensurepip` catches systems
# that package them apart.
CANDIDATES := $(PYTHON) python3.11 python3.12 python3.13 python3 python
BASE_PYTHON = $(shell for p in $(CANDIDATES); do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
PY := .venv/bin/python

help:
	@echo "make trace    set up .venv, run the default recipe (ARGS='--seed 1' adds options)"
	@echo "make test     set up .venv, run linters, type checker and tests"
	@echo "make figures  draw the pictures of figures/ from the main job's records"
	@echo "make noise    measure gradient noise on the row of bases, draw figures/gradient_noise.png"
	@echo "make ladder   run the full factorial on exact policies, draw figures/factorial.png"
	@echo "make docs     write the generated pages of docs/"
	@echo "make bench    run the benchmarks"
	@echo "make clean    remove .venv"

$(PY):
	@test -n "$(BASE_PYTHON)" || { echo "Python 3.11 or newer with venv is needed; none found (PYTHON=/path/to/python make ... names one)." >&2; exit 1; }
	@"$(BASE_PYTHON)" -m venv .venv

.venv/.ready-run: $(PY) pyproject.toml constraints.txt
	@echo "setting up .venv (once)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.ready-dev: $(PY) pyproject.toml constraints.txt
	@echo "setting up .venv (once)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ .venv/.ready-run

trace: .venv/.ready-run
	@$(PY) -m analysis.trace --run --resume $(ARGS)

check: .venv/.ready-dev
	@$(PY) -m ruff check .
	@$(PY) -m mypy

test: check
	@$(PY) -m pytest -n 2 -q $(ARGS)

figures: .venv/.ready-run
	@$(PY) -m analysis.trace --run --resume --quiet >/dev/null
	@$(PY) -m analysis.report --figures figures

noise: .venv/.ready-run
	@$(PY) -m analysis.noise --base 'path*' --base 'countdown*' --figure figures/gradient_noise.png $(ARGS)

ladder: .venv/.ready-run
	@$(PY) -m analysis.factorial --full --figure figures/factorial.png $(ARGS)

docs: .venv/.ready-run
	@$(PY) -m docs.generators --write

bench: .venv/.ready-dev
	@$(PY) -m pytest benchmarks --benchmark-enable --benchmark-sort=name -q -s $(ARGS)

clean:
	rm -rf .venv
