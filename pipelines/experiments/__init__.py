"""Station 9: champion against challenger, in turns or in the shadow."""
