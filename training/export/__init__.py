"""From a network to a bundle that serving loads, and its INT8 form."""
