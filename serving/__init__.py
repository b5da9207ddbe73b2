"""From a registered model and live events to predictions, quotes and outcomes. Never imports torch, ray or mlflow."""
