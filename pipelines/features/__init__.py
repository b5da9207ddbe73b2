"""Station 3: features, labels, Feast, versioned datasets."""
