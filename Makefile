.venv: .venv/stamp
.venv/stamp: pyproject.toml
	python3 -m venv .venv
	.venv/bin/pip install --quiet --editable '.[dev]'
	touch $@
