"""Environment families, one file each: the workflow of the family and its registration."""

if __name__ != "routegym.envs":  # a second name would load every class twice
    raise ImportError(
        f"the folder envs/ was imported as {__name__!r}; its only name is 'routegym.envs': "
        'install the project (pip install -e .) and write "import routegym.envs"'
    )
