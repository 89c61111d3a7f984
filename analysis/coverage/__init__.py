"""How often the intervals that the toolkit prints cover what they are for, in simulated worlds whose truth is known."""
