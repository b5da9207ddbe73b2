"""Station 9: champion against challenger, in a switchback or in shadow."""
