"""MLflow: runs, versions, aliases."""
