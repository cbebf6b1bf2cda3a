# Two commands do everything on a fresh machine with Python 3.11+ and make:
#   make book    build the book and say where it is
#   make test    run every test and re-execute every notebook
# PYTHON=python3.12 picks another interpreter, VENV=path another environment.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# One thread for each of two test workers: two cores, and no thread waits for another.
SINGLE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: book test lab lint bench notebooks address clean

book: $(READY)
	rm -rf _build
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo
	@echo "The book: file://$(CURDIR)/_build/html/index.html"

test: $(READY)
	$(SINGLE) $(BIN)/python -m pytest -q -n 2 tests
	$(SINGLE) $(BIN)/python -m pytest -q --nbval --nbval-current-env \
		--nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 600 -n 2 --dist loadfile book

lab: $(READY)
	$(BIN)/jupyter lab --config tools/jupyter_lab.py book/start.ipynb

lint: $(READY)
	$(BIN)/ruff format --check setr_lib tests tools
	$(BIN)/ruff check setr_lib tests tools
	$(BIN)/mypy setr_lib

# Beside others who do the same, turn by turn in one process. SUBJECTS=encoder: only that.
bench: $(READY)
	$(BIN)/python -m tools.bench $(SUBJECTS)

# Run the chapters, store their outputs, bring the files into their one form.
notebooks: $(READY)
	$(BIN)/python -m tools.notebooks execute $(CHAPTERS)

# make address URL=https://github.com/OWNER/REPOSITORY
address: $(READY)
	$(BIN)/python -m tools.notebooks address $(URL)

clean:
	rm -rf _build $(VENV)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; choose another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q $(if $(LOCKED),-c requirements.lock) -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@
