"""Pictures and pages for people: inspections (`pictures.py`, `page.py`) and comparisons (`pareto.py`, `latency.py`)."""
