"""Pictures and pages for people. `pictures.py` draws what `inspection` found, `page.py` writes it up."""
