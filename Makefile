# make demo    one mail through three daemons, start to end, on this machine alone
# make test    all tests       make lint    style and types      make bench   against Postfix
# make install ROLE=smarthost|relay|server    as root: commands, service, accounts, sendmail's names
# make uninstall                              back to what was before
# Each sets up what it needs in .venv first. PYTHON=/path/to/python3 chooses the interpreter.

.PHONY: help venv dev demo test lint bench lock install uninstall clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

venv:
	@tools/venv run

dev:
	@tools/venv dev

demo: venv
	@.venv/bin/python -m demo

test: dev
	@.venv/bin/python $(AGAIN) -m pytest -q -n 2 $(PYTEST_ARGS)

lint: dev
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

bench: venv
	@.venv/bin/python -m benchmarks $(BENCH_ARGS)

lock:
	@tools/lock

install: venv
	@DESTDIR="$(DESTDIR)" SENDMAIL="$(SENDMAIL)" tools/deploy install "$(ROLE)"

uninstall:
	@DESTDIR="$(DESTDIR)" tools/deploy uninstall

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
