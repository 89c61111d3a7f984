"""An engine of verl that records what its updates do to each token."""
