"""Connects other libraries with modelport. Each module needs the library after which it is named."""
