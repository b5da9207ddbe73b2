"""Station 7: drift, checks, skew, realised model quality."""
