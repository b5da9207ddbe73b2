"""The lifecycle: one file per stage, each one function `stage(config, *, workspace) -> Result`; and the `keel` command."""
