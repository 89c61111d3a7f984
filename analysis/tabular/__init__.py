"""Training of exact toy policies on tables of logits, batched over seeds."""
