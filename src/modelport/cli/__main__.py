"""Entry point of `python -m modelport.cli`."""

from modelport.cli import main

main()
