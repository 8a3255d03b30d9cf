# Every target does its own set-up: a .venv in this folder, made once and reused. PYTHON=python3.12 make test chooses
# another interpreter. Nothing but make and Python 3.10-3.13 is needed; uv is used when it is there.
.DEFAULT_GOAL := help
.PHONY: help setup train test test-web docs latest prepare lab bench
export PYTHON

# what `make train` trains; ARGS="--epochs 5" adds to it, OUT=folder chooses the folder
TRAIN = --data scenes --n 300 --epochs 3 --bs 4

help:
	@echo 'make train    train a segmenter on the embedded street scenes and say where its picture is'
	@echo '              (ARGS="--epochs 5" is passed on to segbook_train; OUT=runs/mine chooses the folder)'
	@echo 'make test     everything that can be tested: notebooks, library, README, rules, and a second'
	@echo '              environment with the newest fastai; ends with "N passed, N failed"'
	@echo 'make docs     the site, built from the notebooks into _docs (ARGS=--no-exec runs none of them)'
	@echo 'make test-web the site and the widgets in a real browser: Chromium has to be installed'
	@echo 'make latest   only that second environment: the library without nbdev, with the newest fastai'
	@echo 'make prepare  before a commit: library from the notebooks, exercises in their places, first cells,'
	@echo '              folded and clean notebooks, README; then ruff'
	@echo 'make lab      open the course in JupyterLab'
	@echo 'make bench    time segbook beside fastai, segmentation-models-pytorch, torchmetrics and MONAI, on a'
	@echo '              quiet machine; what is measured is not repeated (ARGS="losses step" names topics,'
	@echo '              ARGS=--list says which there are, ARGS=gpu what a GPU changes)'
	@echo 'make setup    only make the .venv'
	@echo
	@echo 'The first call installs about 6 GB into .venv (torch with its CUDA libraries) and takes minutes;'
	@echo 'make test and make latest make a second environment, .venv-latest: it shares its files'
	@echo 'with the first where uv installs, and takes as much again where pip does.'
	@echo 'PYTHON=python3.12 make test  uses another interpreter (3.10 to 3.13).'

setup:
	@sh tools/setup.sh .venv

train: setup
	@out="$(OUT)"; n=2; \
	if [ -z "$$out" ]; then \
	    out=runs/scenes; while [ -e "$$out" ]; do out=runs/scenes-$$n; n=$$((n+1)); done; fi; \
	set -- $(TRAIN) --out "$$out" $(ARGS); echo "segbook_train $$*"; \
	exec .venv/bin/segbook_train "$$@"

test:
	@sh tools/setup.sh .venv .venv-latest
	@.venv/bin/python tools/run_tests.py

docs: setup
	@.venv/bin/python docs/build.py $(ARGS)

test-web: setup
	@.venv/bin/python tools/run_tests.py web

latest:
	@sh tools/setup.sh .venv-latest
	@.venv-latest/bin/python tools/run_tests.py stack

prepare: setup
	@.venv/bin/nbdev_export
	@.venv/bin/python tools/exercises.py
	@.venv/bin/python tools/front.py
	@.venv/bin/python tools/fold.py
	@.venv/bin/nbdev_clean
	@.venv/bin/python tools/readme.py
	@.venv/bin/python -m ruff check --no-cache --quiet .

lab: setup
	@exec .venv/bin/jupyter lab nbs/index.ipynb

bench: setup
	@exec .venv/bin/python -m bench $(ARGS)
