"""Networks: causal and stateful."""
