"""The lifecycle: one file a stage, each one function `stage(config, *, workspace) -> Result`; the `keel` command."""
