"""One file an environment; `environment.py` says what each of them is."""
