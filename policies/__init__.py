"""Policies, one file per family: observation -> action through `predict`."""

if __name__ != "routegym.policies":  # a second name would load every class twice
    raise ImportError(
        f"the folder policies/ was imported as {__name__!r}; its only name is 'routegym.policies': "
        'install the project (pip install -e .) and write "import routegym.policies"'
    )
